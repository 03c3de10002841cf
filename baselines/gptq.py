"""GPTQ (Frantar et al. 2022, arXiv 2210.17323): weights of four bits, errors corrected."""

from typing import Any

from baselines._gptqmodel import FourBits


class GPTQ(FourBits):
    """Rounds column by column, and corrects the columns after each for the error.

    Args:
        bits: Bits of a weight.
        group_size: Weights along a row that share a scale.
    """

    title = "GPTQ"
    method = "gptq"

    def config(self, library: Any) -> Any:
        """Columns in their own order, which is faster to run."""
        return library.QuantizeConfig(
            bits=self.bits, group_size=self.group_size, method="gptq", desc_act=False
        )
