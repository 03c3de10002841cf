"""Your own multiple-choice domain.

Source: the folder or file `data.root`, or the data set `data.hub`, see `DataSource`; rows
`{"context": "...", "question": "...", "choices": ["...", "..."], "answer": 0}`, where either
context or question may be missing. The answer is an index or, see `data.answers`, a one-based
number, a letter or the text of a choice. Calibration and dev are carved from the validation rows.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

from trimlab.data.answer_notations import answer_index, notation_of
from trimlab.data.items import Item
from trimlab.data.rows import Row
from trimlab.data.source import DataSource
from trimlab.data.task import Task
from trimlab.errors import InputError


class Jsonl(Task):
    r"""`{context}\nQuestion: {question}\nAnswer:` -> ` {choice}`; or `{context}` alone.

    Args:
        notation: How the rows state their answer, see `trimlab.data.answer_notations`.
        notes: Remarks for the user.
    """

    example: ClassVar = {
        "context": "The pump must be primed before it is started.",
        "question": "What comes first?",
        "choices": ["priming", "starting"],
        "answer": 0,
    }
    licence = "that of your own rows"
    own_rows = True

    def __init__(self, notation: str = "index", notes: tuple[str, ...] = ()):
        self.notation, self.notes = notation, notes

    def survey(self, rows: Mapping[str, Iterable[Row]], source: DataSource) -> Self:
        """Finds out how the answers of all rows are stated, unless the source says so."""
        if source.answers != "auto":
            return type(self)(source.answers)
        found, remark = notation_of(_answers(row for split in rows.values() for row in split))
        return type(self)(found, (remark,) if remark else ())

    def item(self, row: Row, prompt: str) -> Item:
        """The choices answer the question or, without one, continue the context."""
        present = {name for name in ("context", "question") if row.columns.get(name) is not None}
        context = row.text("context") if "context" in present else ""
        question = row.text("question") if "question" in present else ""
        if question.strip():
            context = f"{context}\nQuestion: {question.strip()}\nAnswer:".lstrip()
        elif not context.strip():
            raise InputError(
                f"{row.where}: neither a question nor a context; its columns are: {row.names()}"
            )
        choices = tuple(f" {choice.strip()}" for choice in row.texts("choices"))
        gold = answer_index(row, "answer", choices, self.notation)
        return Item(context.rstrip(), choices, gold)


def _answers(rows: Iterable[Row]) -> Iterator[tuple[Row, Any, Sequence[str]]]:
    """The answer and the choices of the rows that have both."""
    for row in rows:
        try:
            yield row, row.value("answer"), row.texts("choices")
        except InputError:
            continue  # `item` refuses the row
