"""Gradients that are computed part by part, inside a training step."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from trimlab import ranks


def add_gradients(
    loss: Tensor, parameters: Sequence[nn.Parameter], before: list[Tensor]
) -> list[Tensor]:
    """Adds the gradients of a loss to those of the parts before it, and frees its activations.

    Args:
        loss: The loss of a part.  # ()
        parameters: The trained parameters.
        before: Gradients of the parts before, which are used up; empty for the first part.

    Returns:
        A gradient for every parameter; two parameters may share one.
    """
    if any(isinstance(parameter, DTensor) for parameter in parameters):
        found = _sharded_gradients(loss, parameters)
    else:
        found = list(torch.autograd.grad(loss, parameters, materialize_grads=True))
    if before:  # not in place: parameters that are summed in the model share a gradient
        found = [found.pop() + before.pop() for _ in parameters][::-1]
    return found


def own_part(parameter: Tensor) -> Tensor:
    """What this process has of a parameter: its shard, or the whole."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def _sharded_gradients(loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Gradients of FSDP's shards, which only a backward pass leaves: the graph has whole weights.

    Args:
        loss: The loss of a part.  # ()
        parameters: The trained parameters, some or all of them shards.

    Returns:
        For every parameter, the mean over the processes of its gradient.
    """
    before = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    loss.backward()
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    for parameter, gradient in zip(parameters, before, strict=True):
        parameter.grad = gradient
    return found


def with_gradients(
    loss: Tensor, gradients: list[Tensor], parameters: Sequence[nn.Parameter]
) -> Tensor:
    """A loss whose backward pass hands out gradients that are known already, scaled.

    Args:
        loss: The loss.  # ()
        gradients: Its gradients, which nobody else may hold.
        parameters: Whose they are.
    """
    return _Differentiated.apply(loss, gradients, *parameters)


class StepLoss:
    """The loss of an optimizer step, of which each batch adds its own."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._terms = 0

    def add(self, loss: Tensor, terms: int) -> None:
        """Adds a batch.

        Args:
            loss: Its loss, on its device.  # ()
            terms: Terms by which the loss and its gradients are yet to be divided; of a step with
                one batch, 1.
        """
        self._losses.append(loss)
        self._terms += terms

    def finish(self, parameters: Sequence[nn.Parameter], batches: int) -> Tensor | None:
        """Divides loss and gradients by their terms, and waits for the device.

        Args:
            parameters: The trained parameters.
            batches: Batches per step, by which the gradients have been divided: those that are
                accumulated by Lightning, and those of all processes by their mean.

        Returns:
            The loss on the CPU, None where no batch was added.  # ()
        """
        losses, terms = self._losses, self._terms
        self._losses, self._terms = [], 0
        if not losses:
            return None
        loss = torch.stack(losses).sum()
        if batches > 1:
            terms = sum(ranks.gathered(terms))  # on the CPU, which does not wait for a GPU here
            loss = ranks.summed(loss) / terms
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad *= batches / terms
        return loss.cpu()


class _Differentiated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], *_parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        # nobody else may hold them: a parameter takes over a gradient that is its own, or copies it
        gradients, ctx.gradients = ctx.gradients, None
        # reading the scale of a GPU would wait for the whole step
        if scale.device.type != "cpu" or scale != 1:
            gradients = [gradients.pop() * scale for _ in range(len(gradients))][::-1]
        return None, None, *gradients
