"""Importance scores: how much the model needs each candidate. The lowest is dropped.

A scorer is one file in this folder that defines one subclass of `Scorer`; the file's name is
the scorer's name. It turns the statistics of a scan into numbers and changes nothing.
"""

from trimlab.scorers._scorer import SCORERS, Scorer, load_scorer

__all__ = ["SCORERS", "Scorer", "load_scorer"]
