"""Table 1: memory and speed of inference."""

from analysis.measurements import Measurement
from analysis.names import benchmark_title
from analysis.paper import Paper
from analysis.tables import MISSING, Cell, Column, Group, Table, TableRow
from trimlab.records.results import Record, Records

# The method of records that name none
PAIRS = "pairs"
# Rows even without records; other methods follow under the title of their records
TITLES = {
    PAIRS: "TrimLLM (50%), pairs",
    "mostly_mlps": "TrimLLM (50%), mostly MLPs",
    "built": "built with half of the blocks",
    "llm_int8": "LLM.int8()",
    "pairs+llm_int8": "TrimLLM (50%), pairs + LLM.int8()",
    "int4": "4 bits (NF4)",
    "sparse24": "2:4 sparsity",
}
WORK = {"decode": "decoding", "prefill": "reading"}
# The paper's claims are about these
CLAIMED = {"llm_int8", "int4", "sparse24"}


def build(records: Records, paper: Paper) -> Table:
    """The whole model and every method, on every machine."""
    groups: dict[str, list[Record]] = {}
    for record in records.where(kind="bench", peer="full"):
        if record["bench"] in WORK:
            groups.setdefault(_group(record), []).append(record)
    claims = _claims(paper)
    return Table(
        "Table 1: memory and speed of inference",
        "Batch size 1; the whole model and all methods took turns in one process. Memory is that "
        "of the weights as they are stored, embeddings included, and that of a token in the KV "
        "cache, in percent of the whole model's. Of the published table, only claims are known to "
        "us: how many times faster LLaMA-7B with half of its layers is than the quantised and "
        "pruned models, by GPU.",
        {
            "memory": Column("weights, %", None, 0, ("measured",)),
            "cache": Column("KV cache, %", None, 0, ("measured",)),
            **{
                f"{bench}_{part}": column
                for bench, work in WORK.items()
                for part, column in {
                    "rate": Column(f"{work}, tokens/s", None, 1, ("measured",)),
                    "ratio": Column(f"{work}, times the whole model", None, 2, ("measured",)),
                    "behind": Column(
                        f"{work}, pairs are faster by", None, 2, ("paper", "measured")
                    ),
                }.items()
            },
        },
        [Group(title, _rows(found, claims)) for title, found in (groups or {"": []}).items()],
        footnote="Pairs: every other block is dropped. Mostly MLPs: five for each attention. "
        "Built: random weights, as many blocks as pairs leave; by how much it is faster is what "
        "dropping wastes. (dirty): measured with code that is in no commit. "
        f"{MISSING}: not published, or not measured.",
    )


def _group(record: Record) -> str:
    """The model, the machine, the type of the weights, and an engine other than transformers.

    The number of blocks is that of a shape, which may be shortened.
    """
    parts = [benchmark_title(record), record.entry("settings", "dtype", str, "float32")]
    if blocks := record.entry("settings", "blocks", int | None, None):
        parts.append(f"{blocks} blocks")
    if (engine := record.entry("settings", "engine", str, "transformers")) != "transformers":
        parts += [engine, record.entry("cell", "export_dtype", str | None, None) or ""]
    return ", ".join(filter(None, parts))


def _claims(paper: Paper) -> str | None:
    """The published ranges as text."""
    parts = []
    for row in paper.rows("table1"):
        least = f"{row['least']} to" if row["least"] else "up to"
        parts.append(f"{least} {row['most']} ({row['devices']})")
    return "; ".join(parts) or None


def _rows(records: list[Record], claims: str | None) -> list[TableRow]:
    # of several prompts, the last measured counts
    latest = {(record["bench"], _method(record)): record for record in records}
    titles = TITLES | {
        _method(record): record.entry("settings", "title", str)
        for record in records
        if _method(record) not in TITLES
    }
    whole = {f"{bench}_rate": _rate(latest.get((bench, PAIRS)), "peer") for bench in WORK}
    cells = {key: Cell(measured=value) for key, value in whole.items()}
    rows = [TableRow("the whole model", cells)]
    for method, title in titles.items():
        found = {bench: latest.get((bench, method)) for bench in WORK}
        any_record = next(filter(None, found.values()), None)
        cells = {
            "memory": Cell(measured=_memory(any_record)),
            "cache": Cell(measured=_cache(any_record)),
        }
        for bench, record in found.items():
            pairs = latest.get((bench, PAIRS))
            cells[f"{bench}_rate"] = Cell(measured=_rate(record, "ours"))
            cells[f"{bench}_ratio"] = Cell(measured=record and _of(record["ratio"], record))
            if method not in (PAIRS, "mostly_mlps"):
                behind = record and pairs and _of(pairs["ratio"] / record["ratio"], pairs, record)
                claimed = claims if bench == "decode" and method in CLAIMED else None
                cells[f"{bench}_behind"] = Cell(claimed, behind)
        rows.append(TableRow(title, cells))
    return rows


def _method(record: Record) -> str:
    return record.entry("settings", "method", str, PAIRS)


def _rate(record: Record | None, side: str) -> Measurement | None:
    if record is None:
        return None
    name = "new_tokens" if record["bench"] == "decode" else "prompt_tokens"
    tokens = record.entry("settings", name, int)
    return _of(tokens / record[f"{side}_seconds"], record)


def _memory(record: Record | None) -> Measurement | None:
    if record is None:
        return None
    ratio = record.entry("settings", "model_memory_ratio", float | None, None)
    if whole := record.entry("settings", "peer_weight_bytes", int | None, None):
        ratio = record.entry("settings", "weight_bytes", int) / whole
    return None if ratio is None else _of(100 * ratio, record)


def _cache(record: Record | None) -> Measurement | None:
    if record is None:
        return None
    whole = record.entry("settings", "peer_cache_bytes_per_token", float | None, None)
    if not whole:
        return None
    ratio = record.entry("settings", "cache_bytes_per_token", float) / whole
    return _of(100 * ratio, record)


def _of(value: float, *records: Record) -> Measurement:
    return Measurement(value, records=records)
