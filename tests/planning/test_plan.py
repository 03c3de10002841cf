"""A plan: counted passes, memory, time, and what fits, against plain arithmetic and real runs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from trimlab.cli import main
from trimlab.errors import InputError
from trimlab.model.shape import empty_model, random_model, shape_config
from trimlab.model.sublayers import SublayerStack
from trimlab.planning import device, measuring
from trimlab.planning.base import base_config, built_folder
from trimlab.planning.duration import durations, part_ops, scan_seconds
from trimlab.planning.fitting import changes, peak, what_fits
from trimlab.planning.job import Job
from trimlab.planning.machine import Machine, load_machine, machine_names
from trimlab.planning.memory import phases, step_peak, trained_state, training, weights_bytes
from trimlab.planning.memory import scan as scan_memory
from trimlab.planning.passes import Passes, PassSettings
from trimlab.planning.plan import parse_memory
from trimlab.planning.settings import RunSettings
from trimlab.planning.sizes import ModelSizes, trained_sublayers
from trimlab.planning.tracing import Op
from trimlab.planning.trimmed import trimmed_sizes
from trimlab.planning.workload import assumed, parse_tokens, spread
from trimlab.training.module import DomainLM

TINY = LlamaConfig(
    vocab_size=128,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
)
ATTENTION, MLP = 32 * 32 * 2 + 2 * 32 * 16 + 32, 3 * 32 * 64 + 32  # parameters, norms included
COUNTS = {"train": 64, "calibration": 8, "dev": 8, "test": 8}
GPU = Machine("gpu", 2**30, matrix_rate=1e12, bandwidth=1e11, base=0)


def make_job(config: Any = TINY, machine: Machine = GPU, **options: Any) -> Job:
    row: dict[str, dict[str, Any]] = {"trim": {"target_layer_memory": 0.5, "r": 1.0}}
    for name, value in options.items():
        section, _, option = name.partition("__")
        row.setdefault(section, {})[option] = value
    settings = RunSettings.from_config(row)
    return Job(ModelSizes(config), settings, assumed(COUNTS, (16, 32)), machine)


def saved_bytes(block: Any, *args: Any, **kwargs: Any) -> int:
    """Bytes that a real forward pass keeps for the backward pass, without weights."""
    weights = {p.untyped_storage().data_ptr() for p in block.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = block(*args, **kwargs)
    given = {t.untyped_storage().data_ptr() for t in (args[0], *kwargs["position_embeddings"])}
    made = {key: size for key, size in kept.items() if key not in given}
    return sum((made | {out.untyped_storage().data_ptr(): out.untyped_storage().nbytes()}).values())


@pytest.mark.parametrize("trained", [frozenset(), frozenset({"attention"}), frozenset({"mlp"})])
def test_saved_activations_are_those_of_a_real_block(trained: frozenset[Any]) -> None:
    model = random_model(TINY, torch.float32, torch.device("cpu")).train()
    stack = SublayerStack(model)
    stack.freeze_all_but(s for s in stack if s.kind in trained)
    state = torch.randn(4, 16, 32, requires_grad=True)
    rotary = model.base_model.rotary_emb(state, torch.arange(16)[None])  # type: ignore[operator]
    real = saved_bytes(stack.blocks[0], state, position_embeddings=rotary, attention_mask=None)
    assert Passes(TINY, PassSettings()).block(4, 16, trained=trained).saved == real


def test_flops_of_a_block() -> None:
    cost = Passes(TINY, PassSettings()).block(2, 16, trained=frozenset({"attention", "mlp"}))
    tokens, matrices = 2 * 16, (ATTENTION - 32) + (MLP - 32)
    products = 2 * tokens * matrices
    attention = 4 * tokens * 16 * 32  # queries times keys, and their values
    assert sum(op.flops * n for op, n in cost.forward.items()) == products + attention
    backward = 2 * products + 2.5 * attention
    assert sum(op.flops * n for op, n in cost.backward.items()) == backward


def test_no_weight_gradients_where_nothing_is_trained() -> None:
    passes = Passes(TINY, PassSettings())
    frozen = passes.block(2, 16, trained=frozenset())
    trained = passes.block(2, 16, trained=frozenset({"mlp"}))
    flops = [sum(op.flops * n for op, n in cost.backward.items()) for cost in (frozen, trained)]
    assert flops[1] - flops[0] == 2 * 32 * (MLP - 32)


def test_checkpointing_keeps_the_input_alone() -> None:
    passes = Passes(TINY, PassSettings(checkpointing=True))
    cost = passes.block(4, 16, trained=frozenset({"mlp"}))
    assert cost.saved == 4 * 16 * 32 * 4  # the output, which is the input of the next block


def test_bytes_of_many_items_follow_from_those_of_few() -> None:
    passes = Passes(TINY, PassSettings())
    trained = frozenset({"mlp"})
    exact = passes.block(16, 32, trained=trained)
    quick = passes.block_bytes(16, 32, trained=trained)
    assert quick.saved == exact.saved
    assert quick.backward_peak == pytest.approx(exact.backward_peak, rel=0.02)
    exact = passes.head(8, 32, 96, trained=False)
    quick = passes.head_bytes(8, 32, 96, trained=False)
    assert quick.saved == pytest.approx(exact.saved, rel=0.02)


def test_sizes_of_llama_7b() -> None:
    sizes = ModelSizes(shape_config("llama-7b"))
    assert sizes.total == sum(p.numel() for p in empty_model(sizes.config).parameters())
    assert sizes.parameters_of("attention") == 4 * 4096**2 + 4096
    assert sizes.cache_per_token == 2 * 32 * 4096


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


def test_what_fits_is_added_in_order_and_no_more_than_needed() -> None:
    job = make_job(trainer__precision="bf16-true", model__train_tokens=64, data__eval_tokens=64)
    assert [change.option for change in changes(job)] == [
        "model.train_tokens",
        "data.eval_tokens",
        "model.activation_checkpointing",
        "model.optimizer",
        *["trim.r"] * 3,
        "model.lora_rank",
    ]
    assert what_fits(job, 2**40) == []
    assert what_fits(job, 1000) is None
    needed = peak(job.changed(optimizer="adamw_8bit"))
    chosen = what_fits(job, int(needed / 0.95) + 1)
    assert chosen
    assert chosen[-1].option in ("model.activation_checkpointing", "model.optimizer")
    fields = {k: v for change in chosen for k, v in change.fields.items()}
    assert peak(job.changed(**fields)) <= needed
    for left_out in chosen:
        others = {k: v for c in chosen if c is not left_out for k, v in c.fields.items()}
        assert peak(job.changed(**others)) > needed


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


def test_the_lm_head_of_a_gpu_takes_more_positions_at_once() -> None:
    assert Passes(TINY, PassSettings()).rows_per_call == 256
    assert Passes(TINY, PassSettings(cuda=True)).rows_per_call == 2**27 // 128
    passes = Passes(shape_config("llama-7b"), PassSettings(cuda=True))
    assert passes.head_call.forward_peak > passes.rows_per_call * 32000 * 4  # float32 logits


def test_no_proposed_option_stands_for_all_that_a_gpu_can_do() -> None:
    job = make_job()  # of 1 GiB, thus 4,096 tokens; a quarter is 1,024, the default
    asked = [change.value for change in changes(job) if change.option == "data.eval_tokens"]
    assert asked[:2] == [1023, 255]
    assert all(job.changed(eval_tokens=n).capacity.tokens == n for n in asked)


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


def test_a_run_that_does_not_fit_is_refused_with_what_to_lower() -> None:
    sets = {name: {"items": n, "longest": 32} for name, n in COUNTS.items()}
    config = {"trim": {"target_layer_memory": 0.5, "r": 1.0}}
    job = device.planned_job(TINY, config, sets, GPU)
    device.check_fits(job, 2**40)
    with pytest.raises(InputError, match=r"this run needs about .*fits with --trainer.precision"):
        device.check_fits(job, int(peak(job) * 0.9))
    device.check_device_memory(TINY, config, sets, torch.device("cpu"))  # nothing to check


def test_the_trimmed_model_and_its_cache() -> None:
    full, trimmed = trimmed_sizes(make_job())
    assert full.weights == 2 * ModelSizes(TINY).total
    assert full.weights - trimmed.weights == 2 * 2 * (ATTENTION + MLP)
    assert full.cache_per_token == 2 * 4 * 2 * 2 * 8  # bytes, blocks, keys and values, heads, width
    assert trimmed.cache_per_token == full.cache_per_token / 2
    assert trimmed.cache[256] == 256 * trimmed.cache_per_token


def test_time_is_that_of_the_slowest_resource() -> None:
    machine = Machine("m", 1, matrix_rate=100.0, bandwidth=10.0, launch=0.5, efficiency=1.0)
    assert machine.seconds({Op(("mm",), 200, 10): 2}) == 4.0  # type: ignore[arg-type]
    assert machine.seconds({Op(("add",), 0, 30): 1}) == 3.0  # type: ignore[arg-type]
    assert machine.seconds({Op(("add",), 0, 1): 3}) == 1.5  # type: ignore[arg-type]
    shape = ("mm", (4, 2), (2, 2))
    faster = replace(machine, rates={shape: 400.0})
    assert faster.seconds({Op(shape, 800, 10): 1}) == 2.0  # type: ignore[arg-type]
    other = ("mm", (8, 2), (2, 2))  # other rows: the same product nearest to it
    assert faster.seconds({Op(other, 1600, 10): 1}) == 4.0  # type: ignore[arg-type]
    # a bias stands before the operands: neither its width nor another weight decides
    near, far, wrong = (
        ("addmm", (3,), (7, 2), (2, 3)),
        ("addmm", (3,), (90, 2), (2, 3)),
        ("addmm", (5,), (8, 4), (4, 5)),
    )
    biased = replace(machine, rates={wrong: 1.0, far: 2.0, near: 400.0})
    asked = ("addmm", (3,), (8, 2), (2, 3))
    assert biased.seconds({Op(asked, 800, 10): 1}) == 2.0  # type: ignore[arg-type]


@pytest.mark.parametrize("name", machine_names())
def test_machines(name: str) -> None:
    machine = load_machine(name)
    assert machine.name == name
    assert machine.memory > 2**30 and machine.matrix_rate > 1e12 and machine.bandwidth > 1e11


def test_spread_has_the_mean_and_the_maximum() -> None:
    lengths = spread(500, 128, 512)
    assert max(lengths) == 512
    assert sum(lengths) / len(lengths) == pytest.approx(128, rel=0.05)


def test_parsed_sizes() -> None:
    assert parse_memory("24GiB") == 24 * 2**30
    assert parse_memory("80 GB") == 80 * 10**9
    assert parse_memory("1.5gib") == 3 * 2**29
    assert parse_tokens("96,300") == (96, 300)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "llama-9b"], "no shape 'llama-9b'; there are"),
        (["--shape", "llama-7b", "--machine", "h900"], "no machine 'h900'; there are a100"),
        (["--shape", "llama-7b", "--device-memory", "24 apples"], "takes a size such as 24GiB"),
        (["--shape", "llama-7b", "--tokens", "300,100"], "--tokens takes the mean and"),
        (["--shape", "llama-7b", "--model.base", "x"], "name two models; give one of them"),
        (["--model.base", "nobody/nothing"], "give --shape (gemma-3-270m"),
        (["--model.base", "nowhere"], "there is no model 'nowhere'"),
        (["--shape", "llama-7b", "--model.tokens", "3"], "model.tokens"),
        (["--shape", "llama-7b", "--measure", "--machine", "h100"], "--measure runs here"),
    ],
)
def test_bad_input(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreachable(*_args: Any, **_kwargs: Any) -> str:
        raise OSError("no connection")

    monkeypatch.setattr("trimlab.planning.base.hf_hub_download", unreachable)
    with pytest.raises(SystemExit) as stop:
        main(["plan", "--trim.target_layer_memory", "0.5", *arguments])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2
    assert message in error


def test_plan_of_a_local_folder_reads_no_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    TINY.save_pretrained(tmp_path)
    arguments = ["--model.base", str(tmp_path), "--machine", "h100", "--tokens", "16,32"]
    with pytest.raises(SystemExit) as stop:
        main(["plan", *arguments, "--trim.target_layer_memory", "0.5", "--json"])
    assert stop.value.code == 0
    row = json.loads(capsys.readouterr().out)
    assert row["machine"]["name"] == "h100"
    assert row["fits"] is True
    assert row["fits_with"] == {}
    assert set(row["memory"]) >= {"untrimmed", "training", "scan", "export"}
    assert row["seconds"]["run"] > row["seconds"]["epoch"] > row["seconds"]["step"] > 0


def test_plan_of_an_embedded_model_that_is_not_built_assumes_lengths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIMLAB_CACHE", str(tmp_path))
    assert built_folder("smollm2-135m") is None
    arguments = ["--model.base", "smollm2-135m", "--data.task", "icd10_chapters"]
    with pytest.raises(SystemExit) as stop:
        main(["plan", *arguments, "--trim.max_drops", "2", "--machine", "h100", "--json"])
    assert stop.value.code == 0
    assert json.loads(capsys.readouterr().out)["lengths"].startswith("assumed: 128 tokens")
    assert list(tmp_path.iterdir()) == []  # nothing is built


def test_embedded_shapes_are_those_of_the_models() -> None:
    config = base_config("gemma-3-270m")
    assert ModelSizes(config).total == 268_098_176


@pytest.mark.slow  # seconds of measurement, which other load on the machine disturbs
@pytest.mark.parametrize("shape", ["smollm2-135m", "gemma-3-270m"])
def test_plan_is_within_15_percent_of_a_measurement(
    shape: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--shape", shape, "--tokens", "96,200", "--trim.target_layer_memory", "0.5"]
    with pytest.raises(SystemExit) as stop:
        main(["plan", *arguments, "--measure", "--json"])
    assert stop.value.code == 0
    for row in json.loads(capsys.readouterr().out.splitlines()[-1]):
        assert row["predicted_bytes"] == pytest.approx(row["measured_bytes"], rel=0.15)
        assert row["predicted_seconds"] == pytest.approx(row["measured_seconds"], rel=0.15)


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
