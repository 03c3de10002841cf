"""A whole run on a tiny model: what it leaves behind, and that a killed one ends the same."""

import csv
import gc
import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import trimlab
from tests.forked import Forked
from trimlab.cli import main
from trimlab.data.splits import read_test_items
from trimlab.errors import InputError
from trimlab.records.rows import TIMING_FIELDS, read_rows
from trimlab.runs import measure as measuring
from trimlab.runs import run as running
from trimlab.scorers import Scorer
from trimlab.stop_rules import StopRules
from trimlab.training.module import DomainLM

QUIET = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Any) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("base"), "gemma3_text")


def start(base: Path, root: Path, folder: Path, **options: Any) -> dict[str, Any]:
    """Trims the tiny model to half of its layers in two steps."""
    return trimlab.trim(
        str(base),
        "jsonl",
        folder,
        recipe="paper",
        model={"lr": 1e-2} | options.pop("model", {}),
        data={"root": root, "calibration_rows": 15, "dev_rows": 15, "batch_size": 4},
        run={
            "full_depth": options.pop("full_depth", False),
            "speed": options.pop("speed", False),
            **options.pop("run", {}),
        },
        trainer={k: v for k, v in QUIET.items() if k != "logger"} | options.pop("trainer", {}),
        **({"target_layer_memory": 0.5, "packable": True, "r": 0.5, "progress": False} | options),
    )


