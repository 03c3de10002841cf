"""Table 9: wall-clock time of fine-tuning."""

from analysis.measurements import measure
from analysis.names import machine_title
from analysis.paper import Paper, number
from analysis.tables import Cell, Column, Group, Table, TableRow
from trimlab.records.results import Record, Records

METHODS = {"full_ft": "Full FT", "sparse_ft": "Sparse FT (r=1/4)", "trimllm": "TrimLLM"}
# The sparse update ratio of each; a run that trims at r = 1 is no row of the table
RATIOS = {"full_ft": 1, "sparse_ft": 0.25, "trimllm": 0.25}


def build(records: Records, paper: Paper) -> Table:
    """Hours by method and number of epochs, and as a share of full fine-tuning's."""
    mine = records.of("table9").where(kind="timing")
    published = paper.rows("table9")
    epochs = sorted({int(row["epochs"]) for row in published} | {r["epochs"] for r in mine})
    machines = sorted({machine_title(record) for record in mine})
    groups = [
        Group(
            machine,
            [
                TableRow(f"{title}, {n} epochs", _cells(paper, mine, machine, method, n))
                for method, title in METHODS.items()
                for n in epochs
            ],
        )
        for machine in machines or [""]
    ]
    return Table(
        "Table 9: time of fine-tuning",
        "Hours of wall-clock time on SciQ, and their share of full fine-tuning's for as many "
        "epochs. The published hours are LLaMA-7B's on two A100-80G: only the shares compare, and "
        "the fewer rows an epoch has, the larger the part of TrimLLM's time that its scans take. "
        "(The epochs of the published middle rows are inferred from their times.)",
        {
            "hours": Column("hours", None, 3, ("paper", "measured")),
            "share": Column("share of full fine-tuning, %", None, 0),
        },
        groups,
        footnote="± is the standard error over seeds. —: not published, or not measured.",
    )


def _cells(paper: Paper, mine: Records, machine: str, method: str, epochs: int) -> dict[str, Cell]:
    found = [
        r
        for r in mine.where(method=method, epochs=epochs)
        if r.entry("cell", "trim.r", float, None) == RATIOS[method] and machine_title(r) == machine
    ]

    def hours_in_full(record: Record) -> float | None:
        """Hours of full fine-tuning with the same seed, task and epochs on the same machine."""
        same = {"epochs": epochs, "seed": record["seed"], "task": record["task"]}
        runs = mine.where(method="full_ft", **same)
        return next((run["hours"] for run in runs if machine_title(run) == machine), None)

    shares = {r.place: 100 * r["hours"] / full for r in found if (full := hours_in_full(r))}
    compared = [record for record in found if record.place in shares]
    hours = paper.row("table9", method=METHODS[method], epochs=str(epochs)).get("hours")
    whole = paper.row("table9", method=METHODS["full_ft"], epochs=str(epochs)).get("hours")
    published_share = None
    if number(hours) is not None and number(whole):
        published_share = f"{100 * float(hours or 0) / float(whole or 0):.0f}"
    return {
        "hours": Cell(hours, measure(found, "hours")),
        "share": Cell(published_share, measure(compared, lambda record: shares[record.place])),
    }
