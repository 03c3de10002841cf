"""An experiment becomes runs: what is planned, made, skipped and recorded."""

import fcntl
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.forked import Forked
from trimlab import cli
from trimlab.errors import InputError
from trimlab.records.results import read_results
from trimlab.records.rows import TIMING_FIELDS, append_rows
from trimlab.runs import sweep_queue
from trimlab.runs.config import Resolver
from trimlab.runs.findings import rows_of
from trimlab.runs.folder import RunFolder
from trimlab.runs.launchers._launcher import Ended, Fit, Job
from trimlab.runs.launchers.local import Local
from trimlab.runs.plan import PlannedRun, merged, nested, plan
from trimlab.runs.run_id import distinctive, run_id
from trimlab.runs.sweep import Sweep

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SHIPPED = [p for p in sorted(EXPERIMENTS.glob("*.yaml")) if "\nruns:" in p.read_text()]
START, STOP = Local.start, Local.stop
PROFILES = [path.stem for path in sorted((EXPERIMENTS / "profiles").glob("*.yaml"))]


@cache
def shipped(name: str, profile: str = "gemma-270m") -> list[PlannedRun]:
    """The runs of a shipped experiment, three seeds of each cell."""
    return plan(EXPERIMENTS / f"{name}.yaml", profile, seeds=3)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Any) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("base"), "gemma3_text", num_hidden_layers=4)


def settings(base: Path) -> dict[str, Any]:
    """Options that make any run a matter of a second."""
    rows = dict.fromkeys(("calibration_rows", "dev_rows", "test_rows"), 10)
    return {
        "recipe": "paper",
        "model": {"base": str(base)},
        "data": {"task": "jsonl", "train_rows": 16, "batch_size": 8, **rows},
        "run": {"eval_tasks": [], "speed": False},
        "trim": {"drops_per_step": 3},
        "trainer": {
            "accelerator": "cpu",
            "precision": "32-true",
            "enable_progress_bar": False,
        },
    }


class EndedJob(Job):
    def __init__(self, code: int, seconds: float):
        self.end = Ended(code, seconds)

    def poll(self) -> Ended:
        return self.end


@pytest.fixture(scope="module", autouse=True)
def _fits_in_this_process() -> Iterator[None]:
    """A process of its own imports for seconds; the tests of killed sweeps start some."""

    def start(self: Local, fits: Sequence[Fit]) -> list[EndedJob]:
        begin = time.perf_counter()
        codes = [exit_code(*fit.command[3:]) for fit in fits]  # the sweep holds the locks
        return [EndedJob(code, time.perf_counter() - begin) for code in codes]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Local, "start", start)
        patch.setattr(Local, "stop", lambda *_: None)
        yield


