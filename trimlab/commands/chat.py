"""Talk to a model in the terminal, also beside the model that it was trimmed from."""

import importlib
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trimlab.commands._quiet import quiet
from trimlab.errors import InputError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

HELP = "A line is a question. /reset forgets the conversation, /quit or Ctrl-D ends it."


def run(arguments: list[str]) -> None:
    """`trimlab chat`: answers in the terminal, token by token."""
    quiet()
    options = _parser().parse_args(arguments)
    if options.new_tokens < 1:
        raise InputError(f"--new_tokens must be at least 1, not {options.new_tokens}")
    names = [options.model] + ([options.beside] if options.beside else [])
    with ExitStack() as loaded:
        asked = (options.engine, None)
        speakers = [
            loaded.enter_context(_speaker(name, engine, options.threads))
            for name, engine in zip(names, asked, strict=False)
        ]
        if sys.stdin.isatty():
            print(HELP)
        for line in _lines():
            if line == "/quit":
                return
            if line == "/reset":
                for speaker in speakers:
                    speaker.messages.clear()
            elif line:
                for speaker in speakers:
                    if len(speakers) > 1:
                        print(f"[{speaker.name}]")
                    speaker.answer(line, options.new_tokens)


@dataclass
class _Speaker:
    """A model in a conversation.

    Attributes:
        name: Its name.
        model: The model in its engine.
        tokenizer: Its tokenizer.
        ends: Tokens that end an answer.
        messages: The conversation so far; stays empty where the tokenizer has no chat template.
    """

    name: str
    model: Any
    tokenizer: Any
    ends: frozenset[int]
    messages: list[dict[str, str]] = field(default_factory=list)

    def answer(self, line: str, new_tokens: int) -> None:
        """Prints the answer to a line while it is generated, and its speed on standard error.

        Without a chat template, the answer continues the line. Ctrl-C ends the answer.
        """
        from trimlab.data.chat_template import render
        from trimlab.data.encoding import prompt_ids

        chat, text = self.tokenizer.chat_template is not None, line
        if chat:
            self.messages.append({"role": "user", "content": line})
            text = render(self.tokenizer, self.messages, ask=True)
        most = max(1, self.tokenizer.model_max_length - new_tokens)
        tokens = self.model.decode(prompt_ids(self.tokenizer, text, most), new_tokens)
        written, times, printed = list[int](), list[float](), ""
        with suppress(KeyboardInterrupt):
            for token in tokens:
                times.append(time.perf_counter())
                if token in self.ends:
                    break
                written.append(token)
                whole = self.tokenizer.decode(written, skip_special_tokens=True)
                if not whole.endswith("\ufffd"):  # part of a character
                    print(whole.removeprefix(printed), end="", flush=True)
                    printed = whole
        print()
        if chat:
            self.messages.append({"role": "assistant", "content": printed})
        if len(times) > 1:  # the first token waits until the prompt has been read
            speed = (len(times) - 1) / (times[-1] - times[0])
            print(f"({speed:.1f} tokens/s)", file=sys.stderr)


@contextmanager
def _speaker(name: str, engine: str | None, threads: int | None) -> Iterator[_Speaker]:
    """Loads a model in an engine.

    Args:
        name: A folder, in any format that `trimlab export` writes, or another name of a model.
        engine: Name of the engine; None for that of the folder.
        threads: CPU threads of the engine.
    """
    from transformers import GenerationConfig

    from trimlab.commands._engine_folder import engine_folder, engine_of
    from trimlab.evaluation.generation import end_tokens
    from trimlab.model.loading import load_tokenizer
    from trimlab.model.weights import explained

    folder, config = engine_folder(name), None
    found, tokenizer = engine_of(folder, engine), load_tokenizer(str(folder))
    if (folder / "generation_config.json").is_file():
        with explained(name, folder):
            config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    with found.load(folder, threads=threads) as model:
        yield _Speaker(name, model, tokenizer, frozenset(end_tokens(config, tokenizer)))


def _lines() -> Iterator[str]:
    """Lines of standard input, stripped; those of a terminal are asked for."""
    if not sys.stdin.isatty():
        yield from map(str.strip, sys.stdin)
        return
    with suppress(ImportError):
        importlib.import_module("readline")  # arrow keys and history in `input`
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            yield input("> ").strip()


def _parser() -> "ArgumentParser":
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog="trimlab chat",
        exit_on_error=False,
        description=f"Answers what is typed or piped in, a line at a time. {HELP}",
    )
    parser.add_argument(
        "model", type=str, help="folder of a run's model or of an export, or another model's name"
    )
    parser.add_argument("--beside", type=str | None, help="a model that answers, too")
    parser.add_argument(
        "--engine", type=str | None, help="the engine of the first model; by default, by its files"
    )
    parser.add_argument("--new_tokens", type=int, default=256, help="longest answer in tokens")
    parser.add_argument("--threads", type=int | None, help="CPU threads, the engine's own number")
    return parser
