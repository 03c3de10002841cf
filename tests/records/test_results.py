"""The strict reader of what experiments found."""

import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from trimlab.errors import InputError
from trimlab.records.identity import config_hash
from trimlab.records.provenance import git_commit, provenance
from trimlab.records.result_row import KINDS, ResultRow
from trimlab.records.results import Record, Series, read_results
from trimlab.records.rows import append_row, read_rows

RECORDS = Path(__file__).parents[1] / "golden" / "records"


def rows_of(name: str) -> list[dict[str, Any]]:
    return read_rows(RECORDS / f"{name}.jsonl")


def record_of(row: dict[str, Any]) -> Record:
    return Record(ResultRow.from_row(row), "table3.jsonl", 1, (row["experiment"],))


@pytest.fixture
def row() -> dict[str, Any]:
    return rows_of("table3")[2]


def write(folder: Path, *rows: dict[str, Any], name: str = "table3") -> Path:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_reads_every_row_with_its_place() -> None:
    records = read_results(RECORDS)
    # a measurement that two experiments share is one record of both
    rows = sum(len(rows_of(path.stem)) for path in RECORDS.glob("*.jsonl"))
    assert sum(len(record.experiments) for record in records) == rows > len(records)
    third = next(r for r in records if r.place == "table3.jsonl, line 3")
    assert (third.file, third.line, third["model"]) == ("table3.jsonl", 3, "trimmed")


def test_a_field_without_a_value_is_none(row: dict[str, Any]) -> None:
    record = record_of(row)
    assert record["exact_match"] is None and record["rows"] is None
    assert record.get("rows", {}) == {}
    assert record.get("value") == record["value"] == 70.0
    # a field of other kinds of row
    assert record.get("dev") is None
    with pytest.raises(KeyError):
        record["dev"]


def test_an_undeclared_field_is_an_error(row: dict[str, Any]) -> None:
    record = record_of(row)
    for read in (
        record.get,
        record.__getitem__,
        lambda name: read_results(RECORDS).where(**{name: 1}),
    ):
        with pytest.raises(KeyError, match="acuracy"):
            read("acuracy")


@pytest.mark.parametrize(
    "field", ["kind", "task", "seed", "limit", "n", "cell", "dropped", "value"]
)
def test_records_are_found_by_every_kind_of_value(field: str) -> None:
    """Texts and numbers are looked up in an index, other values are compared."""
    records = read_results(RECORDS)
    values = [record.get(field) for record in records]
    assert any(value is not None for value in values) or field == "limit"
    for value in [*values[::7], None, 1, 1.0, "nowhere"]:
        found = records.where(**{field: value}, profile="gemma-270m")
        by_hand = [r for r in records if r.get(field) == value and r["profile"] == "gemma-270m"]
        assert [*found] == by_hand


def test_a_rehearsal_is_a_series_of_its_own() -> None:
    parts = read_results(RECORDS).by_series()
    names = ("gemma-270m", "llama-shaped", "paper")
    rehearsal = Series("gemma-270m", "authors", 20)
    assert list(parts) == [*(Series(name, "authors") for name in names), rehearsal]
    assert {record["limit"] for record in parts[Series("gemma-270m", "authors")]} == {None}
    assert [record["value"] for record in parts[rehearsal]] == [100.0]


def test_what_a_sweep_was_told_besides_is_a_series_of_its_own(
    tmp_path: Path, row: dict[str, Any]
) -> None:
    told = row | {"overrides": {"model.lr": 5e-05}, "run": "b", "seed": 1, "cell": {}}
    parts = read_results(write(tmp_path, row, told)).by_series()
    plain = Series(row["profile"], row["prompt"])
    assert list(parts) == [plain, Series(row["profile"], row["prompt"], None, "model.lr=5e-05")]
    assert [len(part) for part in parts.values()] == [1, 1]


def test_each_experiment_has_its_own_newest_run(tmp_path: Path, row: dict[str, Any]) -> None:
    """A run that two experiments shared stays with the one that has not asked again."""
    other, again = row | {"experiment": "table6"}, row | {"run": "b", "value": 0.0, "correct": None}
    write(tmp_path, other, name="table6")
    write(tmp_path, row, again)
    records = read_results(tmp_path)
    assert {r["run"]: r.experiments for r in records} == {
        row["run"]: ("table6",),
        "b": ("table3",),
    }
    assert [r["run"] for r in records.of("table6")] == [row["run"]]
    assert [r["run"] for r in records.of("table3")] == ["b"]
    assert len(records.notices) == 1
    # back to the first: the last line says which run it is
    write(tmp_path, row, again, row)
    assert {r["run"]: r.experiments for r in read_results(tmp_path)} == {
        row["run"]: ("table3", "table6")
    }


def test_a_dirty_tree_is_flagged(tmp_path: Path, row: dict[str, Any]) -> None:
    dirty = row | {"git_commit": "43adcf325942-dirty", "run": "b", "seed": 1}
    unknown = row | {"git_commit": None, "run": "c", "seed": 2}
    records = read_results(write(tmp_path, row, dirty, unknown))
    assert [record.dirty for record in records] == [False, True, True]