def exit_code(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def experiment(folder: Path, base: Path, content: dict[str, Any] | None = None) -> Path:
    (folder / "profiles").mkdir(exist_ok=True)
    profile = yaml.safe_dump(settings(base))
    for name in ("tiny", "other"):
        (folder / "profiles" / f"{name}.yaml").write_text(profile)
    path = folder / "letters.yaml"
    path.write_text(
        yaml.safe_dump(
            content
            or {
                "config": {"trim": {"target_layer_memory": 0.5, "progress": False}},
                "runs": [{"trim.scorer": ["two_step", "random"], "trim.r": 0.5}],
            },
            sort_keys=False,
        )
    )
    return path


# ---- the plan ----------------------------------------------------------------------------------


def test_configs_over_one_another() -> None:
    low, high = {"a": {"b": 1, "c": [1]}, "d": 2}, {"a": {"c": [2]}, "d": {"e": 3}}
    assert merged(low, high) == {"a": {"b": 1, "c": [2]}, "d": {"e": 3}}
    assert low == {"a": {"b": 1, "c": [1]}, "d": 2}
    assert nested({"a.b": 1, "a.c": 2, "d": 3}) == {"a": {"b": 1, "c": 2}, "d": 3}


def test_cells_are_products_and_seeds_come_last(tmp_path: Path, base: Path) -> None:
    content = {
        "runs": [
            {"trim.scorer": ["two_step", "random"], "trim.r": [1, 0.5], "trim.max_drops": 1},
            {"trim.scorer": "top", "trim.drops_per_step": [[2, 1]], "trim.max_drops": 2},
            {"trim.scorer": "bottom", "trim.max_drops": 2, "profile": "other"},
        ]
    }
    planned = plan(experiment(tmp_path, base, content), "tiny", seeds=2)
    cells = [
        *({"trim.scorer": s, "trim.r": r, "trim.max_drops": 1}
          for s in ("two_step", "random") for r in (1, 0.5)),
        {"trim.scorer": "top", "trim.drops_per_step": [2, 1], "trim.max_drops": 2},
    ]  # fmt: skip
    assert [p.place.cell for p in planned] == cells * 2
    assert [p.place.seed for p in planned] == [0] * 5 + [1] * 5
    assert len({p.id for p in planned}) == 10


def test_the_id_is_the_hash_of_the_resolved_config(tmp_path: Path, base: Path) -> None:
    """A default that is written out makes no other run; another value does."""
    resolve = Resolver()
    config = {"recipe": "paper", "trim": {"max_drops": 1}}
    same = merged(config, {"trim": {"r": 0.25}, "run": {"dir": "there", "shared": "x"}})
    assert run_id(resolve(config)) == run_id(resolve(same))
    elsewhere = merged(config, {"data": {"root": "there"}})
    assert run_id(resolve(config)) == run_id(resolve(elsewhere))
    other = merged(config, {"trim": {"r": 0.5}})
    assert run_id(resolve(config)) != run_id(resolve(other))


class WithLaterOptions(Resolver):
    """The parser of a later version."""

    def add_arguments_to_parser(self, parser: Any) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--data.patience", type=int, default=3)
        parser.add_argument("--teacher.share", type=float, default=0.5)


@pytest.mark.parametrize("config", [{}, {"data": {"patience": 3}, "teacher": {"share": 0.5}}])
def test_an_option_that_is_added_keeps_the_ids(config: dict[str, Any]) -> None:
    now, later = Resolver(), WithLaterOptions()
    drops = {"trim": {"max_drops": 1}}
    kept = later(merged(drops, config))
    assert kept == now(drops) and run_id(kept) == run_id(now(drops))
    for used in ({"data": {"patience": 2}}, {"teacher": {"share": 0.1}}):
        assert run_id(later(merged(drops, used))) != run_id(kept)


def test_an_option_that_is_gone_counts_with_the_value_that_it_had() -> None:
    config = Resolver()({"trim": {"max_drops": 1}})
    fewer = {**config, "trainer": {k: v for k, v in config["trainer"].items() if k != "profiler"}}
    assert "profiler" in config["trainer"]
    assert run_id(distinctive(fewer, {})) == run_id(config)


@pytest.mark.parametrize(
    ("earlier", "present"),
    [
        ({"run": {"further": True}}, {"run": {"extra_metrics": True}}),
        ({"run": {"also_on": ["sciq"]}}, {"run": {"eval_tasks": ["sciq"]}}),
    ],
)
def test_a_renamed_option_is_the_same_option(
    earlier: dict[str, Any], present: dict[str, Any], tmp_path: Path, base: Path
) -> None:
    resolve, drops = Resolver(), {"trim": {"max_drops": 1}}
    config = resolve(merged(drops, earlier))
    assert config == resolve(merged(drops, present))
    assert run_id(config) != run_id(resolve(drops))
    with pytest.raises(InputError, match="are the same option; give one of them"):
        resolve(merged(drops, earlier, present))
    # in every place where it can stand
    ((old, value),), (new,) = earlier["run"].items(), present["run"]
    planned = [
        plan(
            experiment(tmp_path, base, {"config": drops, "runs": [{f"run.{cell}": [value]}]}),
            "tiny",
            only=[f"run.{only}={value}"] if value is True else [],
            settings=[f"run.{name}=[piqa]"] if name == "also_on" else [],
        )
        for cell, only, name in ((old, new, old), (new, old, new), (old, old, old))
    ]
    assert all(p.place.cell.keys() == {f"run.{new}"} for (p,) in planned)
    assert planned[0][0].id == planned[2][0].id


def test_a_rehearsal_takes_few_rows_and_is_another_run(tmp_path: Path, base: Path) -> None:
    path = experiment(tmp_path, base)
    full, rehearsal = plan(path, "tiny"), plan(path, "tiny", limit=4)
    assert {p.id for p in full}.isdisjoint(p.id for p in rehearsal)
    for planned in rehearsal:
        assert planned.place.limit == 4
        assert set(planned.config["data"].values()) >= {4}
        sizes = ("train_rows", "calibration_rows", "dev_rows", "test_rows")
        assert all(planned.config["data"][size] == 4 for size in sizes)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_experiment_is_planned(path: Path, profile: str) -> None:
    assert shipped(path.stem, profile)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_experiment_runs_on_a_tiny_model(
    path: Path, base: Path, root: Path, tmp_path: Path
) -> None:
    first = shipped(path.stem)[0]
    tiny = {"trim": {"max_drops": 2}, "data": {"root": str(root)}}
    if "run.compare" in first.place.cell:  # four bits need wider layers
        tiny["run"] = {"compare": ["llm_pruner", "llm_streamline", "sparsegpt", "llm_int8"]}
    content = merged(first.config, settings(base), tiny)
    place = replace(first.place, run=run_id(Resolver()(content)))
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(content))
    folder = tmp_path / "run"
    assert (
        exit_code("fit", "--config", config, "--run.dir", folder, "--trim.progress", "false") == 0
    )
    rows = [row.to_row() for row in rows_of(place, RunFolder(folder))]
    append_rows(tmp_path / f"{path.stem}.jsonl", rows)
    assert {record["run"] for record in read_results(tmp_path)} == {place.run}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_an_experiment_asks_for_stands_above_the_profile(path: Path) -> None:
    asked = yaml.safe_load(path.read_text()).get("config", {}).get("run", {})
    for planned in shipped(path.stem):
        own = {name for name in asked if f"run.{name}" in planned.place.cell}
        kept = {name: planned.config["run"][name] for name in asked.keys() - own}
        assert kept == {name: asked[name] for name in kept}


