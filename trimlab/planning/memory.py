"""Memory of the phases of a run, by what fills it."""

from dataclasses import dataclass
from itertools import accumulate

from trimlab.planning.job import Job
from trimlab.planning.workload import BatchShape
from trimlab.training.optimizers import load_optimizer


@dataclass(frozen=True)
class PhaseMemory:
    """Peak memory of a phase.

    Attributes:
        name: The phase.
        parts: Bytes by what they hold.
    """

    name: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.parts.values())


def phases(job: Job) -> list[PhaseMemory]:
    """The phases of a run in their order, each at the moment of its most memory."""
    found = [untrimmed(job)]
    if job.settings.fine_tuned_first:
        found.append(fine_tuning(job))
    found += [training(job), scan(job), dev(job), export(job)]
    if job.settings.full_depth and not job.settings.fine_tuned_first:
        found.append(comparison(job))
    return found


def untrimmed(job: Job) -> PhaseMemory:
    """The evaluation of the untrimmed model, in the type of the fits."""
    job = job.without_teacher.changed(lora_rank=0)
    return PhaseMemory("untrimmed", _process(job) | {"activations": _evaluation(job, "test")})


def fine_tuning(job: Job) -> PhaseMemory:
    """Fine-tuning of all sublayers, beside the untrimmed model that is trimmed afterwards."""
    parts = dict(training(job.fine_tuning).parts)
    parts["weights"] += untrimmed(job).parts["weights"]
    return PhaseMemory("fine-tuning", parts)


def training(job: Job) -> PhaseMemory:
    """A training step at full depth."""
    states = trained_state(job)
    held = states.pop("gradients") * _held_gradients(job)
    step = step_peak(job, job.largest_part)
    return PhaseMemory(
        "training", _process(job) | states | step | {"gradients": held + step["gradients"]}
    )


def step_peak(job: Job, part: BatchShape) -> dict[str, int]:
    """Gradients, activations and logits of a part of a step, when they take most.

    A block's backward pass frees what its forward pass has saved, and adds its gradients.
    """
    passes, item = job.passes, _itemsize(job)
    loss = job.settings.training_loss
    scored_block = None if loss.all_positions else len(job.trained) - 1
    costs = [
        passes.block_bytes(
            part.items,
            part.length,
            trained=kinds,
            tree=loss.all_choices,
            scored=part.scored if i == scored_block else 0,
        )
        for i, kinds in enumerate(job.trained)
    ]
    gradients = [item * job.trained_parameters(kinds) for kinds in job.trained]
    inputs = part.tokens * job.sizes.hidden * item  # embeddings and, of a tree, its mask
    inputs += part.items * part.length**2 * item * loss.all_choices
    before = list(accumulate((cost.saved for cost in costs), initial=inputs))
    head = passes.head_bytes(
        part.items, part.length, part.scored, trained=job.settings.train_embeddings
    )
    of_head = max(head.forward_peak, head.backward_peak)
    compared = _of_teacher(job, part)
    found = [{"gradients": 0, "activations": before[-1] + compared["states"], "logits": of_head}]
    found.append({"gradients": 0, "activations": before[-1] + compared["pass"], "logits": 0})
    done = item * job.other_trained
    for start, cost, own in reversed(list(zip(before[:-1], costs, gradients, strict=True))):
        most = max(cost.forward_peak, cost.backward_peak - own)
        found.append({"gradients": done + own, "activations": start + most, "logits": 0})
        done += own
    return max(found, key=lambda parts: sum(parts.values()))


def _of_teacher(job: Job, part: BatchShape) -> dict[str, int]:
    """Bytes of the teacher's forward pass, and of hidden states and their differences after it."""
    if not job.settings.teacher:
        return {"pass": 0, "states": 0}
    entries = part.tokens * job.sizes.hidden
    block = job.teacher_passes.block_bytes(part.items, part.length)
    # the teacher's states, the difference and its square, at least in float32
    return {
        "pass": 2 * entries * _itemsize(job) + block.forward_peak,
        "states": entries * (_itemsize(job) + 2 * max(4, _itemsize(job))),
    }


