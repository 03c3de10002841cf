"""The model: its registry of sublayers, the families it may be of, and loading it."""
