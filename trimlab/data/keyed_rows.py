"""Rows as hashes: what tells them apart and decides their order, without their texts.

A row is an entry of an array of type `KEYED`, 48 bytes:

- `source`, `index`: its place: the index of its source, and its own one in the source;
- `key`: equal for equal rows;
- `answer`: that of its right choice, with every run of white space as one space;
- `order_key`: decides where the row stands in every order. Equal for rows that differ in case
  alone;
- `prompt_key`: equal for rows with the same prompt, but for case and white space; of a row without
  a prompt, its `order_key`.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress
from typing import Any, NamedTuple

import numpy as np

from trimlab.data.items import Item, digest_number, fold, plain
from trimlab.data.rows import Row, Rows
from trimlab.data.task import Task

FIELDS = ("source", "index", "key", "answer", "order_key", "prompt_key")
KEYED = np.dtype([(name, np.uint64) for name in FIELDS])
SPARSE = 8  # where fewer than one in so many rows are asked for, they are read one by one


class Source(NamedTuple):
    """Rows and the task that reads them.

    Attributes:
        task: The task; a part of the task, in a mixture.
        rows: The rows.
    """

    task: Task
    rows: Rows


def keys_of(row: Row, item: Item, task: Task) -> tuple[int, int, int, int]:
    """The hashes of a row: `key`, `answer`, `order_key` and `prompt_key`.

    Args:
        row: The row.
        item: Its item in the first prompt: hashes do not depend on the prompt of a run.
        task: Its task.
    """
    # lower and upper case differ in formulas, genotypes and units: the user's own rows are the same
    # only if they are written so
    key = _key(item.context, item.choices, plain if task.own_rows else fold)
    prompt, others = task.key_texts(row, item)
    order_key = _key(prompt, others, fold)
    prompt_key = _key(prompt, (), fold) if fold(prompt) else order_key
    return key, digest_number(plain(item.choices[item.gold])), order_key, prompt_key


def hashed(keys: np.ndarray, purpose: str) -> np.ndarray:
    """The hash of every key for a purpose.

    Args:
        keys: Hashes of rows.  # (N,)
        purpose: Anything.

    Returns:
        Numbers below 2**64.  # (N,)
    """
    numbers: Any = np.ascontiguousarray(keys)
    # a view: no list of all numbers
    found = (digest_number(f"{purpose} {number:016x}") for number in memoryview(numbers))
    return np.fromiter(found, np.uint64, len(keys))


def ordered(rows: np.ndarray, seed: int, purpose: str, *, by_prompt: bool = False) -> np.ndarray:
    """Shuffles rows, or prompts with their rows.

    Where a row stands depends on its own text, not on the other rows.
    """
    sort_keys = [hashed(rows["order_key"], f"{seed} {purpose}")]
    if by_prompt:
        sort_keys.append(hashed(rows["prompt_key"], f"{seed} {purpose}"))
    return rows[np.lexsort(sort_keys)]


def repeated(rows: np.ndarray, nearer: np.ndarray, unique: bool) -> np.ndarray:
    """Which rows are also in sets nearer to test or, if asked for, earlier among the rows.

    Returns:
        A mask.  # (N,)
    """
    found = np.isin(rows["key"], nearer["key"])
    if unique:
        _, first, group = np.unique(rows["key"], return_index=True, return_inverse=True)
        found |= first[group] != np.arange(len(rows))
    return found


def items_of(rows: np.ndarray, sources: Sequence[Source], prompt: str) -> list[Item]:
    """The items of rows, in their order.

    Args:
        rows: The rows.
        sources: The sources of all splits.
        prompt: One of the prompts of the task.

    Raises:
        InputError: A file has changed since its rows were hashed.
    """
    places = np.lexsort((rows["index"], rows["source"]))  # in the order of the files
    found: list[Any] = [None] * len(rows)
    for number, (task, source) in enumerate(sources):
        mine = places[rows["source"][places] == number]
        for place, row in zip(mine.tolist(), _rows_at(source, rows["index"][mine]), strict=True):
            found[place] = task.checked_item(row, prompt)
    return found


def _rows_at(rows: Rows, indices: np.ndarray) -> Iterator[Row]:
    """Rows by their ascending indices."""
    if len(indices) * SPARSE < len(rows):
        return (rows[int(index)] for index in indices)
    chosen = np.zeros(len(rows), bool)
    chosen[indices] = True
    return compress(rows, chosen)


def _key(prompt: str, others: Iterable[str], form: Callable[[str], str]) -> int:
    return digest_number(json.dumps([form(prompt), *sorted(map(form, others))]))
