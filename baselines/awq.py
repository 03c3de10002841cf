"""AWQ (Lin et al. 2023, arXiv 2306.00978): weights of four bits, scaled by what they multiply."""

from typing import Any

from baselines._gptqmodel import FourBits


class AWQ(FourBits):
    """Scales the channels of large inputs up before rounding, and their inputs down.

    Args:
        bits: Bits of a weight.
        group_size: Weights along a row that share a scale.
    """

    title = "AWQ"
    method = "awq"
    rows = 64

    def settings(self) -> dict[str, Any]:
        """The layout that most engines read."""
        return {"format": "gemm", "sym": False}
