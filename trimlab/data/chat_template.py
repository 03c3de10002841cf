"""Conversations as text, through a tokenizer's chat template, and what the assistant says in it."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from trimlab.errors import InputError

# Some templates write the date of today into the prompt: the same rows would be other rows tomorrow
FIXED_DATE = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro -%}"


Message = dict[str, str]  # a turn: its `role` (system, user or assistant) and its `content`


def use_chat_template(tokenizer: PreTrainedTokenizerBase, path: str | Path) -> None:
    """Gives a tokenizer the chat template of a file, which is saved with it from then on.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        tokenizer.chat_template = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise InputError(f"cannot read data.chat_template {path}: {reason}") from error


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, ask: bool = False
) -> str:
    """A conversation as text, special tokens included.

    Args:
        tokenizer: Has the chat template.
        messages: The turns.
        ask: Add what precedes an answer of the assistant.

    Raises:
        InputError: The template refuses the conversation.
    """
    try:
        text = tokenizer.apply_chat_template(
            list(messages),
            chat_template=FIXED_DATE + tokenizer.get_chat_template(),
            tokenize=False,
            add_generation_prompt=ask,
        )
    except (TemplateError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"the chat template refuses these messages: {reason}") from error
    return str(text)


def assistant_spans(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], text: str
) -> list[tuple[int, int]]:
    """Where the assistant's turns are in a conversation.

    A turn begins behind the prompt of the conversation before it, as the model sees it when it
    answers, and ends with its end-of-turn token. That token is learnt; white space behind it is
    not.

    Args:
        tokenizer: Has the chat template.
        messages: The turns; the assistant's are not empty, and the first one is not its.
        text: The turns as `render` gives them.

    Returns:
        Start and end of every turn of the assistant, in characters.

    Raises:
        InputError: In the whole conversation, a turn differs from what the model would be asked
            for and would answer.
    """
    return [
        _span(tokenizer, messages[: i + 1], text)
        for i, message in enumerate(messages)
        if message["role"] == "assistant"
    ]


def _span(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], text: str
) -> tuple[int, int]:
    """The span of the last of some messages in a longer conversation."""
    prompt = render(tokenizer, messages[:-1], ask=True)
    alone, answer = render(tokenizer, messages), messages[-1]["content"].strip()
    start, content = len(prompt), alone.rfind(answer)
    # some templates write more in front of a last answer (an empty thought) than of earlier ones
    for begin in (start, content):
        turn = alone[begin:]
        if not turn.rstrip().endswith(answer):  # else white space is all that ends a turn
            turn = turn.rstrip()
        if begin >= start and text.startswith(prompt) and text.startswith(turn, start):
            return start, start + len(turn)
    raise InputError(
        f"the chat template changes turn {len(messages)} once the conversation goes on, or does "
        "not begin it as it asks for it (templates that remove or ask for thoughts do): give a "
        "template for training with data.chat_template"
    )
