"""The common form of Tables 2 to 8: accuracies of methods (rows) on tasks (columns)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from analysis.measurements import (
    Measurement,
    final_memory,
    loss_of,
    mean_and_stderr,
    measure,
    scorer_of,
    update_ratio_of,
)
from analysis.names import BASELINES, TASKS, baseline_order, task_order, task_title
from analysis.paper import number
from analysis.tables import Cell, Column, Group, Table, TableRow
from trimlab.records.result_row import ModelName
from trimlab.records.results import Record, Records

# Task of the training, task of the evaluation
Pair = tuple[str, str]

# The paper's main setting: half of the layer memory
ASKED_RATIO = 0.5
HELD_TO = {"final_memory": Column("held to, % of layer memory", "low", 0, ("paper", "measured"))}
SIZES = {
    "layer_memory": Column("layer memory %", None, 1, ("measured",)),
    "model_memory": Column("whole model %", None, 1, ("measured",)),
}


@dataclass(frozen=True)
class Method:
    """A row: a selection of records, and the published row beside it.

    Attributes:
        title: Its title.
        model: Name of the model in the run.
        scorer: Importance score of the run; None for any, two-step first.
        r: Sparse update ratio of the run; None for any.
        loss: Training loss of the run; None for any.
        paper: The published row, by column title.
        baseline: Name of the baseline that compressed the model; None for the model itself.
        ratio: The requested layer-memory ratio of a trimmed model. None for the paper's half and,
            for tasks without it, the nearest other ratio.
    """

    title: str
    model: ModelName
    scorer: str | None = None
    r: float | None = None
    paper: Mapping[str, str] = field(default_factory=dict)
    baseline: str | None = None
    ratio: float | None = None
    loss: str | None = None

    def tests(self, mine: Records) -> Records:
        """The test results of the method, among the records of `select`."""
        if self.baseline is None:
            return mine.where(kind="test")
        return mine.where(kind="compressed", method=self.baseline, of=self.model)

    def select(self, records: Records) -> Records:
        """The records of its runs, without the tests of their other models."""
        found = [
            record
            for record in records
            if record.get("model") in (self.model, None)
            and (self.scorer is None or scorer_of(record) == self.scorer)
            and (self.r is None or update_ratio_of(record) == self.r)
            and (self.loss is None or loss_of(record) == self.loss)
        ]
        return Records(tuple(sorted(found, key=lambda record: scorer_of(record) != "two_step")))


def baselines(
    records: Records, of: Sequence[ModelName], expected: Iterable[str] = ()
) -> list[tuple[str, str, ModelName]]:
    """Name, title and compressed model of every baseline in the records.

    Args:
        records: Records of the experiment.
        of: The compressed models of the table.
        expected: Names of further baselines that get a row without records; keys of `BASELINES`.
    """
    titles = dict(BASELINES)
    found: dict[str, set[ModelName]] = {name: set() for name in expected}
    for record in records.where(kind="compressed"):
        if record["of"] in of:
            titles.setdefault(record["method"], record["title"])
            found.setdefault(record["method"], set()).add(record["of"])
    return [
        (name, titles[name], model)
        for name in sorted(found, key=baseline_order)
        for model in sorted(found[name] or of[:1])
    ]


def own_domain(records: Records, published: Iterable[str] = ()) -> list[Pair]:
    """The tasks of both training and evaluation in the records, and the published ones."""
    tasks = {r["task"] for r in records.where(kind="test") if r["task"] == r["evaluated_on"]}
    return [(task, task) for task in sorted({*tasks, *published}, key=task_order)]


def other_domains(records: Records, published: Iterable[Pair] = ()) -> list[Pair]:
    """The pairs of different tasks in the records, and the published ones."""
    tests = records.where(kind="test")
    pairs = {(r["task"], r["evaluated_on"]) for r in tests if r["task"] != r["evaluated_on"]}
    return sorted({*pairs, *published}, key=lambda pair: [task_order(task) for task in pair])


def accuracy_table(
    title: str,
    caption: str,
    records: Records,
    methods: Sequence[Method],
    pairs: Sequence[Pair],
    bases: Sequence[str] = (),
    held_to: bool = False,
) -> Table:
    """Builds the table.

    Args:
        title: Its title.
        caption: Its caption.
        records: Records of the experiment.
        methods: Its rows.
        pairs: Its columns.
        bases: Base models with rows even without records; those in the records are added.
        held_to: Add a column with the layer memory down to which accuracy holds.
    """
    columns = {"/".join(pair): Column(_title(pair)) for pair in pairs}
    columns |= (HELD_TO if held_to else {}) | SIZES
    models = sorted({*bases, *(record["base"] for record in records)}) or [""]
    groups = [
        Group(base, [row for m in methods for row in _rows(m, records.where(base=base), pairs)])
        for base in models
    ]
    caption = " ".join(filter(None, (caption, _rows_note(records))))
    return Table(title, caption, columns, groups).corrected()


def _rows_note(records: Records) -> str:
    """The numbers of training rows in the records, as a sentence."""
    said: dict[str, set[str]] = {}
    for record in records.where(kind="test", model="trimmed"):
        if record.get("rows") is None:
            continue
        there = record.get("rows_read", {}).get("train")
        source = record.get("rows_official", {}).get("train")
        text = f"{record['rows']['train']:,}"
        if there and source and there < source:
            text += f" (a sample: {there:,} were there, and the source has {source:,})"
        said.setdefault(record["task"], set()).add(text)
    if not said:
        return ""
    parts = [f"{task_title(t)} {', '.join(sorted(said[t]))}" for t in sorted(said, key=task_order)]
    return f"Training rows: {'; '.join(parts)}."


def _rows(method: Method, records: Records, pairs: Sequence[Pair]) -> list[TableRow]:
    """The row of a method, and one for every other ratio of tasks without the paper's ratio."""
    mine = method.select(records)
    tests = method.tests(mine)
    ratios: list[float | None] = [method.ratio]
    if method.model == "trimmed" and method.baseline is None and method.ratio is None:
        ratios = [ASKED_RATIO, *_other_ratios(tests, pairs)]
    rows = []
    for ratio in ratios:
        at = tests if ratio is None else tests.where(asked_ratio=ratio)
        published = method.paper if ratio in (method.ratio, ASKED_RATIO) else {}
        cells = {
            "/".join(pair): Cell(
                published.get(_title(pair)),
                measure(at.where(task=pair[0], evaluated_on=pair[1]), references=records),
            )
            for pair in pairs
        }
        shown = [r for cell in cells.values() if cell.measured for r in cell.measured.records]
        cells["layer_memory"] = Cell(measured=_percent(shown, "layer_memory_ratio"))
        cells["model_memory"] = Cell(measured=_percent(shown, "model_memory_ratio"))
        if ratio in (None, ASKED_RATIO):
            held_to = _held_to(mine, records, pairs) if method.model == "trimmed" else None
            cells["final_memory"] = Cell(published.get("final_memory"), held_to)
        at_ratio = ""
        if ratio is not None and ratio not in (method.ratio, ASKED_RATIO):
            at_ratio = f" (at {100 * ratio:g} %)"
        competes = ratio == ASKED_RATIO or method.baseline is not None
        rows.append(TableRow(method.title + at_ratio, cells, competes=competes))
    return rows


