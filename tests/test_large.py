"""Long and large: cycles that leak nothing, deep models, long texts and many runs."""

import gc
import json
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from analysis.report import write_report
from tests.golden.made_up import SUBLAYERS, answers, points, scored
from tests.tiny import TinyModel, TinyTokenizer
from trimlab.data.batching import scan_batches
from trimlab.data.domain import DomainData
from trimlab.data.encoding import encode_all
from trimlab.data.items import Item
from trimlab.export._packing import pack
from trimlab.model.sublayers import SublayerStack
from trimlab.scanning.scan import scan


def memory() -> int:
    """Bytes of this process in main memory."""
    gc.collect()
    return psutil.Process().memory_info().rss


def test_cycles_of_drop_and_restore_leak_nothing(tiny_model: TinyModel) -> None:
    """Ten thousand, a forward pass in every hundredth."""
    model = tiny_model("llama")
    stack, ids = SublayerStack(model), torch.arange(4, 20)[None]
    everything = list(stack)

    @torch.no_grad()
    def cycles(count: int) -> None:
        for i in range(count):
            first, second = everything[i % 8], everything[(i + 3) % 8]
            with stack.bypass(first), stack.bypass(second):
                if i % 100 == 0:
                    model(input_ids=ids)

    cycles(500)
    before, objects = memory(), len(gc.get_objects())
    cycles(10_000)
    after = memory()
    assert len(gc.get_objects()) - objects < 100  # one object a cycle would be 10,000
    assert after - before < 32 << 20  # 4 kB a cycle would be 40 MB
    assert list(stack) == everything and stack.history == []


@pytest.mark.slow
def test_a_model_of_96_blocks_reads_4096_tokens(
    tiny_model: TinyModel, tiny_tokenizer: TinyTokenizer
) -> None:
    """Scanned, halved and packed; the scan of a few candidates agrees with plain passes."""
    shape: dict[str, Any] = {"num_hidden_layers": 96, "max_position_embeddings": 4096}
    shape |= {"hidden_size": 8, "num_attention_heads": 1, "num_key_value_heads": 1}
    model = tiny_model("llama", torch.float32, **shape, intermediate_size=16)
    stack, tokenizer = SublayerStack(model), tiny_tokenizer()
    item = Item("the word is " * 2000, (" a", " b"), 0)
    (encoded,) = encode_all(tokenizer, item, 4096)
    assert max(len(encoded.tokens), 4000) <= 4096
    before = memory()
    found = scan(stack, scan_batches([encoded], 4096), measures=("norm",))
    assert len(found.candidates) == 2 * 96
    stack.drop(*(s for s in stack.original if s.block % 2))
    assert len(pack(stack)) == 48
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([encoded.tokens]), use_cache=False).logits
    assert logits.isfinite().all()
    assert memory() - before < 2 << 30


@pytest.mark.slow
def test_a_report_of_a_thousand_runs(tmp_path: Path) -> None:
    place = tmp_path / "results"
    place.mkdir()
    with (place / "table3.jsonl").open("w") as file:
        for seed in range(1000):
            cell = {"data.task": "sciq", "trim.scorer": "two_step", "trim.r": 0.25}
            where = {"task": "sciq", "seed": seed, "run": f"run{seed}"}
            rows = points("table3", cell, SUBLAYERS[:4], [70.0 - i for i in range(5)], **where)
            rows += [scored("table3", cell, "untrimmed", answers(12, seed % 20), **where)]
            rows += [scored("table3", cell, "trimmed", answers(14, seed % 20), **where)]
            rows[-1] = replace(rows[-1], complete=True, config={})
            file.writelines(json.dumps(row.to_row()) + "\n" for row in rows)
    start = time.process_time()
    write_report(tmp_path / "out", place)
    print(f"a report of 1,000 runs: {time.process_time() - start:.1f} s")
    assert "while reading 7000 records" in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_rows_that_are_not_used_take_little_memory(
    tmp_path: Path, tiny_tokenizer: TinyTokenizer
) -> None:
    """100,000 rows in one file, of which 200 are trained on: as dicts they took 240 MB."""
    path, count = tmp_path / "all.jsonl", 100_000
    with path.open("w") as file:
        for i in range(count):
            choices = [f"choice {i * k % 9973}" for k in (3, 5, 7, 11)]
            row = {"question": f"What is {i}, and {i * 7919 % count} to it? " * 2}
            file.write(json.dumps({**row, "choices": choices, "answer": i % 4}) + "\n")
    held_out = {"calibration_rows": 50, "dev_rows": 50, "test_rows": 100}
    data = DomainData(tiny_tokenizer(), "jsonl", path, train_rows=200, bad_rows="skip", **held_out)
    before = memory()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in memory now
    data.setup()
    status = Path("/proc/self/status").read_text()
    peak = int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024 - before
    print(f"{count} rows: {peak / count:.0f} bytes each at the peak")
    assert data.rows is not None and data.rows.read["train"] + data.rows.read["test"] == count
    assert data.rows.counts() == {"train": 200, "calibration": 50, "dev": 50, "test": 100}
    assert peak < 400 * count