def test_experiments_share_their_runs() -> None:
    """The same question under two names is one run."""

    def ids(name: str) -> set[str]:
        return {p.id for p in shipped(name) if p.place.seed == 0}

    # all scores at r = 1/4, and two-step at r = 1, on the six benchmarks of both tables
    assert len(ids("table3") & ids("table6")) == 24
    # the model that stands in for OPT is measured already
    assert ids("table8") <= ids("table3")
    assert len(ids("table3") & ids("figure3")) == 3


def test_recorded_runs_keep_their_ids() -> None:
    """A new option that changes nothing where it is not used: else all would be made again."""
    records = read_results(EXPERIMENTS.parent / "results")
    full = [r for r in records if r["limit"] is None and not r.get("overrides")]
    recorded = {(name, r["profile"], r["run"]) for r in full for name in r.experiments}
    swept = {(name, profile) for name, profile, _ in recorded if name != "bench"}
    planned = {(name, profile, run.id) for name, profile in swept for run in shipped(name, profile)}
    assert swept
    assert {row for row in recorded if row[0] != "bench"} <= planned


BAD = {
    "no profile": ({}, {"profile": "nosuch"}, "no profile 'nosuch'; there are other, tiny"),
    "no task": ({"runs": [{"data.task": "nosuch"}]}, {}, "no task 'nosuch'"),
    "no scorer": ({"runs": [{"trim.scorer": "nosuch"}]}, {}, "nosuch"),
    "no such key": ({"runs": [{"trim.nosuch": 1}]}, {}, "nosuch"),
    "wrong type": ({"runs": [{"trim.r": "much"}]}, {}, "trim.r"),
    "out of range": ({"runs": [{"trim.r": 2}]}, {}, "trim.r"),
    "no runs": ({"runs": []}, {}, "must hold `runs`"),
    "strange key": ({"runs": [{"trim.r": 1}], "grid": []}, {}, "also holds grid"),
    "no cell": ({"runs": ["two_step"]}, {}, "dotted names"),
    "none for the profile": ({"runs": [{"trim.r": 1, "profile": "other"}]}, {}, "no run for"),
    "a profile with a slip": (
        {"runs": [{"trim.r": 1}, {"trim.r": 0.5, "profile": "tini"}]},
        {},
        "no profile 'tini'; there are other, tiny",
    ),
    "no prompt": ({"runs": [{"data.prompt": "harness"}]}, {}, "no prompt 'harness'"),
    "no seeds": ({}, {"seeds": 0}, "at least 1"),
    "no limit": ({}, {"limit": 0}, "at least 1"),
    "no rows": ({}, {"data_root": Path("/no/such")}, "/no/such is no folder"),
    "only nothing": ({}, {"only": ["trim.r=1"]}, "leaves no run; trim.r is 0.5"),
    "only in brackets": ({}, {"only": ["[trim.r=1]"]}, "NAME=VALUE"),
    "only what": ({}, {"only": ["trim.r"]}, "NAME=VALUE"),
    "set what": ({}, {"settings": ["trim.r"]}, "NAME=VALUE"),
    "no baseline": ({"runs": [{"trim.scorer": "baselines.nosuch.Rule"}]}, {}, "baselines.nosuch"),
}


