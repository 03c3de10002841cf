"""Benchmarks of trimlab against other software for the same work: one file per benchmark."""
