"""Speed: every benchmark against what a user would run instead, beside the project's goals."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from analysis.measurements import Measurement
from analysis.names import benchmark_title, workload_title
from analysis.paper import Paper
from analysis.tables import MISSING, Cell, Column, Group, Table, TableRow
from trimlab.records.results import Record, Records


@dataclass(frozen=True)
class Goal:
    """A goal of the project for one benchmark.

    Attributes:
        what: Description of the work.
        bench: Name of the benchmark.
        peer: Name of the peer.
        workload: The goal is for benchmarks of this workload only; None stands for no such entry.
        faster: Least ratio of the peer's time to ours, by profile.
        memory: Largest share of our peak memory in the peer's, by profile.
    """

    what: str
    bench: str
    peer: str
    workload: Mapping[str, float | None]
    faster: Mapping[str, float]
    memory: Mapping[str, float] = field(default_factory=dict)

    def is_for(self, record: Record) -> bool:
        """Whether a benchmark of this name against this peer has the workload of the goal."""
        return all(record["cell"].get(name) == value for name, value in self.workload.items())


# Goals by profile: small models on two cores, and LLaMA-7B's shape on one H100
GEMMA, SMALL_LLAMA, SMOLLM2, LLAMA_7B = (
    "gemma-270m",
    "llama-shaped",
    "smollm2-135m",
    "llama-7b-shape",
)
SHARE_OF_MEMORY = {GEMMA: 0.6, SMALL_LLAMA: 0.6, LLAMA_7B: 0.5}

GOALS = (
    Goal(
        "scoring 100 items",
        "score",
        "lm-eval",
        {"rows": 100},
        {GEMMA: 10, SMALL_LLAMA: 4, SMOLLM2: 6},
    ),
    Goal(
        "scanning 50 items, all scores",
        "scan",
        "lm-eval",
        {"rows": 50},
        {GEMMA: 20, SMALL_LLAMA: 9, SMOLLM2: 12, LLAMA_7B: 20},
        memory={GEMMA: 0.6, SMALL_LLAMA: 0.6},
    ),
    Goal(
        "scanning 50 items, the choice",
        "scan",
        "all-scores",
        {"rows": 50},
        {GEMMA: 1.5, SMALL_LLAMA: 1.5, SMOLLM2: 3},
    ),
    Goal(
        "an epoch at r = 1/4",
        "train",
        "trainer",
        {"r": 0.25},
        {GEMMA: 4, SMALL_LLAMA: 1.8, SMOLLM2: 2.5, LLAMA_7B: 1.8},
        memory=SHARE_OF_MEMORY,
    ),
    Goal(
        "an epoch at r = 1/4",
        "train",
        "trainer-max",
        {"r": 0.25},
        {GEMMA: 10, SMALL_LLAMA: 5},
        memory=SHARE_OF_MEMORY,
    ),
    # at most 25 and 60 % of the time
    Goal(
        "a run to half the layers",
        "run",
        "trainer",
        {"target": 0.5},
        {GEMMA: 4, SMALL_LLAMA: 4, SMOLLM2: 4},
    ),
    Goal(
        "a run to half the layers",
        "run",
        "own",
        {"target": 0.5},
        {GEMMA: 1 / 0.6, SMALL_LLAMA: 1 / 0.6},
    ),
    Goal(
        "decoding at half depth",
        "decode",
        "full",
        {"method": None},
        {SMOLLM2: 1.6, LLAMA_7B: 1.9},
    ),
    Goal("prefill at half depth", "prefill", "full", {"method": None}, {LLAMA_7B: 1.95}),
)


def build(records: Records, paper: Paper) -> Table:
    """All benchmarks against a peer, those with a goal first."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records.where(kind="bench"):
        if record["peer"] and _is_ours(record):
            groups.setdefault((record["profile"], benchmark_title(record)), []).append(record)
    # without measurements: the goals alone
    groups = groups or {(profile, profile): [] for profile in (GEMMA, SMALL_LLAMA)}
    return Table(
        "Speed: trimlab against what a user would run instead",
        "Medians of turns that alternate, in one process, on the same rows. The goals are the "
        "project's own, for the work that they name. Against lm-eval: the evaluation harness with "
        "its best batch size, for a scan one evaluation for every sublayer. Against trainer and "
        "trainer-max: full fine-tuning with the Hugging Face Trainer, padded to the batch's "
        "longest text and to the data set's. Against own: our own full fine-tuning. A run has as "
        "many epochs as its peer.",
        {
            "work": Column("work", None, parts=("text",)),
            "against": Column("against", None, parts=("text",)),
            "ours": Column("ours, s", None, parts=("text",)),
            "peer": Column("peer, s", None, parts=("text",)),
            "faster": Column("times faster", None, 1, ("paper", "measured")),
            "memory": Column("peak memory, % of the peer's", None, 0, ("paper", "measured")),
            "same": Column("same results", None, parts=("text",)),
        },
        [Group(title, _rows(profile, found)) for (profile, title), found in groups.items()],
        footnote="± is the slowest turn less the fastest. (1/k timed): the peer did that part of "
        "the work, and its time is scaled. (dirty): measured with code that is in no commit. "
        f"{MISSING}: not measured, or no goal.",
        beside="goal",
    )