@pytest.mark.parametrize("limit", [None, 4])
def test_a_bad_cell_is_named(limit: int | None, tmp_path: Path, base: Path) -> None:
    path = experiment(tmp_path, base, {"runs": [{"trim.r": 2, "trim.max_drops": 1}]})
    with pytest.raises(InputError, match=r"letters.yaml, \{'trim.r': 2"):
        plan(path, "tiny", limit=limit)


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str, tmp_path: Path, base: Path) -> None:
    content, options, message = BAD[case]
    config = {"trim": {"max_drops": 2}}
    path = experiment(tmp_path, base, {"config": config, **content} if content else None)
    with pytest.raises(InputError, match=message):
        plan(path, **{"profile": "tiny", **options})


def test_a_missing_experiment_is_one_line_and_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("sweep", "/no/such.yaml", "--profile", "gemma-270m") == 2
    assert "/no/such.yaml" in capsys.readouterr().err
    assert exit_code("sweep", EXPERIMENTS / "table6.yaml", "--profile", "nosuch") == 2
    assert "gemma-270m, paper" in capsys.readouterr().err


# ---- the runs ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, base: Path, root: Path) -> Path:
    """A folder with an experiment that the command has run."""
    folder = tmp_path_factory.mktemp("sweep")
    assert exit_code(*command(experiment(folder, base), root)) == 0
    return folder


def command(path: Path, root: Path, *more: object) -> Sequence[object]:
    folder = path.parent
    places = ("--results", folder / "results", "--runs", folder / "runs")
    return ("sweep", path, "--profile", "tiny", "--data.root", root, *places, *more)


def test_everything_is_recorded_and_read(swept: Path, base: Path, root: Path) -> None:
    records = read_results(swept / "results")
    assert not records.notices
    planned = plan(swept / "letters.yaml", "tiny", data_root=root)
    assert {record["run"] for record in records} == {p.id for p in planned}
    for p in planned:
        mine = records.where(run=p.id)
        assert {record["experiment"] for record in mine} == {"letters"}
        points = mine.where(kind="operating_point")
        assert [r["step"] for r in points] == list(range(len(points))) and len(points) > 1
        tests = mine.where(kind="test")
        assert [(r["model"], r["asked_ratio"]) for r in tests] == [
            ("untrimmed", None),
            ("fine_tuned", None),
            ("trimmed", 0.5),
        ]
        summary = json.loads((swept / "runs" / p.id / "summary.json").read_text())
        assert summary["config_hash"] == p.id
        assert [r["value"] for r in tests] == [
            summary[name]["accuracy"] for name in ("untrimmed", "fine_tuned", "trimmed")
        ]
        timings = mine.where(kind="timing")
        assert [t["method"] for t in timings] == ["trimllm", "sparse_ft"]
        assert {t["epochs"] for t in timings} == {len(points)}
        # a gigabyte a run, for a real model
        assert not (swept / "runs" / p.id / "models").exists()
    # the untrimmed model was scored once
    assert len(list((swept / "runs" / "shared").glob("*/untrimmed.json"))) == 1


