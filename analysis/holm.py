"""Holm's correction of p-values for their number."""

from collections.abc import Sequence


def holm(ps: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979): no false finding among all with 1 - alpha.

    Args:
        ps: The p-values of one family.

    Returns:
        Corrected p-values, in the same order.
    """
    corrected = [1.0] * len(ps)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = largest
    return corrected
