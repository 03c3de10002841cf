"""Speed: every race against what a user would run instead, and what it was meant to win by."""

from dataclasses import dataclass
from typing import Any

from analysis.measurements import Measurement
from analysis.names import race_title, work_title
from analysis.paper import Paper
from analysis.tables import MISSING, Cell, Column, Group, Table, TableRow
from trimlab.records.results import Record, Records


@dataclass(frozen=True)
class Goal:
    """What a race was meant to come to.

    Attributes:
        what: What is done.
        bench: Name of the race.
        peer: Who it is against.
        work: What a race must have done for the goal to be its own.
        faster: How many times faster at least, by profile.
        memory: Peak memory as a share of the peer's, at most.
    """

    what: str
    bench: str
    peer: str
    work: dict[str, float]
    faster: dict[str, float]
    memory: float | None = None

    def is_for(self, race: Record) -> bool:
        """Whether a race of this name against this peer did the work."""
        return self.work.items() <= race["cell"].items()


def _faster(gemma: float, llama: float) -> dict[str, float]:
    return {"gemma-270m": gemma, "llama-shaped": llama}


GOALS = (
    Goal("scoring 100 items", "score", "lm-eval", {"rows": 100}, _faster(10, 4)),
    Goal("scanning 50 items, all scores", "scan", "lm-eval", {"rows": 50}, _faster(20, 9), 0.6),
    Goal("scanning 50 items, the choice", "scan", "all-scores", {"rows": 50}, _faster(1.5, 1.5)),
    Goal("an epoch at r = 1/4", "train", "trainer", {"r": 0.25}, _faster(4, 1.8), 0.6),
    Goal("an epoch at r = 1/4", "train", "trainer-max", {"r": 0.25}, _faster(10, 5), 0.6),
    # at most 25 and 60 % of the time
    Goal("a run to half the layers", "run", "trainer", {"target": 0.5}, _faster(4, 4)),
    Goal("a run to half the layers", "run", "own", {"target": 0.5}, _faster(1 / 0.6, 1 / 0.6)),
)


def build(records: Records, paper: Paper) -> Table:
    """Every race that a peer took part in, the ones with a goal first."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for race in records.where(kind="bench"):
        if race["peer"]:
            groups.setdefault((race["profile"], race_title(race)), []).append(race)
    # nothing measured: the goals alone
    groups = groups or {(profile, profile): [] for profile in GOALS[0].faster}
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
        [Group(title, _rows(profile, races)) for (profile, title), races in groups.items()],
        footnote="± is the slowest turn less the fastest. (1/k timed): the peer did that part of "
        "the work, and its time is scaled. (dirty): measured with code that is in no commit. "
        f"{MISSING}: not measured, or no goal.",
        beside="goal",
    )


def _rows(profile: str, races: list[Record]) -> list[TableRow]:
    rows, rest = [], list(races)
    for goal in GOALS:
        mine = [r for r in rest if (r["bench"], r["peer"]) == (goal.bench, goal.peer)]
        its_own = [r for r in mine if goal.is_for(r)]
        faster = goal.faster.get(profile)
        goals = (
            None if faster is None else f"≥ {faster:.3g}",
            None if goal.memory is None else f"≤ {100 * goal.memory:.0f}",
        )
        rows += [_row(goal.what, goal.peer, race, *goals) for race in its_own or [None]]
        # the same race over other work
        rows += [_row(r["what"], goal.peer, r) for r in mine if r not in its_own]
        rest = [r for r in rest if r not in mine]
    return rows + [_row(race["what"], race["peer"], race) for race in rest]


def _row(
    what: str,
    peer: str,
    race: Record | None,
    faster: str | None = None,
    memory: str | None = None,
) -> TableRow:
    """A race beside its goals, or the place that is kept for it."""
    cells = {"against": Cell(text=peer), "faster": Cell(faster), "memory": Cell(memory)}
    if race is None:
        return TableRow(what, cells)
    part = f" (1/{race['peer_factor']:.3g} timed)" if race["peer_factor"] != 1 else ""
    cells |= {
        "work": Cell(text=work_title(race)),
        "ours": Cell(text=_time(race, "ours")),
        "peer": Cell(text=_time(race, "peer") + part),
        "faster": Cell(faster, _number(race, race["ratio"])),
        "memory": Cell(memory, _number(race, 100 * race["memory_ratio"])),
        "same": Cell(text=_same(race["same"])),
    }
    return TableRow(what + " (dirty)" * (race.dirty and not race.get("peer")), cells)


def _time(race: Record, side: str) -> str:
    return f"{race[f'{side}_seconds']:.2f} ± {race[f'{side}_spread']:.2f}"


def _number(race: Record, value: float) -> Measurement:
    return Measurement(value, None, None, None, None, (race,))


def _same(same: dict[str, Any]) -> str | None:
    """How many of the results are the peer's; None where they are not to be the same."""
    said = []
    for key, count in same.items():
        things = key.removeprefix("same_")
        if things == key:
            continue
        if isinstance(count, bool):
            said.append(f"{things}: {'yes' if count else 'no'}")
        else:
            total = len(same[things]) if things in same else same["items"]
            said.append(f"{count} of {total} {things}")
    if "share_met" in same:
        met, needed = 100 * same["share_met"], 100 * same["share_needed"]
        said.append(f"{met:.0f} % of the items run, {needed:.0f} % needed at least")
    if "largest_relative_difference" in same:
        said.append(f"log-likelihoods within {same['largest_relative_difference']:.0e}")
    return "; ".join(said) or None