def test_all_of_what_a_rule_left_is_full_fine_tuning(
    base: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {
        "config": {"trim": {"scorer": "top", "max_drops": 2, "progress": False}},
        "runs": [{"trim.r": [0.25, 1]}],
    }
    assert exit_code(*command(experiment(tmp_path, base, content), root)) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("[")]
    assert re.fullmatch(r"\[1/2\] letters: r 0.25, seed 0 \(\w{16}\); left: unknown", said[0])
    assert re.fullmatch(r"\[2/2\] letters: r 1, seed 0 \(\w{16}\); left: \d+ s", said[1])
    timings = read_results(tmp_path / "results").where(kind="timing")
    methods = [(t["cell"]["trim.r"], t["method"]) for t in timings]
    assert methods == [(0.25, "trimllm"), (0.25, "sparse_ft"), (1, "trimllm"), (1, "full_ft")]


def test_the_config_is_recorded_but_no_path_of_the_rows(swept: Path, root: Path) -> None:
    records = read_results(swept / "results")
    complete = [record for record in records if record.get("complete")]
    assert len(complete) == len({record["run"] for record in records})
    for record in complete:
        assert run_id(record["config"]) == record["run"]
        assert record["config"]["trim"]["scorer"] == record["cell"]["trim.scorer"]
        assert "root" not in record["config"]["data"]
    for record in records:
        assert record["rows"] == {"train": 16, "calibration": 10, "dev": 10, "test": 10}
        assert all(record["rows_read"][split] >= 10 for split in ("train", "test"))
        assert record["rows_official"] == {}


