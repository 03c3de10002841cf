"""When trimming ends: C_a (accuracy) and C_e (memory, latency, number of drops)."""

from dataclasses import dataclass

from trimlab.errors import InputError
from trimlab.evaluation.speed import decode_latency_ms
from trimlab.model.sublayers import SublayerStack
from trimlab.scanning.candidates import Granularity, candidates


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
            # a ratio is a sum of bytes over another: compare with room for rounding
            met.append(stack.layer_memory_ratio <= self.layer_memory + 1e-9)
        if self.model_memory is not None:
            met.append(stack.model_memory_ratio <= self.model_memory + 1e-9)
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
            InputError: A value is out of range, or asks for less than one candidate leaves.
        """
        if self.min_accuracy is not None and not 0 <= self.min_accuracy <= 100:
            raise InputError(f"trim.min_accuracy is in percent, not {self.min_accuracy:g}")
        if self.min_accuracy_share is not None and not 0 <= self.min_accuracy_share <= 1:
            share = self.min_accuracy_share
            raise InputError(f"trim.min_accuracy_share must be between 0 and 1, not {share:g}")
        smallest = min(
            candidates(stack, granularity), key=lambda candidate: stack.bytes_of(*candidate)
        )
        for name in ("layer_memory", "model_memory"):
            value = getattr(self, name)
            if value is None:
                continue
            if not 0 < value < 1:
                raise InputError(f"trim.target_{name} must be between 0 and 1, not {value:g}")
            least = stack.bytes_of(*smallest)
            everything = stack.bytes_of(*stack.original)
            possible = least / everything
            if name == "model_memory":
                possible = 1 - (everything - least) / stack.model_bytes
            if value < possible:
                raise InputError(
                    f"trim.target_{name} {value:g} is below what is possible: "
                    f"the last {granularity} alone is {possible:.3f}"
                )
        if self.latency_ms is not None:
            with stack.bypass(*(s for s in stack if s not in smallest)):
                fastest = decode_latency_ms(stack.model)
            if self.latency_ms < fastest:
                raise InputError(
                    f"trim.target_latency_ms {self.latency_ms:g} is below what is possible: "
                    f"the last {granularity} alone takes {fastest:.3g} ms"
                )
        if self.max_drops is not None and not 0 < self.max_drops < len(stack):
            raise InputError(
                f"trim.max_drops must be from 1 to {len(stack) - 1}, not {self.max_drops}"
            )
        if self.max_drops is not None and granularity != "sublayer" and self.max_drops % 2:
            raise InputError(
                f"trim.max_drops must be even, not {self.max_drops}: two sublayers drop together"
            )
        if all(value is None for value in vars(self).values()):
            raise InputError("no stop rule: give for example trim.target_layer_memory 0.5")
