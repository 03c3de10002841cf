"""Silencing notices of libraries that a user cannot act on."""

import logging
import os
import warnings


def quiet() -> None:
    """Silences the notices of Lightning, Transformers and what they import."""
    warnings.filterwarnings("ignore", module=r"lightning|torch\.|jsonargparse")
    import lightning.pytorch  # noqa: F401  # sets the levels of its loggers

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("torchao", "bitsandbytes", "torch.utils._pytree"):  # transformers imports them
        logging.getLogger(name).setLevel(logging.ERROR)
    # assisted generation warns of how it calls itself
    logging.getLogger("transformers.generation.utils").setLevel(logging.ERROR)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
