"""Runs: from a base model to a summary, one or many."""
