"""Benchmarks against what a user would run instead: a file each, found by its name."""
