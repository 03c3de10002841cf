"""The run record: JSON lines with everything needed to trust a number.

A run writes its own record (`read_rows`, `append_row`). What an experiment found is gathered in
`results/<experiment>.jsonl`, one schema for all, which `read_results` reads strictly.
"""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

from trimlab.errors import InputError

Row = dict[str, Any]

# fields that measure this execution and not the algorithm: a resumed run has others
TIMING_FIELDS = frozenset(
    {"seconds", "scan_seconds", "fit_seconds", "phase_seconds", "peak_rss_bytes", "latency_ms"}
)
PACKAGES = (
    *("trimlab", "torch", "transformers", "lightning", "tokenizers", "datasets", "numpy"),
    *("lm_eval", "bitsandbytes", "gptqmodel"),  # peers
)


def config_hash(config: Row) -> str:
    """Short sha256 of a resolved config.

    The order of its keys does not matter; nor does `data.root`: where the rows lie is not which
    rows they are, and that is in their fingerprints; nor whether a whole number is a float: a type
    such as `int | float` may make it one or the other, as other libraries were imported.
    """
    text = json.dumps(_plain(without_root(config)), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def without_root(config: Row) -> Row:
    """A config without the folder of its rows."""
    if isinstance(data := config.get("data"), dict):
        config = config | {"data": {key: value for key, value in data.items() if key != "root"}}
    return config


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def provenance() -> Row:
    """Code version, package versions and hardware of this process."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "git_commit": _git_commit(),
        "versions": versions,
        "hardware": {
            "machine": platform.machine(),
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "gpu": _gpu_name(),
            "python": platform.python_version(),
        },
    }


def read_rows(path: Path) -> list[Row]:
    """Rows of a record, without a line that a killed process left half-written."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def append_row(path: Path, row: Row) -> None:
    """Appends one row and makes sure that it is on disk."""
    append_rows(path, [row])


def append_rows(path: Path, rows: Iterable[Row]) -> None:
    """Appends rows at once and makes sure that they are on disk."""
    with path.open("a+b") as file:
        if file.tell() and not _ends_with_newline(file):
            file.write(b"\n")  # a killed process was writing here: its half row stays a line apart
        file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        file.flush()
        os.fsync(file.fileno())


def _ends_with_newline(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def rewind(path: Path, rows: Iterable[Row]) -> None:
    """Takes a record back to the rows of the checkpoint that a run resumes from."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """Writes a whole file, or none of it."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


# ---- the results of experiments ---------------------------------------------------------------

SCHEMA = 1

_EVERY_KIND = (
    *("experiment", "profile", "cell", "run", "seed", "limit", "git_commit", "versions"),
    *("hardware", "base", "task", "prompt", "row_sets"),
)
# the fields that a row must have, by its kind
FIELDS = {
    "operating_point": (
        *("step", "epoch", "optimizer_steps", "dropped", "history", "trainable", "scan", "dev"),
        *("dev_stderr", "dev_n", "metric", "layer_memory_ratio", "model_memory_ratio", "seconds"),
        *("scan_seconds", "accepted", "finished"),
    ),
    "test": (
        *("model", "evaluated_on", "asked_ratio", "layer_memory_ratio", "model_memory_ratio"),
        *("metric", "value", "stderr", "n", "correct", "optimizer_steps", "dropped"),
    ),
    "timing": ("method", "epochs", "hours"),
    "compressed": (
        *("method", "title", "of", "evaluated_on", "asked_ratio", "layer_memory_ratio"),
        *("model_memory_ratio", "zeros", "metric", "value", "stderr", "n", "correct"),
        *("optimizer_steps", "dropped"),
    ),
    "bench": (
        *("bench", "what", "peer", "ours_seconds", "ours_spread", "ours_turns", "ours_peak_bytes"),
        *("same", "settings"),
    ),
}
# and those of a race that somebody took part in
PEER_FIELDS = (
    *("peer_seconds", "peer_spread", "peer_turns", "peer_peak_bytes", "peer_factor", "ratio"),
    "memory_ratio",
)
MODELS = ("untrimmed", "fine_tuned", "trimmed")
TIMING_METHODS = ("full_ft", "sparse_ft", "trimllm")

# what makes two rows the same measurement; timings also have a method and epochs, compressed
# models a method and what they were made of
_SAME = ("kind", "run", "model", "asked_ratio", "evaluated_on", "step", "method", "epochs", "of")
# what may differ between two rows of the same measurement: who asked, where and how fast it ran
_MAY_DIFFER = TIMING_FIELDS | {
    *("experiment", "profile", "cell", "overrides", "git_commit", "versions", "hardware"),
    *("tokens_per_second", "hours"),
    # what earlier versions did not record
    *("rows", "rows_read", "rows_official", "rows_dropped_as_shared", "config"),
}
# the same question of an experiment, maybe asked with another config
_QUESTION = ("profile", "base", "task", "prompt", "cell", "seed", "limit")


@dataclass(frozen=True)
class Record:
    """One row of the results, and where it stands.

    Attributes:
        row: Its fields.
        file: Name of its file.
        line: Number of its line, from 1.
        experiments: Every experiment that has this row.
    """

    row: Row
    file: str
    line: int
    experiments: tuple[str, ...]

    def __getitem__(self, field: str) -> Any:
        """A field that the row must have."""
        return self.row[field]

    def get(self, field: str, default: Any = None) -> Any:
        """A field that the row may have."""
        return self.row.get(field, default)

    @property
    def where(self) -> str:
        """File and line, for people."""
        return f"{self.file}, line {self.line}"

    @property
    def dirty(self) -> bool:
        """Whether the code that measured it is in no commit."""
        return str(self.row["git_commit"] or "-dirty").endswith("-dirty")


@dataclass(frozen=True)
class Series:
    """Records that may be compared with each other: a full run is never mixed with a rehearsal.

    Attributes:
        profile: Name of the profile.
        prompt: Prompt format.
        limit: Rows per set of a rehearsal; None for a full run.
        overrides: What every run of a sweep was told besides (`--set`), as text.
    """

    profile: str
    prompt: str
    limit: int | None = None
    overrides: str = ""


@dataclass(frozen=True)
class Records:
    """The rows of all experiments.

    Attributes:
        records: One per measurement, in the order of the files.
        notices: What the reader passed over, and why.
    """

    records: tuple[Record, ...] = ()
    notices: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Record]:
        """The records."""
        return iter(self.records)

    def __len__(self) -> int:
        """Their number."""
        return len(self.records)

    def of(self, *experiments: str) -> "Records":
        """The records of the first of these experiments that has any."""
        for experiment in experiments:
            found = tuple(r for r in self.records if experiment in r.experiments)
            if found:
                return Records(found)
        return Records()

    def where(self, **fields: Any) -> "Records":
        """The records that have all of these values."""
        return Records(
            tuple(r for r in self.records if all(r.get(k) == v for k, v in fields.items()))
        )

    def by_series(self) -> "dict[Series, Records]":
        """The records apart by what may be compared; full runs first."""
        parts: dict[Series, list[Record]] = {}
        for record in self.records:
            overrides = (record.get("overrides") or {}).items()
            said = ", ".join(f"{name}={value}" for name, value in sorted(overrides))
            series = Series(record["profile"], record["prompt"], record["limit"], said)
            parts.setdefault(series, []).append(record)
        order = sorted(
            parts, key=lambda s: (s.limit is not None, s.profile, s.prompt, s.limit, s.overrides)
        )
        return {series: Records(tuple(parts[series])) for series in order}


def read_results(folder: Path) -> Records:
    """Reads every `*.jsonl` of a folder, strictly.

    Rows that say the same are kept once, and a row of an older run of the same cell gives way to
    the newer one; both are noted. The half-written line of a killed process is passed over.

    Args:
        folder: The folder of the results.

    Raises:
        InputError: The folder is missing, a line is no row of this schema, or two rows of the same
            measurement contradict each other.
    """
    if not folder.is_dir():
        raise InputError(f"no results in {folder}: it is not a folder")
    notices: list[str] = []
    first: dict[str, Record] = {}
    # what a measurement answers, by itself and its experiment, and the last run that does
    questions: dict[tuple[str, str], str] = {}
    newest: dict[str, str] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for record in _parse(path, notices):
            machine = record["hardware"] if record["kind"] == "timing" else None
            key = json.dumps([*(record.get(field) for field in _SAME), machine], sort_keys=True)
            question = questions[key, record["experiment"]] = _question(record)
            newest[question] = record["run"]
            known = first.setdefault(key, record)
            if known is record:
                continue
            _same_or_error(known, record)
            if record["experiment"] in known.experiments:
                notices.append(f"{record.where}: the same measurement as {known.where}; kept once")
            else:
                first[key] = replace(known, experiments=(*known.experiments, record["experiment"]))
    current = tuple(_newest(first, questions, newest, notices))
    return Records(current, tuple(notices))


def _parse(path: Path, notices: list[str]) -> Iterator[Record]:
    for number, line in enumerate(path.read_text().split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if line.startswith("{") and (not line.endswith("}") or error.pos == len(line)):
                notices.append(
                    f"{path.name}, line {number}: half-written by a process that was killed; "
                    "passed over (the sweep measures it again)"
                )
                continue
            raise InputError(f"{path.name}, line {number}: no JSON ({error.msg})") from error
        problem = _problem(row)
        if problem:
            raise InputError(f"{path.name}, line {number}: {problem}")
        yield Record(row, path.name, number, (row["experiment"],))


def schema_problem(row: Any) -> str | None:
    """Why a row cannot be one of this version's, or None."""
    if not isinstance(row, dict):
        return "not a JSON object"
    if row.get("schema") != SCHEMA:
        return f"schema {row.get('schema')!r}, and this version of trimlab reads schema {SCHEMA}"
    return None


def _problem(row: Any) -> str | None:
    """What is wrong with a row, or None."""
    if problem := schema_problem(row):
        return problem
    kind = row.get("kind")
    if kind not in FIELDS:
        return f"unknown kind {kind!r}; known: {', '.join(FIELDS)}"
    required = (*_EVERY_KIND, *FIELDS[kind], *(PEER_FIELDS if row.get("peer") else ()))
    missing = [field for field in required if field not in row]
    if missing:
        return f"{kind} without {', '.join(missing)}"
    if kind == "test" and row["model"] not in MODELS:
        return f"unknown model {row['model']!r}; known: {', '.join(MODELS)}"
    if kind == "compressed" and row["of"] not in MODELS:
        return f"compressed of unknown {row['of']!r}; known: {', '.join(MODELS)}"
    if kind in ("test", "compressed"):
        return _answers_problem(row)
    if kind == "timing" and row["method"] not in TIMING_METHODS:
        return f"unknown method {row['method']!r}; known: {', '.join(TIMING_METHODS)}"
    return None


def _answers_problem(row: Row) -> str | None:
    correct = row["correct"]
    if correct is None:
        return None
    if set(correct) - {"0", "1"} or len(correct) != row["n"]:
        return f"`correct` is not one 0 or 1 for each of the {row['n']} items"
    if (
        row["metric"] == "accuracy"
        and abs(100 * correct.count("1") / row["n"] - row["value"]) > 0.01
    ):
        return (
            f"{correct.count('1')} of {row['n']} items are correct, and the value is {row['value']}"
        )
    return None


def _same_or_error(known: Record, record: Record) -> None:
    fields = {*known.row, *record.row} - _MAY_DIFFER
    differing = sorted(f for f in fields if known.get(f) != record.get(f))
    if differing:
        raise InputError(
            f"{known.where} and {record.where} are the same measurement and contradict each other "
            f"in {', '.join(differing)}; remove the wrong one"
        )


def _question(record: Record) -> str:
    """What a record answers for its experiment; another may ask the same of another cell."""
    asked = [*_QUESTION, "kind", "model", "evaluated_on", "method", "epochs", "of"]
    said = [record.get(field) for field in asked]
    return json.dumps([record["experiment"], *said], sort_keys=True)


def _newest(
    first: Mapping[str, Record],
    questions: Mapping[tuple[str, str], str],
    newest: Mapping[str, str],
    notices: list[str],
) -> Iterator[Record]:
    """Leaves out what an experiment has run again: with another config, or to time it anew."""
    left_out: dict[tuple[str, str], int] = {}
    for key, record in first.items():
        runs = {name: newest[questions[key, name]] for name in record.experiments}
        current = tuple(name for name, run in runs.items() if run == record["run"])
        if current:
            yield replace(record, experiments=current)
        for run in {*runs.values()} - {record["run"]}:
            left_out[record["run"], run] = left_out.get((record["run"], run), 0) + 1
    for (old, new), count in left_out.items():
        notices.append(f"run {old}: its cell was run again as {new}; {count} older rows left out")


def _git_commit() -> str | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "trimlab/results.py")  # not somebody else's repository
        # what a sweep appends to its records, and prose, are not the code that measured; but a
        # scorer or a task that nobody has added is, since its file alone makes it known
        changed = git("status", "--porcelain", "--", ".", ":(exclude)results", ":(exclude)*.md")
        code = ("trimlab", "baselines", "experiments", "pyproject.toml", "constraints.txt")
        dirty = [
            line
            for line in changed.splitlines()
            if not line.startswith("??") or line[3:].startswith(code)
        ]
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu_name() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), None)


def _gpu_name() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None
