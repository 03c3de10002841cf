"""Number of optimizer steps of an epoch."""


def limited_batches(batches: int, limit: float | None) -> int:
    """Batches of an epoch under `trainer.limit_train_batches`.

    Args:
        batches: Number of all batches.
        limit: A count, which parsers of configs may have made a float, or a share; None: all.
    """
    if isinstance(limit, int) or (limit or 0) > 1:
        return min(batches, int(limit or 0))
    return int(batches * (limit or 1.0))


def steps_per_epoch(batches: int, limit: float | None = None, accumulated: int = 1) -> int:
    """Optimizer steps of an epoch, at least one.

    Args:
        batches: Number of all batches.
        limit: As for `limited_batches`.
        accumulated: Batches per step (`trainer.accumulate_grad_batches`).
    """
    return max(1, -(-limited_batches(batches, limit) // accumulated))
