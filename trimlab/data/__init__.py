"""Data: rows of a task to items, items to batches of tokens."""
