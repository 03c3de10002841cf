"""Rows that stand more than once in the row sets of a task."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from trimlab.data.items import Item, fold


@dataclass(frozen=True)
class Duplicates:
    """Items of a row set that also stand earlier in it, or in a set before it.

    Attributes:
        kind: `exact`: the same prompt and choices, in any order. `near`: the same but for case
            and white space. `prompt`: the same prompt, but for case and white space, with other
            choices.
        set: Name of the row set.
        other: Name of the set that the items are repeated from.
        count: Number of such items.
        first: Place of the first of them.
        first_other: Place that it repeats.
        text: The beginning of its prompt or, without a prompt, of its text.
    """

    kind: str
    set: str
    other: str
    count: int
    first: str
    first_other: str
    text: str


def exact_key(item: Item) -> Hashable:
    """Equal for items with the same prompt and choices, in any order."""
    return item.context, tuple(sorted(item.choices))


def near_key(item: Item) -> Hashable:
    """Equal for items with the same prompt and choices but for case and white space."""
    return fold(item.context), tuple(sorted(map(fold, item.choices)))


def prompt_key(item: Item) -> Hashable:
    """Equal for items with the same prompt but for case and white space; None without one."""
    return fold(item.context) or None


KEYS: dict[str, Callable[[Item], Hashable]] = {
    "exact": exact_key,
    "near": near_key,
    "prompt": prompt_key,
}


def find_duplicates(sets: Mapping[str, Sequence[Item]]) -> list[Duplicates]:
    """Finds the items that stand more than once, in a set or in two of them.

    An item counts once: as the closest kind, and as a repetition of the first set that has it. The
    order of the sets is that of `sets`, so that a test item that is also in train is found as one.

    Args:
        sets: Items by name of the set.
    """
    seen: dict[tuple[str, Hashable], tuple[str, Item]] = {}
    found: dict[tuple[str, str, str], list[tuple[Item, Item]]] = {}
    for name, items in sets.items():
        for item in items:
            keys = [(kind, key(item)) for kind, key in KEYS.items()]
            for kind, key in keys:
                if key is not None and (kind, key) in seen:
                    other, first = seen[kind, key]
                    found.setdefault((kind, name, other), []).append((item, first))
                    break
            for entry in keys:
                seen.setdefault(entry, (name, item))
    return [
        Duplicates(
            kind,
            name,
            other,
            count=len(pairs),
            first=pairs[0][0].where,
            first_other=pairs[0][1].where,
            text=_beginning(pairs[0][0]),
        )
        for (kind, name, other), pairs in found.items()
    ]


def _beginning(item: Item) -> str:
    text = " ".join((item.context or item.choices[item.gold]).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
