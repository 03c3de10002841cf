"""A few inputs of every fuzz target; `python -m tests.fuzzing` tries as many as there is time."""

from pathlib import Path
from random import Random

import pytest

from tests.fuzzing._mutation import mutated_bytes, mutated_value
from tests.fuzzing._target import prepare, refused, target_names

# targets whose inputs take milliseconds get more of them
INPUTS = {"data_files": 60, "records": 40, "run_folders": 40, "gguf_files": 20, "checkpoints": 15}


@pytest.mark.parametrize("name", target_names())
def test_no_input_ends_in_a_traceback(name: str, tmp_path: Path) -> None:
    attempt = prepare(name, tmp_path)
    answers = {refused(name, attempt, case) for case in range(INPUTS.get(name, 6))}
    assert True in answers  # what is refused is refused as wrong input


def test_mutations_leave_the_original_and_are_those_of_their_number() -> None:
    value = {"a": [1, {"b": "c"}], "d": None}
    changed = [mutated_value(Random(i), value) for i in range(200)]
    assert value == {"a": [1, {"b": "c"}], "d": None}
    assert sum(repr(c) != repr(value) for c in changed) > 150
    assert repr(mutated_value(Random(3), value)) == repr(changed[3])
    content = bytes(range(200))
    assert mutated_bytes(Random(5), content) == mutated_bytes(Random(5), content)
    assert sum(mutated_bytes(Random(i), content) != content for i in range(200)) > 150
