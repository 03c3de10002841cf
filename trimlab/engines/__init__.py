"""Engines: programs that run an exported model, one file each, named after the engine."""
