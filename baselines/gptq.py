"""GPTQ (Frantar et al. 2022, arXiv 2210.17323): weights of four bits, errors made up for."""

from typing import Any

from baselines._gptqmodel import FourBits


class GPTQ(FourBits):
    """Rounds column by column, and corrects the columns that follow for the error.

    Args:
        bits: Bits of a weight.
        group_size: Weights along a row that share a scale.
    """

    title = "GPTQ"
    method = "gptq"

    def config(self, library: Any) -> Any:
        """Columns in their own order: kernels are faster so."""
        return library.QuantizeConfig(
            bits=self.bits, group_size=self.group_size, method="gptq", desc_act=False
        )
