"""Weights & Biases: a real offline run, read back; and that no failure of it reaches the run."""

import json
import struct
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.runs.test_run import assert_same_run, kill_and_resume, start
from trimlab import cli
from trimlab.model.sublayers import Sublayer
from trimlab.records.rows import read_rows
from trimlab.runs.tracking import Tracker, WandbOptions, dropping_pattern, score_table

wandb = pytest.importorskip("wandb")

REPOSITORY = Path(__file__).parents[2]


def records(path: Path) -> list[Any]:
    """What a .wandb file holds: LevelDB's log format behind a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    data, place, part, found = path.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # the rest of a block that holds no header
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        part += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            found.append(Record.FromString(part))
            part = b""
    return found


def offline_runs(folder: Path) -> list[list[Any]]:
    wandb.teardown()  # waits until everything is on disk
    return [records(path) for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb"))]


def history(found: list[Any]) -> list[dict[str, Any]]:
    return [
        {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in r.history.item}
        for r in found
        if r.HasField("history")
    ]


def table(folder: Path, row: dict[str, Any], name: str) -> Any:
    (path,) = (folder / "wandb").glob(f"offline-run-*/files/{row[f'{name}/path']}")
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def tracked(base: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tracked"
    options = {"mode": "offline", "project": "owls", "group": "table3", "artifact": True}
    start(base, root, folder, full_depth=True, wandb=options)
    return folder


def test_an_offline_run_has_what_one_wants_to_watch(tracked: Path) -> None:
    (found,) = offline_runs(tracked)
    (run,) = [r.run for r in found if r.HasField("run")]
    assert (run.project, run.run_group, run.display_name) == ("owls", "table3", "tracked")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["trim"]["r"] == 0.5
    assert config["provenance"]["task"] == "jsonl"
    assert "wandb" not in config

    rows = history(found)
    points, summary = read_rows(tracked / "record.jsonl"), read_summary(tracked)
    losses = [row for row in rows if "train_loss" in row]
    assert [row["optimizer_steps"] for row in losses] == list(range(1, 19))  # 3 epochs of 6
    assert all(row["train_loss"] > 0 for row in losses)
    assert len([row for row in rows if "full_depth/train_loss" in row]) == 18
    assert [row["dev_accuracy"] for row in rows if "dev_accuracy" in row] == [
        point["dev"] for point in points
    ]
    logged = [row for row in rows if "point/dev" in row]
    assert len(logged) == len(points) == 3
    for row, point in zip(logged, points, strict=True):
        for name in ("dev", "dev_stderr", "layer_memory_ratio", "model_memory_ratio", "step"):
            assert row[f"point/{name}"] == point[name]
        assert row["optimizer_steps"] == point["optimizer_steps"]
        assert row["point/layers_left"] == 8 - len(point["history"])
        assert row["point/mlp_left"] + row["point/attention_left"] == row["point/layers_left"]
    pattern = table(tracked, logged[-1], "dropping_pattern")
    assert pattern["columns"][:3] == ["scan", "0.attention", "0.mlp"]
    assert pattern["data"][-1].count(-1) == len(points[-2]["history"])
    assert len(table(tracked, logged[-1], "scores")["data"]) == sum(len(p["scan"]) for p in points)
    test = table(tracked, next(row for row in rows if "test/path" in row), "test")
    assert [row[0] for row in test["data"]] == ["untrimmed", "fine_tuned", "trimmed"]
    assert [row[2] for row in test["data"]] == [
        summary[name]["accuracy"] for name in ("untrimmed", "fine_tuned", "trimmed")
    ]
    end = {
        item.key: json.loads(item.value_json)
        for r in found
        if r.HasField("summary")
        for item in r.summary.update
    }
    assert end["test/trimmed"]["accuracy"] == summary["trimmed"]["accuracy"]
    assert [r.exit.exit_code for r in found if r.HasField("exit")] == [0]


def read_summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def test_config_and_record_and_model_are_files_of_it(tracked: Path) -> None:
    (files,) = (tracked / "wandb").glob("offline-run-*/files")
    for name in ("config.yaml", "record.jsonl", "summary.json"):
        kept = (files / name).read_text()
        assert name == "summary.json" or kept == (tracked / name).read_text()
    (found,) = offline_runs(tracked)
    # tables are artifacts too
    (artifact,) = [r.artifact for r in found if r.artifact.type == "model"]
    assert artifact.name == "tracked-0.5"
    names = {entry.path for entry in artifact.manifest.contents}
    assert {"config.json", "model.safetensors"} <= names


def test_it_changes_no_result(tracked: Path, base: Path, root: Path, tmp_path: Path) -> None:
    start(base, root, tmp_path / "run", full_depth=True, wandb={"mode": "disabled"})
    assert_same_run(tmp_path / "run", tracked)
    assert not (tmp_path / "run" / "wandb").exists()
    # nor the config: the same run with another way of logging is the same run, and it is done
    before = len(offline_runs(tracked))
    start(base, root, tracked, full_depth=True, wandb={"mode": "offline"})
    assert len(offline_runs(tracked)) == before


def test_a_resumed_run_goes_on_with_the_same_one(base: Path, root: Path, tmp_path: Path) -> None:
    def again(folder: Path) -> None:
        start(base, root, folder, wandb={"mode": "offline"})

    wandb.teardown()  # the process that is killed has a service of its own, as it has elsewhere
    kill_and_resume(tmp_path / "killed", "mid-scan", again)
    first, second = offline_runs(tmp_path / "killed")
    ids = {r.run.run_id for found in (first, second) for r in found if r.HasField("run")}
    assert len(ids) == 1
    points = [row["point/step"] for row in history(second) if "point/step" in row]
    done = [row["point/step"] for row in history(first) if "point/step" in row]
    assert sorted({*done, *points}) == [0, 1, 2]
    # the same config in another folder is another run
    again(tmp_path / "other")
    (other,) = offline_runs(tmp_path / "other")
    assert ids.isdisjoint(r.run.run_id for r in other if r.HasField("run"))


# ---- failures -----------------------------------------------------------------------------------


class Broken:
    """A W&B run of which everything raises."""

    def __getattr__(self, name: str) -> Any:
        raise wandb.errors.CommError(f"no network for {name}")


@pytest.mark.parametrize("where", ["init", "everything after it"])
def test_its_failure_is_one_warning(
    where: str,
    tracked: Path,
    base: Path,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def init(**_options: Any) -> Any:
        if where == "init":
            raise wandb.errors.CommError("no network for init")
        return Broken()

    monkeypatch.setattr(wandb, "init", init)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        start(base, root, tmp_path / "run", full_depth=True, wandb={"mode": "offline"})
    said = [str(w.message) for w in caught if "Weights & Biases" in str(w.message)]
    assert len(said) == 1
    assert "no network" in said[0]
    assert_same_run(tmp_path / "run", tracked)


def test_online_without_a_network_goes_on_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = wandb.init

    def init(**options: Any) -> Any:
        if options["mode"] == "online":
            raise wandb.errors.CommError("no network")
        return plain(**options)

    monkeypatch.setattr(wandb, "init", init)
    tracker, (summary, about) = (
        Tracker(WandbOptions(mode="online", name="r 0.25")),
        ({}, {"task": "owls"}),
    )

    def interrupted() -> None:
        with tracker.tracked(tmp_path, {}, about, summary):
            tracker.log({"train_loss": 2.5, "optimizer_steps": 7})
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="offline instead"), pytest.raises(KeyboardInterrupt):
        interrupted()
    (found,) = offline_runs(tmp_path)
    assert [row["train_loss"] for row in history(found)] == [2.5]
    (run,) = [r.run for r in found if r.HasField("run")]
    assert (run.run_group, run.display_name) == ("owls", "r 0.25")
    assert [r.exit.exit_code for r in found if r.HasField("exit")] == [1]


def test_without_the_package_there_is_nothing_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr("trimlab.runs.tracking.find_spec", lambda _name: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Tracker(WandbOptions()).tracked(tmp_path, {}, {"task": "owls"}, {}):
            pass
    assert list(tmp_path.iterdir()) == []


def test_auto_is_offline_where_nobody_is_logged_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    asked = []
    monkeypatch.setattr(wandb, "init", lambda **options: asked.append(options["mode"]) or Broken())
    for environment in (None, "disabled", "offline"):
        if environment:
            monkeypatch.setenv("WANDB_MODE", environment)
        with (
            warnings.catch_warnings(),
            Tracker(WandbOptions()).tracked(tmp_path, {}, {"task": "owls"}, {}),
        ):
            warnings.simplefilter("ignore")
    assert asked == ["offline", "offline"]


def test_the_command_keeps_it_out_of_the_config(base: Path, root: Path, tmp_path: Path) -> None:
    command = ["fit", "--config", REPOSITORY / "experiments" / "own_data.yaml"]
    command += ["--model.base", base, "--data.root", root, "--run.dir", tmp_path / "run"]
    command += ["--data.calibration_rows", 15, "--data.dev_rows", 15, "--run.full_depth", "false"]
    command += ["--run.speed", "false", "--trim.target_layer_memory", 0.8]
    command += ["--trim.min_accuracy_share", "null", "--trainer.accelerator", "cpu"]
    for mode in ("offline", "disabled"):  # the second one is a second start of the same run
        with pytest.raises(SystemExit) as stop:
            cli.main([str(part) for part in [*command, "--wandb.mode", mode]])
        assert not stop.value.code
    assert "wandb" not in yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert len(offline_runs(tmp_path / "run")) == 1


# ---- what is drawn ------------------------------------------------------------------------------


def test_the_dropping_pattern_by_hand() -> None:
    points = [
        {
            "step": 0,
            "history": [],
            "dropped": [],
            "scan": [
                {"candidate": "0.attention+0.mlp", "score": [3.0, 1.0], "accuracy": 50.0}
                | {"items": 4},
                {"candidate": "0.mlp+1.attention", "score": [2.0, 9.0], "accuracy": 60.0}
                | {"items": 8},
            ],
        },
        {
            "step": 1,
            "history": ["0.mlp", "1.attention"],
            "dropped": ["0.mlp", "1.attention"],
            "scan": [{"candidate": "0.mlp+1.attention", "score": [1.0, 9.0], "norm": 4.0}],
        },
        {"step": 2, "history": ["0.mlp", "1.attention"], "dropped": [], "scan": []},
    ]
    sublayers = [Sublayer(0, "attention"), Sublayer(0, "mlp"), Sublayer(1, "attention")]
    assert dropping_pattern(points, sublayers) == [
        [0, 3.0, 2.0, 2.0],
        [1, None, 1.0, 1.0],
        [2, None, -1.0, -1.0],
    ]
    assert score_table(points) == [
        [0, "0.attention+0.mlp", 3.0, 50.0, None, 4, False],
        [0, "0.mlp+1.attention", 2.0, 60.0, None, 8, False],
        [1, "0.mlp+1.attention", 1.0, None, 4.0, None, True],
    ]
