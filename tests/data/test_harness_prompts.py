"""Prompts and answers are lm-evaluation-harness's, for every task that it has.

The harness's own task object is built from the YAML it installs, over a file of local rows: no
network.
"""

from collections import defaultdict
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import DATA
from tests.data.examples import numbered_rows, write_rows
from trimlab.data.domain import DomainData
from trimlab.data.items import Item
from trimlab.data.readers import read_file
from trimlab.data.rows import Row
from trimlab.data.task import TASKS, Task, load_task
from trimlab.errors import InputError
from trimlab.evaluation.answers import answer
from trimlab.evaluation.harness import harness_model
from trimlab.model.loading import load_model
from trimlab.model.sublayers import Sublayer, SublayerStack
from trimlab.plugins import plugin_names

pytest.importorskip("lm_eval")

from lm_eval import tasks as harness_tasks
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

pytestmark = pytest.mark.usefixtures("no_environment_report")


def _asked_by_the_harness() -> dict[str, Task]:
    """Every task, or part of one, that the harness asks as multiple choice, by its name there."""
    tasks = (load_task(name) for name in plugin_names(TASKS))
    parts = (part for task in tasks for part in task.parts(task.splits[2]))
    return {part.harness: part for part in parts if part.harness}


@cache
def _configs() -> dict[str, list[Path]]:
    """The harness's task files by name."""
    found = defaultdict(list)
    for path in Path(harness_tasks.__file__).parent.rglob("*.yaml"):
        found[path.stem].append(path)
    return found


def _harness_task(name: str, rows: Path) -> ConfigurableTask:
    """The harness's own task of a name, reading a local file in every split it wants."""
    configs = [load_yaml(path) for path in _configs()[name]]
    (config,) = (config for config in configs if config.get("task") == name)
    splits = {config.get(f"{kind}_split") for kind in ("training", "validation", "test", "fewshot")}
    config |= {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {
            "data_files": {split: str(rows) for split in splits if split},
            "cache_dir": str(rows.parent / "cache"),
        },
    }
    return ConfigurableTask(config={k: v for k, v in config.items() if k != "tag"})


def _item(task: Task, row: dict[str, Any]) -> Item | None:
    """The item of a row, None if the task refuses the row."""
    try:
        return task.checked_item(Row(row, "rows.jsonl"), task.prompts[0])
    except InputError:
        return None


def _with_gold(task: Task, row: dict[str, Any], gold: int) -> dict[str, Any]:
    """The row with another right choice, where a column says which one is right."""
    item = _item(task, row)
    assert item is not None
    for column in row:
        for value in (gold, item.choices[gold].strip()):
            changed = {**row, column: value}
            if _item(task, changed) == replace(item, gold=gold):
                return changed
    return row


def _with_space(task: Task, row: dict[str, Any], before: str, after: str) -> dict[str, Any]:
    """The row with white space around its texts, but for labels."""
    for column, value in row.items():
        changed = {**row, column: f"{before}{value}{after}"}
        if isinstance(value, str) and _item(task, changed) is not None:
            row = changed
    return row


def _rows(task: Task) -> list[dict[str, Any]]:
    """Invented rows with every gold answer, and white space that a prompt might strip."""
    rows = numbered_rows(task, 4)
    item = _item(task, rows[0])
    assert item is not None
    space = [("", ""), ("  ", ""), ("\n", " "), ("", "  ")]
    return [
        _with_space(task, _with_gold(task, row, number % len(item.choices)), *space[number])
        for number, row in enumerate(rows)
    ]


def test_the_invented_rows_have_every_gold_answer() -> None:
    golds = {}
    for name, task in _asked_by_the_harness().items():
        items = [task.item(Row(row, "rows.jsonl"), task.prompts[-1]) for row in _rows(task)]
        golds[name] = sorted({item.gold for item in items}), len(items[0].choices)
    fixed = {name for name, (found, _) in golds.items() if len(found) == 1}
    assert "sciq" in fixed and len(fixed) < len(golds) / 2
    assert all(found == [*range(n)] for name, (found, n) in golds.items() if name not in fixed)


