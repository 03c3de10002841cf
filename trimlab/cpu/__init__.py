"""The fast path of CPUs: oneDNN's linear layers, and several forward passes at once.

On other devices and in other types than float32, `inference` only sets the model's mode.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributed.fsdp import FSDPModule

from trimlab.cpu.onednn import onednn_linears
from trimlab.cpu.workers import Workers, open_workers
from trimlab.model.sublayers import SublayerStack, evaluating


@contextmanager
def inference(stack: SublayerStack, lm_head: bool = True) -> Iterator[Workers]:
    """Prepares a model for forward passes without gradients, and restores it afterwards.

    Args:
        stack: The model. Within the context its weights cannot be read, and it must not be
            changed.
        lm_head: Whether the LM head is run. Otherwise its weight is not prepared.

    Yields:
        Workers for the passes.
    """
    model = stack.model if lm_head else stack.model.base_model
    if isinstance(stack.model.base_model, FSDPModule):  # its weights are not ours to lay out anew
        with evaluating(stack.model), open_workers(stack, most=1) as workers:
            yield workers
        return
    with evaluating(stack.model), onednn_linears(model), open_workers(stack) as workers:
        yield workers