def test_code_that_is_in_no_commit_makes_a_tree_dirty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
        subprocess.run(["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True)

    def commit() -> str | None:
        return git_commit(tmp_path)

    (tmp_path / "trimlab").mkdir()
    (tmp_path / "results").mkdir()
    code = tmp_path / "trimlab" / "__init__.py"
    code.write_text("")
    assert commit() is None  # no repository
    git("init")
    assert commit() is None  # somebody else's, in which this is installed
    git("add", ".")
    git("commit", "-m", "first")
    clean = commit()
    assert clean is not None and not clean.endswith("-dirty")
    # records, prose and what lies about measure nothing
    for name in ("results/table3.jsonl", "experiments.md", "notes.txt"):
        (tmp_path / name).write_text("x")
    assert commit() == clean
    (tmp_path / "trimlab" / "mine.py").write_text("")  # a new scorer: its file makes it known
    assert commit() == f"{clean}-dirty"
    (tmp_path / "trimlab" / "mine.py").unlink()
    code.write_text("x")
    assert commit() == f"{clean}-dirty"
    # a process that is killed here leaves no lock: nothing of the repository is written
    index = tmp_path / ".git" / "index"
    code.write_text("")
    os.utime(code, (0, 0))  # git would note in its index that the file is the same
    before = index.read_bytes()
    assert commit() == clean and index.read_bytes() == before


@pytest.mark.skipif(
    not (Path(__file__).parents[2] / ".git").exists(), reason="not in a clone of the repository"
)
def test_a_record_made_in_a_clone_names_its_commit() -> None:
    commit = provenance()["git_commit"]
    assert commit is not None and len(commit.removesuffix("-dirty")) == 12


def test_a_half_written_line_is_passed_over_and_said(tmp_path: Path, row: dict[str, Any]) -> None:
    path = write(tmp_path, row) / "table3.jsonl"
    with path.open("a") as file:
        file.write(json.dumps(row)[:100])
    (notice,) = read_results(tmp_path).notices
    assert notice.startswith("table3.jsonl, line 2: half-written")
    assert len(read_results(tmp_path)) == 1

    # what is appended after the kill is kept, and so is what was before it
    append_row(path, row | {"seed": 1, "run": "b"})
    assert [record.line for record in read_results(tmp_path)] == [1, 3]
    assert len(read_rows(path)) == 2


def test_a_half_written_line_may_end_in_a_brace(tmp_path: Path, row: dict[str, Any]) -> None:
    text = json.dumps(row)
    (tmp_path / "a.jsonl").write_text(text[: text.index("}") + 1])
    assert "half-written" in read_results(tmp_path).notices[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "line 2: schema 2, and this version of trimlab reads schema 1"),
        ({"schema": None}, "line 2: schema None"),
        ({"kind": ["test"]}, "line 2: unknown kind"),
        ({"cell": "a"}, "line 2: cell cannot be 'a'"),
        ({"value": "14"}, "line 2: value cannot be '14'"),
        ({"row_sets": {"test": 1}}, "line 2: row_sets cannot be"),
        ({"kind": "loss"}, f"line 2: unknown kind 'loss'; known: {', '.join(KINDS)}"),
        ({"model": "pruned"}, "line 2: unknown model 'pruned'"),
        ({"correct": "0110"}, "one 0 or 1 for each of the 20 items"),
        ({"correct": "2" * 20}, "one 0 or 1 for each of the 20 items"),
        ({"value": 12.0}, "14 of 20 items are correct, and the value is 12.0"),
    ],
)
def test_a_bad_row_is_named(
    tmp_path: Path, row: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    write(tmp_path, row, row | {"seed": 1, "run": "b"} | change)
    with pytest.raises(InputError, match=message) as error:
        read_results(tmp_path)
    assert str(error.value).startswith("table3.jsonl, line 2")


def test_a_missing_field_is_named(tmp_path: Path, row: dict[str, Any]) -> None:
    del row["row_sets"], row["value"]
    with pytest.raises(InputError, match="line 1: test without row_sets, value"):
        read_results(write(tmp_path, row))


def test_a_timing_of_an_unknown_method(tmp_path: Path) -> None:
    timing = rows_of("table9")[0] | {"method": "lora"}
    with pytest.raises(InputError, match="unknown method 'lora'; known: full_ft"):
        read_results(write(tmp_path, timing))


def test_a_scan_entry_without_a_score(tmp_path: Path) -> None:
    point = next(row for row in rows_of("figure3") if row["kind"] == "operating_point")
    del point["scan"][0]["score"]
    with pytest.raises(InputError, match="line 1: an entry of `scan` without score"):
        read_results(write(tmp_path, point))


def test_a_scan_of_no_sublayer(tmp_path: Path) -> None:
    point = next(row for row in rows_of("figure3") if row["kind"] == "operating_point")
    point["scan"][0]["candidate"] = "0.mlp+x"
    with pytest.raises(InputError, match="line 1: 'x' is no sublayer: .* like 3.mlp"):
        read_results(write(tmp_path, point))


def test_an_entry_that_no_schema_names_is_checked_when_it_is_read(row: dict[str, Any]) -> None:
    record = record_of(row | {"cell": {"trim.r": 1, "trim.scorer": ["two_step"]}})
    assert record.entry("cell", "trim.r", float) == 1
    assert record.entry("cell", "trim.bypass", str, "residual") == "residual"
    with pytest.raises(InputError, match="table3.jsonl, line 1: cell: trim.scorer is .'two_step'"):
        record.entry("cell", "trim.scorer", str, "two_step")
    with pytest.raises(InputError, match="line 1: cell: threads is missing"):
        record.entry("cell", "threads", int)


def test_half_of_a_surrogate_pair(tmp_path: Path, row: dict[str, Any]) -> None:
    write(tmp_path, row | {"task": "half \ud800"})
    with pytest.raises(InputError, match="line 1: .* surrogates not allowed"):
        read_results(tmp_path)
    assert len(read_results(write(tmp_path, row | {"task": "whole \U0001f600"}))) == 1


def test_a_benchmark_without_the_peers_numbers(tmp_path: Path) -> None:
    alone = next(row for row in rows_of("bench") if row["peer"] is None)
    assert len(read_results(write(tmp_path, alone))) == 1
    with pytest.raises(InputError, match="line 1: bench without peer_seconds, .*memory_ratio"):
        read_results(write(tmp_path, alone | {"peer": "naive"}))


def test_a_line_of_other_characters_or_of_great_depth(tmp_path: Path, row: dict[str, Any]) -> None:
    for line in (b"\xff\xfe", b'{"a": ' + b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"):
        file = write(tmp_path, row) / "table3.jsonl"
        file.write_bytes(file.read_bytes() + line + b"\n")
        with contextlib.suppress(InputError):  # refused, or passed over as half-written
            assert len(read_results(tmp_path)) == 1


@pytest.mark.parametrize("line", ["<<<<<<< HEAD", '{"a": 1,, "b": 2}', "[1]", "7"])
def test_a_corrupt_line_is_no_half_written_one(
    tmp_path: Path, row: dict[str, Any], line: str
) -> None:
    write(tmp_path, row)
    with (tmp_path / "table3.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match="table3.jsonl, line 2: no(t a)? JSON"):
        read_results(tmp_path)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder"):
        read_results(tmp_path / "results")


def test_the_same_row_twice_is_kept_once(tmp_path: Path, row: dict[str, Any]) -> None:
    # another machine may be slower; the accuracies are the same
    records = read_results(write(tmp_path, row, row | {"tokens_per_second": 99.0}))
    assert len(records) == 1
    assert records.notices == (
        "table3.jsonl, line 2: the same measurement as table3.jsonl, line 1; kept once",
    )


def test_two_experiments_may_ask_the_same_in_other_words(
    tmp_path: Path, row: dict[str, Any]
) -> None:
    """One run, of which each experiment's cell names another part."""
    write(tmp_path, row)
    other = row | {"experiment": "table2", "cell": row["cell"] | {"run.full_depth": True}}
    write(tmp_path, other, name="table2")
    (record,) = read_results(tmp_path)
    assert record.experiments == ("table2", "table3")


def test_a_row_of_two_experiments_counts_for_both(tmp_path: Path, row: dict[str, Any]) -> None:
    write(tmp_path, row)
    write(tmp_path, row | {"experiment": "table6"}, name="table6")
    records = read_results(tmp_path)
    assert (len(records), records.notices) == (1, ())
    assert len(records.of("table3")) == len(records.of("table6")) == 1
    assert len(records.of("table8", "table6")) == 1


def test_contradicting_rows_name_both_lines(tmp_path: Path, row: dict[str, Any]) -> None:
    other = row | {"correct": row["correct"][::-1], "stderr": 1.0}
    with pytest.raises(InputError, match="line 1 and table3.jsonl, line 2 .* in correct, stderr"):
        read_results(write(tmp_path, row, other))


def test_a_cell_that_was_run_again_counts_once(tmp_path: Path, row: dict[str, Any]) -> None:
    again = row | {"run": "new", "value": 50.0, "correct": "01" * 10}
    elsewhere = row | {"run": "seed 1", "seed": 1}
    records = read_results(write(tmp_path, row, elsewhere, again))
    assert [record["run"] for record in records] == ["seed 1", "new"]
    assert "was run again as new; 1 older rows left out" in records.notices[0]


def test_the_hash_of_a_config_is_that_of_its_meaning() -> None:
    config = {"data": {"task": "sciq", "root": "here"}, "trainer": {"limit_train_batches": 10}}
    same = {"trainer": {"limit_train_batches": 10.0}, "data": {"root": "there", "task": "sciq"}}
    assert config_hash(config) == config_hash(same)
    assert config_hash(config) != config_hash(config | {"trainer": {"limit_train_batches": 1}})
    assert config["data"]["root"] == "here"
