"""When trimming ends (C_a and C_e), how many sublayers a step drops, and for how long it trains."""

import math
from dataclasses import dataclass, fields

from trimlab import ranks
from trimlab.errors import InputError
from trimlab.evaluation.speed import decode_latency_ms
from trimlab.model.sublayers import Sublayer, SublayerStack
from trimlab.scanning.candidates import Granularity, candidates

ROUNDING = 1e-9  # a memory ratio is a quotient of sums: compare with room for rounding


@dataclass(frozen=True)
class StopRules:
    """C_a and C_e. Trimming ends when C_a is broken or every given target of C_e is met.

    Attributes:
        layer_memory: Target of the layer-memory ratio, in (0, 1).
        model_memory: Target of the whole-model ratio, in (0, 1).
        latency_ms: Target of the measured milliseconds per decoded token.
        max_drops: Most sublayers that are dropped.
        min_accuracy: Least dev accuracy, in [0, 100].
        min_accuracy_share: Least share of the fine-tuned full-depth model's dev accuracy.
    """

    layer_memory: float | None = None
    model_memory: float | None = None
    latency_ms: float | None = None
    max_drops: int | None = None
    min_accuracy: float | None = None
    min_accuracy_share: float | None = None

    def measure_latency_ms(self, stack: SublayerStack) -> float | None:
        """Milliseconds per decoded token; None, and nothing is measured, without a target."""
        if self.latency_ms is None:
            return None
        return ranks.on_first(lambda: decode_latency_ms(stack.model))

    def efficient_enough(self, stack: SublayerStack, latency_ms: float | None = None) -> str | None:
        """C_e: why there is nothing more to drop, or None.

        Args:
            stack: The model.
            latency_ms: Its measured milliseconds per decoded token, where that is a target.
        """
        if self.max_drops is not None and len(stack.history) >= self.max_drops:
            return f"{len(stack.history)} sublayers dropped"
        met = []
        if self.layer_memory is not None:
            met.append(stack.layer_memory_ratio <= self.layer_memory + ROUNDING)
        if self.model_memory is not None:
            met.append(stack.model_memory_ratio <= self.model_memory + ROUNDING)
        if self.latency_ms is not None:
            met.append(latency_ms is not None and latency_ms <= self.latency_ms)
        return "the target is met" if met and all(met) else None

    def too_inaccurate(self, dev: float, fine_tuned: float) -> str | None:
        """C_a: why an operating point is refused, or None.

        Args:
            dev: Its dev accuracy, in [0, 100].
            fine_tuned: Dev accuracy of the fine-tuned model before the first drop.
        """
        if self.min_accuracy is not None and dev < self.min_accuracy:
            return f"dev accuracy {dev:.1f} is below {self.min_accuracy:g}"
        if self.min_accuracy_share is not None and dev < self.min_accuracy_share * fine_tuned:
            share = f"{self.min_accuracy_share:g} of the fine-tuned {fine_tuned:.1f}"
            return f"dev accuracy {dev:.1f} is below {share}"
        return None

    def check(self, stack: SublayerStack, granularity: Granularity) -> None:
        """Refuses rules that cannot be kept.

        Raises:
            InputError: There is no rule, a value is out of range, or a target asks for less than
                one candidate leaves.
        """
        if all(getattr(self, field.name) is None for field in fields(self)):
            raise InputError("no stop rule: give for example trim.target_layer_memory 0.5")
        self._check_accuracy()
        self._check_drops(stack, granularity)
        smallest = min(
            candidates(stack, granularity), key=lambda candidate: stack.bytes_of(*candidate)
        )
        self._check_memory(stack, granularity, stack.bytes_of(*smallest))
        self._check_latency(stack, granularity, smallest)

    def _check_accuracy(self) -> None:
        if self.min_accuracy is not None and not 0 <= self.min_accuracy <= 100:
            raise InputError(f"trim.min_accuracy is in percent, not {self.min_accuracy:g}")
        if self.min_accuracy_share is not None and not 0 <= self.min_accuracy_share <= 1:
            share = self.min_accuracy_share
            raise InputError(f"trim.min_accuracy_share must be between 0 and 1, not {share:g}")

    def _check_drops(self, stack: SublayerStack, granularity: Granularity) -> None:
        if self.max_drops is None:
            return
        if not 0 < self.max_drops < len(stack):
            raise InputError(
                f"trim.max_drops must be from 1 to {len(stack) - 1}, not {self.max_drops}"
            )
        if granularity != "sublayer" and self.max_drops % 2:
            raise InputError(
                f"trim.max_drops must be even, not {self.max_drops}: two sublayers drop together"
            )

    def _check_memory(self, stack: SublayerStack, granularity: Granularity, least: int) -> None:
        everything = stack.bytes_of(*stack.original)
        for name, target, possible in (
            ("layer_memory", self.layer_memory, least / everything),
            ("model_memory", self.model_memory, 1 - (everything - least) / stack.model_bytes),
        ):
            if target is not None and not 0 < target < 1:
                raise InputError(f"trim.target_{name} must be between 0 and 1, not {target:g}")
            if target is not None and target < possible:
                raise InputError(
                    f"trim.target_{name} {target:g} is below what is possible: "
                    f"the last {granularity} alone is {possible:.3f}"
                )

    def _check_latency(
        self, stack: SublayerStack, granularity: Granularity, smallest: tuple[Sublayer, ...]
    ) -> None:
        if self.latency_ms is None or stack.model.device.type == "meta":
            return  # without weights, nothing can be measured
        with stack.bypass(*(s for s in stack if s not in smallest)):
            fastest = decode_latency_ms(stack.model)
        if self.latency_ms < fastest:
            raise InputError(
                f"trim.target_latency_ms {self.latency_ms:g} is below what is possible: "
                f"the last {granularity} alone takes {fastest:.3g} ms"
            )


