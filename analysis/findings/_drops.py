"""The dropped sets of runs, for questions about what is dropped."""

from dataclasses import dataclass
from typing import Literal

from analysis.findings._selection import trimmed
from analysis.measurements import one_per_seed
from analysis.tables import anchor
from trimlab.records.results import Record, Records

Kind = Literal["attention", "mlp"]
KINDS: tuple[Kind, ...] = ("attention", "mlp")
EXPERIMENTS = ("table3", "figure3", "figure1", "gpu_sciq")


@dataclass(frozen=True)
class Drops:
    """The sublayers that a run has dropped at half of the layer memory.

    Attributes:
        task: Its task.
        seed: Its seed.
        blocks: Number of blocks of the model.
        dropped: Block and kind of every drop.
        record: Anchor of its test record.
    """

    task: str
    seed: int
    blocks: int
    dropped: frozenset[tuple[int, str]]
    record: str

    def count(self, kind: Kind) -> int:
        """Number of drops of a kind."""
        return sum(of == kind for _, of in self.dropped)


def drops_of(records: Records) -> list[Drops]:
    """The runs of the paper's main setting: two-step, r = 1/4, residual bypass, single sublayers.

    Args:
        records: Records of one series.
    """
    found = []
    for task in dict.fromkeys(record["task"] for record in records):
        mine = trimmed(records.where(task=task).of(*EXPERIMENTS))
        for record in one_per_seed(mine):
            blocks = _blocks(records.where(kind="operating_point", run=record["run"]))
            if blocks and record["dropped"]:
                found.append(_drops(record, blocks))
    return found


def _blocks(points: Records) -> int:
    """Number of blocks of a run's model; 0 if pairs of sublayers were dropped, or unknown."""
    candidates = [entry.candidate for point in points for entry in point["scan"]]
    if any("+" in candidate for candidate in candidates):
        return 0
    return max((int(candidate.partition(".")[0]) + 1 for candidate in candidates), default=0)


def _drops(record: Record, blocks: int) -> Drops:
    places = [name.partition(".")[::2] for name in record["dropped"]]
    dropped = frozenset((int(block), kind) for block, kind in places)
    return Drops(record["task"], record["seed"], blocks, dropped, anchor(record))
