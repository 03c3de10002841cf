"""`trimlab data check`: its options, what it prints, its errors."""

import json
from pathlib import Path

import pytest

from tests.data.examples import write_rows
from trimlab import cli


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", *map(str, arguments)])
    return int(stop.value.code or 0)


@pytest.fixture
def domain(base: Path, root: Path) -> list[object]:
    return [
        *("--model", base, "--data.task", "jsonl", "--data.root", root),
        *("--data.calibration_rows", 10, "--data.dev_rows", 12),
    ]


def test_the_page(domain: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", *domain) == 0
    page = capsys.readouterr().out
    assert "validation: 40 rows read" in page
    assert "guessing" in page and "20.0" in page
    assert "look at this: test has 24 items" in page
    # the right choice is marked, special tokens and newlines are visible, scored ones in brackets
    assert "prompt  <s>│q│u│e│s│t│i│on│:│ │" in page
    assert "↵│a│n│s│w│er│:│" in page
    assert page.count(" → ") == 4


def test_json_is_one_object(
    domain: list[object], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("check", *domain, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: part["items"] for name, part in found["sets"].items()} == {
        "train": 24,
        "calibration": 10,
        "dev": 12,
        "test": 24,
    }
    assert [example["set"] for example in found["examples"]] == list(found["sets"])
    test = found["examples"][3]
    file, line = test["where"].rsplit(":", 1)
    row = json.loads(Path(file).read_text().splitlines()[int(line) - 1])
    shown = "".join(token["text"] for token in test["prompt"] if not token["special"])
    assert shown == f"question: {row['question']}\nanswer:"
    answer = test["choices"][test["gold"]]
    assert "".join(token["text"] for token in answer) == f" {row['choices'][row['answer']]}"
    assert {token["scored"] for token in answer} == {True}
    assert test["prompt"][0] == {"text": "<s>", "id": 1, "special": True, "scored": False}


def test_the_config_of_a_fit(
    base: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its data, model and seed are read, the rest is not; the command line overrides it."""
    config = tmp_path / "fit.yaml"
    config.write_text(
        f"seed_everything: 3\nmodel:\n  base: {base}\n  lr: 1.0e-4\ntrim:\n  r: 0.5\n"
        f"data:\n  task: jsonl\n  root: {root}\n  calibration_rows: 7\n  dev_rows: 8\n"
    )
    assert run("check", "--config", config, "--data.dev_rows", 9, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == str(base)
    assert [found["sets"][name]["items"] for name in ("calibration", "dev")] == [7, 9]
    options = ("--data.task", "jsonl", "--data.root", root, "--data.calibration_rows", 7)
    options = (*options, "--data.dev_rows", 9, "--json")
    assert run("check", f"--model.base={base}", *options, "--data.seed", 3) == 0
    assert json.loads(capsys.readouterr().out) == found
    assert run("check", "--model", base, *options) == 0
    assert json.loads(capsys.readouterr().out)["examples"] != found["examples"]


def test_no_weights_are_read(
    domain: list[object], base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in base.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert run("check", *domain, "--model", tmp_path, "--json") == 0
    # the most that the model reads, as for a fit
    assert json.loads(capsys.readouterr().out)["max_length"] == 256


def test_faults_are_one_line(
    domain: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"question": "a", "choices": ["b", "c"], "answer": 7}]
    for name in ("train", "validation", "test"):
        write_rows(tmp_path / f"{name}.jsonl", rows)
    for arguments, message in (
        ((*domain, "--data.root", tmp_path), "test.jsonl:1: answer 7 is out of range"),
        ((*domain, "--data.tsk", "x"), "data.tsk"),
        ((*domain, "--model", "nowhere"), "there is no model 'nowhere'"),
        (("--config", tmp_path / "none.yaml"), "none.yaml"),
        (("--config",), "--config needs"),
    ):
        assert run("check", *arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.strip().splitlines()) == 1
    assert run("chekc") == 2
    assert "there is: check" in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "--help") == 0
    page = capsys.readouterr().out
    for text in ("--data.max_length", "  trimlab data check --config", "Look here first", "→"):
        assert text in page
    assert run() == 0
    assert "trimlab data check --model my_model" in capsys.readouterr().out
