"""Time trimlab against a peer, alternately and in one process."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimlab.commands._description import description
from trimlab.commands._quiet import quiet
from trimlab.errors import InputError
from trimlab.plugins import plugin_names

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from trimlab.bench._benchmark import Benchmark


def run(arguments: list[str]) -> None:
    """`trimlab bench`: a benchmark against a peer."""
    quiet()
    from rich.console import Console

    from trimlab.bench._benchmark import load_benchmark, run_and_record
    from trimlab.bench._table import results_table
    from trimlab.records.result_row import Bench

    if not arguments or arguments[0] in ("-h", "--help"):
        _print_help()
        return
    name = arguments[0]
    benchmark_class = load_benchmark(name)
    options = _parser(name, benchmark_class).parse_args(arguments[1:]).as_dict()
    as_json, out, data = options.pop("json"), options.pop("out"), options.pop("data")
    _check_counts(options)
    benchmark = benchmark_class(task=data["task"], root=data["root"], **options)
    results = []
    for row in run_and_record(benchmark, out):
        assert isinstance(row.finding, Bench)
        results.append(row.finding)
        if as_json:
            print(json.dumps(row.to_row()), flush=True)
    if not as_json:
        Console().print(results_table(results))


def _print_help() -> None:
    from trimlab.bench._benchmark import BENCHMARKS, load_benchmark

    print("usage: trimlab bench NAME [options]\n")
    print("Times trimlab and a peer alternately, in one process, and compares their results.")
    print("`trimlab bench NAME --help` lists the options of a benchmark:\n")
    for name in plugin_names(BENCHMARKS):
        benchmark = load_benchmark(name)
        summary = (benchmark.__doc__ or "").partition("\n")[0]
        print(f"  {name:8} {summary} Peers: {', '.join(benchmark.peers) or 'none'}.")


def _parser(name: str, benchmark: "type[Benchmark]") -> "ArgumentParser":
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog=f"trimlab bench {name}", exit_on_error=False, description=description(benchmark)
    )
    parser.add_class_arguments(benchmark, skip={"task", "root"})
    parser.add_argument("--data.task", type=str, default="sciq", help="name of a task")
    parser.add_argument("--data.root", type=Path | None, help="folder with local .jsonl files")
    parser.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/bench.jsonl"), help="file to append the rows to"
    )
    return parser


def _check_counts(options: Mapping[str, Any]) -> None:
    """Refuses whole numbers below 1; all of them are counts, except for the seed.

    Raises:
        InputError: There is one.
    """
    for option, value in options.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        if option != "seed" and any(type(number) is int and number < 1 for number in values):
            raise InputError(f"--{option} must be at least 1, not {value}")