def _is_ours(record: Record) -> bool:
    """Whether a model is trimmed where one is made cheaper: other methods are in Table 1."""
    method = record.entry("settings", "method", str, None)
    return method is None or record.entry("settings", "layer_memory_ratio", float) < 1


def _rows(profile: str, records: list[Record]) -> list[TableRow]:
    rows, rest = [], list(records)
    for goal in GOALS:
        mine = [r for r in rest if (r["bench"], r["peer"]) == (goal.bench, goal.peer)]
        with_goal = [r for r in mine if goal.is_for(r)]
        faster, memory = goal.faster.get(profile), goal.memory.get(profile)
        if faster is None:
            continue
        goals = f"≥ {faster:.3g}", None if memory is None else f"≤ {100 * memory:.0f}"
        rows += [_row(goal.what, goal.peer, record, *goals) for record in with_goal or [None]]
        # the same benchmark with another workload
        rows += [_row(r["what"], goal.peer, r) for r in mine if r not in with_goal]
        rest = [r for r in rest if r not in mine]
    return rows + [_row(record["what"], record["peer"], record) for record in rest]


def _row(
    what: str,
    peer: str,
    record: Record | None,
    faster: str | None = None,
    memory: str | None = None,
) -> TableRow:
    """A benchmark beside its goals, or an empty line for one that is missing."""
    cells = {"against": Cell(text=peer), "faster": Cell(faster), "memory": Cell(memory)}
    if record is None:
        return TableRow(what, cells)
    part = f" (1/{record['peer_factor']:.3g} timed)" if record["peer_factor"] != 1 else ""
    cells |= {
        "work": Cell(text=workload_title(record)),
        "ours": Cell(text=_time(record, "ours")),
        "peer": Cell(text=_time(record, "peer") + part),
        "faster": Cell(faster, _number(record, record["ratio"])),
        "memory": Cell(memory, _number(record, 100 * record["memory_ratio"])),
        "same": Cell(text=_same(record)),
    }
    return TableRow(what + " (dirty)" * (record.dirty and not record.get("peer")), cells)


def _time(record: Record, side: str) -> str:
    return f"{record[f'{side}_seconds']:.2f} ± {record[f'{side}_spread']:.2f}"


def _number(record: Record, value: float) -> Measurement:
    return Measurement(value, records=(record,))


def _same(record: Record) -> str | None:
    """Agreement of both sides' results; None if they need not agree."""
    same, said = record["same"], []
    entry = partial(record.entry, "same")
    for key, count in same.items():
        things = key.removeprefix("same_")
        if things == key:
            continue
        if isinstance(count, bool):
            said.append(f"{things}: {'yes' if count else 'no'}")
        else:
            total = len(entry(things, list[Any])) if things in same else entry("items", int)
            said.append(f"{count} of {total} {things}")
    if "share_met" in same:
        met, needed = 100 * entry("share_met", float), 100 * entry("share_needed", float)
        said.append(f"{met:.0f} % of the items run, {needed:.0f} % needed at least")
    if "largest_relative_difference" in same:
        said.append(f"log-likelihoods within {entry('largest_relative_difference', float):.0e}")
    return "; ".join(said) or None
