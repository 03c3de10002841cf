"""Devices and types by name."""

import pytest
import torch

from tests.host_waits import fake_cuda
from trimlab.errors import InputError
from trimlab.model.device import find_dtype, find_placement, has_bfloat16

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_a_cpu_computes_in_float32_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_placement() == find_placement("cpu") == (CPU, torch.float32)
    assert find_placement("auto", "bfloat16") == (CPU, torch.bfloat16)


def test_a_gpu_is_taken_where_there_is_one() -> None:
    with fake_cuda():
        assert find_placement() == (CUDA, torch.bfloat16)
        assert has_bfloat16(CUDA) and not has_bfloat16(CPU)
        assert find_dtype("auto", torch.device("cuda", 0)) == torch.bfloat16
        assert find_placement("cuda:0", "float32") == (torch.device("cuda:0"), torch.float32)
        assert find_placement("cpu") == (CPU, torch.float32)


def test_a_gpu_without_bfloat16_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_cuda():
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
        assert find_placement() == (CUDA, torch.float32)
        assert not has_bfloat16(CUDA)
        with pytest.raises(InputError, match="stand-in has no bfloat16: take float16 or float32"):
            find_placement("cuda", "bfloat16")


@pytest.mark.parametrize(
    ("device", "dtype", "message"),
    [
        ("gpu", "auto", "there is no device 'gpu': write auto, cpu, cuda or cuda:1"),
        ("meta", "auto", "device meta: trimlab computes on cpu or cuda"),
        ("cuda", "auto", r"device cuda: .*; take cpu"),
        ("cuda:1", "auto", r"device cuda:1: .*; take cpu"),
        ("cpu", "int8", "dtype must be one of auto, float32, bfloat16, float16, not 'int8'"),
    ],
)
def test_what_is_not_there_is_refused(
    device: str, dtype: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=message):
        find_placement(device, dtype)


def test_a_second_gpu_must_be_there() -> None:
    with fake_cuda(), pytest.raises(InputError, match="no device cuda:1: this machine has cuda:0"):
        find_placement("cuda:1")
