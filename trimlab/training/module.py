"""The LightningModule: a language model whose sublayers can be dropped while it is trained."""

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimlab import ranks
from trimlab.data.batching import Batch
from trimlab.data.sampler import SEED_STRIDE
from trimlab.errors import InputError
from trimlab.evaluation.likelihoods import choice_scores, model_inputs
from trimlab.evaluation.metrics import Estimate, MetricName, TaskMetric
from trimlab.model.buffers import exact_buffers
from trimlab.model.loading import load_model
from trimlab.model.sublayers import Sublayer, SublayerStack
from trimlab.training.activations import checkpoint_activations
from trimlab.training.compiled import CompiledBlocks, check_compiler
from trimlab.training.devices import check_precision
from trimlab.training.gradients import StepLoss, add_gradients, own_part, with_gradients
from trimlab.training.lora import add_adapters, check_lora, merge_adapters
from trimlab.training.losses import load_loss
from trimlab.training.optimizers import load_optimizer
from trimlab.training.schedule import Schedule, ScheduleName
from trimlab.training.state import add_state, fingerprint, replay_state
from trimlab.training.steps import steps_per_epoch
from trimlab.training.strategies import Distributed


class TrainingDivergedError(InputError):
    """The loss is not finite; the last good operating point stays on disk."""


