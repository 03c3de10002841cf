"""Evaluation: log-likelihoods of choices, metrics, generation, and decoding speed."""