def scan(job: Job) -> PhaseMemory:
    """A scan after an epoch: cached streams, and candidates that are computed together."""
    if not any(job.statistics):  # scores without measurements
        return PhaseMemory("scan", _process(job) | trained_state(job))
    passes, item, hidden = job.scan_passes, job.settings.dtype.itemsize, job.sizes.hidden
    sublayers = 2 * job.sizes.blocks
    most: dict[str, int] = {}
    for batch in {max(job.scan_shapes, key=key) for key in (_tokens, _length)}:
        together = job.candidates_at_once(batch)
        copies = together * batch.items
        mask = batch.items * batch.length**2 * item
        rows = sublayers * batch.scored
        found = {"forward cache": batch.tokens * hidden * item * sublayers + mask}
        if job.statistics.bypass:
            block = passes.block_bytes(copies, batch.length, tree=True)
            joined = 2 * together * batch.tokens * hidden * item
            head = passes.head_call(rows).forward_peak if job.scan_reads_head else 0
            found["candidates"] = block.forward_peak + joined + together * mask
            found["logits"] = head + 2 * rows * hidden * item
        else:  # one forward pass gives what candidates add to the stream
            block = passes.block_bytes(batch.items, batch.length, tree=True)
            found["activations"] = block.forward_peak
        most = max(most, found, key=lambda parts: sum(parts.values()))
    workers = min(job.workers, len(job.scan_shapes))
    parts = {name: workers * size for name, size in most.items()}
    return PhaseMemory("scan", _process(job) | trained_state(job) | parts)


def dev(job: Job) -> PhaseMemory:
    """The evaluation of the dev items during training."""
    parts = _process(job) | trained_state(job) | {"activations": _evaluation(job, "dev")}
    return PhaseMemory("dev evaluation", parts)


def export(job: Job) -> PhaseMemory:
    """Writing, reloading and testing a trimmed model, beside the model that was trained."""
    weights = weights_bytes(job)
    ratio = target_model(job)
    parts = _process(job)
    # the trained model moves to main memory, which a CPU's is; there it keeps its optimizer
    trained = 0 if job.machine.cuda else int(ratio * weights)
    state = {} if job.machine.cuda else trained_state(job)
    parts["weights"] = trained + int(ratio * weights) + weights
    return PhaseMemory("export", parts | state | {"activations": _evaluation(job, "test")})


def comparison(job: Job) -> PhaseMemory:
    """Fine-tuning at full depth, beside the model that was trimmed."""
    parts = dict(training(job).parts)
    if not job.machine.cuda:
        for name, size in trained_state(job).items():
            parts[name] += size
        parts["weights"] += int(target_model(job) * weights_bytes(job))
    return PhaseMemory("fine-tuned comparison", parts)


def target_layers(job: Job) -> float:
    """Share of the sublayers' bytes that is left at the end."""
    rules, sizes = job.settings.trim.rules, job.sizes
    layers = rules.layer_memory
    if rules.model_memory is not None:
        share = 1 - (1 - rules.model_memory) * sizes.total / sizes.layers
        layers = share if layers is None else min(layers, share)
    drops = rules.max_drops or (1 if layers is None else 2) * sizes.blocks  # by default half
    return max(layers or 0.0, 1 - drops / (2 * sizes.blocks))


def target_model(job: Job) -> float:
    """Share of the whole model's bytes that is left at the end."""
    return 1 - (1 - target_layers(job)) * job.sizes.layers / job.sizes.total


# ---- inside ------------------------------------------------------------------------------------


def _process(job: Job) -> dict[str, int]:
    parts = {"process": job.machine.base, "weights": weights_bytes(job)}
    if job.settings.teacher:
        parts["teacher"] = _itemsize(job) * job.sizes.total
    return parts


def weights_bytes(job: Job) -> int:
    """Bytes of the weights, adapters included."""
    adapters = job.all_trained if job.settings.lora_rank else 0
    return _itemsize(job) * (job.sizes.total + adapters)


def trained_state(job: Job) -> dict[str, int]:
    """What stays between steps: moments, and the gradients of the last step."""
    moments = load_optimizer(job.settings.optimizer).moment_bytes or 2 * _itemsize(job)
    return {
        "optimizer": int(moments * job.all_trained),
        "gradients": _itemsize(job) * job.all_trained,
    }


def _held_gradients(job: Job) -> int:
    """Whole sets of gradients beside those that are being computed.

    Those of the parts of a batch are added up, and so are those of accumulated batches.
    """
    return any(len(batch) > 1 for batch in job.batches) + (job.settings.accumulated > 1)


def _evaluation(job: Job, items: str) -> int:
    """Activations of an evaluation."""
    batch = max(job.evaluation_shapes(items), key=_tokens)
    passes, item = job.scan_passes, _itemsize(job)
    block = passes.block_bytes(batch.items, batch.length, tree=True).forward_peak
    head = passes.head_call(batch.scored).forward_peak
    states = 2 * batch.tokens * job.sizes.hidden * item
    return max(block, head) + states + batch.items * batch.length**2 * item


def _itemsize(job: Job) -> int:
    return job.settings.dtype.itemsize


def _tokens(shape: BatchShape) -> int:
    return shape.tokens


def _length(shape: BatchShape) -> int:
    return shape.length
