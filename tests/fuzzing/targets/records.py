"""Results of experiments, which `trimlab report` reads, and its tables and page of them."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random

from analysis.figures import Figure
from analysis.page import write_page
from analysis.report import build, results_markdown
from tests.fuzzing._mutation import mutated_bytes, mutated_value
from tests.fuzzing._target import Attempt
from trimlab.records.results import read_results

GOLDEN = Path(__file__).parents[2] / "golden" / "records"


def prepare(folder: Path) -> Attempt:
    """Mutates one of a few rows."""
    files = sorted(GOLDEN.glob("*.jsonl"))
    lines = [line for path in files for line in path.open("rb") if line.endswith(b"}\n")]
    place = folder / "results"
    place.mkdir()

    def attempt(random: Random) -> None:
        rows = random.sample(lines, random.choice((1, 2, 5)))
        if random.random() < 0.3:
            rows[0] = mutated_bytes(random, rows[0])
        else:
            rows[0] = json.dumps(mutated_value(random, json.loads(rows[0]))).encode() + b"\n"
        (place / "table2.jsonl").write_bytes(b"".join(rows))
        records = read_results(place)
        if random.random() < 0.05:  # most of the time of an input
            contents = build(records)
            results_markdown(contents)
            # figures are drawings, of which the page holds the pixels
            tables = [entry for entry in contents.entries if not isinstance(entry.result, Figure)]
            write_page(folder / "index.html", replace(contents, entries=tables), folder)

    return attempt
