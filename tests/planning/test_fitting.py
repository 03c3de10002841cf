"""What fits in the memory of a device."""

import pytest
import torch

from tests.planning.jobs import COUNTS, GPU, TINY, make_job
from trimlab.errors import InputError
from trimlab.planning import device
from trimlab.planning.fitting import changes, peak, what_fits


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


def test_no_proposed_option_stands_for_all_that_a_gpu_can_do() -> None:
    job = make_job()  # of 1 GiB, thus 4,096 tokens; a quarter is 1,024, the default
    asked = [change.value for change in changes(job) if change.option == "data.eval_tokens"]
    assert asked[:2] == [1023, 255]
    assert all(job.changed(eval_tokens=n).capacity.tokens == n for n in asked)


def test_a_run_that_does_not_fit_is_refused_with_what_to_lower() -> None:
    sets = {name: {"items": n, "longest": 32} for name, n in COUNTS.items()}
    config = {"trim": {"target_layer_memory": 0.5, "r": 1.0}}
    job = device.planned_job(TINY, config, sets, GPU)
    device.check_fits(job, 2**40)
    with pytest.raises(InputError, match=r"this run needs about .*fits with --trainer.precision"):
        device.check_fits(job, int(peak(job) * 0.9))
    device.check_device_memory(TINY, config, sets, torch.device("cpu"))  # nothing to check
