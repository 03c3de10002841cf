"""Launchers: where the runs of a sweep are made, one file each, found by its name."""
