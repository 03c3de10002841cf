"""Embedded models: a file each, named after the model with `_` for `-`."""
