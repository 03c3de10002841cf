"""Does dropping beat quantisation, at equal memory and at equal time per token?"""

from collections.abc import Sequence

from analysis.commands import TASKS, bench, sweep
from analysis.findings._finding import NOT_MEASURED, ONE_SEED, Answer, Comparison
from analysis.findings._selection import (
    compare,
    incomplete,
    tasks_of,
    titles,
    trimmed,
)
from analysis.measurements import update_ratio_of
from analysis.names import BASELINES, task_title
from trimlab.records.results import Record, Records, Series

PLACE = 6
QUESTION = "Does dropping beat quantisation at equal memory, and at equal time per token?"
METHOD = (
    "Test accuracy, TrimLLM (two-step, r = 1/4) less the quantised fine-tuned model. Equal "
    "memory, of layers with weights of 16 bits: half of the layers against eight bits; 30 % of "
    "them, and half of them in eight bits, against four bits. Equal time per token: the largest "
    "of TrimLLM's models that decodes at least as fast as the quantised one on the same machine "
    "(Table 1): full depth, or half of the layers."
)
EIGHT, FOUR = ("llm_int8",), ("awq", "gptq")
# The method of Table 1 that decodes with as many bits
TIMED = {"llm_int8": "llm_int8", "awq": "int4", "gptq": "int4"}
WAYS = ("equal memory", "equal time")


def answer(series: Series, records: Records, everything: Records) -> Answer:
    """Comparisons of every task with every quantised model."""
    found, missing = [], set()
    for task in tasks_of(records.of("table2")):
        mine = records.where(task=task)
        by_memory = [*_equal_memory(task, mine)]
        found += [c for c in by_memory if c]
        if task in TASKS and any(incomplete(c) for c in by_memory):
            missing.add(task)
        found += _equal_time(task, mine, everything)
    commands = [sweep(name, series, tasks=sorted(missing)) for name in ("table2", "table7")]
    sweeps = commands if missing else []
    what = titles(missing)
    if not any(c.what.startswith("equal time") for c in found):
        what.append("time per token of quantised models")
        model = next((record["base"] for record in records), series.profile)
        sweeps = [*sweeps, bench("decode", model)]
    return Answer(found, what, " && ".join(sweeps) or None, _summary)


def _quantised(records: Records, method: str, of: str = "fine_tuned") -> list[Record]:
    """Models that a method has compressed: those of full fine-tuning, or trimmed ones."""
    made = records.where(kind="compressed", method=method, of=of)
    own = [r for r in made if r["task"] == r["evaluated_on"]]
    return [r for r in own if of == "trimmed" or update_ratio_of(r) == 1]


def _equal_memory(task: str, records: Records) -> list[Comparison | None]:
    table2, table7 = records.of("table2"), records.of("table7")
    half, less = trimmed(table2), trimmed(table2, ratio=0.3)
    both = _quantised(table7, "llm_int8", "trimmed")
    sides = [("half of the layers", half, method) for method in EIGHT]
    for method in FOUR:
        sides += [("30 % of the layers", less, method)]
        sides += [("half of the layers in LLM.int8()", both, method)]
    return [
        compare(
            f"equal memory, {task_title(task)}: {title} less {BASELINES[method]}",
            ours,
            _quantised(table2, method),
        )
        for title, ours, method in sides
    ]


def _equal_time(task: str, records: Records, everything: Records) -> list[Comparison]:
    table2 = records.of("table2")
    found = []
    for method in (*EIGHT, *FOUR):
        theirs = _quantised(table2, method)
        if not theirs:
            continue
        speeds = _speeds(everything, theirs[0]["base"])
        quantised, pairs = speeds.get(TIMED[method]), speeds.get("pairs")
        if quantised is None or pairs is None:
            continue
        ours, title = _no_slower(table2, quantised, pairs)
        what = f"equal time, {task_title(task)}: {title} less {BASELINES[method]}"
        comparison = ours and compare(what, ours, theirs)
        found += [comparison] if comparison else []
    return found


def _no_slower(
    records: Records, quantised: float, pairs: float
) -> tuple[Sequence[Record] | None, str]:
    """The largest of our models that is as fast as a quantised one, and its name with its speed."""
    if quantised <= 1:
        full = [
            r
            for r in records.where(kind="test", model="fine_tuned")
            if r["task"] == r["evaluated_on"] and update_ratio_of(r) == 1
        ]
        return full, f"full depth ({1 / quantised:.1f} times as fast)"
    if quantised <= pairs:
        title = f"half of the layers ({pairs / quantised:.1f} times as fast)"
        return [*trimmed(records)], title
    return None, ""


def _speeds(everything: Records, base: str) -> dict[str, float]:
    """Decoding speed of each method of Table 1, in times the whole model's; the last measured."""
    return {
        record.entry("settings", "method", str, "pairs"): record["ratio"]
        for record in everything.where(kind="bench", bench="decode", peer="full", base=base)
    }


def _summary(comparisons: Sequence[Comparison]) -> str:
    parts = []
    for way in WAYS:
        mine = [c for c in comparisons if c.what.startswith(way)]
        verdicts = [c.verdict for c in mine if c.counts]
        said = (
            f"better in {verdicts.count('yes')}, worse in {verdicts.count('the opposite')} "
            f"of {len(verdicts)}"
        )
        if not verdicts:
            said = ONE_SEED if mine else NOT_MEASURED
        parts.append(f"{way}: {said}")
    return "; ".join(parts) if comparisons else NOT_MEASURED
