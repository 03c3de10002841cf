"""`python -m tests.fuzzing`: tries inputs of every target for some minutes, and counts them."""

import argparse
import faulthandler
import json
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fuzzing._target import Attempt, place_of, prepare, refused, target_names

MEMORY = 14 << 30  # bytes of address space: an input that asks for more is a finding
TURN = 2.0  # seconds of a target until the next one has its turn


def main() -> int:
    """Prints what each target was given and what it found; 1 if there is a finding, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="time for all targets together")
    parser.add_argument("--only", nargs="+", default=target_names(), help="targets to try")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--case", type=int, help="one input alone, with its traceback")
    options = parser.parse_args()
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with tempfile.TemporaryDirectory() as place:
        targets = {}
        for name in options.only:
            folder = Path(place, name)
            folder.mkdir()
            targets[name] = prepare(name, folder)
        if options.case is not None:
            return int(not all(_one(*target, options.case) for target in targets.items()))
        found = _try_all(targets, options.minutes * 60, options.first)
    return 1 if found else 0


def _one(name: str, attempt: Attempt, case: int) -> bool:
    answer = "refused" if refused(name, attempt, case) else "read"
    print(f"{name} {case}: {answer}")
    return True


def _try_all(targets: dict[str, Attempt], seconds: float, first: int) -> bool:
    """Gives the targets turns until the time is over."""
    tried, read = Counter[str](), Counter[str]()
    findings = dict[tuple[str, str], list[int]]()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, attempt in targets.items():
            stop = time.monotonic() + TURN
            while time.monotonic() < stop:
                case = first + tried[name]
                tried[name] += 1
                try:
                    read[name] += not refused(name, attempt, case)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # also panics of libraries in Rust
                    cases = findings.setdefault((name, place_of(error)), [])
                    cases.append(case)
                    if len(cases) == 1:
                        said = str(error).encode("ascii", "backslashreplace").decode()[:200]
                        print(f"{name} {case}: {place_of(error)}: {said}", file=sys.stderr)
    total = sum(tried.values())
    print(json.dumps({"inputs": total, "tried": tried, "read": read}, indent=1))
    for (name, place), cases in sorted(findings.items()):
        print(f"{name}: {place}: {len(cases)} inputs, such as --case {cases[0]}")
    print(f"{total} inputs, {len(findings)} findings")
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
