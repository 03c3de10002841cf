"""Strategies of several processes.

A strategy is one file in this folder that defines one subclass of `Distributed`, which is a
Lightning strategy; the file's name is that of the strategy in `trainer.strategy`.
"""

from trimlab.training.strategies._strategy import STRATEGIES, Distributed, load_strategy

__all__ = ["STRATEGIES", "Distributed", "load_strategy"]
