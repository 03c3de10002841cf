"""Benchmark results as a table on the console."""

from collections.abc import Sequence

from rich.table import Table

from trimlab.records.result_row import Bench

COLUMNS = ("what", "time", "peer", "ratio", "peak memory", "tokens/s")


def results_table(results: Sequence[Bench]) -> Table:
    """One line per result of a benchmark; the share of memory is that of the peer's."""
    table = Table(title=f"{results[0].bench}, {results[0].settings['model']}")
    for heading in COLUMNS:
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for result in results:
        table.add_row(*_cells(result))
    return table


def _cells(result: Bench) -> list[str]:
    """Cells of one line, in the order of `COLUMNS`."""
    settings = result.settings
    axis = f" ({settings['axis']} {settings['value']})" if "axis" in settings else ""
    peer, ratio = "", ""
    memory = f"{result.ours_peak_bytes / 2**30:.2f} GiB"
    if result.ratio is not None and result.memory_ratio is not None:
        peer = f"{result.peer}: {result.peer_seconds:.2f} ± {result.peer_spread:.2f} s"
        ratio = f"{result.ratio:.2f}"
        memory += f" ({100 * result.memory_ratio:.0f} %)"
    return [
        result.what + axis,
        f"{result.ours_seconds:.2f} ± {result.ours_spread:.2f} s",
        peer,
        ratio,
        memory,
        _rates(result),
    ]


def _rates(result: Bench) -> str:
    """Tokens per second of both sides, and the shares of what there is at most."""
    rates = result.rates or {}
    found = [rates.get(f"{side}_tokens_per_second") for side in ("ours", "peer")]
    said = ", ".join(f"{rate:,.0f}" for rate in found if rate is not None)
    for name, limit in (("matmul_rate", "matmul"), ("bandwidth", "bandwidth")):
        shares = [rates.get(f"{side}share_of_{name}") for side in ("", "ours_", "peer_")]
        if reached := ", ".join(f"{100 * share:.0f}" for share in shares if share is not None):
            said += f" ({reached} % of {limit})"
    if (accepted := rates.get("acceptance_rate")) is not None:
        said += f" ({100 * accepted:.0f} % of drafts accepted)"
    return said
