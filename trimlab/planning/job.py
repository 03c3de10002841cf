"""A run on a machine: all that its memory and its time depend on."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from trimlab.cpu.workers import workers_for
from trimlab.data.capacity import Capacity, gpu_capacity
from trimlab.model.family import Kind
from trimlab.planning.machine import Machine
from trimlab.planning.passes import Passes, PassSettings
from trimlab.planning.settings import RunSettings
from trimlab.planning.sizes import ModelSizes, trained_sublayers
from trimlab.planning.workload import BatchShape, Workload, batch_shapes
from trimlab.scanning.scan import StatisticSet
from trimlab.training.lora import adapter_parameters


@dataclass(frozen=True)
class Job:
    """A run on a machine.

    Attributes:
        sizes: The model.
        settings: The options of the run.
        workload: Its items.
        machine: Where it runs.
        counted: Passes that have been counted, shared by changed copies.
    """

    sizes: ModelSizes
    settings: RunSettings
    workload: Workload
    machine: Machine
    counted: dict[PassSettings, Passes] = field(default_factory=dict, repr=False, compare=False)

    def changed(self, **options: object) -> "Job":
        """The same with other options of the run."""
        return replace(self, settings=self.settings.changed(**options))

    @property
    def fine_tuning(self) -> "Job":
        """Training of all sublayers, before any is dropped."""
        return self.without_teacher.changed(r=1.0)

    @property
    def without_teacher(self) -> "Job":
        """The same before there is a teacher."""
        return replace(self, settings=self.settings.without_teacher)

    # ---- training -----------------------------------------------------------------------------

    @property
    def passes(self) -> Passes:
        """Passes of training steps."""
        return self._passes(self.settings.training_passes)

    @property
    def teacher_passes(self) -> Passes:
        """Passes of the teacher in training steps."""
        return self._passes(replace(self.settings.scan_passes, autocast=self.settings.autocast))

    @cached_property
    def trained(self) -> list[frozenset[Kind]]:
        """The trained sublayers of every block."""
        return trained_sublayers(self.sizes.blocks, self.settings.r)

    def trained_parameters(self, kinds: frozenset[Kind]) -> int:
        """Trained parameters of a block whose sublayers of these kinds are trained."""
        rank = self.settings.lora_rank
        if not rank:
            return self.sizes.parameters_of(*kinds)
        stack = self.sizes.stack
        chosen = [s for s in stack.original if s.block == 0 and s.kind in kinds]
        return adapter_parameters((m for s in chosen for m in stack.modules(s)), rank)

    @property
    def other_trained(self) -> int:
        """Trained parameters of embeddings, LM head and final norm."""
        return (self.sizes.total - self.sizes.layers) * self.settings.train_embeddings

    @property
    def all_trained(self) -> int:
        """Trained parameters."""
        return sum(map(self.trained_parameters, self.trained)) + self.other_trained

    @cached_property
    def batches(self) -> list[list[BatchShape]]:
        """The batches of an epoch, in the parts that they are computed in."""
        return self.workload.batches(self.settings)

    @property
    def parts(self) -> list[BatchShape]:
        """The parts of all batches of an epoch."""
        return [part for batch in self.batches for part in batch]

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch."""
        return -(-len(self.batches) // self.settings.accumulated)

    @cached_property
    def largest_part(self) -> BatchShape:
        """The part of a batch with most tokens."""
        return max(self.parts, key=_load)

    # ---- evaluation and scan ------------------------------------------------------------------

    @property
    def scan_passes(self) -> Passes:
        """Passes of scans and evaluations during training."""
        return self._passes(self.settings.scan_passes)

    def _passes(self, settings: PassSettings) -> Passes:
        settings = replace(settings, cuda=self.machine.cuda)
        if settings not in self.counted:
            self.counted[settings] = Passes(self.sizes.config, settings)
        return self.counted[settings]

    @property
    def capacity(self) -> Capacity:
        """How much of an evaluation or a scan the machine computes at once."""
        tokens = self.settings.eval_tokens
        return gpu_capacity(self.machine.memory, tokens) if self.machine.cuda else Capacity(tokens)

    @property
    def workers(self) -> int:
        """Passes that run at once, see `trimlab.cpu.workers`."""
        return 1 if self.machine.cuda else workers_for(self.machine.threads)

    @cached_property
    def scan_shapes(self) -> list[BatchShape]:
        """The batches of a scan."""
        items = self.workload.calibration
        if not self.statistics.needs_choices:
            items = [item.right_alone for item in items]
        return batch_shapes(
            items,
            self.capacity.tokens // 4,
            in_full=self.machine.cuda or "all" in self.statistics.choices,
        )

    @cached_property
    def statistics(self) -> StatisticSet:
        """What a scan measures."""
        return StatisticSet.load(self.settings.trim.scorer.statistics, self.settings.metric)

    @property
    def scan_reads_head(self) -> bool:
        """Whether a scan runs the LM head."""
        return bool(self.statistics.choices)

    def candidates_at_once(self, batch: BatchShape) -> int:
        """Candidates of a scan that share a pass over a batch, in each worker."""
        room = self.capacity.tokens // min(self.workers, len(self.scan_shapes))
        return max(1, min(room // batch.tokens, len(self.trained) * 2))

    def evaluation_shapes(self, items: str) -> list[BatchShape]:
        """The batches of an evaluation of `dev` or `test` items."""
        return batch_shapes(
            getattr(self.workload, items), *self.capacity, in_full=self.machine.cuda
        )


def typical(batches: Sequence[BatchShape]) -> BatchShape:
    """A batch of average size, to count in place of all of them."""
    tokens = sum(batch.tokens for batch in batches)
    length = round(sum(batch.length * batch.tokens for batch in batches) / tokens)
    items = max(1, round(tokens / len(batches) / length))
    return BatchShape(items, length, max(1, round(sum(b.scored for b in batches) / len(batches))))


def _load(shape: BatchShape) -> tuple[int, int]:
    return shape.tokens, shape.length
