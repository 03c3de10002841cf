"""Look at the data of a domain as a model sees it: `trimlab data check`."""

import json
from collections.abc import Sequence
from typing import Any

from trimlab.commands._quiet import quiet
from trimlab.errors import InputError

USAGE = "usage: trimlab data check [--model MODEL] [--config FILE] [--data.OPTION ...] [--json]"

DESCRIPTION = """\
Reads and tokenises the data of a domain exactly as `trimlab fit` does, with the same --data.*
options, and says what is in it: rows read and left out, lengths, items that are cut, how often each
answer is right, repeated rows, what is reached without a model, and what usually is wrong. Then it
prints the first item of every set, token by token, as the model sees it. It trains nothing and
loads no weights. Look here first when a result is odd.
"""

EXAMPLES = """\
reading the examples:
  │ ends a token, ↵ is a newline, <bos> and its like are special tokens. Tokens in [brackets] are
  scored, and trained on in a train item. → is the right choice. A train item is shown with its
  right choice alone, as it is trained on.

examples:
  trimlab data check                                         the embedded model and domain
  trimlab data check --config experiments/quickstart.yaml    the data and the model of a config
  trimlab data check --model my_model --data.task jsonl --data.root my_domain
  trimlab data check --config runs/mine/config.yaml --json   for programs: one JSON object

exit codes: 0 the data can be read, with or without problems; 2 they cannot
"""


def run(arguments: list[str]) -> None:
    """`trimlab data check`: what is in the data of a domain."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{USAGE}\n\n{DESCRIPTION}\n{EXAMPLES}")
        return
    if arguments[0] != "check":
        raise InputError(f"trimlab data has no action {arguments[0]!r}; there is: check")
    quiet()
    from trimlab.commands._data_view import print_check
    from trimlab.data.check import check
    from trimlab.data.domain import DomainData
    from trimlab.model.loading import load_tokenizer

    options = _parser().parse_args(_from_configs(arguments[1:]))
    tokenizer = load_tokenizer(options.model)
    data = DomainData(tokenizer, **options.data.as_dict())
    data.progress = not options.json
    found = check(data)
    if options.json:
        print(json.dumps({"model": options.model} | found.to_row()))
    else:
        print_check(found, options.model)


def _parser() -> Any:
    import inspect
    from argparse import RawDescriptionHelpFormatter

    from jsonargparse import ArgumentParser, DefaultHelpFormatter

    from trimlab.data.domain import DomainData
    from trimlab.training.module import DomainLM

    class Formatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
        """Keeps the lines of the description and of the examples."""

    base = inspect.signature(DomainLM).parameters["base"].default
    parser = ArgumentParser(
        prog="trimlab data check",
        exit_on_error=False,
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=Formatter,
    )
    parser.add_argument(
        "--model",
        type=str,
        default=base,
        help="an embedded model, a local folder, or a hub id; only its tokenizer is loaded",
    )
    parser.add_argument(
        "--config",
        action="config",
        help="a config of `trimlab fit`, or the config.yaml of a run: its data and model are read, "
        "the rest is ignored",
    )
    parser.add_class_arguments(DomainData, "data", skip={"tokenizer"})
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    return parser


def _from_configs(arguments: Sequence[str]) -> list[str]:
    """Arguments with the data and the model of a fit config in place of its file."""
    from pathlib import Path

    import yaml

    from trimlab.files import read_yaml

    translated, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        option, equals, value = argument.partition("=")
        option = "--model" if option == "--model.base" else option  # as `trimlab fit` calls it
        if option not in ("--config", "-c"):
            translated.append(f"{option}{equals}{value}")
            continue
        if not equals:
            if not rest:
                raise InputError("--config needs the path of a config file")
            value = rest.pop(0)
        text = yaml.safe_dump(_data_and_model(read_yaml(Path(value))), sort_keys=False)
        translated.append(f"--config={text}")
    return translated


def _data_and_model(config: dict[str, Any]) -> dict[str, Any]:
    """The options of a fit config that decide what the model sees."""
    chosen: dict[str, Any] = {"data": dict(config.get("data") or {})}
    if base := (config.get("model") or {}).get("base"):
        chosen["model"] = base
    seed = config.get("seed_everything")
    if type(seed) is int:  # not true: a fit takes a random one then
        chosen["data"]["seed"] = seed
    return chosen