@pytest.mark.parametrize(("name", "task"), _asked_by_the_harness().items())
def test_every_request_is_the_harness_s(
    name: str, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = _rows(task)
    harness = _harness_task(name, write_rows(tmp_path / "rows.jsonl", rows))
    assert harness.OUTPUT_TYPE == "multiple_choice"
    harness.build_all_requests()
    requests = defaultdict(list)
    for request in harness.instances:
        requests[request.doc_id].append(request.args)
    for number, document in enumerate(harness.eval_docs):
        item = task.item(Row(rows[number], "rows.jsonl"), task.prompts[-1])
        assert requests[number] == [(item.context, choice) for choice in item.choices]
        gold = harness.doc_to_target(document)
        if isinstance(gold, str):
            gold = harness.doc_to_choice(document).index(gold)
        assert item.gold == gold


def _answers_of_the_harness(
    name: str, rows: Path, model: Any, tokenizer: Any
) -> tuple[list[list[float]], float]:
    """The log-likelihoods of the choices, in the order of the rows, and the accuracy in percent."""
    results: Any = simple_evaluate(
        harness_model(model, tokenizer, 4),
        tasks=[_harness_task(name, rows)],
        task_manager=TaskManager(include_defaults=False),
        log_samples=True,
    )
    samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
    found = [[float(pair[0]) for pair in sample["filtered_resps"]] for sample in samples]
    return found, 100 * results["results"][name]["acc,none"]


def _agree(name: str, task: Task, rows: Path, stack: SublayerStack, tokenizer: Any) -> int:
    """Compares every answer, as a user would ask for it; returns how many items there were."""
    theirs, accuracy = _answers_of_the_harness(name, rows, stack.model, tokenizer)
    items = [task.item(row, task.prompts[-1]) for row in read_file(rows)]
    data = DomainData(tokenizer, "sciq", max_length=2048)  # whose rows they are does not matter
    ours = answer(stack, data.evaluation_batches(items), full=True)
    assert ours.score.value == pytest.approx(accuracy)
    for likelihoods, choices in zip(ours.likelihoods.tolist(), theirs, strict=True):
        likelihoods = likelihoods[: len(choices)]
        assert likelihoods == pytest.approx(choices, rel=1e-4)
        assert likelihoods.index(max(likelihoods)) == choices.index(max(choices))
    return len(items)


@pytest.mark.parametrize(("name", "task"), _asked_by_the_harness().items())
def test_every_answer_is_the_harness_s(
    name: str, task: Task, tmp_path: Path, tiny_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model, tokenizer = load_model(str(tiny_folder(tmp_path)))
    stack = SublayerStack(model)
    stack.drop(Sublayer(0, "attention"), Sublayer(1, "mlp"))
    rows = write_rows(tmp_path / "rows.jsonl", numbered_rows(task, 12))
    assert _agree(name, task, rows, stack, tokenizer) == 12


@pytest.mark.slow
@pytest.mark.parametrize(("name", "task"), _asked_by_the_harness().items())
def test_every_answer_of_the_real_model_to_real_rows(
    name: str, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = task.folder(DATA) / f"{task.splits[2]}.jsonl"
    if not found.exists():
        pytest.skip(f"no {found}")
    some = tmp_path / "rows.jsonl"
    some.write_text("".join(found.open().readlines()[:20]))
    model, tokenizer = load_model("gemma-3-270m")
    assert _agree(name, task, some, SublayerStack(model), tokenizer) == 20


def test_the_harness_s_tasks_are_found() -> None:
    names = set(_asked_by_the_harness())
    assert {"sciq", "piqa", "medmcqa", "pubmedqa", "mmlu_jurisprudence"} <= names
    assert sum(name.startswith("mmlu_") for name in names) >= 6
