"""LoRA: low-rank adapters beside the linear layers of the trainable sublayers, with peft.

The weights of the model are frozen and only the adapters are trained. While a model is trained, the
adapters stay beside the weights: forward passes of a scan run through them. A model that leaves
training has them merged into its weights and is an ordinary model again.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from trimlab.errors import InputError
from trimlab.model.sublayers import Sublayer, SublayerStack


def check_lora(rank: int, alpha: float | None, train_embeddings: bool) -> None:
    """Refuses LoRA options that cannot work.

    Raises:
        InputError: A value is out of range, or peft is not installed.
    """
    if rank < 0:
        raise InputError(f"model.lora_rank must be 0 (no LoRA) or more, not {rank}")
    if alpha is not None and not alpha > 0:
        raise InputError(f"model.lora_alpha must be positive, not {alpha:g}")
    if alpha is not None and not rank:
        raise InputError("model.lora_alpha scales adapters: set model.lora_rank, too")
    if rank and train_embeddings:
        raise InputError("model.train_embeddings trains weights, which model.lora_rank freezes")
    if rank:
        _peft()


def add_adapters(
    stack: SublayerStack, sublayers: Iterable[Sublayer], rank: int, alpha: float, seed: int
) -> None:
    """Adds an adapter to every linear layer of some sublayers that has none, and trains only those.

    The model computes the same as before: the second matrix of a new adapter is zero.

    Args:
        stack: The model, on its device. All its other parameters are frozen.
        sublayers: The sublayers; dropped ones have no linear layers left.
        rank: Rank of the adapters.
        alpha: Their output is multiplied by `alpha / rank`.
        seed: Seed of the first matrices.
    """
    linears = {
        module
        for sublayer in sublayers
        for part in stack.modules(sublayer)
        for module in _without_adapters(part)
    }
    names = [name for name, module in stack.model.named_modules() if module in linears]
    if names:
        peft = _peft()
        config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, lora_dropout=0.0)
        # the first matrices are those of the seed, and nothing else draws other numbers
        with torch.random.fork_rng(devices=_gpus(stack.model)):
            torch.manual_seed(seed)
            peft.inject_adapter_in_model(config, stack.model)
        del stack.model.peft_config  # the model stays a stock model that can be saved
    stack.freeze_all_but([])
    for adapter in adapters(stack.model).values():
        for matrix in (*adapter.lora_A.parameters(), *adapter.lora_B.parameters()):
            matrix.requires_grad_(True)


def merge_adapters(model: nn.Module) -> None:
    """Adds every adapter to the weights beside it, and takes it away."""
    for name, adapter in adapters(model).items():
        adapter.merge()
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, adapter.get_base_layer())


def adapter_bytes(stack: SublayerStack, rank: int) -> int:
    """Bytes of the adapters that all sublayers together would have.

    Args:
        stack: The model, untrimmed.
        rank: Their rank.
    """
    return adapter_parameters(stack.blocks, rank) * stack.model.dtype.itemsize


def adapter_parameters(modules: Iterable[nn.Module], rank: int) -> int:
    """Parameters of the adapters that the linear layers in some modules would have.

    Args:
        modules: The modules, no two of which share a layer.
        rank: Rank of the adapters.
    """
    linears = (m for module in modules for m in module.modules() if isinstance(m, nn.Linear))
    return sum(rank * (linear.in_features + linear.out_features) for linear in linears)


def adapters(model: nn.Module) -> dict[str, Any]:
    """The adapters of a model, by the name of the linear layer that each wraps."""
    return {name: module for name, module in model.named_modules() if _is_adapter(module)}


def _is_adapter(module: nn.Module) -> bool:
    return hasattr(module, "lora_A") and hasattr(module, "get_base_layer")


def _without_adapters(module: nn.Module) -> list[nn.Module]:
    if _is_adapter(module):
        return []
    if isinstance(module, nn.Linear):
        return [module]
    return [linear for child in module.children() for linear in _without_adapters(child)]


def _gpus(model: nn.Module) -> list[torch.device]:
    return list({p.device for p in model.parameters() if p.is_cuda})


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise InputError("model.lora_rank needs peft: pip install 'trimlab[lora]'") from error
    return peft