@pytest.fixture(scope="module")
def finished(base: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    start(base, root, folder, full_depth=True, speed=True, save_at=[0.75])
    return folder


@pytest.fixture(scope="module")
def uninterrupted(base: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "uninterrupted"
    start(base, root, folder, full_depth=True)
    return folder


def test_summary(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    for name in ("untrimmed", "fine_tuned", "trimmed"):
        row = summary[name]
        assert 0 <= row["accuracy"] <= 100
        assert row["n"] == 24
        assert row["stderr"] >= 0
    assert [m["layer_memory_ratio"] for m in summary["models"]] == [0.75, 0.5]
    trimmed = summary["trimmed"]
    assert trimmed == summary["models"][-1]
    assert trimmed["tier"] == "T1"
    assert trimmed["blocks"] == 2
    assert 0.5 < trimmed["model_memory_ratio"] < 1
    assert trimmed["tokens_per_second"] > 0
    assert trimmed["untrimmed_tokens_per_second"] > 0
    assert summary["fine_tuned"]["optimizer_steps"] == trimmed["optimizer_steps"]
    assert 0 <= summary["heuristic_baselines"]["word_overlap"] <= 100
    assert set(summary["row_sets"]) == {"train", "calibration", "dev", "test"}


def test_losses_and_dev_scores_are_always_in_a_csv(finished: Path) -> None:
    for folder in (finished, finished / "full_depth"):
        (path,) = (folder / "logs").rglob("metrics.csv")
        rows = list(csv.DictReader(path.open()))
        assert any(row["train_loss"] for row in rows)
        assert any(row.get("dev_accuracy") for row in rows) == (folder == finished)


def test_measures_that_were_not_asked_for_are_none(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    for row in (summary["untrimmed"], summary["fine_tuned"], *summary["models"]):
        assert len(row["correct"]) == row["n"]
        assert 100 * row["correct"].count("1") / row["n"] == pytest.approx(row["accuracy"])
        for name in ("value_normalised", "stability", "exact_match"):
            assert row[name] is None
        assert "token_f1" not in row
    assert not (finished / "untrimmed.safetensors").exists()


# with r = 1/4 trimmed and untrimmed model do not agree on every item
MEASURED = {"r": 0.25, "full_depth": True, "run": {"extra_metrics": True, "generate": 5}}


@pytest.fixture(scope="module")
def measured(base: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "measured"
    start(base, root, folder, **MEASURED)
    return folder


def test_extra_metrics(measured: Path, base: Path, root: Path) -> None:
    from trimlab.data.domain import DomainData
    from trimlab.evaluation.answers import Answers, answer, normalised_score
    from trimlab.evaluation.generation import written_answers
    from trimlab.evaluation.metrics import stability
    from trimlab.model.loading import load_model

    def of(folder: Path) -> tuple[Answers, dict[str, Any]]:
        model, tokenizer = load_model(str(folder))
        data = DomainData(tokenizer, "jsonl", root)
        items = read_test_items(data.task, root)
        stack = trimlab.SublayerStack(model)
        answers = answer(stack, data.evaluation_batches(items), full=True)
        written = written_answers(stack, tokenizer, items[:5])
        assert written is not None
        return answers, {
            "accuracy": answers.score.value,
            "correct": answers.correct,
            "value_normalised": normalised_score(answers, items).value,
            "exact_match": written.exact_match.value,
            "exact_match_stderr": written.exact_match.stderr,
            "exact_match_n": 5,
            "token_f1": written.token_f1.value,
            "token_f1_stderr": written.token_f1.stderr,
        }

    summary = json.loads((measured / "summary.json").read_text())
    before, untrimmed = of(base)
    after, trimmed = of(measured / summary["trimmed"]["folder"])
    assert summary["untrimmed"].items() >= untrimmed.items()
    assert summary["trimmed"].items() >= trimmed.items()
    assert summary["untrimmed"]["stability"] is None
    wanted = stability(before.likelihoods, after.likelihoods, after.tokens, after.gold)
    assert summary["trimmed"]["stability"] == pytest.approx(float(wanted))
    assert 0 < summary["trimmed"]["stability"] < 1
    assert 0 <= summary["fine_tuned"]["stability"] <= 1


def test_the_reference_of_stability_is_made_again_where_it_is_lost(
    measured: Path, base: Path, root: Path
) -> None:
    summary = measured / "summary.json"
    before = json.loads(summary.read_text())
    unfinished = {k: v for k, v in before.items() if k not in ("models", "fine_tuned", "trimmed")}
    summary.write_text(json.dumps(unfinished))
    (measured / "untrimmed.safetensors").unlink()
    after = start(base, root, measured, **MEASURED)
    assert after["trimmed"]["stability"] == before["trimmed"]["stability"]


@pytest.mark.parametrize("name", ["0.75", "0.5"])
def test_exports_are_stock_models(finished: Path, name: str) -> None:
    folder = finished / "models" / name
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__module__.startswith("transformers.")
    assert model.config.num_hidden_layers == round(4 * float(name))
    card = (folder / "README.md").read_text()
    for word in ("base_model", "accuracy", "±", "Dropped", "Licence", "jsonl"):
        assert word in card
    assert not list(folder.parent.glob(".*"))


def test_a_checkpoint_of_an_unfinished_run_is_exported(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.yaml", "record.jsonl"):
        shutil.copy(finished / name, tmp_path)
    shutil.copytree(finished / "checkpoints", tmp_path / "checkpoints")
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        main(["export", str(tmp_path), "--to", "hf", "--out", str(out)])
    said = capsys.readouterr().err
    checkpoint = str(tmp_path / "checkpoints" / "good.ckpt")
    assert stop.value.code == 2 and "has not ended" in said and checkpoint in said
    with pytest.raises(SystemExit) as stop:
        main(["export", checkpoint, "--to", "hf", "--out", str(out)])
    assert stop.value.code == 0
    found, wanted = (load_file(f / "model.safetensors") for f in (out, finished / "models" / "0.5"))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_record(finished: Path) -> None:
    rows = read_rows(finished / "record.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert [row["layer_memory_ratio"] for row in rows] == [1.0, 0.75, 0.5]
    assert rows[1]["dev_before_drop"] == rows[0]["dev"]
    for row in rows[1:]:
        lowest = min(row["scan"], key=lambda entry: entry["score"])
        assert lowest["candidate"] == "+".join(row["dropped"])


def test_second_start_says_it_is_done(finished: Path, base: Path, root: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.name != ".lock"}
    start(base, root, finished, full_depth=True, speed=True, save_at=[0.75], progress=True)
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_another_config_in_the_same_folder_is_refused(
    finished: Path, base: Path, root: Path
) -> None:
    with pytest.raises(InputError, match="another config.*r"):
        start(base, root, finished, full_depth=True, speed=True, save_at=[0.75], r=0.25)


def test_a_foreign_folder_is_refused(base: Path, root: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="not empty"):
        start(base, root, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("content", ["a: [", "- a", "", b"\xff"])
def test_a_config_of_something_else_is_refused(
    base: Path, root: Path, tmp_path: Path, content: str | bytes
) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match="is not the config of a run"):
        start(base, root, tmp_path)


def test_a_run_folder_that_cannot_be_made(base: Path, root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InputError, match=f"cannot make the folder {folder}"):
            start(base, root, folder)


# ---- kills ---------------------------------------------------------------------------------------


def die(*_args: Any, **_kwargs: Any) -> None:
    """As kill -9 does it: no handler, no clean-up."""
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    raise KeyboardInterrupt


def wrapped(owner: Any, name: str, before: Callable[..., Any]) -> None:
    """Calls `before` with the arguments of every call of a function of `owner`, in front of it."""
    function = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        before(*args, **kwargs)
        return function(*args, **kwargs)

    setattr(owner, name, call)


def in_batch(epoch: int, batch: int, fit: str = "", then: Callable[[], None] = die) -> None:
    """Dies in a batch of an epoch, both counted from 0, of the trimming or of another fit."""

    def before(module: DomainLM, _batch: Any, index: int) -> None:
        folder = Path(module.trainer.default_root_dir)
        its_fit = "" if (folder / "config.yaml").exists() else folder.name
        if (its_fit, module.current_epoch, index) == (fit, epoch, batch):
            then()

    wrapped(DomainLM, "training_step", before)


def in_scan(folder: Path, step: int, forwards: int = 40) -> None:
    """Dies in a scan: after some modules have computed and before anything is trained."""
    record, seen = folder / "record.jsonl", 0

    def before(module: torch.nn.Module, *_args: Any) -> None:
        nonlocal seen
        if record.exists() and not module.training and len(read_rows(record)) == step:
            seen += 1
            if seen == forwards:
                die()

    torch.nn.modules.module.register_module_forward_pre_hook(before)


def at_checkpoint(step: int, half_written: bool = False) -> None:
    """Dies before the checkpoint of an optimizer step is written, or halfway."""
    save = torch.save

    def saving(state: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        path = Path(getattr(file, "name", file))
        here = state["global_step"] == step and "last" in path.name
        if here and not half_written:
            die()
        save(state, file, *args, **kwargs)
        if here:
            os.truncate(path, path.stat().st_size // 2)
            die()

    setattr(torch, "save", saving)  # noqa: B010


def at_path(owner: Any, name: str, matches: Callable[[str], bool]) -> None:
    """Dies when a function is called for a path of which a part matches."""
    wrapped(owner, name, lambda path, *_a, **_k: any(map(matches, Path(path).parts)) and die())


def at_first_drop() -> None:
    wrapped(DomainLM, "drop", lambda module, *_sublayers: module.stack.history or die())


# an epoch has six steps; the second operating point comes after the twelfth
CRASHES: dict[str, Callable[[Path], None]] = {
    "before anything is scored": lambda _: setattr(measuring, "answer", die),
    "initial scan": lambda folder: in_scan(folder, step=0),
    "mid-epoch": lambda _: in_batch(1, 2),
    "mid-scan": lambda folder: in_scan(folder, step=1),
    "between scan and drop": lambda _: at_first_drop(),
    "between record and checkpoint": lambda _: at_checkpoint(12),
    "while a checkpoint is written": lambda _: at_checkpoint(12, half_written=True),
    "Ctrl-C": lambda _: in_batch(1, 2, then=interrupt),
    "in the last epoch": lambda _: in_batch(2, 4),
    "while an export is written": lambda _: at_path(
        AutoModelForCausalLM, "from_pretrained", lambda part: part.endswith(".part")
    ),
    "between export and model card": lambda _: setattr(running, "model_card", die),
    "at full depth": lambda _: in_batch(1, 2, fit="full_depth"),
    "behind full depth": lambda _: at_path(shutil, "rmtree", lambda part: part == "full_depth"),
}


def kill(
    folder: Path,
    crash: Callable[[Path], None],
    run: Callable[[Path], Any],
    exit_code: int = -signal.SIGKILL,
) -> None:
    """Starts a run in a process of its own, which dies."""
    ended = Forked(lambda: (crash(folder), run(folder))).wait()
    assert ended.code == exit_code, ended.err


def kill_and_resume(folder: Path, place: str, again: Callable[[Path], Any]) -> None:
    """Starts a run that is killed at a place, and then the same run once more."""
    kill(folder, CRASHES[place], again, 1 if place == "Ctrl-C" else -signal.SIGKILL)
    again(folder)


def assert_same_run(ours: Path, theirs: Path) -> None:
    """The same records but for times, and the same weights bit for bit."""

    def without_times(value: Any) -> Any:
        if isinstance(value, list):
            return [without_times(entry) for entry in value]
        if not isinstance(value, dict):
            return value
        return {k: without_times(v) for k, v in value.items() if k not in TIMING_FIELDS}

    records = [without_times(read_rows(path / "record.jsonl")) for path in (ours, theirs)]
    assert records[0] == records[1]
    for name in ("last", "good"):
        mine, other = (
            torch.load(path / "checkpoints" / f"{name}.ckpt", weights_only=True)
            for path in (ours, theirs)
        )
        assert mine["trimlab"] == other["trimlab"]
        assert mine["state_dict"].keys() == other["state_dict"].keys()
        assert all(torch.equal(mine["state_dict"][k], v) for k, v in other["state_dict"].items())
    one, two = (
        without_times(json.loads((path / "summary.json").read_text())) for path in (ours, theirs)
    )
    for name in ("untrimmed", "fine_tuned", "stopped_because"):
        assert one.get(name) == two.get(name)
    for file in (theirs / "models").rglob("*.safetensors"):
        assert (ours / file.relative_to(theirs)).read_bytes() == file.read_bytes()
    assert not list(ours.rglob("*.part"))


@pytest.mark.parametrize("place", CRASHES)
def test_killed_run_resumes_bit_for_bit(
    uninterrupted: Path, base: Path, root: Path, tmp_path: Path, place: str
) -> None:
    kill_and_resume(
        tmp_path / "run", place, lambda folder: start(base, root, folder, full_depth=True)
    )
    assert_same_run(tmp_path / "run", uninterrupted)


def test_killed_before_its_first_operating_point(base: Path, root: Path, tmp_path: Path) -> None:
    def run(folder: Path) -> None:
        start(base, root, folder, epochs_before_first_drop=2)

    run(tmp_path / "whole")
    kill_and_resume(tmp_path / "killed", "mid-epoch", run)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


FROM_FINE_TUNED = {
    "full_depth": True,
    "r": 0.25,
    "run": {"trim_from": "fine_tuned", "fine_tuning_epochs": 2},
}


@pytest.fixture(scope="module")
def from_fine_tuned(base: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "from_fine_tuned"
    start(base, root, folder, **FROM_FINE_TUNED)
    return folder


def test_trimming_starts_from_the_fine_tuned_model(from_fine_tuned: Path, base: Path) -> None:
    def weights(folder: Path) -> dict[str, torch.Tensor]:
        return AutoModelForCausalLM.from_pretrained(folder).state_dict()

    summary = json.loads((from_fine_tuned / "summary.json").read_text())
    untrained = weights(base)
    full, trimmed = (
        weights(from_fine_tuned / "models/full_depth"),
        weights(from_fine_tuned / summary["trimmed"]["folder"]),
    )
    every = [name for name in full if ".layers." in name]
    assert not any(torch.equal(full[name], untrained[name]) for name in every)
    # what r leaves frozen is the fine-tuned model's, wherever packing has put it
    frozen = [
        any(w.shape == v.shape and torch.equal(w, v) for v in full.values())
        for name, w in trimmed.items()
        if ".layers." in name
    ]
    assert 0 < sum(frozen) < len(frozen)
    assert summary["fine_tuned"]["optimizer_steps"] == 12
    assert summary["fine_tuned"]["epochs"] == 2
    assert len(trimmed) < len(full)


@pytest.mark.parametrize("place", ["at full depth", "behind full depth", "mid-epoch"])
def test_killed_run_from_the_fine_tuned_model_resumes_bit_for_bit(
    from_fine_tuned: Path, base: Path, root: Path, tmp_path: Path, place: str
) -> None:
    def again(folder: Path) -> None:
        start(base, root, folder, **FROM_FINE_TUNED)

    kill_and_resume(tmp_path / "run", place, again)
    assert_same_run(tmp_path / "run", from_fine_tuned)


def test_the_first_fine_tuning_leaves_no_memory_behind(
    base: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[int] = []
    start_from = DomainLM.start_from

    def counted(module: DomainLM, folder: Path) -> None:
        alive.append(sum(type(found) is type(module) for found in gc.get_objects()))
        start_from(module, folder)

    gc.collect()
    before = sum(isinstance(found, DomainLM) for found in gc.get_objects())
    monkeypatch.setattr(DomainLM, "start_from", counted)
    start(base, root, tmp_path / "run", **FROM_FINE_TUNED)
    assert alive[0] <= before + 1  # the module that is trimmed


def test_a_teacher_needs_a_fine_tuned_model(base: Path, root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"hidden_states needs a teacher: give run.trim_from"):
        start(base, root, tmp_path / "run", model={"loss": "hidden_states"})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("task", ["text", "completion"])
def test_a_loss_of_choices_needs_choices(base: Path, tmp_path: Path, task: str) -> None:
    row = {"text": {"text": "the owl"}, "completion": {"prompt": "who?", "completion": " the owl"}}
    for split in ("train", "validation", "test"):
        rows = [{k: f"{v} {split} {i}" for k, v in row[task].items()} for i in range(4)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(InputError, match=f"task {task} has no training item with other choices"):
        trimlab.trim(
            str(base),
            task,
            tmp_path / "run",
            model={"loss": "choices"},
            data={"root": tmp_path, "calibration_rows": 2, "dev_rows": 2},
            trainer=QUIET,
            target_layer_memory=0.5,
        )
    assert not (tmp_path / "run").exists()


def test_the_fine_tuned_model_teaches_the_trimmed_one(
    from_fine_tuned: Path, base: Path, root: Path, tmp_path: Path
) -> None:
    start(base, root, tmp_path / "run", model={"loss": "hidden_states"}, **FROM_FINE_TUNED)
    ours, theirs = (
        json.loads((folder / "summary.json").read_text())
        for folder in (tmp_path / "run", from_fine_tuned)
    )
    assert ours["fine_tuned"]["correct"] == theirs["fine_tuned"]["correct"]
    last = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    other = torch.load(from_fine_tuned / "checkpoints/last.ckpt", weights_only=True)
    assert last["state_dict"].keys() == other["state_dict"].keys()
    assert not any(torch.equal(last["state_dict"][k], v) for k, v in other["state_dict"].items())


class AttentionsFirst(Scorer):
    """Drops what is smallest in a LLaMA, so that it takes more steps than sizes suggest."""

    def __call__(self, scan: Any) -> Any:
        return [(float(c[0].kind == "mlp"), float(c[0].block)) for c in scan.candidates]


@pytest.mark.parametrize(
    "options",
    [
        {"scorer": f"{AttentionsFirst.__module__}.AttentionsFirst", "target_layer_memory": 0.5},
        {"r": 0.1, "max_drops": 7, "target_layer_memory": None, "scorer": "random"},
    ],
    ids=["longer than planned", "every trainable sublayer is gone"],
)
def test_killed_in_its_last_epoch(
    root: Path, tmp_path: Path, tiny_folder: Any, options: dict[str, Any]
) -> None:
    llama = tiny_folder(tmp_path, "llama")

    def run(folder: Path) -> None:
        start(llama, root, folder, packable=False, **options)

    run(tmp_path / "whole")
    points = read_rows(tmp_path / "whole" / "record.jsonl")
    last = points[-1]["epoch"]
    if options["scorer"] != "random":
        assert last + 1 > 5  # four sublayers of mean size were planned for
    kill(tmp_path / "killed", lambda _: in_batch(last, 2), run)
    run(tmp_path / "killed")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_half_precision(base: Path, root: Path, tmp_path: Path, precision: str) -> None:
    summary = start(base, root, tmp_path / "run", trainer={"precision": precision})
    assert summary["trimmed"]["layer_memory_ratio"] == 0.5
    state = torch.load(tmp_path / "run" / "checkpoints" / "good.ckpt", weights_only=True)
    wanted = torch.bfloat16 if precision == "bf16-true" else torch.float32
    assert {weight.dtype for weight in state["state_dict"].values()} == {wanted}
    assert summary["trimmed"]["dtype"] == "float32"  # the type of the base model on disk
    (path,) = (tmp_path / "run" / "logs").rglob("metrics.csv")
    losses = [row["train_loss"] for row in csv.DictReader(path.open()) if row["train_loss"]]
    assert losses and all(math.isfinite(float(loss)) for loss in losses)


def test_adapters_resume_bit_for_bit_and_are_merged(base: Path, root: Path, tmp_path: Path) -> None:
    model = {"lora_rank": 4, "optimizer": "adamw_8bit", "activation_checkpointing": True}

    def run(folder: Path) -> Any:
        return start(base, root, folder, model=model, full_depth=True, max_drops=None)

    summary = run(tmp_path / "whole")
    kill_and_resume(tmp_path / "killed", "mid-epoch", run)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    good = torch.load(tmp_path / "whole" / "checkpoints" / "good.ckpt", weights_only=True)
    assert good["state_dict"] and all("lora_" in name for name in good["state_dict"])
    assert summary["trimmed"]["logit_difference"] < 1e-5
    (file,) = (tmp_path / "whole/models/0.5").glob("*.safetensors")
    assert not [name for name in load_file(file) if "lora" in name or "base_layer" in name]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(base: Path, root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"trainer: .*CUDAAccelerator"):
        start(base, root, tmp_path / "run", trainer={"accelerator": "cuda"})
    assert not (tmp_path / "run").exists()


def test_half_floats_are_refused(base: Path, root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"trainer.precision 16-true .*: take bf16-true"):
        start(base, root, tmp_path / "run", trainer={"precision": "16-true"})


def test_every_ratio_that_is_asked_for_is_saved(base: Path, root: Path, tmp_path: Path) -> None:
    summary = start(base, root, tmp_path / "run", save_at=[1.0, 0.9, 0.75])
    saved = {Path(m["folder"]).name: m["layer_memory_ratio"] for m in summary["models"]}
    assert saved == {"1": 1.0, "0.9": 0.75, "0.75": 0.75, "0.5": 0.5}
    for name, ratio in saved.items():
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "models" / name)
        assert model.config.num_hidden_layers == round(4 * ratio)


def test_a_refused_point_is_not_the_final_model(
    base: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any, dev: float, fine_tuned: float) -> str | None:
        return "too bad" if len(read_rows(record)) == 2 else None

    record = tmp_path / "run" / "record.jsonl"
    monkeypatch.setattr(StopRules, "too_inaccurate", refuse)
    summary = start(base, root, tmp_path / "run", min_accuracy=0)
    assert [row["accepted"] for row in read_rows(record)] == [True, True, False]
    (model,) = summary["models"]
    assert (Path(model["folder"]).name, model["layer_memory_ratio"]) == ("0.75", 0.75)
    assert summary["stopped_because"] == "too bad"


def test_a_run_without_an_acceptable_point_says_why(base: Path, root: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(InputError, match="no operating point: dev accuracy .* is below 100"):
            start(base, root, tmp_path / "run", min_accuracy=100)
    (point,) = read_rows(tmp_path / "run" / "record.jsonl")
    assert not point["accepted"]


def test_rows_that_changed_since_the_start_are_refused(
    base: Path, root: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for file in root.iterdir():
        (data / file.name).write_text(file.read_text())
    start(base, data, tmp_path / "run")
    lines = (data / "test.jsonl").read_text().splitlines()
    (data / "test.jsonl").write_text("\n".join(lines[1:]))
    with pytest.raises(InputError, match="rows have changed"):
        start(base, data, tmp_path / "run")


def test_a_diverged_run_still_exports_its_last_good_point(
    base: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = DomainLM.training_step

    def poisoned(self: DomainLM, batch: Any, index: int) -> Any:
        if self.stack.history:
            with torch.no_grad():
                next(p for p in self.model.parameters() if p.requires_grad).fill_(float("nan"))
        return plain(self, batch, index)

    monkeypatch.setattr(DomainLM, "training_step", poisoned)
    for _ in range(2):  # the same command again says the same
        with pytest.raises(InputError, match=r"lower model\.lr"):
            start(base, root, tmp_path / "run")
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        (model,) = summary["models"]
        assert model["layer_memory_ratio"] == 1.0
        assert (
            AutoModelForCausalLM.from_pretrained(
                tmp_path / "run" / model["folder"]
            ).config.num_hidden_layers
            == 4
        )
        assert "stopped_because" not in summary
    # and where it gets further than before, what it kept then is not the end
    monkeypatch.setattr(DomainLM, "training_step", plain)
    assert start(base, root, tmp_path / "run")["trimmed"]["layer_memory_ratio"] == 0.5


@pytest.mark.parametrize("place", ["in the last epoch", "at full depth"])
@pytest.mark.parametrize(
    ("content", "message"), [(b"no checkpoint", "damaged"), (None, "not written by trimlab")]
)
def test_damaged_or_foreign_checkpoint(
    base: Path, root: Path, tmp_path: Path, content: bytes | None, message: str, place: str
) -> None:
    folder = tmp_path / "run"
    kill(folder, CRASHES[place], lambda folder: start(base, root, folder, full_depth=True))
    checkpoints = folder / ("full_depth" if place == "at full depth" else "") / "checkpoints"
    assert (checkpoints / "last.ckpt").exists()
    for path in (checkpoints / "last.ckpt", checkpoints / "previous.ckpt"):
        if content is None:
            torch.save({"state_dict": {}}, path)
        else:
            path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        start(base, root, folder, full_depth=True)


def test_checkpoint_of_another_run(finished: Path, base: Path, root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no operating point"):
        start(base, root, tmp_path / "run", min_accuracy=100)
    theirs = (finished / "checkpoints" / "last.ckpt").read_bytes()
    (tmp_path / "run" / "checkpoints" / "last.ckpt").write_bytes(theirs)
    with pytest.raises(InputError, match="no checkpoint of this run; remove"):
        start(base, root, tmp_path / "run", min_accuracy=100)


def test_what_a_damaged_checkpoint_says_to_remove_is_what_to_remove(
    uninterrupted: Path, base: Path, root: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    shutil.rmtree(folder / "models")
    summary = json.loads((folder / "summary.json").read_text())
    del summary["models"], summary["trimmed"]
    (folder / "summary.json").write_text(json.dumps(summary))
    for spoil in (lambda path: path.write_bytes(b"no checkpoint"), Path.unlink):
        spoil(folder / "checkpoints" / "point-0.5.ckpt")
        with pytest.raises(InputError, match=f"remove {folder / 'checkpoints'} to start over"):
            start(base, root, folder, full_depth=True)
    shutil.rmtree(folder / "checkpoints")
    start(base, root, folder, full_depth=True)
    assert_same_run(folder, uninterrupted)


def test_checkpoint_of_another_base_model(finished: Path, tmp_path: Path, tiny_folder: Any) -> None:
    from trimlab.training.checkpoints import restore

    other = DomainLM(str(tiny_folder(tmp_path, "llama")))
    with pytest.raises(InputError, match="whose weights are not those"):
        restore(other, finished / "checkpoints" / "good.ckpt")


def test_plain_text_domain(base: Path, tmp_path: Path) -> None:
    for name, count in (("train", 8), ("validation", 12), ("test", 8)):
        rows = [{"text": f"{name} {i}: abc abd the bee is in a hive {i * i}"} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = trimlab.trim(
        str(base),
        "text",
        tmp_path / "run",
        recipe="paper",
        data={"root": tmp_path, "calibration_rows": 6, "dev_rows": 6, "batch_size": 4},
        run={"full_depth": False, "speed": False},
        trainer={"enable_progress_bar": False, "accelerator": "cpu"},
        max_drops=2,
        progress=False,
    )
    assert 0 < summary["trimmed"]["exp_neg_loss"] < 100
    assert summary["trimmed"]["correct"] is None  # no item of a text is right or wrong
    assert summary["trimmed"]["n"] == 8
    assert summary["trimmed"]["tier"] in ("T1", "T2")


def test_answers_without_alternatives_are_also_written() -> None:
    from trimlab.runs.config import Resolver

    resolve = Resolver()
    asked = {
        task: resolve({"data": {"task": task}})["run"]["generate"] for task in ("chat", "text")
    }
    assert asked == {"chat": 50, "text": 0}
    none = resolve({"data": {"task": "completion"}, "run": {"generate": 0}})
    assert none["run"]["generate"] == 0
    for task, metric in (("jsonl", "token_accuracy"), ("chat", "accuracy")):
        with pytest.raises(InputError, match=f"data.metric of task {task} is"):
            resolve({"data": {"task": task, "metric": metric}})


CHAT = (
    "{% for m in messages %}{{ bos_token if loop.first }}{{ m.role }}: {{ m.content }}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


def test_chat_domain(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from trimlab.cli import main

    def exit_code(*arguments: str) -> object:
        with pytest.raises(SystemExit) as exited:
            main(arguments)
        return exited.value.code or 0

    for name, count in (("train", 8), ("validation", 12), ("test", 8)):
        rows = [
            {
                "messages": [
                    {"role": "user", "content": f"{name} {i}?"},
                    {"role": "assistant", "content": "bee"},
                    {"role": "user", "content": "and?"},
                    {"role": "assistant", "content": "abc"},
                ]
            }
            for i in range(count)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "chat.jinja").write_text(CHAT)
    data = {"root": tmp_path, "calibration_rows": 6, "dev_rows": 6, "batch_size": 4}
    summary = trimlab.trim(
        str(base),
        "chat",
        tmp_path / "run",
        recipe="paper",
        data=data | {"metric": "token_accuracy", "chat_template": tmp_path / "chat.jinja"},
        run={"full_depth": False, "speed": False},
        trainer={"enable_progress_bar": False, "accelerator": "cpu"},
        max_drops=2,
        scan="choice",
        progress=False,
    )
    trimmed, tokens = summary["trimmed"], 8 * (4 + 3)  # b e e </s>, a bc </s>
    hits = trimmed["token_accuracy"] * tokens / 100
    assert hits == pytest.approx(round(hits)) and trimmed["n"] == 8
    assert trimmed["correct"] is None and summary["heuristic_baselines"] == {}
    assert trimmed["exact_match_n"] == 8 and 0 <= trimmed["token_f1"] <= 100
    # the export has the template, and gives the same numbers
    command = ["eval", trimmed["folder"], "--tasks", "chat", "--data.root", str(tmp_path)]
    assert exit_code(*command, "--data.metric", "token_accuracy", "--json") == 0
    rows = {row["metric"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert set(rows) == {"token_accuracy", "exact_match", "token_f1"}
    assert rows["token_accuracy"]["value"] == pytest.approx(trimmed["token_accuracy"])
    assert rows["exact_match"]["value"] == trimmed["exact_match"]
    assert exit_code(*command, "--backend", "lm-eval") == 2
    assert "lm-eval scores multiple choice" in capsys.readouterr().err


def test_a_full_disk_is_said_before_anything_is_written(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Any,
    tiny_tokenizer: Any,
) -> None:  # fmt: skip
    import shutil
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10, 10, 0))
    stack = trimlab.SublayerStack(tiny_model("llama"))
    with pytest.raises(InputError, match="no room"):
        trimlab.save_packed(stack, tiny_tokenizer(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
