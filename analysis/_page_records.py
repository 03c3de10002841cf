"""The records on the page, by run."""

import html
import json

from analysis.tables import anchor
from trimlab.records.results import Record, Records


def records_html(records: Records) -> str:
    """Every record, folded by run.

    Args:
        records: The records.
    """
    runs: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        runs.setdefault((record.file, record["run"]), []).append(record)
    parts = []
    for (file, run), rows in runs.items():
        first = rows[0]
        badges = '<span class="badge">dirty tree</span> ' if any(r.dirty for r in rows) else ""
        if first["limit"] is not None:
            badges += f'<span class="badge">rehearsal, {first["limit"]} rows</span> '
        cell = ", ".join(f"{key} = {value}" for key, value in first["cell"].items())
        summary = html.escape(
            f"{file}: {first['base']} on {first['task']}, {cell or 'no override'}, "
            f"seed {first['seed']}, run {run}, commit {first['git_commit']}"
        )
        inner = "".join(_record(record) for record in rows)
        parts.append(f"<details><summary>{badges}{summary}</summary>{inner}</details>")
    return "\n".join(parts) or "<p>None.</p>"


def _record(record: Record) -> str:
    text = html.escape(json.dumps(record.row, ensure_ascii=False))
    name, summary = html.escape(anchor(record)), html.escape(_summary(record))
    return f'<details id="{name}"><summary>{summary}</summary><pre>{text}</pre></details>'


def _summary(record: Record) -> str:
    kind = record["kind"]
    if kind in ("test", "compressed"):
        model = record["model"] if kind == "test" else f"{record['title']} of {record['of']}"
        said = f"{model} on {record['evaluated_on']}: {record['value']:.2f}"
        return f"{record.place}: {said} ± {record['stderr']:.2f}, n = {record['n']}"
    if kind == "operating_point":
        ratio = f"{100 * record['layer_memory_ratio']:.1f} % of the layer memory"
        return f"{record.place}: operating point {record['step']}, {ratio}, dev {record['dev']:.2f}"
    if kind == "bench":
        said = f"{record['bench']}, {record['what']}: {record['ours_seconds']:.2f} s"
        peer = f", {record['peer']} {record['peer_seconds']:.2f} s" if record["peer"] else ""
        return f"{record.place}: {said}{peer}"
    return f"{record.place}: {record['method']}, {record['epochs']} epochs, {record['hours']:.3g} h"
