import pytest
import torch

from trimlab.errors import InputError
from trimlab.model.shape import empty_model, random_model, shape_config, shape_names
from trimlab.model.sublayers import SublayerStack

BILLIONS = {"llama-7b": 6.738, "llama-13b": 13.016, "tinyllama-1-1b": 1.100, "opt-1-3b": 1.316}


@pytest.mark.parametrize("name", shape_names())
def test_every_shape_is_a_supported_model(name):
    stack = SublayerStack(empty_model(shape_config(name)))
    assert len(stack) == 2 * shape_config(name).num_hidden_layers
    n = sum(p.numel() for p in stack.model.parameters())
    if name in BILLIONS:
        assert n / 1e9 == pytest.approx(BILLIONS[name], abs=6e-4)


def test_random_weights_come_from_the_seed_in_the_given_type():
    config = shape_config("smollm2-135m")
    config.num_hidden_layers = 1
    first, again = (random_model(config, torch.bfloat16, torch.device("cpu")) for _ in range(2))
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert one.dtype == torch.bfloat16
        assert torch.equal(one, other)
    assert torch.get_default_dtype() == torch.float32


def test_no_two_matrices_of_random_weights_are_equal():
    config = shape_config("smollm2-135m")
    config.num_hidden_layers = 2
    model = random_model(config, torch.bfloat16, torch.device("cpu"))
    matrices = [p.flatten() for p in model.parameters() if p.dim() == 2]
    assert len({tuple(m[:8].tolist()) for m in matrices}) == len(matrices)


def test_an_unknown_shape_is_refused_by_name():
    with pytest.raises(
        InputError, match="no shape 'llama-8b'; there are gemma-3-270m, llama-13b, "
    ):
        shape_config("llama-8b")