def _other_ratios(tests: Records, pairs: Sequence[Pair]) -> list[float]:
    """The nearest ratio of every task that has no model at the paper's ratio."""
    ratios = set()
    for task, evaluated_on in pairs:
        asked = {
            record["asked_ratio"]
            for record in tests.where(task=task, evaluated_on=evaluated_on)
            if record["asked_ratio"] is not None
        }
        if asked and ASKED_RATIO not in asked:
            ratios.add(min(asked, key=lambda ratio: abs(ratio - ASKED_RATIO)))
    return sorted(ratios)


def _percent(records: list[Record], field: str) -> Measurement | None:
    """Mean of a ratio over all records of a row, in percent."""
    if not records:
        return None
    mean, _ = mean_and_stderr([100 * record[field] for record in records])
    return Measurement(mean, records=tuple(records))


def _held_to(mine: Records, everyone: Records, pairs: Sequence[Pair]) -> Measurement | None:
    """The final memory of the worst task, a mean over its seeds.

    None for a method without one of the tasks of the other methods: the worst of fewer tasks is
    not comparable.
    """
    found: list[Measurement] = []
    trained_on = {task for task, _ in pairs}
    for task in sorted({r["task"] for r in everyone.where(kind="operating_point")} & trained_on):
        points = mine.where(kind="operating_point", task=task)
        runs = {point["run"]: points.where(run=point["run"]) for point in points}
        held = {run: final_memory(rows) for run, rows in runs.items()}
        ratios = [100 * ratio for ratio in held.values() if ratio is not None]
        if not ratios:
            return None
        mean, stderr = mean_and_stderr(ratios)
        last = tuple(list(runs[run])[-1] for run, ratio in held.items() if ratio is not None)
        found.append(Measurement(mean, stderr, stderr_seeds=stderr, records=last))
    return max(found, key=lambda measured: measured.mean, default=None)


def _title(pair: Pair) -> str:
    trained_on, evaluated_on = map(task_title, pair)
    return trained_on if trained_on == evaluated_on else f"{trained_on} → {evaluated_on}"


def published_tasks(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The tasks among the columns of a published table, by their names in records."""
    columns = {column for row in rows for column, value in row.items() if number(value) is not None}
    return [task for task, title in TASKS.items() if title in columns]
