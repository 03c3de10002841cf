"""FSDP2: every process keeps a part of the weights, gradients and moments of the sublayers.

A sublayer is the unit of sharding because it is the unit of dropping: a drop removes whole units,
and no other one has to be made anew. Embeddings, LM head and final norm are on every process.

Weights are restored before they are sharded, and gathered where they are saved: a checkpoint is
that of one process, whose history is replayed in the same way and which any number of processes may
resume. Scans and evaluations gather the weights of all sublayers once, and make passes of their own
then.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.strategies.strategy import Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from trimlab import ranks
from trimlab.errors import InputError
from trimlab.model.sublayers import SublayerStack
from trimlab.training.gradients import own_part
from trimlab.training.strategies._strategy import Distributed


class Fsdp(Distributed, ModelParallelStrategy):
    """Shards the sublayers of a `DomainLM`."""

    extends = ModelParallelStrategy
    lockstep = True

    def __init__(self) -> None:
        super().__init__(save_distributed_checkpoint=False)
        self._units: list[nn.Parameter] = []  # every parameter that has been sharded

    def check(self, options: Mapping[str, Any]) -> None:
        """Refuses options that have not been made to work with shards.

        Raises:
            InputError: One of them is set.
        """
        for name in ("train_embeddings", "compile", "lora_rank"):
            if options[name]:
                raise InputError(f"model.{name} needs trainer.strategy ddp")
        if options["optimizer"] != "adamw":
            raise InputError(f"model.optimizer {options['optimizer']} needs trainer.strategy ddp")

    # ---- processes ----------------------------------------------------------------------------

    def join(self) -> None:
        """Opens the process group."""
        self._setup_distributed()

    def setup_environment(self) -> None:
        """Opens the process group, unless `join` has."""
        self.join()

    # ---- the model ----------------------------------------------------------------------------

    def setup(self, trainer: Any) -> None:
        """Shards the model, whose weights have been restored, and makes the optimizer."""
        assert self.accelerator is not None and self.model is not None
        self.accelerator.setup(trainer)
        self.model = self.precision_plugin.convert_module(self.model)
        self.model_to_device()
        module: Any = self.lightning_module
        self._units = shard(module.stack)
        self.barrier()
        self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def on_parameters_changed(self) -> None:
        """Frees the shards of dropped parameters, which FSDP holds on to."""
        if not self._units:
            return
        module: Any = self.lightning_module
        there = {id(p) for p in module.model.parameters()}
        for parameter in self._units:
            if id(parameter) not in there:
                own_part(parameter).untyped_storage().resize_(0)
        self._units = [p for p in self._units if id(p) in there]
        order_prefetches(module.stack)

    @contextmanager
    def whole_model(self) -> Iterator[None]:
        """Gathers the weights of all sublayers, which are the same in every process."""
        module: Any = self.lightning_module
        units = [m for m in module.model.modules() if isinstance(m, FSDPModule)]
        # tensors made in inference mode could not be trained with
        with torch.inference_mode(False), torch.no_grad():
            for unit in units:
                unit.set_reshard_after_forward(False, recurse=False)
                unit.unshard()
        try:
            yield
        finally:
            with torch.inference_mode(False), torch.no_grad():
                for unit in units:
                    unit.reshard()
                    unit.set_reshard_after_forward(True, recurse=False)

    # ---- checkpoints: those of one process ------------------------------------------------------

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Whether weights are restored after `setup`: no, and so in the whole model."""
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Whether Lightning restores the optimizer: yes, by `load_optimizer_state_dict`."""
        return True

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        """Reads a checkpoint, like one process."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Restores the weights, like one process."""
        Strategy.load_model_state_dict(self, checkpoint, strict=strict)

    def save_checkpoint(self, checkpoint: Any, filepath: Any, storage_options: Any = None) -> None:
        """Writes a checkpoint in the first process."""
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The trained weights, whole in the first process; others are in no checkpoint."""
        assert self.lightning_module is not None
        named = self.lightning_module.named_parameters()
        return {name: _gathered(p.detach()) for name, p in named if p.requires_grad}

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """The state of the optimizer, whole in the first process."""
        state: dict[str, Any] = Strategy.optimizer_state(self, optimizer)
        moments = {
            index: {name: _gathered(value) for name, value in of_one.items()}
            for index, of_one in state["state"].items()
        }
        return {**state, "state": moments}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Gives every process its part of the moments."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(state)
            for parameter, of_one in optimizer.state.items():
                for name, value in of_one.items():
                    if isinstance(parameter, DTensor) and _is_moment(value, parameter):
                        of_one[name] = distribute_tensor(
                            value.to(self.root_device),
                            parameter.device_mesh,
                            parameter.placements,
                            src_data_rank=None,  # every process has read it
                        )


def shard(stack: SublayerStack) -> list[nn.Parameter]:
    """Shards every sublayer over all processes, by rows of its weights.

    Args:
        stack: The model, on its device.

    Returns:
        The sharded parameters.
    """
    mesh = init_device_mesh(stack.model.device.type, (ranks.world_size(),))
    for sublayer in stack:
        modules = [m for m in stack.modules(sublayer) if any(True for _ in m.parameters())]
        fully_shard(modules, mesh=mesh)
    sharded = [p for sublayer in stack for p in stack.parameters(sublayer)]
    # the root, which has no parameters of its own, ties the units together
    rest = {p for p in stack.model.parameters() if not isinstance(p, DTensor)}
    fully_shard(stack.model.base_model, mesh=mesh, ignored_params=rest)  # type: ignore[arg-type]
    order_prefetches(stack)
    return sharded


def order_prefetches(stack: SublayerStack) -> None:
    """Fixes which sublayer is gathered while another one's backward pass runs: the one before it.

    By default FSDP takes the order of the last passes. Those of a scan differ from process to
    process, and ran through sublayers that are dropped after it.

    Args:
        stack: A model whose sublayers are sharded.
    """
    units: list[Any] = [stack.modules(sublayer)[-1] for sublayer in stack]
    for before, unit in zip([units[0], *units], units, strict=False):
        unit.set_modules_to_backward_prefetch([before])


def _gathered(value: Any) -> Any:
    """A tensor on the CPU of the first process, from its shards; empty in the others."""
    if not isinstance(value, DTensor):
        return value
    whole = value.full_tensor()
    return whole.cpu() if ranks.is_first() else whole.new_empty(0, device="cpu")


def _is_moment(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and value.shape == parameter.shape
