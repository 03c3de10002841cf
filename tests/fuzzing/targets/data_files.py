"""Files of rows: every format and compression, for tasks with rows of the user's own and others."""

import csv
import io
import json
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.compression import compr
from fsspec.utils import compressions

from tests.data.examples import numbered_rows
from tests.data.test_chat import CHATML
from tests.fuzzing._mutation import VALUES, mutated_bytes, mutated_value
from tests.fuzzing._target import Attempt
from tests.tiny import tiny_tokenizer
from trimlab.data.check import check
from trimlab.data.domain import DomainData
from trimlab.data.readers import read_file
from trimlab.data.task import load_task

OWN = ("jsonl", "text", "completion", "chat", "classification")
PUBLISHED = ("sciq", "piqa", "medmcqa", "casehold", "pubmedqa")
# jsonl is read in microseconds, and parquet is not
FORMATS = ("jsonl",) * 8 + ("json",) * 4 + ("csv",) * 4 + ("tsv", "parquet")


def prepare(folder: Path) -> Attempt:
    """Mutates files of the tasks' own examples, one at a time."""
    (folder / "template.jinja").write_text(CHATML)
    tokenizer = tiny_tokenizer()
    valid = {task: numbered_rows(load_task(task), 8) for task in (*OWN, *PUBLISHED)}

    def attempt(random: Random) -> None:
        task = random.choice((*OWN, *OWN, *PUBLISHED))
        rows = valid[task]
        format = random.choice(FORMATS)
        if random.random() < 0.6:
            rows = mutated_value(random, rows)
            content = _written(rows, format)
        else:
            content = mutated_bytes(random, _written(rows, format))
        name = f"rows.{format}"
        if random.random() < 0.1:
            compression = random.choice(("gz", "bz2", "xz", "zip"))
            name, content = f"{name}.{compression}", _compressed(content, compression)
            if random.random() < 0.5:
                content = mutated_bytes(random, content)
        for old in folder.glob("rows.*"):
            old.unlink()
        (folder / name).write_bytes(content)
        if random.random() < 0.8:  # most of the time of an input is what comes behind its reader
            list(read_file(folder / name))
            return
        data = DomainData(tokenizer, **_options(random, task, folder, name))
        data.setup()
        if random.random() < 0.05:
            check(data)

    return attempt


def _options(random: Random, task: str, folder: Path, name: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "task": task,
        "calibration_rows": 1,
        "dev_rows": 1,
        "max_length": random.choice((2, 16, 256)),
        "bad_rows": random.choice(("error", "skip")),
        "root": folder / name if task in OWN else folder,
    }
    if task not in OWN:
        return options
    if task == "chat":
        options["chat_template"] = folder / "template.jinja"
    if random.random() < 0.2:
        options["columns"] = {"question": random.choice(("context", ["a", "b"], "x.y", "question"))}
    if random.random() < 0.2:
        options["answers"] = random.choice(("index", "one_based", "letter", "text"))
    if random.random() < 0.1:
        options["test_share"] = random.choice((0.5, 0.9, 1e-9))
    return options


def _written(rows: Any, format: str) -> bytes:
    if format == "jsonl":
        lines = rows if isinstance(rows, list) else [rows]
        return "".join(json.dumps(row) + "\n" for row in lines).encode()
    if format == "json":
        return json.dumps(rows).encode()
    table = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    if format == "parquet":
        return _parquet(table)
    text = io.StringIO()
    names = list(dict.fromkeys(str(key) for row in table for key in row)) or ["a"]
    writer = csv.DictWriter(text, names, delimiter="\t" if format == "tsv" else ",")
    writer.writeheader()
    for row in table:
        cells = row.items()
        writer.writerow({str(k): v if isinstance(v, str) else json.dumps(v) for k, v in cells})
    return text.getvalue().encode("utf-8", "surrogatepass")


def _parquet(table: list[Any]) -> bytes:
    out = io.BytesIO()
    try:
        pq.write_table(pa.Table.from_pylist(table), out)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):  # not a table
        pq.write_table(pa.table({"text": ["a", None, str(VALUES[:3])]}), out)
    return out.getvalue()


def _compressed(content: bytes, compression: str) -> bytes:
    out = io.BytesIO()
    packer: Any = compr[compressions[compression]]
    with packer(out, mode="wb") as file:
        file.write(content)
    return out.getvalue()
