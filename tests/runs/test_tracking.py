"""Weights & Biases: a real offline run and what it is given; no failure of it reaches the run."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.runs.test_run import assert_same_run, kill_and_resume, start
from trimlab import cli
from trimlab.model.sublayers import Sublayer
from trimlab.records.model_result import ModelResult
from trimlab.records.operating_point import OperatingPoint, ScannedCandidate
from trimlab.records.result_row import RunContext
from trimlab.records.rows import append_row, read_rows
from trimlab.records.run_summary import RunSummary
from trimlab.runs import tracking
from trimlab.runs.dropping import dropping_pattern, score_table
from trimlab.runs.tracking import Tracker, WandbOptions

wandb = pytest.importorskip("wandb")

REPOSITORY = Path(__file__).parents[2]


def plain(value: Any) -> Any:
    """A value as JSON, tables and summaries included."""
    if isinstance(value, wandb.Table):
        return {"columns": value.columns, "data": value.data}
    if hasattr(type(value), "keys"):
        return {str(key): plain(value[key]) for key in value.keys()}  # noqa: SIM118 (W&B's own)
    return json.loads(json.dumps(value, default=str))


def watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes what every W&B run is given by its public methods; the run itself is real."""
    init = wandb.init

    def watched(**options: Any) -> Any:
        run, file = init(**options), Path(options["dir"]) / "wandb" / "given.jsonl"

        def note(method: str, about: Callable[..., Any]) -> None:
            call = getattr(run, method)

            def noted(*args: Any, **kwargs: Any) -> Any:
                append_row(file, {method: plain(about(*args, **kwargs))})
                return call(*args, **kwargs)

            monkeypatch.setattr(run, method, noted)

        about = {name: getattr(run, name) for name in ("id", "project", "group", "name", "config")}
        append_row(file, {"init": plain(about)})
        note("log", lambda row: row)
        note("save", lambda path, **_: path)
        note(
            "log_artifact",
            lambda artifact: [artifact.type, artifact.name, *artifact.manifest.entries],
        )
        note("finish", lambda exit_code=0: {"exit_code": exit_code, "summary": run.summary})
        return run

    monkeypatch.setattr(wandb, "init", watched)


def given(folder: Path) -> list[dict[str, list[Any]]]:
    """What the W&B runs of a folder were given, by method, a process after the other."""
    runs: list[dict[str, list[Any]]] = []
    for row in read_rows(folder / "wandb" / "given.jsonl"):
        ((method, value),) = row.items()
        if method == "init":
            runs.append({name: [] for name in ("init", "log", "save", "log_artifact", "finish")})
        runs[-1][method].append(value)
    return runs


