"""The measured accuracies of a table in full: errors, seeds, steps, tests and extra metrics."""

from collections.abc import Sequence

from analysis.measurements import EXTRA_METRICS, Measurement
from analysis.tables import MISSING, Table

FLAT = "flat stability"
STABILITY = (
    "Stability (LLM-Streamline): the weight of the items that this model and the untrimmed one "
    "both answer right or both wrong. The weights are a softmax of how far apart the untrimmed "
    "model's perplexities of an item's choices are. Where these are large, as of short choices, "
    "all of the weight can lie on one item: then it is 0 or 1, and says nothing of the others. "
    "Flat stability (ours): the same with equal weights, (1/n) Σ [both right or both wrong], "
    "answers as for accuracy. What training has taught lowers both."
)


def detail(table: Table) -> list[dict[str, str]]:
    """One entry per measured accuracy: texts by column head.

    Args:
        table: The table.
    """
    found = [
        (f"{group.title}: {row.title}" if group.title else row.title, key, cell.measured)
        for group, row, key, cell in table.cells()
        if cell.measured is not None and cell.measured.n is not None
    ]
    measured = {name for *_, cell in found for name in cell.extra_metrics or ()}
    metrics = [name for name in EXTRA_METRICS if name in measured]  # without empty columns
    return [
        {"model": title, "on": table.columns[key].title, **_entry(cell, metrics)}
        for title, key, cell in found
    ]


def _entry(measured: Measurement, metrics: Sequence[str]) -> dict[str, str]:
    test, extra_metrics = measured.test, measured.extra_metrics or {}
    steps = sorted({record["optimizer_steps"] for record in measured.records})
    return {
        "mean": f"{measured.mean:.2f}",
        "± items": _decimal(measured.stderr_items),
        "± seeds": _decimal(measured.stderr_seeds),
        "n": str(measured.n),
        "seeds": ", ".join(str(record["seed"]) for record in measured.records),
        "steps": ", ".join(map(str, steps)),
        "won : lost": f"{test.won} : {test.lost}" if test else MISSING,
        "p": f"{test.p:.2g}" if test else MISSING,
        "p (Holm)": MISSING if test is None or test.p_holm is None else f"{test.p_holm:.2g}",
        "against": test.against if test else MISSING,
        **{name.replace("_", " "): _decimal(extra_metrics.get(name)) for name in metrics},
        FLAT: _decimal(measured.flat_stability),
        "tree": "dirty" if measured.dirty else "clean",
    }


def _decimal(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"
