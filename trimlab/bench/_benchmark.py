"""Races: what trimlab does against what a user would run instead, side by side.

A race is one file in this folder that defines one subclass of `Bench`; the file's name is the
name of the race. It says who runs against whom; timing, memory and the record are done here.
Times of one machine mean little elsewhere, so what is reported is a ratio of medians over turns
that alternate.
"""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from rich.table import Table
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimlab.bench._timing import Contender, Turns, device, race
from trimlab.data.domain import DomainData
from trimlab.data.items import Item, fingerprint
from trimlab.data.splits import RowSets, read_row_sets, read_test_items
from trimlab.data.task import load_task
from trimlab.errors import InputError
from trimlab.model.llama_shaped import BLOCKS, llama_shaped
from trimlab.model.loading import load_model
from trimlab.plugins import plugin_class, plugin_module
from trimlab.records.identity import config_hash
from trimlab.records.provenance import provenance
from trimlab.records.result_row import SCHEMA
from trimlab.records.rows import Row

BENCHMARKS = "trimlab.bench"

# what a model is called among the results of experiments, where it is not its own name
PROFILES = {"gemma-3-270m": "gemma-270m"}


@dataclass(frozen=True)
class Measurement:
    """One line of a bench record.

    Attributes:
        what: What was done.
        ours: Our turns.
        theirs: The peer's turns, if there was one.
        peer: What the peer is.
        factor: What the peer's time is multiplied by where it did a part of the work only.
        same: How the results were compared, and what came out.
        question: The work that was asked for. A later measurement of the same question takes the
            place of an earlier one.
        settings: Everything else that is needed to repeat it.
    """

    what: str
    ours: Turns
    theirs: Turns | None = None
    peer: str | None = None
    factor: float = 1.0
    same: Row = field(default_factory=dict)
    question: Row = field(default_factory=dict)
    settings: Row = field(default_factory=dict)

    def row(self) -> Row:
        """The measurement as it stands in the record."""
        row: Row = {"what": self.what, "peer": None, **_columns("ours", self.ours, 1.0)}
        if self.theirs is not None:
            row |= {"peer": self.peer, **_columns("peer", self.theirs, self.factor)}
            row["peer_factor"] = self.factor
            row["ratio"] = row["peer_seconds"] / row["ours_seconds"]
            row["memory_ratio"] = row["ours_peak_bytes"] / row["peer_peak_bytes"]
        return row | {"same": self.same, "settings": self.question | self.settings}


def _columns(prefix: str, turns: Turns, factor: float) -> Row:
    return {
        f"{prefix}_seconds": turns.median * factor,
        f"{prefix}_spread": turns.spread * factor,
        f"{prefix}_turns": turns.seconds,
        f"{prefix}_peak_bytes": turns.peak,
    }