@pytest.fixture(scope="module")
def tracked(base: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tracked"
    options = {"mode": "offline", "project": "owls", "group": "table3", "artifact": True}
    with pytest.MonkeyPatch.context() as monkeypatch:
        watch(monkeypatch)
        start(base, root, folder, full_depth=True, wandb=options)
    wandb.teardown()  # waits until everything is on disk
    return folder


def test_an_offline_run_has_what_one_wants_to_watch(tracked: Path) -> None:
    (run,) = given(tracked)
    (about,), rows = run["init"], run["log"]
    named = {name: about[name] for name in ("project", "group", "name")}
    assert named == {"project": "owls", "group": "table3", "name": "tracked"}
    assert about["config"]["trim"]["r"] == 0.5
    assert about["config"]["provenance"]["task"] == "jsonl"
    assert "wandb" not in about["config"]

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
    pattern = logged[-1]["dropping_pattern"]
    assert pattern["columns"][:3] == ["scan", "0.attention", "0.mlp"]
    assert pattern["data"][-1].count(-1) == len(points[-2]["history"])
    assert len(logged[-1]["scores"]["data"]) == sum(len(p["scan"]) for p in points)
    (test,) = [row["test"] for row in rows if "test" in row]
    names = ("untrimmed", "fine_tuned", "trimmed")
    assert [row[0] for row in test["data"]] == [*names]
    assert [row[2] for row in test["data"]] == [summary[name]["accuracy"] for name in names]
    (end,) = run["finish"]
    assert end["exit_code"] == 0
    assert end["summary"]["test/trimmed"]["accuracy"] == summary["trimmed"]["accuracy"]
    assert end["summary"]["stopped_because"] == summary["stopped_because"]


def read_summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def test_config_and_record_and_model_are_files_of_it(tracked: Path) -> None:
    (files,) = (tracked / "wandb").glob("offline-run-*/files")
    for name in ("config.yaml", "record.jsonl", "summary.json"):
        kept = (files / name).read_text()
        assert name == "summary.json" or kept == (tracked / name).read_text()
    (run,) = given(tracked)
    assert {Path(path).name for path in run["save"]} == {
        "config.yaml",
        "record.jsonl",
        "summary.json",
    }
    # tables are artifacts too
    ((_, name, *entries),) = [found for found in run["log_artifact"] if found[0] == "model"]
    assert name == "tracked-0.5"
    assert {"config.json", "model.safetensors"} <= {*entries}


def test_it_changes_no_result(tracked: Path, base: Path, root: Path, tmp_path: Path) -> None:
    start(base, root, tmp_path / "run", full_depth=True, wandb={"mode": "disabled"})
    assert_same_run(tmp_path / "run", tracked)
    assert not (tmp_path / "run" / "wandb").exists()
    # nor the config: the same run with another way of logging is the same run, and it is done
    before = sorted((tracked / "wandb").iterdir())
    start(base, root, tracked, full_depth=True, wandb={"mode": "offline"})
    assert sorted((tracked / "wandb").iterdir()) == before


def test_a_resumed_run_goes_on_with_the_same_one(
    base: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(folder: Path) -> None:
        start(base, root, folder, wandb={"mode": "offline"})

    watch(monkeypatch)
    wandb.teardown()  # the process that is killed has a service of its own, as it has elsewhere
    kill_and_resume(tmp_path / "killed", "mid-scan", again)
    first, second = given(tmp_path / "killed")
    ids = {run["init"][0]["id"] for run in (first, second)}
    assert len(ids) == 1
    assert not first["finish"] and second["finish"]
    steps = [
        row["point/step"] for run in (first, second) for row in run["log"] if "point/step" in row
    ]
    assert sorted({*steps}) == [0, 1, 2]
    # the same config in another folder is another run
    again(tmp_path / "other")
    (other,) = given(tmp_path / "other")
    assert other["init"][0]["id"] not in ids


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


def about(task: str = "owls") -> RunSummary:
    """The summary of a run that has just begun."""
    context = RunContext(
        base="tiny",
        task=task,
        prompt="authors",
        row_sets={},
        git_commit=None,
        versions={},
        hardware={},
    )
    return RunSummary(context=context, seed=0, metric="accuracy")


def test_online_without_a_network_goes_on_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = wandb.init

    def init(**options: Any) -> Any:
        if options["mode"] == "online":
            raise wandb.errors.CommError("no network")
        return real(**options)

    monkeypatch.setattr(wandb, "init", init)
    watch(monkeypatch)
    tracker = Tracker(WandbOptions(mode="online", name="r 0.25"))

    def interrupted() -> None:
        with tracker.tracked(tmp_path, {}, about()):
            tracker.log({"train_loss": 2.5, "optimizer_steps": 7})
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="offline instead"), pytest.raises(KeyboardInterrupt):
        interrupted()
    (run,) = given(tmp_path)
    assert [row["train_loss"] for row in run["log"]] == [2.5]
    assert (run["init"][0]["group"], run["init"][0]["name"]) == ("owls", "r 0.25")
    assert [end["exit_code"] for end in run["finish"]] == [1]
    assert list((tmp_path / "wandb").glob("offline-run-*"))


def test_logged_in_and_without_a_network_it_logs_offline_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setattr(tracking, "INIT_SECONDS", 1)
    wandb.teardown()  # reads the environment again
    summary = about()
    summary.models = [
        ModelResult(metric="accuracy", value=50.0, stderr=50.0, n=2, correct="10", dropped=[])
    ]
    tracker = Tracker(WandbOptions())
    with (
        pytest.warns(UserWarning, match="Weights & Biases") as caught,
        tracker.tracked(tmp_path, {}, summary),
    ):
        tracker.log({"train_loss": 2.5, "optimizer_steps": 7})
    wandb.teardown()
    (said,) = [str(w.message) for w in caught if "Weights & Biases" in str(w.message)]
    assert "logging offline instead" in said
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert said.endswith(f"wandb sync {folder}")
    (log,) = folder.glob("run-*.wandb")
    for logged in (b"train_loss", b"2.5", b"test/trimmed"):
        assert logged in log.read_bytes()


def test_an_upload_that_does_not_end_leaves_a_command_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, started = wandb.init, []

    def finish(**_options: Any) -> None:
        raise TimeoutError("data may not have been uploaded")

    def init(**options: Any) -> Any:
        assert options["settings"].finish_timeout_raises
        run = real(**options)
        started.append(run.finish)
        monkeypatch.setattr(run, "finish", finish)
        return run

    monkeypatch.setattr(wandb, "init", init)
    with (
        pytest.warns(UserWarning, match="wandb sync .*offline-run") as caught,
        pytest.raises(KeyboardInterrupt),
        Tracker(WandbOptions(mode="offline")).tracked(tmp_path, {}, about()),
    ):
        raise KeyboardInterrupt
    assert "goes on without" not in str(caught[0].message)
    started[0]()


def test_without_the_package_there_is_nothing_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr("trimlab.runs.tracking.find_spec", lambda _name: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Tracker(WandbOptions()).tracked(tmp_path, {}, about()):
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
            Tracker(WandbOptions()).tracked(tmp_path, {}, about()),
        ):
            warnings.simplefilter("ignore")
    assert asked == ["offline", "offline"]


def test_the_command_keeps_it_out_of_the_config(base: Path, root: Path, tmp_path: Path) -> None:
    command = ["fit", "--config", REPOSITORY / "experiments" / "own_data.yaml"]
    command += ["--model.base", base, "--data.root", root, "--run.dir", tmp_path / "run"]
    command += ["--data.calibration_rows", 15, "--data.dev_rows", 15, "--run.full_depth", "false"]
    command += ["--run.trim_from", "base", "--run.speed", "false"]
    command += ["--trim.target_layer_memory", 0.8]
    command += ["--trim.min_accuracy_share", "null", "--trainer.accelerator", "cpu"]
    for mode in ("offline", "disabled"):  # the second one is a second start of the same run
        with pytest.raises(SystemExit) as stop:
            cli.main([str(part) for part in [*command, "--wandb.mode", mode]])
        assert not stop.value.code
    wandb.teardown()
    assert "wandb" not in yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*"))) == 1


# ---- what is drawn ------------------------------------------------------------------------------


def point(step: int, history: list[str], dropped: list[str], scan: list[ScannedCandidate]) -> Any:
    numbers = dict.fromkeys(("epoch", "optimizer_steps", "dev_n", "seconds", "peak_rss_bytes"), 0)
    numbers |= dict.fromkeys(("scan_seconds", "dev", "dev_stderr"), 0.0)
    numbers |= dict.fromkeys(("layer_memory_ratio", "model_memory_ratio"), 1.0)
    return OperatingPoint(
        step=step,
        history=history,
        dropped=dropped,
        scan=scan,
        trainable=[],
        metric="accuracy",
        accepted=True,
        finished=None,
        **numbers,
    )


def test_the_dropping_pattern_by_hand() -> None:
    def scanned(candidate: str, score: list[float], **statistics: float) -> ScannedCandidate:
        return ScannedCandidate(candidate=candidate, score=score, statistics=statistics)

    gone = ["0.mlp", "1.attention"]
    first = scanned("0.attention+0.mlp", [3.0, 1.0], accuracy=50.0, items=4)
    second = scanned("0.mlp+1.attention", [2.0, 9.0], accuracy=60.0, items=8)
    third = scanned("0.mlp+1.attention", [1.0, 9.0], norm=4.0)
    points = [
        point(0, [], [], [first, second]),
        point(1, gone, gone, [third]),
        point(2, gone, [], []),
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