def test_only_and_set_as_the_help_has_them(
    tmp_path: Path, base: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {
        "config": {"trim": {"max_drops": 1}},
        "runs": [{"trim.r": [1, 0.5, 0.25], "trim.scorer": ["two_step", "random"]}],
    }
    path = experiment(tmp_path, base, content)
    only = ("--only", "trim.r=1,0.5", "trim.scorer=random", "--set", "model.lr=5e-5", "trim.unit=x")
    assert exit_code(*command(path, root, *only[:5], "--dry-run")) == 0
    printed = capsys.readouterr().out
    assert printed.count("to do") == 2
    assert "scorer random" in printed and "scorer two_step" not in printed
    assert "lr 5e-05" in printed or "lr 5e-5" in printed
    assert "2 runs of unknown time" in " ".join(printed.split())
    # given twice, both count
    twice = ("--only", "trim.r=1", "--only", "trim.scorer=random", "--dry-run")
    assert exit_code(*command(path, root, *twice)) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("to do") == 1 and "1 run of unknown time" in printed
    assert exit_code(*command(path, root, *only, "--dry-run")) == 2
    assert "trim.unit" in capsys.readouterr().err
    # a value may be a list
    content["runs"] = [{"trim.drops_per_step": [[2, 1], [1, 2]]}]
    (kept,) = plan(experiment(tmp_path, base, content), "tiny", only=["trim.drops_per_step=[1, 2]"])
    assert kept.config["trim"]["drops_per_step"] == [1, 2]


def test_rows_of_another_schema_are_refused(
    tmp_path: Path, base: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = experiment(tmp_path, base)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "old.jsonl").write_text('{"schema": 0, "run": "a"}\n')
    assert exit_code(*command(path, root, "--dry-run")) == 2
    assert "old.jsonl: schema 0" in capsys.readouterr().err


def results(folder: Path) -> list[dict[str, Any]]:
    """The rows of the experiment but for times and what was free at the time."""
    rows = [json.loads(line) for line in (folder / "letters.jsonl").read_text().splitlines()]
    free = TIMING_FIELDS | {"hardware", "tokens_per_second", "hours"}
    return [{k: v for k, v in row.items() if k not in free} for row in rows]


def sweep_in_its_own_process(
    arguments: Sequence[object], fits: Callable[..., list[str]] = sweep_queue.fit_command
) -> None:
    """A sweep whose fits are processes, too."""
    Local.start, Local.stop = START, STOP
    sweep_queue.fit_command = fits
    cli.main([str(argument) for argument in arguments])


@pytest.mark.slow
def test_a_sweep_that_was_killed_outright_goes_on(
    swept: Path, tmp_path: Path, base: Path, root: Path
) -> None:
    """SIGKILL ends a sweep alone: its fits go on, and the next sweep waits for them."""
    jobs = min(2, len(os.sched_getaffinity(0)))
    path = experiment(tmp_path, base)
    planned = plan(path, "tiny", data_root=root)
    sweep = Forked(sweep_in_its_own_process, command(path, root, "--jobs", jobs))
    while not all((tmp_path / "runs" / p.id / ".lock").exists() for p in planned[:jobs]):
        time.sleep(0.05)
        assert sweep.process.is_alive()
    sweep.process.kill()
    assert sweep.wait().code == -signal.SIGKILL
    assert exit_code(*command(path, root, "--jobs", jobs)) == 0
    # in the order of the plan, and the same as from one after the other
    made, expected = (results(folder / "results") for folder in (tmp_path, swept))
    assert made == expected


def test_what_is_done_is_not_made_again(
    swept: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Local, "start", _never)
    record = swept / "results" / "letters.jsonl"
    before = record.read_bytes()
    assert exit_code(*command(swept / "letters.yaml", root)) == 0
    assert record.read_bytes() == before
    assert exit_code(*command(swept / "letters.yaml", root, "--dry-run")) == 0
    printed = capsys.readouterr().out
    assert "to do" not in printed and "left: 0 s" in printed


def _never(*_: object) -> list[Any]:
    raise AssertionError("this run is done")


def test_a_dry_run_shows_what_is_left(
    swept: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(*command(swept / "letters.yaml", root, "--seeds", 2, "--dry-run")) == 0
    printed = capsys.readouterr().out
    assert printed.count("to do") == 2 and printed.count("done") == 2
    assert "of unknown time" not in printed  # two runs of this task have been made


def test_a_run_of_another_experiment_is_taken_over(
    swept: Path, root: Path, base: Path, tmp_path: Path
) -> None:
    # from the results, without its folder
    path = experiment(tmp_path, base).rename(tmp_path / "others.yaml")
    planned = plan(path, "tiny", data_root=root)[:1]
    results = tmp_path / "results"
    results.mkdir()
    (results / "letters.jsonl").write_bytes((swept / "results" / "letters.jsonl").read_bytes())
    sweep = Sweep(planned, results, tmp_path / "runs")
    assert sweep.state(planned[0]) == "measured"
    assert sweep() == []
    assert sweep.state(planned[0]) == "done"
    records = read_results(results)
    assert {r.experiments for r in records.where(run=planned[0].id)} == {("letters", "others")}


def test_a_killed_sweep_loses_nothing(swept: Path, root: Path, tmp_path: Path) -> None:
    """Killed while it wrote a record: what was half-written is written again, in whole."""
    planned = plan(swept / "letters.yaml", "tiny", data_root=root)
    lines = (swept / "results" / "letters.jsonl").read_text().splitlines(keepends=True)
    cut = "".join(lines[:-1]) + lines[-1][:50]
    (tmp_path / "letters.jsonl").write_text(cut)
    sweep = Sweep(planned, tmp_path, swept / "runs")
    assert [sweep.state(p) for p in planned] == ["done", "measured"]
    assert sweep() == []
    again = read_results(tmp_path)
    known = {json.dumps(r.row, sort_keys=True) for r in read_results(swept / "results")}
    assert {json.dumps(r.row, sort_keys=True) for r in again} == known
    assert any("half-written" in notice for notice in again.notices)


def test_a_fit_that_was_killed_in_its_page_is_to_be_ended(
    swept: Path, root: Path, tmp_path: Path
) -> None:
    planned = plan(swept / "letters.yaml", "tiny", data_root=root)
    shutil.copytree(swept / "runs", tmp_path / "runs")
    sweep = Sweep(planned, tmp_path / "results", tmp_path / "runs")
    assert [sweep.state(p) for p in planned] == ["measured", "measured"]
    (tmp_path / "runs" / planned[0].id / ".report.html.part").touch()
    assert [sweep.state(p) for p in planned] == ["begun", "measured"]


# A fit that takes the lock of its run folder, and then no time of the processor.
HOLDING = """
import fcntl, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
folder.mkdir()
lock = (folder / ".lock").open("w")
fcntl.flock(lock, fcntl.LOCK_EX)
time.sleep(600)
"""


def holding(run: PlannedRun, runs: Path) -> list[str]:
    return [sys.executable, "-c", HOLDING, str(runs / run.id)]


def test_a_terminated_sweep_ends_its_runs(tmp_path: Path, base: Path, root: Path) -> None:
    """They would go on alone, and the next start would find their folders locked."""
    path = experiment(tmp_path, base)
    jobs = min(2, len(os.sched_getaffinity(0)))
    planned = plan(path, "tiny", data_root=root)[:jobs]
    locks = [tmp_path / "runs" / run.id / ".lock" for run in planned]
    sweep = Forked(sweep_in_its_own_process, command(path, root, "--jobs", jobs), holding)
    while not all(lock.exists() for lock in locks):
        assert sweep.process.is_alive()
        time.sleep(0.05)
    sweep.process.terminate()
    ended = sweep.wait()
    assert ended.code == 1 and "the same command goes on where it was" in ended.err
    for lock in [*locks, *(tmp_path / "runs" / f"{run.id}.lock" for run in planned)]:
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody holds it any more


def test_a_failed_run_takes_nobody_along(
    tmp_path: Path, base: Path, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = {
        "config": {"trim": {"max_drops": 2, "progress": False}},
        # impossible for the model, which the plan does not load
        "runs": [{"trim.target_layer_memory": [0.001, 0.5], "trim.scorer": "top"}],
    }
    path = experiment(tmp_path, base, content)
    assert exit_code(*command(path, root)) == 1
    error = capfd.readouterr().err
    assert "below what is possible" in error and "1 of 2 runs failed" in error
    states = [
        Sweep([p], tmp_path / "results", tmp_path / "runs").state(p)
        for p in plan(path, "tiny", data_root=root)
    ]
    assert states == ["to do", "done"]


def test_a_fit_that_a_kill_cut_in_two_has_no_time(swept: Path, root: Path, tmp_path: Path) -> None:
    planned: PlannedRun = plan(swept / "letters.yaml", "tiny", data_root=root)[0]
    source = swept / "runs" / planned.id
    summary = json.loads((source / "summary.json").read_text())

    def methods(folder: Path) -> list[Any]:
        rows = [row.to_row() for row in rows_of(planned.place, RunFolder(folder))]
        assert [row.get("complete", False) for row in rows] == [False] * (len(rows) - 1) + [True]
        return [row.get("method") for row in rows]

    assert methods(source).count("trimllm") == 1
    for name in ("record.jsonl", "config.yaml"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    (tmp_path / "summary.json").write_text(json.dumps(summary | {"fit_seconds": None}))
    assert "trimllm" not in methods(tmp_path)
    assert len(methods(tmp_path)) == len(methods(source)) - 1