class Bench(ABC):
    """A race on the rows of one task.

    Args:
        model: `gemma-3-270m`, any model that `trimlab fit` takes, or `llama-shaped`: random
            weights in the shape of a small LLaMA (hidden size 512, 32k vocabulary).
        blocks: Blocks of `llama-shaped`.
        task: Name of a task.
        root: Folder with local `.jsonl` files; without it, rows come from the hub.
        against: The peer, or nobody.
        repeats: Our turns. The peer takes as many, or `peer_repeats`.
        peer_repeats: Turns of the peer.
        threads: Threads of both; by default what torch takes.
        seed: Seed of the choice of rows.
    """

    peers: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        model: str = "gemma-3-270m",
        blocks: int = BLOCKS,
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
        self.model, self.blocks, self.task, self.root = model, blocks, load_task(task), root
        self.rows_used: dict[str, str] = {}  # fingerprints of the row sets that were read
        self.against, self.seed = against, seed
        self.turns = {"ours": repeats, "peer": peer_repeats or repeats}
        if threads is not None:
            torch.set_num_threads(threads)

    @abstractmethod
    def measure(self) -> Iterator[Measurement]:
        """Runs the race."""

    def __enter__(self) -> Self:
        self._open = ExitStack()
        self.base = self.model
        if self.model == "llama-shaped":
            folder = self._open.enter_context(tempfile.TemporaryDirectory())
            self.base = str(llama_shaped(Path(folder), self.texts(), self.blocks))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def rows(self) -> Iterator[Row]:
        """The measurements as lines of a record, in the schema of all results."""
        where = provenance()
        hardware = where["hardware"]
        bench = type(self).__module__.rpartition(".")[2]
        blocks = self.blocks if self.model == "llama-shaped" else None
        about = {"blocks": blocks, "threads": torch.get_num_threads()}
        asked_of = {"model": self.model, "task": self.task.name, "seed": self.seed}
        for measurement in self.measure():
            row = measurement.row()
            row["settings"] |= asked_of | about
            # times of one processor say nothing about another's
            cell = {"bench": bench, "peer": row["peer"], **measurement.question, **about}
            cell["processor"] = hardware["gpu"] or hardware["cpu"] or hardware["machine"]
            row = {
                "schema": SCHEMA,
                "kind": "bench",
                "experiment": "bench",
                "profile": PROFILES.get(self.model, Path(self.model).name),
                "cell": {name: value for name, value in cell.items() if value is not None},
                "base": self.model,
                "task": self.task.name,
                "prompt": "authors",
                "seed": self.seed,
                "limit": None,
                "row_sets": self.rows_used,
                "bench": bench,
                **row,
                **where,
            }
            yield {"run": config_hash(row), **row}

    # ---- parts of a race ------------------------------------------------------------------------

    def row_sets(self, **sizes: Any) -> RowSets:
        """Rows of the task."""
        sets = read_row_sets(self.task, self.root, seed=self.seed, **sizes)
        self.rows_used |= sets.fingerprints()
        return sets

    def test_items(self, n: int) -> list[Item]:
        """Test items of the task."""
        items = read_test_items(self.task, self.root, n)
        self.rows_used["test"] = fingerprint(items)
        return items

    def domain(
        self, train: int, calibration: int = 1, dev: int = 1, batch_size: int = 16
    ) -> DomainData:
        """So many rows of the task in each set, tokenised for the model."""
        _, tokenizer = load_model(self.base)  # it knows what the model reads
        data = DomainData(
            tokenizer,
            self.task.name,
            self.root,
            train_rows=train,
            calibration_rows=calibration,
            dev_rows=dev,
            test_rows=1,
            batch_size=batch_size,
            seed=self.seed,
        )
        data.setup()
        assert data.rows is not None
        self.rows_used |= data.rows.fingerprints()
        return data

    def texts(self) -> Iterator[str]:
        """What a tokenizer is trained on."""
        for item in self.row_sets(calibration=1, dev=1, test=1).train:
            yield item.context + item.choices[item.gold]

    def load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """A fresh model, where races are run, and its tokenizer."""
        model, tokenizer = load_model(self.base)
        return model.to(device()), tokenizer  # type: ignore[arg-type]

    def race(self, ours: Contender, peer: Contender | None) -> tuple[Turns, Turns | None]:
        """Our turns and the peer's."""
        contenders = {"ours": ours} | ({"peer": peer} if peer else {})
        results = race(contenders, {name: self.turns[name] for name in contenders})
        return results["ours"], results.get("peer")


def table_of(rows: Sequence[Row]) -> Table:
    """Measurements as a person reads them."""
    table = Table(title=f"{rows[0]['bench']}, {rows[0]['settings']['model']}")
    for heading in ("what", "ours", "peer", "ratio", "peak memory", "of the peer's"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for row in rows:
        settings = row["settings"]
        axis = f" ({settings['axis']} {settings['value']})" if "axis" in settings else ""
        cells = [
            row["what"] + axis,
            f"{row['ours_seconds']:.2f} ± {row['ours_spread']:.2f} s",
            *("", ""),
            f"{row['ours_peak_bytes'] / 2**30:.2f} GiB",
            "",
        ]
        if "ratio" in row:
            cells[2] = f"{row['peer']}: {row['peer_seconds']:.2f} ± {row['peer_spread']:.2f} s"
            cells[3] = f"{row['ratio']:.2f}"
            cells[5] = f"{100 * row['memory_ratio']:.0f} %"
        table.add_row(*cells)
    return table


def load_bench(name: str) -> type[Bench]:
    """The class of a race.

    Raises:
        InputError: There is no such race.
    """
    return plugin_class(plugin_module(BENCHMARKS, name, "bench"), Bench)
