"""Importance scores: how much the model needs each candidate. The lowest is dropped.

A scorer is one file in this folder that defines one subclass of `Scorer`; the file's name is
the scorer's name. It turns the measurements of a scan into numbers and changes nothing.
"""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from trimlab.calibration import Candidate, Measure, Scan, Unit
from trimlab.errors import InputError
from trimlab.sublayers import Sublayer

Scores = list[tuple[float, ...]]  # one tuple per candidate; later entries break ties


class Scorer(ABC):
    """Turns a scan into one score per candidate.

    Attributes:
        measures: What the scan has to measure for this score.
        one_shot: Whether everything is dropped at the start and trained afterwards.
        unit: The only unit that the score is defined for, or None for any.
        falls_with_accuracy: Whether a higher accuracy never gives a higher score, other
            measurements being equal: then candidates can stop early (`trim.scan: choice`).
    """

    measures: ClassVar[frozenset[Measure]] = frozenset()
    one_shot: ClassVar[bool] = False
    unit: ClassVar[Unit | None] = None
    falls_with_accuracy: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, scan: Scan) -> Scores:
        """Scores every candidate of the scan; the lowest score is dropped first."""


def scorer_names() -> list[str]:
    """The scorers there are: the names of the files in this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load_scorer(name: str, **arguments: Any) -> Scorer:
    """Makes a scorer.

    Args:
        name: A file in this folder (`two_step`), or the dotted path of a class elsewhere
            (`my_package.my_module.MyScorer`).
        **arguments: Passed to its constructor.

    Raises:
        InputError: There is no such scorer, or it does not take these arguments.
    """
    if name in scorer_names():
        module = importlib.import_module(f"{__name__}.{name}")
        found = [
            value
            for value in vars(module).values()
            if isinstance(value, type)
            and issubclass(value, Scorer)
            and value.__module__ == module.__name__
        ]
        cls = found[0]
    else:
        path, _, attribute = name.rpartition(".")
        try:
            cls = getattr(importlib.import_module(path), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(
                f"no scorer {name!r}; there are {', '.join(scorer_names())}, "
                "or give the dotted path of a class"
            ) from error
    if not (isinstance(cls, type) and issubclass(cls, Scorer)):
        raise InputError(f"{name!r} is not a subclass of trimlab.scorers.Scorer")
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"scorer {name!r}: {error}") from error


def ranking(scores: Scores) -> list[int]:
    """Candidates from the first to drop to the last; equal scores in the order of execution."""
    return sorted(range(len(scores)), key=lambda index: scores[index])


def lowest(candidates: Sequence[Candidate], scores: Scores, k: int) -> list[int]:
    """The k candidates that are dropped first.

    One that shares a sublayer with a candidate before it is passed over.

    Args:
        candidates: The candidates of a scan.
        scores: Their scores.
        k: How many; fewer where there are no more.
    """
    chosen: list[int] = []
    gone: set[Sublayer] = set()
    for index in ranking(scores):
        if len(chosen) < k and not gone & set(candidates[index]):
            chosen.append(index)
            gone |= set(candidates[index])
    return chosen
