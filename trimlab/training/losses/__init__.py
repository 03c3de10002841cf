"""Training losses.

A loss is one file in this folder that defines one subclass of `Loss`; the file's name is the
loss's name.
"""

from trimlab.training.losses._loss import LOSSES, Loss, check_teacher, load_loss

__all__ = ["LOSSES", "Loss", "check_teacher", "load_loss"]
