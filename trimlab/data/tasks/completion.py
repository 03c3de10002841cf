r"""Your own prompts, each with one right completion: answers without alternatives.

Source: the folder or file `data.root`, or the data set `data.hub`, see `DataSource`; rows with one
of these sets of columns. Calibration and dev are carved from the validation rows.

- `prompt`, `completion`: one behind the other, as they are. A space or a line between them must be
  in one of the two.
- `instruction`, `input` (may be missing or empty), `output`: the headings of Alpaca, without its
  preamble: `### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n{output}`.
- `question`, `answer`, `context` (may be missing or empty):
  `{context}\nQuestion: {question}\nAnswer: {answer}`.
"""

from collections.abc import Callable
from typing import ClassVar

from trimlab.data.items import Item
from trimlab.data.rows import Row
from trimlab.data.task import Task
from trimlab.errors import InputError


def _verbatim(row: Row) -> tuple[str, str]:
    return row.text("prompt"), row.text("completion")


def _alpaca(row: Row) -> tuple[str, str]:
    parts = {"Instruction": row.text("instruction").strip(), "Input": _optional(row, "input")}
    prompt = "".join(f"### {name}:\n{text}\n\n" for name, text in parts.items() if text)
    return f"{prompt}### Response:\n", row.text("output").strip()


def _question(row: Row) -> tuple[str, str]:
    question = f"Question: {row.text('question').strip()}\nAnswer:"
    return f"{_optional(row, 'context')}\n{question}".lstrip(), f" {row.text('answer').strip()}"


def _optional(row: Row, column: str) -> str:
    return "" if row.columns.get(column) is None else row.text(column).strip()


# required columns -> prompt and completion
FORMATS: dict[tuple[str, str], Callable[[Row], tuple[str, str]]] = {
    ("prompt", "completion"): _verbatim,
    ("instruction", "output"): _alpaca,
    ("question", "answer"): _question,
}


class Completion(Task):
    """The context is the prompt, the only choice the completion."""

    example: ClassVar = {
        "prompt": "What comes before the pump is started?",
        "completion": " It must be primed.",
    }
    licence = "that of your own rows"
    metric = "exp_neg_loss"
    generate = 50
    ends_with_eos = True
    own_rows = True

    def item(self, row: Row, prompt: str) -> Item:
        """The completion, with the white space in front of it, behind the prompt."""
        before, answer = FORMATS[_format(row)](row)
        if not before.strip() or not answer.strip():
            raise InputError(f"{row.where}: an empty prompt or completion; plain text is task text")
        # as in lm-evaluation-harness: many tokens begin with a space
        context = before.rstrip()
        choice = before[len(context) :] + answer
        lines = choice[: len(choice) - len(choice.lstrip())].rfind("\n") + 1
        # line breaks in front of the answer are tokens of their own, and belong to the prompt
        return Item(context, (choice,), gold=0, scored=((lines, len(choice)),) if lines else ())


def _format(row: Row) -> tuple[str, str]:
    """The required columns of the row's format."""
    there = {column for column, value in row.columns.items() if value is not None}
    if "choices" in there:
        raise InputError(f"{row.where}: rows with 'choices' are for task jsonl (multiple choice)")
    found = [columns for columns in FORMATS if there.issuperset(columns)]
    if len(found) == 1:
        return found[0]
    names = "; ".join(" and ".join(columns) for columns in found or FORMATS)
    if found:
        raise InputError(f"{row.where}: columns of several formats: {names}; keep those of one")
    raise InputError(f"{row.where}: its columns are {row.names()}; there must be {names}")
