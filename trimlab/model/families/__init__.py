"""Model families: a file each, named after its `model_type`."""
