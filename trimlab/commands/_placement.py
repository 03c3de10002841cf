"""Options of verbs that load a model: where it computes, and in which type."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimlab.model.device import Placement


def add_placement(parser: Any) -> None:
    """Adds `--device` and `--dtype`."""
    from trimlab.model.device import DtypeName

    parser.add_argument(
        "--device",
        type=str,
        default="auto",
        help="cpu, cuda, or cuda:1 for the second GPU; auto is a GPU if there is one",
    )
    parser.add_argument(
        "--dtype",
        type=DtypeName,
        default="auto",
        help="type of the weights in memory; auto is bfloat16 on a GPU that has it, else float32",
    )


def check_placement(options: Any) -> "Placement":
    """The device and the type asked for; to be called before anything is read.

    Raises:
        InputError: The device is not there, or lacks the type.
    """
    from trimlab.model.device import find_placement

    return find_placement(options.device, options.dtype)
