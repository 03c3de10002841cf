"""The base class of benchmarks.

A benchmark times trimlab and a peer, another program for the same work, alternately in one process
and compares their results. Absolute times depend on the machine; the reported number is the ratio
of median times. A benchmark is one file of this folder with one subclass of `Benchmark`; the name
of the file is the name of the benchmark.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from trimlab.bench._data import BenchmarkData
from trimlab.bench._device import DeviceName
from trimlab.bench._model import LLAMA_SHAPED, BenchmarkModel
from trimlab.bench._result import BenchmarkResult, identified, profile_of
from trimlab.bench._timing import BenchmarkCandidate, Turns, time_alternately
from trimlab.errors import InputError
from trimlab.model.device import DtypeName, find_placement
from trimlab.plugins import plugin_class, plugin_module
from trimlab.records.provenance import provenance
from trimlab.records.result_row import ExperimentCell, ResultRow, RunContext
from trimlab.records.rows import append_row

BENCHMARKS = "trimlab.bench"
DEFAULT_MODEL = "gemma-3-270m"


class Benchmark(ABC):
    """A benchmark on the rows of one task.

    Args:
        model: `gemma-3-270m` or any other model that `trimlab fit` takes.
        shape: In place of a model, random weights in the shape of one, made on the device:
            `llama-7b`, `smollm2-135m` and others (a wrong name lists them). Times and memory are
            those of the real model; nothing is downloaded.
        blocks: Number of blocks of the shape, to make it smaller or larger.
        device: `cuda` or `cpu`; `auto` is a GPU if there is one.
        dtype: Type of the weights on both sides; `auto` is bfloat16 on a GPU that has it, else
            float32.
        task: Name of a task.
        root: Folder with local `.jsonl` files; without it, rows come from the hub.
        against: The peer; by default trimlab is timed alone.
        repeats: Turns of trimlab, and of the peer unless `peer_repeats` is given.
        peer_repeats: Turns of the peer.
        threads: CPU threads of both sides; by default those of torch.
        seed: Seed of the choice of rows.

    Raises:
        InputError: The benchmark has no such peer, a number of turns is below 1, or there is no
            such shape or device, or not enough memory for the weights.
    """

    peers: ClassVar[tuple[str, ...]] = ()
    # options for a run of seconds on a model of three blocks: the tests of all benchmarks use them
    tiny: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        shape: str | None = None,
        blocks: int | None = None,
        device: DeviceName = "auto",
        dtype: DtypeName = "auto",
        task: str = "sciq",
        root: Path | None = None,
        against: str | None = None,
        repeats: int = 3,
        peer_repeats: int | None = None,
        threads: int | None = None,
        seed: int = 0,
    ):
        if against is not None and against not in self.peers:
            raise InputError(
                f"no peer {against!r} here; there is {', '.join(self.peers) or 'none'}"
            )
        if repeats < 1 or (peer_repeats is not None and peer_repeats < 1):
            raise InputError("repeats must be at least 1")
        if shape is not None and model != DEFAULT_MODEL:
            raise InputError("name a --model or a --shape, not both")
        if model == LLAMA_SHAPED:
            shape = LLAMA_SHAPED
        self.against = against
        self.data = BenchmarkData(task, root, seed)
        self.device, weights = find_placement(device, dtype)
        self.model = BenchmarkModel(
            model,
            shape,
            blocks,
            device=self.device,
            dtype=weights,
            texts=self.data.texts,
        )
        self.repeats = {"ours": repeats, "peer": peer_repeats or repeats}
        self.threads = threads

    @abstractmethod
    def measure(self) -> Iterator[BenchmarkResult]:
        """Runs the benchmark."""

    def run(self) -> Iterator[ResultRow]:
        """Runs the benchmark and yields each result as a row of the record.

        Raises:
            InputError: The GPU has not enough memory.
        """
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        context = RunContext(
            base=self.model.name,
            task=self.data.task.name,
            prompt="authors",
            row_sets={},
            **provenance(),
        )
        try:
            for result in self.measure():
                # each result names the rows read so far
                read = replace(context, row_sets=dict(self.data.fingerprints))
                yield self._row(result, read)
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"the memory of {self._processor(context)} is not enough: lower the number of "
                "tokens or rows at once (see --help), or shorten a shape with --blocks"
            ) from error

    def time(
        self, ours: BenchmarkCandidate, peer: BenchmarkCandidate | None
    ) -> tuple[Turns, Turns | None]:
        """Times both sides alternately.

        Returns:
            Turns of trimlab and of the peer, if there is one.
        """
        candidates = {"ours": ours} | ({"peer": peer} if peer else {})
        turns = time_alternately(candidates, {name: self.repeats[name] for name in candidates})
        return turns["ours"], turns.get("peer")

    def _row(self, result: BenchmarkResult, context: RunContext) -> ResultRow:
        name = type(self).__module__.rpartition(".")[2]
        machine = {"blocks": self.model.blocks, "threads": torch.get_num_threads()}
        seed, dtype = self.data.seed, str(self.model.dtype).removeprefix("torch.")
        cell = {"bench": name, "peer": result.peer, **result.workload, **machine}
        # earlier records do not name the type: it was float32
        cell["dtype"] = None if dtype == "float32" else dtype
        # times of one processor are not comparable with those of another
        cell["processor"] = self._processor(context)
        settings = {"model": self.model.name, "task": context.task, "seed": seed, **machine}
        settings |= {"device": self.device.type, "dtype": dtype}
        return identified(
            ResultRow(
                cell=ExperimentCell(
                    experiment="bench",
                    profile=profile_of(self.model.name),
                    cell={key: value for key, value in cell.items() if value is not None},
                    run="",
                    seed=seed,
                    limit=None,
                ),
                context=context,
                finding=result.finding(name, settings),
            )
        )

    def _processor(self, context: RunContext) -> str:
        hardware = context.hardware
        gpu = hardware["gpu"] if self.device.type == "cuda" else None
        return gpu or hardware["cpu"] or hardware["machine"]


def load_benchmark(name: str) -> type[Benchmark]:
    """The class of a benchmark.

    Raises:
        InputError: There is no benchmark of this name.
    """
    return plugin_class(plugin_module(BENCHMARKS, name, "benchmark"), Benchmark)


def run_and_record(benchmark: Benchmark, path: Path) -> Iterator[ResultRow]:
    """Runs a benchmark and appends every row to a file as soon as it is measured.

    Args:
        benchmark: The benchmark.
        path: A file of JSON lines; its folder is created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for row in benchmark.run():
        append_row(path, row.to_row())
        yield row
