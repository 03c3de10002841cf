"""Algorithm 1 as a callback against the same algorithm written down plainly."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch

from trimlab import stop_rules
from trimlab.algorithm import Trim
from trimlab.data.domain import DomainData
from trimlab.errors import InputError
from trimlab.model.sublayers import Sublayer, SublayerStack
from trimlab.records.rows import read_rows
from trimlab.scanning.candidates import candidates
from trimlab.scanning.scan import Scan
from trimlab.scanning.selection import Scores
from trimlab.scorers import Scorer
from trimlab.scorers.sensitivity import s_scan
from trimlab.stop_rules import StopRules
from trimlab.training.module import DomainLM


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Any) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("base"), num_hidden_layers=3)


def fit(
    base: Path,
    root: Path,
    folder: Path,
    double: bool = False,
    model: Any = None,
    data: DomainData | None = None,
    **options: Any,
) -> tuple[DomainLM, Trim]:
    """Runs the callback in a plain Lightning trainer."""
    L.seed_everything(0, verbose=False)
    module = DomainLM(str(base), **({"lr": 1e-2, "schedule": "constant"} | (model or {})))
    if double:
        module.double()
    data = data or make_data(module, root)
    trim = Trim(progress=False, **options)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        default_root_dir=folder,
        callbacks=[trim],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, datamodule=data)
    return module, trim


def make_data(module: DomainLM, root: Path, seed: int = 0) -> DomainData:
    held_out = {"calibration_rows": 15, "dev_rows": 15}
    return DomainData(module.tokenizer, "jsonl", root, batch_size=4, seed=seed, **held_out)


def test_same_scores_drops_and_order_as_the_plain_algorithm(
    base: Path, root: Path, tmp_path: Path, plain_scores: Any
) -> None:
    module, _ = fit(
        base, root, tmp_path, double=True, scorer="two_step", r=0.5, target_layer_memory=0.5
    )
    points = read_rows(tmp_path / "record.jsonl")

    # the plain algorithm: whole passes, no cache, every candidate evaluated from scratch
    plain = DomainLM(str(base)).double()
    data = make_data(plain, root)
    data.setup()
    stack, dropped = plain.stack, []

    def accuracy(items: list[Any]) -> float:
        plain.eval()
        right = 0
        for item in items:
            scores = plain_scores(plain.model, plain.tokenizer, item)
            right += scores.index(max(scores)) == item.gold
        return 100 * right / len(items)

    def norms() -> dict[Sublayer, float]:
        seen: dict[Sublayer, torch.Tensor] = {}
        hooks = [
            stack.modules(sublayer)[-1].register_forward_hook(
                lambda _m, _a, out, sublayer=sublayer: seen.update(
                    {sublayer: out[0] if isinstance(out, tuple) else out}
                )
            )
            for sublayer in stack
        ]
        totals = dict.fromkeys(stack, 0.0)
        assert data.rows is not None
        for item in data.rows.calibration:
            squares = dict.fromkeys(stack, 0.0)
            start = len(plain.tokenizer(item.context)["input_ids"])
            for k, choice in enumerate(item.choices):
                text = plain.tokenizer(item.context + choice)["input_ids"][:-1]
                with torch.no_grad():
                    plain.model(torch.tensor([text]), use_cache=False)
                for sublayer, output in seen.items():
                    # an item is its context, once, and every choice up to its last token
                    squares[sublayer] += float(output[0, 0 if k == 0 else start :].square().sum())
            for sublayer in stack:
                totals[sublayer] += squares[sublayer] ** 0.5
        for hook in hooks:
            hook.remove()
        return totals

    def scores() -> dict[Sublayer, tuple[float, float]]:
        assert data.rows is not None
        a = {}
        for sublayer in stack:
            with stack.bypass(sublayer):
                a[sublayer] = accuracy(data.rows.calibration)
        norm = norms()
        least = min(norm.values())
        return {s: (s_scan(a[s], 0.01), 100 * least / norm[s]) for s in stack}

    initial = scores()  # lines 1 and 2
    ranked = sorted(initial, key=lambda s: initial[s])
    plain.freeze_all_but(ranked[len(ranked) // 2 :])
    optimizer = torch.optim.AdamW(
        [p for p in plain.model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0
    )
    loader = data.train_dataloader()
    for epoch in range(len(points)):  # line 3
        plain.train()
        loader.sampler.epoch = lambda epoch=epoch: epoch  # type: ignore[union-attr]
        for batch in loader:  # line 4
            logits = plain.model(batch.input_ids, use_cache=False).logits
            log_probs = logits.log_softmax(-1)[batch.item_index, batch.logit_index, batch.targets]
            optimizer.zero_grad()
            (-log_probs.mean()).backward()
            optimizer.step()
        assert data.rows is not None
        assert points[epoch]["dev"] == pytest.approx(accuracy(data.rows.dev))
        assert points[epoch]["history"] == [str(s) for s in dropped]
        if epoch + 1 < len(points):
            found = scores()  # line 5
            recorded = points[epoch + 1]["scan"]
            assert [row["candidate"] for row in recorded] == [str(s) for s in found]
            for row, score in zip(recorded, found.values(), strict=True):
                assert row["score"] == pytest.approx(score, rel=1e-9)
            worst = min(found, key=lambda s: found[s])
            stack.drop(worst)  # line 6
            dropped.append(worst)
    assert dropped == module.stack.history
    assert module.stack.layer_memory_ratio <= 0.5
    for name, parameter in plain.model.named_parameters():
        torch.testing.assert_close(module.model.get_parameter(name), parameter)


def test_sparse_update_trains_what_the_initial_scan_keeps(
    base: Path, root: Path, tmp_path: Path
) -> None:
    module, _ = fit(base, root, tmp_path, r=0.34, max_drops=1)
    untouched = SublayerStack(DomainLM(str(base)).model)
    scan = read_rows(tmp_path / "record.jsonl")[0]["scan"]
    kept = sorted(scan, key=lambda row: row["score"])[-2:]
    assert {str(s) for s in module.trainable} == {row["candidate"] for row in kept}
    for sublayer in module.stack:
        pairs = zip(module.stack.parameters(sublayer), untouched.parameters(sublayer), strict=True)
        same = all(torch.equal(ours, original) for ours, original in pairs)
        assert same == (sublayer not in module.trainable)


@pytest.mark.parametrize("embeddings", [False, True])
def test_embeddings_are_trained_only_when_asked_for(
    base: Path, root: Path, tmp_path: Path, embeddings: bool
) -> None:
    module, _ = fit(
        base, root, tmp_path, model={"train_embeddings": embeddings}, r=0.5, max_drops=1
    )
    untouched = DomainLM(str(base)).model
    for name in ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"):
        trained = not torch.equal(module.model.get_parameter(name), untouched.get_parameter(name))
        assert trained == embeddings, name


# two drops are planned for, an epoch of six steps before each and one behind them
RATES = {
    ("constant", 0): [1.0] * 18,
    ("linear", 0): [max(1 - step / 18, 0.2) for step in range(18)],
    ("restart", 0): [max(1 - step % 6 / 6, 0.2) for step in range(18)],
    ("restart", 2): [0.5, *(max(1 - step / 6, 0.2) for step in range(1, 6))] * 3,
}


@pytest.mark.parametrize(("schedule", "warmup_steps"), RATES)
def test_learning_rates_of_every_step(
    base: Path,
    root: Path,
    tmp_path: Path,
    schedule: str,
    warmup_steps: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rates: list[float] = []
    step = DomainLM.training_step

    def watched(self: DomainLM, batch: Any, index: int) -> Any:
        (group,) = self.trainer.optimizers[0].param_groups
        rates.append(group["lr"])
        return step(self, batch, index)

    monkeypatch.setattr(DomainLM, "training_step", watched)
    model = {"lr": 1e-3, "schedule": schedule, "final_lr_share": 0.2}
    model |= {"warmup_steps": warmup_steps}
    fit(base, root, tmp_path, model=model, r=1.0, max_drops=2)
    assert rates == pytest.approx([1e-3 * share for share in RATES[schedule, warmup_steps]])


def test_optimizer_keeps_the_moments_of_what_stays(base: Path, root: Path, tmp_path: Path) -> None:
    module, _ = fit(base, root, tmp_path, r=1.0, max_drops=2)
    (optimizer,) = module.trainer.optimizers
    alive = {p for p in module.model.parameters() if p.requires_grad}
    held = {p for group in optimizer.param_groups for p in group["params"]}
    assert held == alive
    assert set(optimizer.state) <= alive
    steps = {int(optimizer.state[p]["step"]) for p in alive}
    assert steps == {module.global_step}  # never reset by a drop


@pytest.mark.parametrize(
    ("options", "dropped"),
    [
        ({"max_drops": 3}, [1, 1, 1]),
        ({"max_drops": 4, "drops_per_step": 2}, [2, 2]),
        ({"max_drops": 4, "drops_per_step": [2, 1]}, [2, 1, 1]),
        ({"target_layer_memory": 0.34, "packable": True}, [2, 2]),
        ({"target_model_memory": 0.75, "packable": True}, [2]),
        ({"target_model_memory": 0.65, "packable": True}, [2, 2]),
        ({"target_layer_memory": 0.34, "scorer": "top"}, [4]),
        ({"max_drops": 3, "scorer": "random"}, [1, 1, 1]),
        ({"max_drops": 2, "scorer": "block_influence"}, [1, 1]),
    ],
    ids=str,
)
def test_schedule_of_drops(
    base: Path, root: Path, tmp_path: Path, options: dict[str, Any], dropped: list[int]
) -> None:
    fit(base, root, tmp_path, **options)
    points = read_rows(tmp_path / "record.jsonl")
    assert [len(p["dropped"]) for p in points if p["dropped"]] == dropped
    assert all(p["dev_n"] == 15 and p["peak_rss_bytes"] > 0 for p in points)


def test_a_random_control_follows_the_seed_of_the_run(
    base: Path, root: Path, tmp_path: Path
) -> None:
    def drops(seed: int, **options: Any) -> list[list[str]]:
        data = make_data(DomainLM(str(base)), root, seed=seed)
        fit(base, root, tmp_path, data=data, scorer="random", max_drops=3, r=1.0, **options)
        return [point["dropped"] for point in read_rows(tmp_path / "record.jsonl")]

    assert drops(0) == drops(0)
    assert len({str(drops(seed)) for seed in range(3)}) == 3
    assert drops(1, scorer_args={"seed": 0}) == drops(0)


@pytest.mark.parametrize(
    "options", [{"target_layer_memory": 0.34, "packable": True}, {"max_drops": 4}], ids=str
)
def test_one_shot_trains_as_long_as_the_progressive_run(
    base: Path, root: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    for name, scorer in (("top", "top"), ("random", "random")):
        (tmp_path / name).mkdir()
        fit(base, root, tmp_path / name, scorer=scorer, **options)
    one_shot, progressive = (
        read_rows(tmp_path / name / "record.jsonl")[-1] for name in ("top", "random")
    )
    assert one_shot["history"] == ["2.attention", "2.mlp", "1.attention", "1.mlp"]
    assert one_shot["optimizer_steps"] == progressive["optimizer_steps"]


def test_packable_points_alternate(base: Path, root: Path, tmp_path: Path) -> None:
    module, _ = fit(base, root, tmp_path, packable=True, target_layer_memory=0.34)
    kinds = [sublayer.kind for sublayer in module.stack]
    assert kinds == ["attention", "mlp"] * (len(kinds) // 2)


def test_accuracy_stop_rule_refuses_the_point_and_keeps_the_one_before(
    base: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        StopRules, "too_inaccurate", lambda self, dev, fine_tuned: "bad" if self.calls() else None
    )
    seen: list[int] = []
    monkeypatch.setattr(
        StopRules, "calls", lambda self: seen.append(1) or len(seen) > 2, raising=False
    )
    _, trim = fit(base, root, tmp_path, min_accuracy_share=0.9)
    points = read_rows(tmp_path / "record.jsonl")
    assert [p["accepted"] for p in points] == [True, True, False]
    assert trim.finished == "bad"
    good = torch.load(tmp_path / "checkpoints" / "good.ckpt", weights_only=True)
    assert good["trimlab"]["history"] == points[1]["history"]


@pytest.mark.parametrize(
    ("rules", "dev", "refused"),
    [
        ({"min_accuracy": 50}, 49.9, True),
        ({"min_accuracy": 50}, 50.0, False),
        ({"min_accuracy_share": 0.9}, 71.9, True),
        ({"min_accuracy_share": 0.9}, 72.0, False),
    ],
)
def test_accuracy_rule(rules: dict[str, float], dev: float, refused: bool) -> None:
    assert (StopRules(**rules).too_inaccurate(dev, fine_tuned=80.0) is not None) == refused


def test_targets_are_met_together(tiny_model: Any) -> None:
    stack = SublayerStack(tiny_model("llama"))
    rules = StopRules(layer_memory=0.8, model_memory=0.7)
    assert rules.efficient_enough(stack) is None
    stack.drop(Sublayer(0, "attention"), Sublayer(0, "mlp"))
    assert stack.layer_memory_ratio == pytest.approx(0.75)
    assert stack.model_memory_ratio > 0.7  # the embeddings weigh in
    assert rules.efficient_enough(stack) is None
    stack.drop(Sublayer(1, "mlp"))
    assert rules.efficient_enough(stack) == "the target is met"


def test_latency_rule(tiny_model: Any) -> None:
    stack, rules = SublayerStack(tiny_model("llama")), StopRules(latency_ms=10)
    assert rules.efficient_enough(stack, latency_ms=10.0) == "the target is met"
    assert rules.efficient_enough(stack, latency_ms=10.1) is None


def test_latency_is_measured(base: Path, root: Path, tmp_path: Path) -> None:
    module, trim = fit(base, root, tmp_path, target_latency_ms=1e9)
    (point,) = read_rows(tmp_path / "record.jsonl")
    assert point["latency_ms"] > 0
    assert not module.stack.history
    assert point["finished"] == trim.finished == "the target is met"


@pytest.mark.parametrize(
    ("slow", "dropped", "why"),
    [(0, 2, "the target is met"), (1e6, 5, "nothing is left to drop")],
    ids=["reached", "out of reach after all"],
)
def test_drops_go_on_until_the_latency_is_reached(
    slow: float,
    dropped: int,
    why: str,
    base: Path,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A token takes as long as its model has parameters, and `slow` more after the first look."""
    stack = DomainLM(str(base)).stack
    size = sum(p.numel() for p in stack.model.parameters())
    each = sum(p.numel() for p in stack.parameters(Sublayer(0, "attention")))

    extra = itertools.chain([0], itertools.repeat(slow))

    def latency(model: Any) -> float:
        return sum(p.numel() for p in model.parameters()) + next(extra)

    monkeypatch.setattr(stop_rules, "decode_latency_ms", latency)
    target = size - 2 * each
    module, trim = fit(
        base, root, tmp_path, target_latency_ms=target, scorer=f"{__name__}.AttentionsFirst"
    )
    points = read_rows(tmp_path / "record.jsonl")
    assert [p["latency_ms"] <= target for p in points] == [False] * (len(points) - 1) + [not slow]
    assert len(module.stack.history) == dropped
    assert trim.finished == points[-1]["finished"] == why


