"""Short runs of benchmarks on a tiny model."""

import contextlib
import functools
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from trimlab import cli
from trimlab.bench._benchmark import load_benchmark
from trimlab.records.rows import JsonObject, read_rows

TrimlabBench = Callable[..., int]
TinyOptions = Callable[[str], list[str]]


@dataclass(frozen=True)
class TinyRun:
    """A short run of a benchmark: the rows of its record, and its standard output."""

    rows: list[JsonObject]
    printed: str


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Any) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("base"), num_hidden_layers=3)


@pytest.fixture(scope="session")
def trimlab_bench(base: Path, root: Path) -> TrimlabBench:
    """`trimlab_bench(name, *arguments)` is the exit code of the command on the tiny model."""

    def run(name: str, *arguments: object) -> int:
        where = ("--model", base, "--data.task", "jsonl", "--data.root", root, "--repeats", 1)
        with pytest.raises(SystemExit) as stop:
            cli.main([str(argument) for argument in ("bench", name, *where, *arguments)])
        return int(stop.value.code or 0)

    return run


@pytest.fixture(scope="session")
def tiny_options() -> TinyOptions:
    """`tiny_options(name)` are the command-line options of a short run of a benchmark."""

    def options(name: str) -> list[str]:
        found = []
        for option, value in load_benchmark(name).tiny.items():
            found += [f"--{option}", value if isinstance(value, str) else json.dumps(value)]
        return found

    return options


@pytest.fixture(scope="session")
def tiny_run(
    trimlab_bench: TrimlabBench,
    tiny_options: TinyOptions,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., TinyRun]:
    """`tiny_run(name, peer=None)` runs a benchmark with `--json`, once per session."""

    @functools.cache
    def run(name: str, peer: str | None = None) -> TinyRun:
        if peer == "lm-eval":
            pytest.importorskip("lm_eval")
        out = tmp_path_factory.mktemp("bench") / "bench.jsonl"
        against = ["--against", peer] if peer else []
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            code = trimlab_bench(name, *tiny_options(name), *against, "--json", "--out", out)
        assert code == 0
        return TinyRun(read_rows(out), printed.getvalue())

    return run
