"""Bundles: what a run needs, for a machine without a network."""
