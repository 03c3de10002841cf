"""The fast path of CPUs behind one door: oneDNN's linear layers, and forward passes side by side.

Elsewhere than on a CPU in float32 the door changes nothing but the mode of the model.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from trimlab.cpu.onednn import onednn_linears
from trimlab.cpu.workers import Workers, open_workers
from trimlab.model.sublayers import SublayerStack, evaluating


@contextmanager
def inference(stack: SublayerStack, lm_head: bool = True) -> Iterator[Workers]:
    """Prepares a model for forward passes without gradients, and puts it back as it was.

    Args:
        stack: The model; until the end of the context its weights cannot be read, and it must
            not be changed.
        lm_head: Whether the LM head is run. Else its weight is not prepared.

    Yields:
        Workers for the passes.
    """
    model = stack.model if lm_head else stack.model.base_model
    with evaluating(stack.model), onednn_linears(model), open_workers(stack) as workers:
        yield workers
