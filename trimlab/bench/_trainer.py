"""Full fine-tuning with the Hugging Face Trainer."""

import tempfile
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainingArguments

from trimlab.bench._model import BenchmarkModel
from trimlab.data.domain import DomainData
from trimlab.data.encoding import EncodedItem
from trimlab.errors import InputError

IGNORED = -100  # label of a token without loss

Example = dict[str, list[int]]  # `input_ids` and `labels` of one text


def trainer_epoch(
    made: BenchmarkModel, data: DomainData, micro_batch_size: int, pad_to_longest: bool
) -> Callable[[], float]:
    """One epoch of full fine-tuning, ready to run; it returns the mean loss.

    Args:
        made: Makes the model; its device and type are the Trainer's.
        data: Training rows, and their number per optimizer step.
        micro_batch_size: Rows per forward pass; gradients are accumulated.
        pad_to_longest: Pad to the longest text of the data set instead of that of the batch.

    Raises:
        InputError: The micro-batches do not fill a batch.
    """
    model, _ = made.load()
    examples = [_example(item) for item in data.train_items()]
    longest = max(len(example["input_ids"]) for example in examples)
    folder = tempfile.TemporaryDirectory()

    def collate(batch: Sequence[Example]) -> dict[str, Tensor]:
        length = max(len(example["input_ids"]) for example in batch)
        return _padded(batch, longest if pad_to_longest else length)

    trainer = Trainer(
        model=model,
        args=_arguments(folder.name, made, data.batch_size, micro_batch_size),
        data_collator=collate,
        train_dataset=examples,  # type: ignore[arg-type]  # any sequence will do
    )
    trainer.remove_callback(PrinterCallback)  # standard output is for the record

    def run() -> float:
        with folder:
            return trainer.train().training_loss

    return run


def _arguments(
    folder: str, model: BenchmarkModel, batch_size: int, micro_batch_size: int
) -> TrainingArguments:
    micro = min(micro_batch_size, batch_size)
    if batch_size % micro:
        raise InputError(f"--micro_batch_size {micro} does not divide --batch_size {batch_size}")
    gpu = model.device.type == "cuda"
    # without `bf16`: the weights have the type already, and on our side nothing is cast either
    return TrainingArguments(
        output_dir=folder,
        num_train_epochs=1,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=batch_size // micro,
        learning_rate=1e-5,
        optim="adamw_torch_fused",
        weight_decay=0.0,
        max_grad_norm=0.0,  # our side clips no gradients
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
        use_cpu=not gpu,
        remove_unused_columns=False,
        dataloader_pin_memory=gpu,
    )


def _example(item: EncodedItem) -> Example:
    """The whole text of an item, with labels at the tokens of its answer."""
    # an encoded item lacks the last token, whose logits are not needed
    tokens = [*item.tokens, item.targets[-1]]
    labels = [IGNORED] * len(tokens)
    for position, target in zip(item.logit_index, item.targets, strict=True):
        labels[position + 1] = target  # the Trainer's models shift labels by one
    return {"input_ids": tokens, "labels": labels}


def _padded(examples: Sequence[Example], length: int) -> dict[str, Tensor]:
    """A batch, padded on the right.  # (B, length) each"""

    def tensor(rows: Sequence[list[int]], filler: int) -> Tensor:
        return torch.tensor([[*row, *[filler] * (length - len(row))] for row in rows])

    tokens = [example["input_ids"] for example in examples]
    return {
        "input_ids": tensor(tokens, 0),
        "labels": tensor([example["labels"] for example in examples], IGNORED),
        "attention_mask": tensor([[1] * len(row) for row in tokens], 0),
    }