def nothing_left(stack: SublayerStack, granularity: Granularity) -> str | None:
    """Why there is no further drop step: the last candidate stays. None while there is one."""
    return "nothing is left to drop" if len(candidates(stack, granularity)) <= 1 else None


@dataclass(frozen=True)
class DropSchedule:
    """How many candidates each step drops, and how many epochs are trained around the steps.

    Attributes:
        drops_per_step: Candidates dropped in each step (k); the last number is that of every later
            step, too.
        before_first_drop: Epochs of fine-tuning at full depth.
        per_drop: Epochs after every drop step.
        after_last_drop: Epochs after the last one.

    Raises:
        InputError: A number is not positive.
    """

    drops_per_step: tuple[int, ...]
    before_first_drop: int
    per_drop: int
    after_last_drop: int

    def __post_init__(self) -> None:
        if not self.drops_per_step or min(self.drops_per_step) < 1:
            raise InputError("trim.drops_per_step must be positive")
        if min(self.before_first_drop, self.per_drop, self.after_last_drop) < 1:
            raise InputError("trim.epochs_* must be at least 1")

    def k(self, step: int) -> int:
        """How many candidates a step drops; the first step is 1."""
        return self.drops_per_step[min(step, len(self.drops_per_step)) - 1]

    def planned_epochs(
        self, rules: StopRules, stack: SublayerStack, granularity: Granularity
    ) -> int:
        """Epochs until C_e holds if sublayers of average size are dropped.

        The learning-rate schedule is laid over these epochs. Without a target in bytes or drops,
        half of the candidates are planned for.
        """
        found = candidates(stack, granularity)
        sublayers_each = len(found[0])
        everything = stack.bytes_of(*stack.original)
        each = everything / (len(stack.original) / sublayers_each)
        needed = []
        if rules.layer_memory is not None:
            needed.append((1 - rules.layer_memory) * everything / each)
        if rules.model_memory is not None:
            needed.append((1 - rules.model_memory) * stack.model_bytes / each)
        limits = [math.ceil(max(needed) - ROUNDING)] if needed else []
        if rules.max_drops is not None:
            limits.append(rules.max_drops // sublayers_each)
        drops = min(*limits, len(found)) if limits else len(found) // 2
        steps = 0
        while drops > 0:
            steps += 1
            drops -= self.k(steps)
        return self.before_first_drop + (steps - 1) * self.per_drop + self.after_last_drop
