"""Memory and time of the phases of a run, against plain arithmetic."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.planning.jobs import ATTENTION, COUNTS, GPU, MLP, TINY, make_job
from trimlab.errors import InputError
from trimlab.model.shape import empty_model
from trimlab.model.sublayers import SublayerStack
from trimlab.planning import measuring
from trimlab.planning.duration import durations, part_ops, scan_seconds
from trimlab.planning.memory import (
    phases,
    step_peak,
    target_layers,
    target_model,
    trained_state,
    training,
    weights_bytes,
)
from trimlab.planning.memory import scan as scan_memory
from trimlab.planning.settings import RunSettings
from trimlab.planning.sizes import ModelSizes, trained_sublayers
from trimlab.planning.workload import assumed
from trimlab.training.module import DomainLM


def test_trained_sublayers_are_a_share_of_both_kinds() -> None:
    found = trained_sublayers(32, 0.25)
    kinds = [kind for block in found for kind in block]
    assert kinds.count("attention") == kinds.count("mlp") == 8
    assert found[0]  # the gradient passes through the whole model
    assert trained_sublayers(4, 1.0) == [frozenset({"attention", "mlp"})] * 4


def test_weights_and_optimizer_of_training() -> None:
    layers = 4 * (ATTENTION + MLP)
    plain, half = make_job(), make_job(trainer__precision="bf16-true")
    assert weights_bytes(plain) == 4 * (layers + 2 * 128 * 32 + 32) == 2 * weights_bytes(half)
    assert trained_state(plain) == {"optimizer": 8 * layers, "gradients": 4 * layers}
    assert trained_state(half) == {"optimizer": 4 * layers, "gradients": 2 * layers}
    eight = make_job(model__optimizer="adamw_8bit")
    assert trained_state(eight)["optimizer"] == int(2 * (1 + 4 / 256) * layers)


def test_gradients_of_earlier_parts_and_of_accumulated_batches_are_held() -> None:
    gradients = 4 * 4 * (ATTENTION + MLP)
    equal = replace(make_job(model__train_tokens=256), workload=assumed(COUNTS, (16, 16)))
    assert {len(batch) for batch in equal.batches} == {1}
    peak_of_step = step_peak(equal, equal.largest_part)["gradients"]
    assert training(equal).parts["gradients"] == peak_of_step
    accumulated = equal.changed(accumulated=4)
    assert training(accumulated).parts["gradients"] == gradients + peak_of_step
    parts = equal.changed(train_tokens=128)
    assert {len(batch) for batch in parts.batches} == {2}
    peak_of_step = step_peak(parts, parts.largest_part)["gradients"]
    assert training(parts).parts["gradients"] == gradients + peak_of_step


def test_lora_trains_adapters() -> None:
    job = make_job(model__lora_rank=2)
    assert job.all_trained == 4 * 2 * (2 * 64 + 2 * 48 + 3 * 96)


def test_a_gpu_computes_as_many_tokens_at_once_as_its_memory_allows() -> None:
    job = make_job(machine=replace(GPU, memory=80 * 2**30))
    assert job.capacity.tokens == 32768
    assert make_job(machine=replace(GPU, cuda=False)).capacity.tokens == 1024
    assert job.changed(eval_tokens=5000).capacity.tokens == 5000  # asked for
    assert [shape.items for shape in job.evaluation_shapes("dev")] == [COUNTS["dev"]]
    assert job.candidates_at_once(job.scan_shapes[0]) == 8  # all of them


def test_a_gpu_scores_all_choices_in_full() -> None:
    items = assumed(COUNTS, (16, 32)).dev
    assert {(item.scored, item.all_scored) for item in items} == {(8, 1 + 4 * 7)}
    for cuda, positions in ((False, 8), (True, 29)):
        job = make_job(machine=replace(GPU, cuda=cuda))
        for shapes in (job.evaluation_shapes("dev"), job.scan_shapes):
            assert sum(shape.scored for shape in shapes) == positions * 8
        assert {part.scored / part.items for part in job.parts} == {8}


@pytest.mark.parametrize(
    ("scorer", "parts"),
    [
        ("two_step", {"forward cache", "candidates", "logits"}),
        ("hidden_change", {"forward cache", "candidates", "logits"}),
        ("activation_norm", {"forward cache", "activations"}),
        ("random", set()),
    ],
)
def test_a_scan_is_what_the_scorer_measures(scorer: str, parts: set[str]) -> None:
    job, full = make_job(trim__scorer=scorer), make_job()
    found = scan_memory(job)
    assert set(found.parts) - set(trained_state(job)) == {"process", "weights"} | parts
    assert (scan_seconds(job) == 0) == (scorer == "random")
    if scorer != "two_step":  # which alone runs the LM head on every candidate
        assert scan_seconds(job) < scan_seconds(full)
        assert found.total < scan_memory(full).total


def test_a_scan_without_choices_is_of_the_right_ones() -> None:
    job, full = make_job(trim__scorer="hidden_change"), make_job()
    longest = max(item.right_tokens for item in job.workload.calibration)
    assert max(batch.length for batch in job.scan_shapes) == longest
    assert longest < max(batch.length for batch in full.scan_shapes)


def test_what_is_measured_is_the_scan_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(measuring, "score_candidates", lambda *args, **named: asked.append(args))
    module = DomainLM.__new__(DomainLM)
    torch.nn.Module.__init__(module)
    module.stack = SublayerStack(empty_model(TINY))
    module._device = torch.device("cpu")
    job = make_job(trim__scorer="hidden_change", trim__packable=True)
    callback = measuring.Measure("rows", job.settings)
    callback.seconds = [1.0, 3.0]
    callback.on_train_epoch_end(None, module)
    assert asked == [(job.settings.trim.scorer, module.stack, "rows", "pair")]
    assert callback.found["training"].seconds == 2.0


def test_the_whole_model_is_fine_tuned_before_it_is_trimmed() -> None:
    job = make_job(trim__r=0.25)
    first = job.settings.changed(trim_from="fine_tuned", fine_tuning_epochs=5)
    tuned = replace(job, settings=first)
    assert [p.name for p in phases(job)][-1] == "fine-tuned comparison"
    assert [p.name for p in phases(tuned)][:3] == ["untrimmed", "fine-tuning", "training"]
    assert "fine-tuned comparison" not in [p.name for p in phases(tuned)]
    parts, all_trained = phases(tuned)[1].parts, training(make_job(trim__r=1.0)).parts
    assert parts["optimizer"] == all_trained["optimizer"] == 4 * 8 * (ATTENTION + MLP)
    assert parts["weights"] == 2 * all_trained["weights"]  # its copy is trimmed afterwards
    found, all_found = durations(tuned), durations(make_job(trim__r=1.0))
    assert found.fine_tuning == 5 * all_found.epoch > 5 * found.epoch
    assert durations(job).fine_tuning == 0
    comparison = found.epochs * found.epoch
    assert found.run == pytest.approx(durations(job).run - comparison + found.fine_tuning)


def test_a_teacher_takes_memory_and_a_forward_pass() -> None:
    alone = make_job(run__trim_from="fine_tuned")
    taught = alone.changed(loss="hidden_states")
    assert {p.name for p in phases(taught) if "teacher" in p.parts} == {
        *("training", "scan", "dev evaluation", "export")
    }
    assert training(taught).parts["teacher"] == weights_bytes(alone)
    assert training(taught).total > training(alone).total + weights_bytes(alone)
    assert phases(taught)[1] == phases(alone)[1]  # the teacher itself learns answers
    flops = [
        sum(op.flops * n for op, n in part_ops(job, job.largest_part).items())
        for job in (alone, taught)
    ]
    tokens = taught.largest_part.tokens
    assert flops[1] - flops[0] > 2 * tokens * 4 * (ATTENTION + MLP - 64)
    seconds = durations(taught), durations(alone)
    assert seconds[0].epoch > seconds[1].epoch
    assert seconds[0].fine_tuning == seconds[1].fine_tuning
    with pytest.raises(InputError, match="model.loss hidden_states needs a teacher: give run.trim"):
        make_job(model__loss="hidden_states")


def test_a_loss_says_what_it_computes() -> None:
    """All choices are more tokens, with a mask; all positions of the LM head are more logits."""
    answers = make_job(run__trim_from="fine_tuned")
    every = assumed(COUNTS, (16, 32), all_choices=True)
    choices = replace(answers.changed(loss="choices"), workload=every)
    assert choices.largest_part.tokens > answers.largest_part.tokens
    assert training(choices).parts["activations"] > training(answers).parts["activations"]
    # a loss without a teacher fine-tunes at full depth, too
    assert training(choices.fine_tuning) == training(choices)
    # of all choices, other losses compute the right one
    assert replace(answers, workload=every).batches == answers.batches
    context = answers.changed(loss="context")
    few, all_of_them = (job.largest_part for job in (answers, context))
    assert few.scored < all_of_them.scored <= all_of_them.tokens == few.tokens
    assert training(context).parts["logits"] > 2 * training(answers).parts["logits"]


def test_the_target_is_the_one_that_is_met_first() -> None:
    assert target_layers(make_job()) == 0.5  # as it was asked for, not rounded
    assert target_model(make_job(trim__target_model_memory=0.7)) == pytest.approx(
        1 - 0.5 * 4 * (ATTENTION + MLP) / ModelSizes(TINY).total
    )
    assert target_layers(make_job(trim__max_drops=2)) == 0.75
    assert target_layers(make_job(trim__target_layer_memory=None, trim__max_drops=6)) == 0.25
    assert target_layers(make_job(trim__target_layer_memory=None, trim__min_accuracy=50)) == 0.5


@pytest.mark.parametrize("precision", ["16-true", "16-mixed", "16", "transformer-engine"])
def test_a_precision_that_a_run_refuses_has_no_plan(precision: str) -> None:
    with pytest.raises(InputError, match="trainer.precision .* take "):
        make_job(trainer__precision=precision)


@pytest.mark.parametrize(("short", "name"), [("32", "32-true"), ("bf16", "bf16-mixed")])
def test_short_names_of_precisions(short: str, name: str) -> None:
    assert make_job(trainer__precision=short).settings.precision == name


def test_a_latency_target_is_not_measured_without_weights() -> None:
    rules = make_job(trim__target_latency_ms=1e-6).settings.trim.rules
    rules.check(ModelSizes(TINY).stack, "sublayer")


@pytest.mark.parametrize(("limit", "steps"), [(None, 20), (8, 8), (8.0, 8), (50, 20), (0.5, 10)])
def test_the_steps_of_an_epoch_are_those_of_the_trainer(limit: float | None, steps: int) -> None:
    config = {"trim": {"target_layer_memory": 0.5}, "trainer": {"limit_train_batches": limit}}
    assert RunSettings.from_config(config).steps_of(20) == steps


def test_accumulated_batches_are_one_optimizer_step() -> None:
    alone, four = make_job(data__batch_size=8), make_job(data__batch_size=8)
    four = four.changed(accumulated=3)
    assert (len(four.batches), alone.steps, four.steps) == (8, 8, 3)
    assert four.settings.steps_of(8) == 3
    assert durations(four).step > 2 * durations(alone).step
    assert durations(four).epoch < durations(alone).epoch  # fewer steps of the optimizer
