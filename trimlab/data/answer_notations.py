"""The notations of the answers of multiple-choice rows, and which of them rows use."""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Any

from trimlab.data.items import plain
from trimlab.data.rows import Row, short
from trimlab.errors import InputError

LETTER = re.compile(r"\(?([A-Za-z])[).:]?")  # A, a, (A), A), A. and A:


def _number(answer: Any) -> int | None:
    if isinstance(answer, str) and re.fullmatch(r"\s*-?\d+\s*", answer):  # from a .csv file
        return int(answer)
    if isinstance(answer, float) and answer.is_integer():  # pandas, where one answer is missing
        return int(answer)
    return answer if type(answer) is int else None  # JSON's true is an int, and no answer


def _index(answer: Any, choices: Sequence[str]) -> int | None:
    return _number(answer)


def _one_based(answer: Any, choices: Sequence[str]) -> int | None:
    number = _number(answer)
    return None if number is None else number - 1


def _letter(answer: Any, choices: Sequence[str]) -> int | None:
    found = LETTER.fullmatch(answer.strip()) if isinstance(answer, str) else None
    return ord(found[1].upper()) - ord("A") if found else None


def _text(answer: Any, choices: Sequence[str]) -> int | None:
    if not isinstance(answer, str):
        return None
    texts = [plain(choice) for choice in choices]
    return texts.index(plain(answer)) if texts.count(plain(answer)) == 1 else None


# the first of several that agree is taken; index of an answer, maybe out of range, or None
NOTATIONS: dict[str, Callable[[Any, Sequence[str]], int | None]] = {
    "index": _index,
    "one_based": _one_based,
    "letter": _letter,
    "text": _text,
}
KINDS = {
    "index": "a whole number",
    "one_based": "a whole number",
    "letter": "a letter",
    "text": "the text of one choice",
}


def answer_index(row: Row, column: str, choices: Sequence[str], notation: str) -> int:
    """Index of the choice that a row states as the answer.

    Args:
        row: The row.
        column: The column with the answer.
        choices: The choices.
        notation: One of `NOTATIONS`.

    Raises:
        InputError: The answer has another notation, or is not among the choices.
    """
    if not choices:
        raise InputError(f"{row.where}: 0 choices; a question needs two or more")
    answer = row.value(column)
    index = NOTATIONS[notation](answer, choices)
    if index is None:
        kind = KINDS[notation]
        raise InputError(f"{row.where}: {column!r} must be {kind}, not {short(answer)}")
    if notation != "index" and not 0 <= index < len(choices):
        first, last = {"one_based": (1, len(choices)), "letter": ("A", chr(64 + len(choices)))}[
            notation
        ]
        raise InputError(f"{row.where}: answer {answer} is out of range {first} to {last}")
    return index


def notation_of(rows: Iterable[tuple[Row, Any, Sequence[str]]]) -> tuple[str, str | None]:
    """The notation that reads most answers, and a remark for the user.

    Whole numbers are one-based only if that is certain: 1 and the number of choices occur, 0 never.
    Rows whose answer no notation reads are left to `answer_index`.

    Args:
        rows: Rows with their answer and choices.

    Raises:
        InputError: Two notations read as many answers, and differ.
    """
    counts = dict.fromkeys(NOTATIONS, 0)
    # by two notations, the first row that they read differently, with its number
    differing: dict[tuple[str, ...], tuple[int, Row, Any, dict[str, int]]] = {}
    numbers, last = set[int](), False
    for place, (row, answer, choices) in enumerate(rows):
        found = {
            name: index
            for name, notation in NOTATIONS.items()
            if (index := notation(answer, choices)) is not None and 0 <= index < len(choices)
        }
        for name in found:
            counts[name] += 1
        for pair in combinations(found, 2):
            if found[pair[0]] != found[pair[1]]:
                differing.setdefault(pair, (place, row, answer, found))
        if (number := _number(answer)) is not None:
            numbers.add(number if number in (0, 1) else 2)  # others are not told apart
            last = last or number == len(choices)
    if not (last and 1 in numbers and counts["one_based"] > counts["index"]):
        counts["one_based"] = 0
    best = [name for name, count in counts.items() if count == max(counts.values())]
    conflicts = [entry for pair, entry in differing.items() if set(pair) <= set(best)]
    if conflicts:
        _, row, answer, found = min(conflicts, key=lambda entry: entry[0])
        names = (name for name in best if name in found)
        meanings = " or ".join(f"{name} (choice {found[name] + 1})" for name in names)
        raise InputError(
            f"{row.where}: the answer {short(answer)} could be {meanings}; "
            "say which with data.answers"
        )
    return best[0], _remark(best[0], numbers, last)


def _remark(notation: str, numbers: set[int], last: bool) -> str | None:
    if notation == "one_based":
        return "answers are read as one-based numbers: 1 is the first choice, and none is 0"
    if notation == "index" and numbers and 0 not in numbers and not last:
        return (
            "answers are read as indices, 0 for the first choice, although none is 0; "
            "data.answers one_based reads them otherwise"
        )
    return None
