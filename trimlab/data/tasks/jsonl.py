"""Your own multiple-choice domain.

Source: the folder `data.root` with `train.jsonl`, `validation.jsonl` and `test.jsonl`, rows
`{"context": "...", "question": "...", "choices": ["...", "..."], "answer": 0}`, where either
context or question may be missing. Calibration and dev are carved from `validation.jsonl`.
"""

from typing import ClassVar

from trimlab.data.items import Item
from trimlab.data.rows import Row
from trimlab.data.task import Task
from trimlab.errors import InputError


class Jsonl(Task):
    r"""`{context}\nQuestion: {question}\nAnswer:` -> ` {choice}`; or `{context}` alone."""

    example: ClassVar = {
        "context": "The pump must be primed before it is started.",
        "question": "What comes first?",
        "choices": ["priming", "starting"],
        "answer": 0,
    }
    licence = "that of your own rows"
    own_rows = True

    def item(self, row: Row, prompt: str) -> Item:
        """The choices answer the question or, without one, continue the context."""
        present = {name for name in ("context", "question") if row.columns.get(name) is not None}
        context = row.text("context") if "context" in present else ""
        question = row.text("question") if "question" in present else ""
        if question.strip():
            context = f"{context}\nQuestion: {question.strip()}\nAnswer:".lstrip()
        elif not context.strip():
            found = ", ".join(row.columns) or "none"
            raise InputError(
                f"{row.where}: neither a question nor a context; its columns are: {found}"
            )
        choices = tuple(f" {choice.strip()}" for choice in row.texts("choices"))
        return Item(context.rstrip(), choices, row.index("answer"))
