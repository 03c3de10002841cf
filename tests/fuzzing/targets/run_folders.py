"""Run folders: config, record and summary, as a resumed run and `trimlab export` read them."""

import json
import shutil
from pathlib import Path
from random import Random

from tests.fuzzing._mutation import mutated_bytes, mutated_value
from tests.fuzzing._target import Attempt
from trimlab.commands.export import _source
from trimlab.runs.folder import RunFolder

GOLDEN = Path(__file__).parents[2] / "golden" / "records"
FILES = ("config.yaml", "record.jsonl", "summary.json")


def prepare(folder: Path) -> Attempt:
    """Mutates one of the files of a finished run."""
    valid = _valid_files()
    run = RunFolder(folder / "run")
    config = {"data": {"task": "sciq"}, "trim": {"r": 0.25}}

    def attempt(random: Random) -> None:
        shutil.rmtree(run.path, ignore_errors=True)
        run.path.mkdir()
        files = dict(valid)
        name = random.choice(FILES)
        if random.random() < 0.4 or name == "config.yaml":
            files[name] = mutated_bytes(random, files[name])
        else:
            rows = [json.loads(line) for line in files[name].splitlines()]
            changed = mutated_value(random, rows)
            lines = map(json.dumps, changed if isinstance(changed, list) else [changed])
            files[name] = "\n".join(lines).encode()
        for name, content in files.items():
            (run.path / name).write_bytes(content)
        with run.claimed(config):
            run.points()
        _source(run.path, random.choice((None, 0.5)))

    return attempt


def _valid_files() -> dict[str, bytes]:
    points = [
        row
        for line in (GOLDEN / "figure3.jsonl").read_text().splitlines()
        if (row := json.loads(line))["kind"] == "operating_point"
    ]
    tests = [
        row
        for line in (GOLDEN / "table2.jsonl").read_text().splitlines()
        if (row := json.loads(line))["kind"] == "test"
    ]
    model = tests[0] | {tests[0]["metric"]: tests[0]["value"], "folder": "models/0.5", "tier": "T1"}
    summary = tests[0] | {
        "models": [model],
        "untrimmed": model,
        "fine_tuned": model,
        "trimmed": model,
        "compared": {"awq": [model]},
        "phase_seconds": {"models": 1.0},
        "data": {"notes": []},
    }
    record = "".join(json.dumps(row) + "\n" for row in points)
    config = "data:\n  task: sciq\ntrim:\n  r: 0.25\n"
    return dict(zip(FILES, map(str.encode, (config, record, json.dumps(summary))), strict=True))
