"""The base class of scorers, and the loader."""

import importlib
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from trimlab.errors import InputError
from trimlab.plugins import plugin_class, plugin_module, plugin_names
from trimlab.scanning.candidates import Granularity
from trimlab.scanning.scan import Scan
from trimlab.scanning.selection import Scores

SCORERS = "trimlab.scorers"


class Scorer(ABC):
    """Turns a scan into one score per candidate.

    Attributes:
        statistics: Names of the statistics that the score is made of, see `trimlab.scanning`.
        one_shot: Whether everything is dropped at the start and trained afterwards.
        granularity: The only granularity that the score is defined for, or None for any.
        falls_with_accuracy: Whether a higher accuracy never gives a higher score, other
            statistics being equal: then candidates can stop early (`trim.scan: choice`).
    """

    statistics: ClassVar[frozenset[str]] = frozenset()
    one_shot: ClassVar[bool] = False
    granularity: ClassVar[Granularity | None] = None
    falls_with_accuracy: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, scan: Scan) -> Scores:
        """Scores every candidate of the scan; the lowest score is dropped first."""


def load_scorer(name: str, **arguments: Any) -> Scorer:
    """Makes a scorer.

    Args:
        name: A file in this folder (`two_step`), or the dotted path of a class elsewhere
            (`my_package.my_module.MyScorer`).
        **arguments: Arguments of its constructor.

    Raises:
        InputError: There is no such scorer, or it does not take these arguments.
    """
    names = plugin_names(SCORERS)
    if name in names:
        cls = plugin_class(plugin_module(SCORERS, name, "scorer"), Scorer)
    else:
        path, _, attribute = name.rpartition(".")
        try:
            cls = getattr(importlib.import_module(path), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(
                f"no scorer {name!r}; there are {', '.join(names)}, "
                "or give the dotted path of a class"
            ) from error
    if not (isinstance(cls, type) and issubclass(cls, Scorer)):
        raise InputError(f"{name!r} is not a subclass of trimlab.scorers.Scorer")
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"scorer {name!r}: {error}") from error
