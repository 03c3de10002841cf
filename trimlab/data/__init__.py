"""Data: rows of a task to items, items to token batches."""