class DomainLM(L.LightningModule):
    """A decoder language model, fine-tuned on the answers of a domain.

    It owns the drop history and the sparse update: both are in its checkpoints, and a restored
    module drops and freezes before its weights and optimizer are restored. Checkpoints hold the
    trainable weights only; frozen ones come from the base model again.

    Args:
        base: The model to start from: an embedded one (`smollm2-135m`), a local Hugging Face
            folder, or a hub id.
        lr: Peak learning rate of AdamW.
        weight_decay: Decoupled weight decay.
        schedule: `linear` falls from `lr` over the planned epochs, `constant` stays, `restart`
            falls from `lr` after every drop.
        final_lr_share: Share of `lr` that a falling schedule ends at and stays at.
        warmup_steps: Optimizer steps over which the learning rate rises to `lr`, at the start and
            at every restart. The first steps of AdamW, whose moments are still empty, move every
            weight by `lr`: much for a model that is fine-tuned already.
        train_embeddings: Also train embeddings, LM head and final norm (an ablation).
        train_tokens: Most tokens, padding included, that are computed at once. A larger batch is
            computed in parts of similar length, whose gradients are added up: the same step with
            less memory and less padding. A GPU wants some ten thousand.
        loss: Training loss: a file in `trimlab/training/losses`. `answers` trains the answer
            tokens; `choices` the right choice against the others, in tasks that have others;
            `context` answers and contexts. One that needs a teacher (`logits`, `hidden_states`)
            needs `run.trim_from: fine_tuned`, too: the fine-tuned model, which itself is trained
            by `answers`, teaches the one that is trimmed.
        optimizer: A file in `trimlab/training/optimizers`: `adamw`, or `adamw_8bit` with moments
            in 8 bits.
        activation_checkpointing: Keep only the inputs of blocks and compute the blocks again in the
            backward pass: less memory, a third more time. The gradients are the same.
        compile: Compile the blocks with torch.compile for training steps. The first steps, and the
            first ones after drops, take longer.
        lora_rank: Rank of LoRA adapters; 0 trains the weights themselves. With adapters, the share
            r of the sublayers has them and all weights are frozen; they are merged into the
            weights when an operating point is exported. Adapters want a higher `lr`.
        lora_alpha: The output of adapters is multiplied by `lora_alpha / lora_rank`; by default
            twice the rank.
    """

    def __init__(
        self,
        base: str = "smollm2-135m",
        lr: float = 1e-4,
        weight_decay: float = 0.0,
        schedule: ScheduleName = "linear",
        final_lr_share: float = 0.1,
        warmup_steps: int = 0,
        train_embeddings: bool = False,
        train_tokens: int = 1024,
        loss: str = "answers",
        optimizer: str = "adamw",
        activation_checkpointing: bool = False,
        compile: bool = False,
        lora_rank: int = 0,
        lora_alpha: float | None = None,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.strict_loading = False  # checkpoints have no frozen weights, see on_load_checkpoint
        _check_numbers(lr, weight_decay, train_tokens)
        check_lora(lora_rank, lora_alpha, train_embeddings)
        self.train_optimizer = load_optimizer(optimizer)
        self.loss = load_loss(loss)
        if self.loss.needs_teacher:  # until there is one, see start_from
            self.loss = load_loss("answers")
        self.base, self.lr, self.weight_decay = base, lr, weight_decay
        self.schedule = Schedule(schedule, final_lr_share, warmup_steps)
        self.train_embeddings, self.train_tokens = train_embeddings, train_tokens
        self.lora_rank, self.lora_alpha = lora_rank, lora_alpha or 2.0 * lora_rank
        self.model, self.tokenizer = self.load_base()
        self.model.train()  # Lightning leaves the mode as it finds it, and loading leaves eval
        if activation_checkpointing:
            checkpoint_activations(self.model)
        self.stack = SublayerStack(self.model)
        self.compiled = CompiledBlocks(self.stack.blocks) if compile else None
        self.fingerprint = fingerprint(self.model)
        self.teacher: SublayerStack | None = None
        self.initial: Path | None = None  # a folder with other weights than those of `base`
        self.trainable: list[Sublayer] = list(self.stack)
        self.restarted_at = 0  # optimizer step of the last restart of the schedule
        self.planned_epochs = 0  # what the schedule is laid over; 0: the trainer's max_epochs
        self.metric: MetricName = "accuracy"
        self.dev = Estimate(float("nan"), float("nan"), 0)  # of the epoch that just ended
        self._step_loss = StepLoss()

    def _apply(self, fn: Any, recurse: bool = True) -> "DomainLM":
        # what `.to(dtype)` and Lightning's half precisions call
        with exact_buffers(self.model):
            return super()._apply(fn, recurse)

    def load_base(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The base model and its tokenizer; a subclass may have them from elsewhere."""
        return load_model(self.base, for_training=True)

    def fresh(self, base: str | None = None) -> "DomainLM":
        """Another module made with the same arguments, untrained and untrimmed.

        Args:
            base: Another model to start from.
        """
        # LightningCLI adds an entry of its own to the hyperparameters
        arguments: dict[str, Any] = {k: v for k, v in self.hparams.items() if not k.startswith("_")}
        arguments["base"] = base or self.base
        module = DomainLM(**arguments)
        if base is None and self.initial is not None:
            module.start_from(self.initial)
        return module

    def start_from(self, folder: Path) -> None:
        """Takes the weights of a trained copy of the base model, which becomes the teacher.

        Args:
            folder: Its Hugging Face folder, which has to stay: checkpoints hold no frozen weights.
        """
        trained, _ = load_model(str(folder))
        self.model.load_state_dict(trained.state_dict())
        self.initial, self.fingerprint = folder, fingerprint(trained)
        self.loss = load_loss(self.hparams["loss"])
        if self.loss.needs_teacher:
            self.teacher = SublayerStack(trained)

    @property
    def all_choices(self) -> bool:
        """Whether training items need all their choices."""
        return self.loss.all_choices

    def check(self, trainer: L.Trainer) -> None:
        """Refuses a trainer whose device cannot do what the options ask for.

        Raises:
            InputError: The precision, the optimizer, the compiler or the strategy does not work
                there.
        """
        check_precision(trainer)
        if isinstance(trainer.strategy, Distributed):
            trainer.strategy.check(self.hparams)
        self.train_optimizer.check(trainer.strategy.root_device)
        if self.compiled is not None:
            check_compiler(trainer.strategy.root_device)

    def setup(self, stage: str) -> None:
        """Checks the trainer."""
        self.check(self.trainer)

    def freeze_all_but(self, trainable: Iterable[Sublayer]) -> None:
        """Applies the sparse update: only these sublayers are trained from now on.

        With LoRA, they get adapters and only these are trained.
        """
        self.trainable = sorted(trainable)
        self.stack.freeze_all_but(self.trainable, self.train_embeddings)
        if self.lora_rank:
            add_adapters(self.stack, self.trainable, self.lora_rank, self.lora_alpha, _seed())
        self._fit_optimizer()

    def merge_adapters(self) -> None:
        """Merges the adapters into the weights: an ordinary model, whose training has ended."""
        merge_adapters(self.model)

    def drop(self, *sublayers: Sublayer) -> None:
        """Drops sublayers; the optimizer keeps the moments of the parameters that stay."""
        self.stack.drop(*sublayers)
        self._fit_optimizer()
        if self.schedule.name == "restart":
            self.restarted_at = self.global_step
            first = self.schedule.share(0, planned=1, per_epoch=1)
            for optimizer in self._trainer.optimizers if self._trainer is not None else []:
                for group in optimizer.param_groups:
                    group["lr"] = first * self.lr

    def _fit_optimizer(self) -> None:
        for optimizer in self._trainer.optimizers if self._trainer is not None else []:
            self.train_optimizer.keep(optimizer, self._trained())
        if self._distributed is not None:
            self._distributed.on_parameters_changed()

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def on_train_epoch_start(self) -> None:
        """Forgets the losses of a step that was not finished."""
        self._step_loss = StepLoss()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Makes dropout (in models that have it) a function of seed, epoch and batch alone."""
        seed = (_seed() * SEED_STRIDE + self.current_epoch) * SEED_STRIDE + batch_idx
        torch.manual_seed(seed % 2**63)

    def training_step(self, batch: Batch, _index: int) -> Tensor | None:
        """Mean loss of a batch, whose gradients are computed part by part.

        Where a step has several batches, accumulated or of several processes, the sum in place of
        the mean: see `on_before_optimizer_step`. None, which skips the step, once every trainable
        sublayer has been dropped: the sparse update unfreezes none in its place.
        """
        trained = self._trained()
        if not trained:
            return None
        if self._accumulated == 1:  # Lightning frees those of the last step after this one's
            for parameter in trained:
                parameter.grad = None
        terms = self.loss.count(batch)
        divisor, later = (terms, 1) if self._batches_per_step == 1 else (1, terms)
        # the activations of one part are freed before the next part is computed
        losses, gradients = [], list[Tensor]()
        for part in self._parts(batch):
            with self._training_pass(part):  # the backward pass may compute blocks again
                part_loss = self._loss(part) / divisor
                gradients = add_gradients(part_loss, trained, gradients)
            losses.append(part_loss.detach())
        loss = torch.stack(losses).sum()
        self._step_loss.add(loss, later)
        return with_gradients(loss, gradients, trained)

    def all_finite(self) -> bool:
        """Whether all trained weights are finite, of those that this process has."""
        return all(bool(own_part(p).isfinite().all()) for p in self._trained())

    @property
    def sharded(self) -> bool:
        """Whether this process has a part of the weights only."""
        return any(own_part(p) is not p for p in self.model.parameters())

    def _parts(self, batch: Batch) -> list[Batch]:
        """The parts of a batch; as many in every process, where their passes communicate."""
        parts = batch.parts(self.train_tokens)
        if (strategy := self._distributed) is not None and strategy.lockstep:
            missing = max(ranks.gathered(len(parts))) - len(parts)
            parts += [parts[-1].unscored()] * missing
        return parts

    @property
    def _distributed(self) -> Distributed | None:
        """The strategy, where there are several processes."""
        strategy = None if self._trainer is None else self._trainer.strategy
        return strategy if isinstance(strategy, Distributed) else None

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within the context, passes without gradients need no other process."""
        with self._distributed.whole_model() if self._distributed else nullcontext():
            yield

    @property
    def _accumulated(self) -> int:
        """Batches per optimizer step."""
        return 1 if self._trainer is None else self._trainer.accumulate_grad_batches

    @property
    def _batches_per_step(self) -> int:
        """Batches per optimizer step, of all processes together."""
        return self._accumulated * ranks.world_size()

    @contextmanager
    def _training_pass(self, batch: Batch) -> Iterator[None]:
        with ExitStack() as contexts:
            if not self.loss.all_positions:
                contexts.enter_context(self.stack.last_mlp_only_at(batch.scored_positions))
            if self.compiled is not None:
                contexts.enter_context(self.compiled.active())
            yield

    def _loss(self, batch: Batch) -> Tensor:
        """Loss of a batch, summed over its terms.  # ()"""
        hidden = self.stack.hidden(**model_inputs(batch, self.model.config, self.model.dtype))
        if not len(batch.targets):  # of a process without items in a step
            return 0 * hidden.sum().to(torch.promote_types(hidden.dtype, torch.float32))
        return self.loss(self.stack, hidden, batch, self._teacher_here())

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Divides added gradients by their terms; checks and logs the loss.

        Terms are counted over all batches of the step: it equals a step with one larger batch.
        Reading the loss is the only time that a step waits for a GPU.
        """
        loss = self._step_loss.finish(self._trained(), self._batches_per_step)
        if loss is None:  # every trainable sublayer is gone
            return
        if not torch.isfinite(loss):
            raise TrainingDivergedError(
                f"the loss became {loss.item()} at step {self.global_step}: lower model.lr "
                f"(now {self.lr:g}); the last good operating point is kept"
            )
        self.log("train_loss", loss, prog_bar=True, batch_size=1)

    def _teacher_here(self) -> SublayerStack | None:
        if self.teacher is not None and self.teacher.model.device != self.device:
            with exact_buffers(self.teacher.model):
                self.teacher.model.to(self.device, self.model.dtype)  # type: ignore[call-overload]
        return self.teacher

    def on_validation_epoch_start(self) -> None:
        """A fresh score for every pass over the dev items."""
        self._evaluating = ExitStack()
        self._evaluating.enter_context(self.whole())
        self._dev_metric = TaskMetric(self.metric).to(self.device)

    def validation_step(self, batch: Batch, index: int) -> None:
        """Adds a batch of dev items, which are dealt to the processes in turn."""
        if index % ranks.world_size() != ranks.rank():
            return
        self._dev_metric.update(choice_scores(self.stack, batch, self.metric), batch)

    def on_validation_epoch_end(self) -> None:
        """Keeps the score: it belongs to the model *before* a drop at the end of this epoch."""
        self._evaluating.close()
        with self._dev_metric.sync_context():
            self.dev = ranks.agreed(self._dev_metric.score())
        self.log(f"dev_{self.metric}", self.dev.value, prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer over what is trainable, with the schedule of the config."""
        optimizer = self.train_optimizer.make(self._trained(), self.lr, self.weight_decay)
        per_epoch = self._steps_per_epoch()
        planned = per_epoch * max(1, self.planned_epochs or self.trainer.max_epochs or 1)

        def share(step: int) -> float:
            return self.schedule.share(step - self.restarted_at, planned, per_epoch)

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        every_step: Any = {"scheduler": scheduler, "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": every_step}

    def _steps_per_epoch(self) -> int:
        # trainer.estimated_stepping_batches would start the data loader before a checkpoint has
        # said which epoch it is: the first resumed epoch would have the order of epoch 0
        trainer = self.trainer
        batches = len(trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]
        return steps_per_epoch(
            batches, trainer.limit_train_batches, trainer.accumulate_grad_batches
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the drop history and leaves out what is frozen."""
        add_state(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Replays drops and freezing; Lightning restores the weights after this.

        Raises:
            InputError: The checkpoint is not of trimlab, or of another base model.
        """
        replay_state(self, checkpoint)


def _check_numbers(lr: float, weight_decay: float, tokens: int) -> None:
    if not lr > 0:
        raise InputError(f"model.lr must be positive, not {lr}")
    if not weight_decay >= 0:
        raise InputError(f"model.weight_decay must be 0 or more, not {weight_decay}")
    if tokens < 1:
        raise InputError(f"model.train_tokens must be at least 1, not {tokens}")


def _seed() -> int:
    """What `seed_everything` was called with."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))
