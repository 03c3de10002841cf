"""Optimizers.

An optimizer is one file in this folder that defines one subclass of `TrainOptimizer`; the file's
name is the optimizer's name.
"""

from trimlab.training.optimizers._optimizer import OPTIMIZERS, TrainOptimizer, load_optimizer

__all__ = ["OPTIMIZERS", "TrainOptimizer", "load_optimizer"]
