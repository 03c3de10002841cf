"""A sweep: one experiment file becomes many runs, and what they find one record.

An experiment file says what is compared; a profile (`profiles/NAME.yaml` beside it) says on which
model and at which size. Every run is `trimlab fit` in a process of its own, so that one that
fails takes nobody along. Its name is the hash of its resolved config: the same run of two
experiments is made once, and a run that is done is never made again.
"""

import fcntl
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from trimlab.errors import InputError
from trimlab.files import write_text
from trimlab.records.identity import config_hash, without_root
from trimlab.records.result_row import SCHEMA, schema_problem
from trimlab.records.rows import Row, append_rows, read_rows
from trimlab.runs.config import Resolver, read_config

# what of a run's provenance every row of the results has
_PROVENANCE = (
    *("git_commit", "versions", "hardware", "base", "task", "prompt", "row_sets"),
    *("rows", "rows_read", "rows_official", "rows_dropped_as_shared"),
)


# what of a model's test result the results have; more where it was measured
_TEST = ("stderr", "n", "correct", "value_normalised", "stability", "exact_match")


_SIZES = ("tokens_per_second", "tier", "bytes_on_disk")


_WRITTEN = ("exact_match_stderr", "exact_match_n")


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep.

    Attributes:
        experiment: Name of the experiment.
        profile: Name of the profile.
        cell: What sets this run apart from the others of the experiment; dotted names.
        seed: Seed of everything.
        limit: Rows per set of a rehearsal; None for a full run.
        overrides: What all runs were told besides; part of the cell, too.
        config: Its config, as `trimlab fit --config` reads it.
        id: Hash of the resolved config.
    """

    experiment: str
    profile: str
    cell: Row
    seed: int
    limit: int | None
    overrides: Row
    config: Row
    id: str

    @property
    def title(self) -> str:
        """The run in a few words."""
        values = (f"{k.rpartition('.')[2]} {v}" for k, v in self.cell.items())
        return ", ".join([*values, f"seed {self.seed}"])


def plan(
    path: Path,
    profile: str,
    seeds: int = 1,
    limit: int | None = None,
    only: Sequence[str] = (),
    settings: Sequence[str] = (),
    data_root: Path | None = None,
) -> list[PlannedRun]:
    """Reads an experiment, and checks every run of it.

    Args:
        path: The experiment file.
        profile: Name of the profile.
        seeds: Seeds 0, 1, ... of every cell; all cells of one seed come before the next seed.
        limit: Rehearse: at most so many rows per set.
        only: Which cells: `trim.scorer=two_step,random` keeps those with one of these values.
        settings: Overrides of every run, `model.lr=5e-5`; they become part of the cell.
        data_root: Folder of the rows, for every run.

    Raises:
        InputError: A file, a key, a value or a name in it cannot work.
    """
    experiment = read_config(path)
    unknown = sorted(set(experiment) - {"config", "runs"})
    if unknown or not isinstance(experiment.get("runs"), list) or not experiment["runs"]:
        raise InputError(
            f"{path} must hold `runs`, a list of what to compare, and may hold `config`"
            + (f"; it also holds {', '.join(unknown)}" if unknown else "")
        )
    if seeds < 1 or (limit is not None and limit < 1):
        raise InputError("--seeds and --limit must be at least 1")
    # what an experiment asks for stands above the size that a profile gives to everything
    common = merged(_profile(path.parent, profile), experiment.get("config") or {})
    if data_root is not None:
        if not data_root.is_dir():
            raise InputError(f"--data.root {data_root} is no folder")
        common = merged(common, {"data": {"root": str(data_root)}})
    overrides = dict(_assignment(text) for text in settings)
    cells = []
    for block in experiment["runs"]:
        for cell in _cells(block, path):
            its_own = cell.pop("profile", profile)
            if its_own == profile:
                cells.append(cell | overrides)
            else:
                _profile(path.parent, its_own)  # a slip in its name would leave it out unsaid
    if not cells:
        raise InputError(f"{path} has no run for the profile {profile}")
    cells = _kept(cells, only)
    resolve, found = Resolver(), dict[str, PlannedRun]()
    for seed in range(seeds):
        for cell in cells:
            config = merged(common, nested(cell), {"seed_everything": seed})
            try:
                if limit is not None:
                    config = merged(config, _rehearsal(resolve(config), limit))
                identity = config_hash(resolve(config))
            except InputError as error:
                raise InputError(f"{path.name}, {cell}: {error}") from error
            run = PlannedRun(path.stem, profile, cell, seed, limit, overrides, config, identity)
            found.setdefault(identity, run)
    return list(found.values())


def _profile(folder: Path, name: str) -> Row:
    path = folder / "profiles" / f"{name}.yaml"
    if not path.exists():
        there = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise InputError(f"no profile {name!r}; there are {', '.join(there) or 'none'}")
    return read_config(path)


def _cells(block: Any, path: Path) -> Iterator[Row]:
    """Every combination of the values of a block; a value that is no list is the only one."""
    if not isinstance(block, dict):
        raise InputError(f"{path}: an entry of `runs` must hold dotted names and values")
    axes = [value if isinstance(value, list) else [value] for value in block.values()]
    for values in itertools.product(*axes):
        yield dict(zip(block, values, strict=True))


def _kept(cells: list[Row], only: Sequence[str]) -> list[Row]:
    for condition in only:
        name, _, values = condition.partition("=")
        if not values or name.startswith("["):
            raise InputError(f"--only takes NAME=VALUE[,VALUE], not {condition!r}")
        wanted = [yaml.safe_load(value) for value in values.split(",")]
        there = {str(cell[name]) for cell in cells if name in cell}
        cells = [cell for cell in cells if name in cell and cell[name] in wanted]
        if not cells:
            raise InputError(
                f"--only {condition} leaves no run; {name} is {', '.join(sorted(there)) or 'unset'}"
            )
    return cells


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or name.startswith("["):
        raise InputError(f"--set takes NAME=VALUE, not {text!r}")
    return name, yaml.safe_load(value)


def _rehearsal(config: Row, limit: int) -> Row:
    """The same run with at most `limit` rows in every set."""
    sizes = {
        name: min(limit, config["data"][name] or limit)
        for name in ("train_rows", "calibration_rows", "dev_rows", "test_rows")
    }
    return {"data": sizes}


def nested(dotted: Row) -> Row:
    """`{"trim.r": 1}` as `{"trim": {"r": 1}}`."""
    row: Row = {}
    for name, value in dotted.items():
        *sections, option = name.split(".")
        place = row
        for section in sections:
            place = place.setdefault(section, {})
        place[option] = value
    return row


def merged(*configs: Row) -> Row:
    """Configs over one another: of two values of a key the later one stays."""
    result: Row = {}
    for config in configs:
        for key, value in config.items():
            if isinstance(value, dict) and isinstance(result.get(key), dict):
                value = merged(result[key], value)
            result[key] = value
    return result


class Sweep:
    """Makes the runs of a plan that are not done yet, one after the other.

    Args:
        planned: The plan.
        results: Folder of the records; the sweep appends to `<experiment>.jsonl`.
        runs: Folder of the run folders.
        keep_models: Keep exported models and checkpoints; gigabytes a run.
    """

    def __init__(
        self, planned: Sequence[PlannedRun], results: Path, runs: Path, keep_models: bool = False
    ):
        self.planned, self.results, self.runs = planned, results, runs
        self.keep_models = keep_models
        # what is recorded, by experiment
        self._recorded = {path.stem: _recorded(path) for path in sorted(results.glob("*.jsonl"))}

    def state(self, run: PlannedRun) -> str:
        """`done`, `measured` (but not recorded for this experiment), `begun` or `to do`."""
        if _complete(self._recorded.get(run.experiment, []), run.id):
            return "done"
        if self._known(run):
            return "measured"
        return "begun" if (self.runs / run.id / "config.yaml").exists() else "to do"

    def seconds(self, run: PlannedRun) -> float | None:
        """What a run will take, from those that were made: of its task if any, or of all."""
        every = [
            row
            for row in read_rows(self.runs / "seconds.jsonl")
            if (row["profile"], row["limit"]) == (run.profile, run.limit)
        ]
        alike = [r for r in every if r["task"] == run.config.get("data", {}).get("task")] or every
        return statistics.median(row["seconds"] for row in alike) if alike else None

    def table(self) -> Table:
        """The plan: what is done, what is left, and the time it will take."""
        table = Table("run", "cell", "state", "time")
        left, unknown = 0.0, 0
        for run in self.planned:
            state, seconds = self.state(run), self.seconds(run)
            todo = state in ("begun", "to do")
            left += (seconds or 0) if todo else 0
            unknown += todo and seconds is None
            table.add_row(run.id, run.title, state, _time(seconds) if todo else "")
        if unknown:
            known = f"{_time(left)}, and " if left else ""
            table.caption = f"left: {known}{unknown} run{'s' * (unknown > 1)} of unknown time"
        else:
            table.caption = f"left: {_time(left)}"
        return table

    def __call__(self) -> list[PlannedRun]:
        """Makes what is left.

        Returns:
            The runs that failed.
        """
        failed = []
        for number, run in enumerate(self.planned, start=1):
            if self.state(run) == "done":
                continue
            left = [self.seconds(r) for r in self.planned[number - 1 :] if self._is_left(r)]
            known = [s for s in left if s is not None]
            print(
                f"[{number}/{len(self.planned)}] {run.experiment}: {run.title} ({run.id}); "
                f"left: {_time(sum(known) if len(known) == len(left) else None)}",
                file=sys.stderr,
            )
            rows = self._known(run) or self._make(run)
            if not rows:
                failed.append(run)
                continue
            self.results.mkdir(parents=True, exist_ok=True)
            append_rows(self.results / f"{run.experiment}.jsonl", rows)
            self._recorded.setdefault(run.experiment, []).extend(rows)
        return failed

    # ---- inside -------------------------------------------------------------------------------

    def _is_left(self, run: PlannedRun) -> bool:
        return self.state(run) in ("begun", "to do")

    def _make(self, run: PlannedRun) -> list[Row]:
        """Fits in a process of its own; its rows, or none if it failed."""
        self.runs.mkdir(parents=True, exist_ok=True)
        with _alone(self.runs / f"{run.id}.lock") as lock:
            # who was waited for may have made it
            return self._known(run) or self._fit(run, self.runs / run.id, lock)

    def _fit(self, run: PlannedRun, folder: Path, lock: int) -> list[Row]:
        config = self.runs / f"{run.id}.yaml"
        write_text(config, yaml.safe_dump(run.config, sort_keys=False))
        start = time.perf_counter()
        begun = folder.exists()
        code = subprocess.run(
            [
                *(sys.executable, "-m", "trimlab.cli", "fit", "--config", str(config)),
                *("--run.dir", str(folder), "--run.shared", str(self.runs / "shared")),
                *("--wandb.group", run.experiment, "--wandb.name", run.title),
            ],
            check=False,
            pass_fds=[lock],
        ).returncode
        if code != 0:
            print(f"run {run.id} failed with exit code {code}; see {folder}", file=sys.stderr)
            return []
        if not begun:
            about = {"profile": run.profile, "limit": run.limit, "task": _summary(folder)["task"]}
            append_rows(
                self.runs / "seconds.jsonl",
                [{"run": run.id, **about, "seconds": time.perf_counter() - start}],
            )
        rows = rows_of(run, folder)
        if not self.keep_models:
            for name in ("models", "checkpoints"):
                shutil.rmtree(folder / name, ignore_errors=True)
        return rows

    def _known(self, run: PlannedRun) -> list[Row]:
        """The rows of a run that was made already, for this experiment or for another."""
        for rows in self._recorded.values():
            if _complete(rows, run.id):
                mine = [row for row in rows if row.get("run") == run.id]
                return [row | _identity(run) for row in mine]
        folder = self.runs / run.id
        done = (folder / "summary.json").exists() and "trimmed" in _summary(folder)
        return rows_of(run, folder) if done else []


def rows_of(run: PlannedRun, folder: Path) -> list[Row]:
    """What a finished run found, as it stands in the results; the last row says that it is all.

    Args:
        run: The run.
        folder: Its folder.
    """
    summary, points = _summary(folder), read_rows(folder / "record.jsonl")
    if summary["config_hash"] != run.id:
        raise InputError(f"{folder} holds a run of another version of trimlab; remove it")
    shared = _identity(run) | {k: summary[k] for k in _PROVENANCE if k in summary}
    rows = [shared | point | _identity(run) | {"kind": "operating_point"} for point in points]
    timings = _timings(summary, points)
    rows += [shared | {"kind": "timing", **timing} for timing in timings]
    models = [({"kind": "test", "model": "untrimmed"}, summary["untrimmed"])]
    if "fine_tuned" in summary:
        models.append(({"kind": "test", "model": "fine_tuned"}, summary["fine_tuned"]))
    for method in run.config.get("run", {}).get("compare", []):
        for model in summary[f"compared_{method}"]:
            about = {name: model[name] for name in ("of", "title", "zeros")}
            models.append(({"kind": "compressed", "method": method, **about}, model))
    models += [({"kind": "test", "model": "trimmed"}, model) for model in summary["models"]]
    for about, model in models:
        rows += [shared | row for row in _tests(about, model, summary)]
    rows[-1]["complete"] = True
    rows[-1]["config"] = without_root(yaml.safe_load((folder / "config.yaml").read_text()))
    return rows


def _tests(about: Row, model: Row, summary: Row) -> Iterator[Row]:
    """The test rows of a model: other tasks first, its own last."""
    row = {
        **about,
        "asked_ratio": model.get("asked_ratio"),
        "layer_memory_ratio": model.get("layer_memory_ratio", 1.0),
        "model_memory_ratio": model.get("model_memory_ratio", 1.0),
        "optimizer_steps": model.get("optimizer_steps", 0),
        "dropped": model.get("dropped", []),
        **{size: model[size] for size in _SIZES if size in model},
    }
    for task, found in (model.get("also_on") or {}).items():
        yield row | {"evaluated_on": task} | found
    own = {key: model.get(key) for key in _TEST} | {k: model[k] for k in _WRITTEN if k in model}
    metric = summary["metric"]
    yield row | {"evaluated_on": summary["task"], "metric": metric, "value": model[metric]} | own


def _timings(summary: Row, points: Sequence[Row]) -> Iterator[Row]:
    """Hours of fine-tuning by scheme (Table 9), of fits that no kill has cut in two."""
    trimming, full = summary.get("fit_seconds"), summary.get("fine_tuned", {})
    if trimming is not None:
        yield {"method": "trimllm", "epochs": points[-1]["epoch"] + 1, "hours": trimming / 3600}
    if full.get("fit_seconds") is not None:
        # a rule scores whole blocks, and has dropped by its first operating point
        scored = {name for row in points[0]["scan"] for name in row["candidate"].split("+")}
        everything = set(points[0]["trainable"]) == scored - set(points[0]["history"])
        method = "full_ft" if everything else "sparse_ft"
        yield {"method": method, "epochs": full["epochs"], "hours": full["fit_seconds"] / 3600}


def _identity(run: PlannedRun) -> Row:
    return {
        "schema": SCHEMA,
        "experiment": run.experiment,
        "profile": run.profile,
        "cell": run.cell,
        "run": run.id,
        "seed": run.seed,
        "limit": run.limit,
        "overrides": run.overrides,
    }


def _recorded(path: Path) -> list[Row]:
    """The rows of an experiment; its half-written line is passed over, and measured again."""
    rows = read_rows(path)
    for row in rows:
        if problem := schema_problem(row):
            raise InputError(f"{path} has rows of {problem}; give another --results")
    return rows


@contextmanager
def _alone(path: Path) -> Iterator[int]:
    """Holds a lock, and waits for it where another process has it.

    The fit inherits the lock: if a sweep is killed so that it cannot end its fit (SIGKILL), the
    next one waits for that.

    Args:
        path: The file that is locked.

    Yields:
        Its file descriptor.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(f"waiting for the process that holds {path}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _complete(rows: Iterable[Row], run: str) -> bool:
    return any(row.get("run") == run and row.get("complete") for row in rows)


def _summary(folder: Path) -> Row:
    return json.loads((folder / "summary.json").read_text())


def _time(seconds: float | None) -> str:
    """`1 h 20 min`, for people."""
    if seconds is None:
        return "unknown"
    minutes = round(seconds / 60)
    hours = f"{minutes // 60} h " if minutes >= 60 else ""
    return f"{hours}{minutes % 60} min" if seconds >= 60 else f"{seconds:.0f} s"
