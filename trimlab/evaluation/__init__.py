"""Evaluation: what a model answers, how well, and how fast."""