class AttentionsFirst(Scorer):
    """Attentions in the order of execution, then MLPs."""

    def __call__(self, scan: Scan) -> Scores:
        return [(float(c[0].kind == "mlp"), float(c[0].block)) for c in scan.candidates]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no stop rule"),
        ({"target_layer_memory": 0.01}, "below what is possible"),
        ({"target_layer_memory": 1.5}, "between 0 and 1"),
        ({"target_model_memory": 0.01}, "below what is possible"),
        ({"target_latency_ms": 1e-9}, "below what is possible"),
        ({"min_accuracy": 101}, "in percent"),
        ({"min_accuracy_share": 90}, "between 0 and 1"),
        ({"max_drops": 6}, "from 1 to 5"),
        ({"max_drops": 3, "packable": True}, "must be even"),
        ({"target_layer_memory": 0.5, "save_at": [0.4]}, "never reached"),
        ({"max_drops": 1, "r": 0.0}, "trim.r"),
        ({"max_drops": 1, "drops_per_step": 0}, "drops_per_step"),
        ({"max_drops": 1, "save_at": [50]}, "save_at"),
        ({"max_drops": 1, "scorer": "nosuch"}, "no scorer"),
        ({"max_drops": 1, "scorer_args": {"x": 1}}, "scorer"),
        ({"min_accuracy": 5, "scorer": "top"}, "one-shot"),
        ({"max_drops": 1, "epochs_per_drop": 0}, "epochs"),
    ],
    ids=str,
)
def test_bad_options(
    base: Path, root: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fit(base, root, tmp_path, **options)


def test_scaled_losses_are_refused(base: Path) -> None:
    """A step computes its gradients before a scaler has scaled its loss."""
    trainer = SimpleNamespace(world_size=1, precision="16-mixed")
    with pytest.raises(InputError, match="take bf16-mixed"):
        Trim(max_drops=1).check(trainer, DomainLM(str(base)).stack)  # type: ignore[arg-type]


def test_diverging_loss_stops_with_the_last_good_point_on_disk(
    base: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = DomainLM.training_step

    def poisoned(self: DomainLM, batch: Any, index: int) -> Any:
        if self.stack.history:
            with torch.no_grad():
                next(p for p in self.model.parameters() if p.requires_grad).fill_(float("nan"))
        return plain(self, batch, index)

    monkeypatch.setattr(DomainLM, "training_step", poisoned)
    with pytest.raises(InputError, match="lower model.lr"):
        fit(base, root, tmp_path, max_drops=2, r=1.0)
    assert [p["step"] for p in read_rows(tmp_path / "record.jsonl")] == [0]
    assert (tmp_path / "checkpoints" / "good.ckpt").exists()


def test_training_goes_on_when_every_trainable_sublayer_is_gone(
    base: Path, root: Path, tmp_path: Path
) -> None:
    module, _ = fit(base, root, tmp_path, r=0.1, max_drops=5)
    assert len(module.stack) == 1
    assert len(candidates(module.stack)) == 1
