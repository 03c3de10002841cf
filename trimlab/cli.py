"""The command `trimlab`: dispatch to verbs, errors in one line, exit codes."""

import argparse
import importlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from trimlab.errors import (
    LOST,
    InputError,
    RankError,
    disk_is_full,
    memory_is_full,
    path_is_too_long,
)
from trimlab.plugins import plugin_names

DESCRIPTION = """\
trimlab cuts a large language model down to one domain: it fine-tunes the model on the domain and
drops, one small step at a time, the attention and MLP sublayers that the domain does not need
(TrimLLM, arXiv 2412.11242). What is left is an ordinary, smaller and faster model.
"""

EXAMPLES = """\
examples:
  trimlab fit --config experiments/quickstart.yaml
  trimlab fit --config experiments/quickstart.yaml --trim.target_layer_memory 0.75 \\
      --run.dir runs/three_quarters
  trimlab fit --config experiments/own_data.yaml --data.root my_domain --run.dir runs/mine
  trimlab data check --config experiments/own_data.yaml --data.root my_domain
  trimlab eval runs/quickstart/models/0.5 --tasks icd10_chapters
  trimlab bench score --against naive --data.task icd10cm
  trimlab compress sparsegpt runs/quickstart/models/0.5 --data.task icd10_chapters \\
      --out runs/sparse
  trimlab sweep experiments/table3.yaml --profile gemma-270m --only data.task=icd10cm --dry-run
  trimlab plan --shape llama-7b --machine h100 --trim.target_layer_memory 0.5
  trimlab report --out report

exit codes: 0 done, 1 failed while running or interrupted, 2 wrong input
"""

VERBS = "trimlab.commands"


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a verb and exits with 0 (done), 1 (failed or interrupted) or 2 (wrong input)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [argument for argument in argv if argument != "--debug"]
    parser = argparse.ArgumentParser(
        prog="trimlab",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    modules = {name: importlib.import_module(f"{VERBS}.{name}") for name in plugin_names(VERBS)}
    for name, module in modules.items():
        verbs.add_parser(name, help=(module.__doc__ or "").partition("\n")[0], add_help=False)
    if not argv:
        parser.print_help()
        sys.exit(2)
    verb = parser.parse_known_args(argv[:1])[0].verb
    with _sigterm_is_ctrl_c():
        code = _guarded(modules[verb].run, argv[1:], debug)
    sys.exit(code)


@contextmanager
def _sigterm_is_ctrl_c() -> Iterator[None]:
    """Lets SIGTERM, which schedulers send, end a verb as Ctrl-C does; only a main thread can."""
    taken = threading.current_thread() is threading.main_thread()
    taken = taken and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if taken:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        if taken:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _guarded(verb: Callable[[list[str]], None], arguments: list[str], debug: bool) -> int:
    """Runs a verb; errors become one line on standard error."""
    import jsonargparse

    try:
        verb(arguments)
    except (InputError, jsonargparse.ArgumentError) as error:
        if debug:
            raise
        return _say(error, 2)
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code == 0:  # after --help
            return 0
        return _say("interrupted; the same command goes on where it was", 1)
    except RankError as error:
        return _say(error, error.code) if str(error) else error.code
    except Exception as error:
        if debug:
            raise
        if _lost_connection(error):
            return _say(f"{LOST}; the same command goes on where it was", 1)
        if disk_is_full(error):
            return _say("the disk is full; free some space and give the same command again", 2)
        if isinstance(error, OSError) and path_is_too_long(error):
            return _say(f"too long for the name of a file or folder: {error.filename!r:.60}", 2)
        if memory_is_full(error):
            from trimlab.planning.device import ADVICE

            return _say(f"out of memory: {ADVICE}", 2)
        return _say(f"{type(error).__name__}: {error}", 1)
    return 0


def _lost_connection(error: Exception) -> bool:
    """Whether a process has waited in vain for another one of its run."""
    if type(error).__name__ in ("DistBackendError", "DistNetworkError"):
        return True
    return "gloo" in str(error) and ("peer" in str(error) or "ipe" in str(error))


def _say(error: object, code: int) -> int:
    line = " ".join(str(error).split())
    print(f"trimlab: {line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
