"""Checks of devices and precisions, at the start of a run."""

import lightning as L
import torch

from trimlab.errors import InputError
from trimlab.model.device import has_bfloat16

PRECISIONS = ("32-true", "64-true", "bf16-true", "bf16-mixed")


def check_precision(trainer: L.Trainer) -> None:
    """Refuses a precision in which a model cannot be trimmed, or that the device lacks.

    Raises:
        InputError: The precision is one of them.
    """
    precision = trainer.precision
    check_precision_name(precision)
    device = trainer.strategy.root_device
    if precision.startswith("bf16") and device.type == "cuda" and not has_bfloat16(device):
        raise InputError(
            f"trainer.precision {precision}: {torch.cuda.get_device_name(device)} has no bfloat16: "
            "take trainer.precision 32-true"
        )


def check_precision_name(precision: str) -> None:
    """Refuses a precision in which a model cannot be trimmed on any device.

    Args:
        precision: As a trainer names it.

    Raises:
        InputError: The precision is one of them.
    """
    if precision == "16-mixed":  # a step's gradients are computed before it is scaled
        raise InputError("trainer.precision 16-mixed cannot work here: take bf16-mixed")
    if precision == "16-true":  # gradients below 6e-8 are zero in float16
        raise InputError("trainer.precision 16-true loses small gradients: take bf16-true")
    if precision not in PRECISIONS:
        raise InputError(
            f"trainer.precision {precision} is not supported: take one of {', '.join(PRECISIONS)}"
        )
