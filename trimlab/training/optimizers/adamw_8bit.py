"""AdamW with moments in 8 bits (bitsandbytes): a quarter of their memory in float32."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from trimlab.errors import InputError, one_line
from trimlab.training.optimizers import TrainOptimizer


class AdamW8bit(TrainOptimizer):
    """Moments in blocks of 256 values of 8 bits, each block with a scale.

    Parameters with fewer than 4,096 values (norms and biases) keep moments in float32.
    """

    moment_bytes: ClassVar[float | None] = 2 * (1 + 4 / 256)

    def check(self, device: torch.device) -> None:
        """Tries a step: which devices the library supports depends on how it was built."""
        weight = nn.Parameter(torch.zeros(4096, device=device))
        weight.grad = torch.ones_like(weight)
        try:
            self.make([weight], lr=1.0, weight_decay=0.0).step()
        except InputError:
            raise
        except Exception as error:  # of the library's own, by version and device
            raise InputError(
                f"model.optimizer adamw_8bit does not run on {device.type} with the bitsandbytes "
                f"that is installed ({one_line(error)}): take model.optimizer adamw"
            ) from error

    def make(
        self, parameters: Sequence[nn.Parameter], lr: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        group = {"params": list(parameters)}
        return _class()([group], lr=lr, weight_decay=weight_decay)

    def keep(self, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> None:
        """Also tells the library's global manager, which knows parameters by number and by id."""
        (group,) = optimizer.param_groups
        before, kept = list(group["params"]), {id(p) for p in parameters}
        super().keep(optimizer, parameters)
        manager: Any = _library().optim.GlobalOptimManager.get_instance()
        # an id is given to another tensor once its parameter is gone, and numbers have moved up
        for gone in before:
            if id(gone) not in kept:
                manager.pid2config.pop(id(gone), None)
        for index in [key for key in manager.index2config if key[0] == 0]:
            del manager.index2config[index]
        manager.register_parameters([{"params": list(parameters)}])


def _library() -> Any:
    try:
        import bitsandbytes
    except ImportError as error:
        raise InputError(
            "model.optimizer adamw_8bit needs bitsandbytes: pip install 'bitsandbytes>=0.50'"
        ) from error
    return bitsandbytes


def _class() -> Any:
    """The library's optimizer, without its wait for the GPU after every parameter."""
    library = _library()

    class AdamW(library.optim.AdamW8bit):  # type: ignore[misc, name-defined]
        @torch.no_grad()
        def step(self, closure: Callable[[], Any] | None = None) -> Any:
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            if not self.initialized:
                self.check_overrides()
                self.to_gpu()  # moments from a checkpoint
                self.initialized = True
            for group_index, group in enumerate(self.param_groups):
                for index, parameter in enumerate(group["params"]):
                    if parameter.grad is None:
                        continue
                    if not self.state[parameter]:
                        self.init_state(group, parameter, group_index, index)
                    self.update_step(group, parameter, group_index, index)
            return loss

    return AdamW
