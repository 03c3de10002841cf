"""Your own classification: the label of a text, out of all labels.

Source: the folder or file `data.root`, or the data set `data.hub`, see `DataSource`; rows
`{"text": "...", "label": "..."}`. A label is a text or a number. The choices of every row are all
labels: those of `data.labels`, else the classes that the data set names, else the names in the
rows' own optional column `labels`, else the labels of the train rows. Calibration and dev are
carved from the validation rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar, Self

from trimlab.data.items import Item, is_unicode
from trimlab.data.rows import Row, short
from trimlab.data.source import DataSource
from trimlab.data.task import Task
from trimlab.errors import InputError


class Classification(Task):
    r"""`{text}\nLabel:` -> ` {label}`.

    Args:
        labels: All labels.
        numbered: A number in a row is the index of a label.
        notes: Remarks for the user.
    """

    example: ClassVar = {
        "text": "The pump makes a noise.",
        "label": "pump",
        "labels": ["pump", "valve"],
    }
    licence = "that of your own rows"
    own_rows = True

    def __init__(
        self, labels: Sequence[str] = (), numbered: bool = False, notes: tuple[str, ...] = ()
    ):
        self.labels, self.numbered, self.notes = tuple(labels), numbered, notes

    def survey(self, rows: Mapping[str, Iterable[Row]], source: DataSource) -> Self:
        """Finds all labels.

        Raises:
            InputError: There are fewer than two, or no train rows to take them from.
        """
        named = source.labels or _class_names(rows.values())
        if named:
            return type(self)(_two_or_more(named), numbered=True)
        labels, any_row = set[str](), False
        for row in rows.get("train", ()):
            any_row = True
            if (label := _label(row.columns.get("label"))) is not None:
                labels.add(label)
            # `in` first: a name that is looked up in vain is proposed for others
            if "labels" in row.columns and row.columns["labels"] is not None:
                labels |= set(row.texts("labels"))
        if any_row and not labels:
            return type(self)()  # `item` says what the rows lack
        numbers = all(map(_is_number, labels))
        order = sorted(labels, key=lambda label: (int(label), label)) if numbers else sorted(labels)
        notes = "labels are numbers; a model knows more by their names: data.labels"
        return type(self)(_two_or_more(order), notes=(notes,) if numbers else ())

    def item(self, row: Row, prompt: str) -> Item:
        """The choices are all labels."""
        choices = tuple(f" {label}" for label in self.labels)
        return Item(f"{row.text('text').strip()}\nLabel:", choices, self._gold(row))

    def key_texts(self, row: Row, item: Item) -> tuple[str, Sequence[str]]:
        """The text alone: other rows and options decide what the labels are."""
        return item.context, ()

    def _gold(self, row: Row) -> int:
        value = row.value("label")
        label = _label(value)
        if label is None:
            raise InputError(f"{row.where}: 'label' must be text or a number, not {short(value)}")
        if label in self.labels:
            return self.labels.index(label)
        if self.numbered and _is_number(label):
            if 0 <= int(label) < len(self.labels):
                return int(label)
            raise InputError(
                f"{row.where}: label {label} is out of range 0 to {len(self.labels) - 1}"
            )
        known = ", ".join(self.labels[:10]) + (", ..." if len(self.labels) > 10 else "")
        origin = "data.labels" if self.numbered else "the train rows"
        raise InputError(f"{row.where}: label {label!r} is not in {origin}: {known}")


def _label(value: Any) -> str | None:
    """A label as text, without white space around; None if it is none."""
    if isinstance(value, str):
        # a broken label would be a choice of every row
        return (value.strip() or None) if is_unicode(value) else None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():  # pandas, where one label is missing
        value = int(value)
    return str(value) if isinstance(value, int) else None


def _is_number(label: str) -> bool:
    return label.removeprefix("-").isdecimal()


def _class_names(splits: Iterable[Iterable[Row]]) -> Sequence[str]:
    """The names of the classes, if the source of a split has them: then all its rows do."""
    firsts = (row for split in splits for row in islice(split, 1))
    return next((row.class_names["label"] for row in firsts if "label" in row.class_names), ())


def _two_or_more(labels: Sequence[str]) -> Sequence[str]:
    labels = list(dict.fromkeys(label.strip() for label in labels))
    if len(labels) < 2:
        found = f"only {labels[0]!r}" if labels else "none"
        raise InputError(
            f"classification needs two labels or more, and there is {found}: the labels come from "
            "column 'label' of the train rows, or from data.labels"
        )
    return labels
