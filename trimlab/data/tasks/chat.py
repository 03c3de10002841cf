"""Your own conversations, in the format of the chat template of the model.

Source: the folder or file `data.root`, or the data set `data.hub`, see `DataSource`; rows
`{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}` or, as
in ShareGPT, `{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", ...}]}`. The
first turn may be the system's. Calibration and dev are carved from the validation rows.

The turns are rendered by the tokenizer's chat template; `data.chat_template` gives one to a
tokenizer without. Only the assistant's turns are trained on and scored, all of them. Turns behind
the last of them are left out.
"""

from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, ClassVar

from trimlab.data.items import Item
from trimlab.data.rows import Row
from trimlab.data.task import Task
from trimlab.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from trimlab.data.chat_template import Message

# column -> keys of a turn, and roles by name
COLUMNS = {
    "messages": ("role", "content", {name: name for name in ("system", "user", "assistant")}),
    "conversations": (
        "from",
        "value",
        {"system": "system", "human": "user", "user": "user"}
        | {"gpt": "assistant", "assistant": "assistant"},
    ),
}
UNREAD = ("tool_calls", "function_call", "weight", "train")  # they change what is to be learnt


class Chat(Task):
    """The context ends before the first turn of the assistant; the only choice is the rest."""

    example: ClassVar = {
        "messages": [
            {"role": "user", "content": "What comes before the pump is started?"},
            {"role": "assistant", "content": "It must be primed."},
        ]
    }
    licence = "that of your own rows"
    metric = "exp_neg_loss"
    generate = 50
    own_rows = True
    tokenizer: "PreTrainedTokenizerBase | None" = None

    def with_tokenizer(self, tokenizer: "PreTrainedTokenizerBase") -> "Chat":
        """The task with the chat template of a model.

        Raises:
            InputError: The tokenizer has none.
        """
        if not tokenizer.chat_template:
            raise InputError(
                f"task {self.name}: the tokenizer has no chat template; give a file with one, "
                "data.chat_template, or bring rows with prompt and completion (task completion)"
            )
        task = copy(self)
        task.tokenizer = tokenizer
        return task

    def item(self, row: Row, prompt: str) -> Item:
        """The conversation up to the last turn of the assistant."""
        from trimlab.data.chat_template import assistant_spans, render

        if self.tokenizer is None:
            raise InputError(f"task {self.name} is not for this: it needs a model's chat template")
        messages = _messages(row)
        try:
            text = render(self.tokenizer, messages)
            spans = assistant_spans(self.tokenizer, messages, text)
        except InputError as error:
            raise InputError(f"{row.where}: {error}") from error
        context = text[: spans[0][0]].rstrip()
        cut = len(context)
        scored = tuple((start - cut, end - cut) for start, end in spans)
        rest = text[cut : spans[-1][1]]
        return Item(context, (rest,), gold=0, scored=scored, ends_with_turn=True)

    def key_texts(self, row: Row, item: Item) -> tuple[str, Sequence[str]]:
        """The turns before and behind the first answer, without the template."""
        messages = _messages(row)
        first = next(i for i, m in enumerate(messages) if m["role"] == "assistant")
        return _transcript(messages[:first]), (_transcript(messages[first:]),)


def _transcript(messages: Sequence["Message"]) -> str:
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)


def _messages(row: Row) -> list["Message"]:
    """The turns of a row, up to the last one of the assistant."""
    # `in` first: a name that is looked up in vain is proposed for others
    found = [name for name in COLUMNS if name in row.columns and row.columns[name] is not None]
    if len(found) != 1:
        problem = f"both {' and '.join(found)}" if found else f"neither {' nor '.join(COLUMNS)}"
        raise InputError(f"{row.where}: {problem}; its columns are: {row.names()}")
    (column,) = found
    turns = row.columns[column]
    if not isinstance(turns, list) or not turns:
        raise InputError(f"{row.where}: {column!r} must be a list of turns")
    messages = [_message(row, column, number) for number in range(len(turns))]
    last = max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=-1)
    if last < 0:
        raise InputError(f"{row.where}: {column!r} has no turn of the assistant")
    if messages[0]["role"] == "assistant":
        raise InputError(f"{row.where}: {column!r} begins with the assistant; nothing prompts it")
    return messages[: last + 1]


def _message(row: Row, column: str, number: int) -> "Message":
    """One turn, with the names of Transformers."""
    role_key, content_key, roles = COLUMNS[column]
    turn: Any = row.columns[column][number]
    where = f"{row.where}: turn {number + 1} of {column!r}"
    if not isinstance(turn, dict) or not {role_key, content_key} <= turn.keys():
        raise InputError(f"{where} must have {role_key!r} and {content_key!r}")
    role, content = turn[role_key], turn[content_key]
    if not isinstance(role, str) or role not in roles:
        raise InputError(f"{where} is from {role!r}, and not from {', '.join(roles)}")
    for key in UNREAD:
        if turn.get(key) not in (None, True, 1, []):
            raise InputError(f"{where} has {key!r}, which is not supported; remove it or the row")
    if not isinstance(content, str) or (roles[role] == "assistant" and not content.strip()):
        raise InputError(f"{where}: {content_key!r} must be a text that is not empty")
    return {"role": roles[role], "content": content}
