"""Training: the LightningModule, losses and checkpoints."""
