"""Time of the phases of a run."""

from collections import Counter
from dataclasses import dataclass, replace

from trimlab.planning.calibration import bandwidth, device_of, product_rates
from trimlab.planning.job import Job, typical
from trimlab.planning.memory import target_layers
from trimlab.planning.tracing import Op
from trimlab.planning.workload import BatchShape
from trimlab.scanning.candidates import candidates
from trimlab.scanning.forward_cache import blocks_behind

ADAMW_PASSES = {"cpu": 18, "cuda": 7}  # tensors that a step reads or writes, of a parameter's size


@dataclass(frozen=True)
class Durations:
    """Seconds of the parts of a run.

    Attributes:
        step: An optimizer step at full depth, on average.
        epoch: An epoch at full depth, without the dev items.
        scan: A scan of all sublayers.
        dev: An evaluation of the dev items at full depth.
        test: An evaluation of the test items at full depth.
        fine_tuning: Fine-tuning of the whole model before it is trimmed; 0 without.
        epochs: Planned epochs of trimming.
        scans: Scans of the whole run.
        run: The whole run, without baselines to compare with and without writing files.
    """

    step: float
    epoch: float
    scan: float
    dev: float
    test: float
    fine_tuning: float
    epochs: int
    scans: int
    run: float


def durations(job: Job) -> Durations:
    """Time of the parts of a run."""
    n = job.settings.processes  # which divide all but the tests; communication is not counted
    epoch, scan = epoch_seconds(job) / n, scan_seconds(job) / n
    dev, test = evaluation_seconds(job, "dev") / n, evaluation_seconds(job, "test")
    schedule, stack = job.settings.trim.schedule, job.sizes.stack
    epochs = job.settings.trim.planned_epochs(stack)
    drop_steps = 1 + (epochs - schedule.before_first_drop - schedule.after_last_drop) // (
        schedule.per_drop
    )
    scans = 1 if job.settings.trim.scorer.one_shot else 1 + drop_steps
    depth = target_layers(job)
    # drops are spread over the run: the average of depth, and of its square
    mean, mean_square = (1 + depth) / 2, (1 + depth + depth**2) / 3
    first = min(schedule.before_first_drop, epochs) / epochs
    average = first + (1 - first) * mean
    # what a teacher adds, which keeps its depth
    teacher = epoch - epoch_seconds(job.without_teacher) / n
    run = epochs * (average * (epoch - teacher + dev) + teacher)
    run += scan + (scans - 1) * mean_square * scan
    run += test + test * sum(job.settings.trim.save_at or [depth])
    fine_tuning = 0.0
    if job.settings.fine_tuned_first:
        fine_tuning = job.settings.fine_tuning_epochs * epoch_seconds(job.fine_tuning) / n
        run += fine_tuning + test
    elif job.settings.full_depth:
        run += epochs * epoch + test
    return Durations(
        step=epoch / job.steps,
        epoch=epoch,
        scan=scan,
        dev=dev,
        test=test,
        fine_tuning=fine_tuning,
        epochs=epochs,
        scans=scans,
        run=run,
    )


def epoch_seconds(job: Job) -> float:
    """An epoch at full depth."""
    parts = job.parts
    one = part_seconds(job, typical(parts))
    scale = sum(part.tokens for part in parts) / typical(parts).tokens
    item = job.settings.dtype.itemsize
    gradients = job.all_trained * item
    added = 3 * gradients * (len(parts) - job.steps)  # those of the parts of a step
    passes = ADAMW_PASSES["cuda" if job.machine.cuda else "cpu"]
    moved = added + passes * gradients * job.steps
    return one * scale + moved / (job.machine.bandwidth * job.machine.efficiency)


def part_seconds(job: Job, part: BatchShape) -> float:
    """Forward and backward pass of a part of an optimizer step."""
    return job.machine.seconds(part_ops(job, part))


def part_ops(job: Job, part: BatchShape) -> Counter[Op]:
    """The operations of a part of an optimizer step."""
    ops: Counter[Op] = Counter()
    loss = job.settings.training_loss
    last = None if loss.all_positions else len(job.trained) - 1
    for i, kinds in enumerate(job.trained):
        scored = part.scored if i == last else 0
        cost = job.passes.block(
            part.items, part.length, trained=kinds, tree=loss.all_choices, scored=scored
        )
        ops += cost.forward + cost.backward
    head = job.passes.head(
        part.items, part.length, part.scored, trained=job.settings.train_embeddings
    )
    if job.settings.teacher:
        block = job.teacher_passes.block(part.items, part.length)
        ops += Counter({op: job.sizes.blocks * n for op, n in block.forward.items()})
    return ops + head.forward + head.backward


def scan_seconds(job: Job) -> float:
    """A scan of all candidates at full depth; 0 for scores without measurements."""
    if not any(job.statistics):
        return 0.0
    stack, batch = job.sizes.stack, typical(job.scan_shapes)
    found = candidates(stack, job.settings.trim.granularity)
    behind = sum(len(blocks_behind(stack, candidate)) for candidate in found)
    together = job.candidates_at_once(batch)
    whole, many, head = (job.machine.seconds(ops, job.machine.scan_rates) for ops in scan_ops(job))
    rows = len(found) * batch.scored
    calls = max(1, rows / job.scan_passes.rows_per_call)
    of_batch = job.sizes.blocks * whole
    if job.statistics.bypass:
        of_batch += behind / together * many + job.scan_reads_head * calls * head
    tokens = sum(shape.tokens for shape in job.scan_shapes)
    return tokens / batch.tokens * of_batch


def scan_ops(job: Job) -> tuple[Counter[Op], Counter[Op], Counter[Op]]:
    """One block on a batch, one on all candidates that share a pass, and a chunk of the LM head."""
    batch = typical(job.scan_shapes)
    together = job.candidates_at_once(batch)
    block = job.scan_passes.block
    rows = len(candidates(job.sizes.stack, job.settings.trim.granularity)) * batch.scored
    head = job.scan_passes.head_call(rows)
    return (
        block(batch.items, batch.length, tree=True).forward,
        block(together * batch.items, batch.length, tree=True).forward,
        head.forward,
    )


def evaluation_seconds(job: Job, items: str) -> float:
    """An evaluation of all `dev` or `test` items at full depth."""
    batches = job.evaluation_shapes(items)
    batch = typical(batches)
    block = job.scan_passes.block(batch.items, batch.length, tree=True)
    head = job.scan_passes.head_call(batch.scored)
    calls = max(1, batch.scored / job.scan_passes.rows_per_call)
    seconds = job.sizes.blocks * job.machine.seconds(block.forward, job.machine.scan_rates)
    seconds += calls * job.machine.seconds(head.forward, job.machine.scan_rates)
    return sum(shape.tokens for shape in batches) / batch.tokens * seconds


def calibrated(job: Job) -> Job:
    """The same run, with the rates of this machine measured for its own products."""
    machine, dtype = job.machine, job.settings.autocast or job.settings.dtype
    device = device_of(machine)
    training = part_ops(job, typical(job.parts))
    scans: Counter[Op] = sum(scan_ops(job), Counter())
    measured = replace(
        machine,
        rates=product_rates(training, device, dtype),
        scan_rates=product_rates(scans, device, job.settings.dtype, workers=job.workers),
        bandwidth=bandwidth(device, job.settings.dtype),
    )
    fastest = max([*measured.rates.values(), *measured.scan_rates.values()])
    return replace(job, machine=replace(measured, matrix_rate=fastest))
