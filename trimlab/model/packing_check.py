"""Forward passes that do not look for packed texts, a look that waits for the GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from transformers import masking_utils


@contextmanager
def one_text_per_row(device: torch.device) -> Iterator[None]:
    """Tells transformers that every row of a batch is one text.

    Where no mask is given, transformers reads the position ids to see whether a row holds several
    texts: a wait for the GPU in every pass. On a CPU that costs nothing and stays as it is; several
    threads run passes there.

    Args:
        device: Where the model computes.
    """
    if device.type == "cpu":
        yield
        return
    with patch.object(masking_utils, "find_packed_sequence_indices", lambda _positions: None):
        yield
