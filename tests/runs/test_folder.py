"""Damaged files of a run folder, and what is said of them."""

import json
from pathlib import Path

import pytest

from trimlab.errors import InputError
from trimlab.runs.folder import RunFolder


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"[]", b"{}", b'{"metric": "accuracy", "models": 1}', b"[" * 100_000],
    ids=lambda content: str(content[:20]),
)
def test_a_damaged_summary_is_named(content: bytes, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.summary.write_bytes(content)
    with pytest.raises(InputError, match=r"summary\.json is damaged .*remove it"):
        folder.read_summary()


def test_a_row_that_is_no_operating_point_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.record.write_text(json.dumps({"step": 0}) + "\n")
    with pytest.raises(InputError, match=r"record\.jsonl, row 1: without epoch"):
        folder.points()
    folder.record.write_bytes(b'\xff\n{"step": 0\n')  # half-written, or not text
    assert folder.points() == []
