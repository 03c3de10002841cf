"""The model card of an exported folder, and what it says of accuracy."""

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from yaml import YAMLError

from trimlab.data.domain import DomainData
from trimlab.evaluation.metrics import Estimate
from trimlab.model.loading import about
from trimlab.records.lost_accuracy import lost_accuracy
from trimlab.records.model_result import ModelResult, with_stderr

if TYPE_CHECKING:
    from trimlab.export._format import Export

CARD = "README.md"


def model_card(
    base: str,
    data: DomainData,
    trimmed: ModelResult,
    untrimmed: ModelResult,
    fine_tuned: ModelResult | None = None,
) -> str:
    """Text of a README.md: base model, data, dropped sublayers, accuracy, licence.

    It says so where the model is worse than those that it came from.

    Args:
        base: Name of the base model.
        data: The domain.
        trimmed: Result of the reloaded export.
        untrimmed: Result of the base model.
        fine_tuned: Result of the model fine-tuned at full depth, where it is known.
    """
    info, task = about(base), data.task
    dropped = ", ".join(trimmed.dropped or []) or "nothing"
    layers, model = trimmed.memory_in_folder
    zeros = ""
    if trimmed.tier == "T2":
        zeros = """ Ordinary blocks have both sublayers: where one was dropped and the other
kept, the dropped one is stored as zeros, which take memory and time and change no result."""
    worse = "".join(f"\n**{said}**\n" for said in lost_accuracy(trimmed, untrimmed, fine_tuned))
    full = ""
    if fine_tuned is not None:
        full = f"- Fine-tuned at full depth: {with_stderr(fine_tuned.value, fine_tuned.stderr)}\n"
    speed = ""
    if trimmed.tokens_per_second is not None:
        speed = (
            f"| tokens per second | {trimmed.untrimmed_tokens_per_second:.1f} "
            f"| {trimmed.tokens_per_second:.1f} |\n"
        )
    title = f"{base}, trimmed to {trimmed.layer_memory_ratio:.0%} of its layer memory"
    metadata = _metadata(base, title, task.name, trimmed).to_yaml()
    base, title = escape(base, quote=False), escape(title, quote=False)  # a folder of any name
    return f"""---
{metadata}
---

# {title} for {task.name}

An ordinary dense model with {trimmed.blocks} blocks (export tier {trimmed.tier}), made with trimlab
(TrimLLM, arXiv 2412.11242): fine-tuned on the domain while the attention and MLP sublayers that
the domain does not need were dropped. It loads without trimlab:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("PATH_OF_THIS_FOLDER")
tokenizer = AutoTokenizer.from_pretrained("PATH_OF_THIS_FOLDER")
```

| {task.name}, test, n = {trimmed.n} | untrimmed | this model |
|---|---|---|
| {task.metric} | {with_stderr(untrimmed.value, untrimmed.stderr)} | \
{with_stderr(trimmed.value, trimmed.stderr)} |
| layer memory in this folder | 1 | {_ratio(layers)} |
| whole model in this folder | 1 | {_ratio(model)} |
| layer-memory ratio, kept sublayers only | 1 | {trimmed.layer_memory_ratio:.3f} |
| whole-model ratio, kept sublayers only | 1 | {trimmed.model_memory_ratio:.3f} |
| type of the weights | | {trimmed.dtype} |
{speed}
± is the standard error over the test items. Accuracy, memory in this folder and speed were
measured on this folder, reloaded.{zeros}
{worse}
- Base model: {base}{f" ({info.note})" if info.note else ""}
- Data: {task.name}, {trimmed.optimizer_steps} optimizer steps of {data.batch_size} rows
{full}- Dropped, in this order: {dropped}
- Licence: the base model's ({info.licence}) and the data's ({task.licence}) both apply.
"""


def exported_card(card: str, export: "Export", name: str) -> str:
    """The card of a trimmed model for a folder that was made of it.

    Args:
        card: The card of the trimmed model; one that is damaged stays as it is.
        export: The export.
        name: Name of its format.
    """
    found = _read(card)
    if found is None:
        return card
    if name != "hf":
        data: Any = found.data
        data.library_name = None
    weights = f"`trimlab export --to {name} --dtype {export.dtype}`"
    said = (
        f"\n> Written by {weights} and reloaded in {export.engine}: {export.difference}.\n"
        "> What follows was measured before that. `trimlab eval FOLDER --tasks ...` measures this "
        "folder.\n"
    )
    if export.compressed is not None:
        said += f"> With weights in {export.dtype}: {export.compressed}.\n"
    found.text = said + found.text
    return str(found)


def recorded_accuracy(folder: Path, task: str, metric: str) -> Estimate | None:
    """What the card of a folder says that the model reached; None where it says nothing.

    Args:
        folder: The folder.
        task: Name of the task.
        metric: Name of the metric.
    """
    path = folder / CARD
    if not path.is_file():
        return None
    card = _read(path.read_text(encoding="utf-8"))
    data: Any = None if card is None else card.data
    for found in getattr(data, "eval_results", None) or []:
        if (found.dataset_type, found.metric_type) == (task, metric):
            measured = found.metric_args or {}
            return Estimate(found.metric_value, measured.get("stderr", 0.0), measured.get("n", 0))
    return None


def _read(card: str) -> ModelCard | None:
    """A card; None where what programs read of it is damaged, in whoever's card it is."""
    try:
        return ModelCard(card, ignore_metadata_errors=True)
    except (ValueError, YAMLError):
        return None


def _metadata(base: str, title: str, task: str, trimmed: ModelResult) -> ModelCardData:
    """What programs read of a card."""
    result = EvalResult(
        task_type="text-generation",
        dataset_type=task,
        dataset_name=task,
        dataset_split="test",
        metric_type=trimmed.metric,
        metric_value=trimmed.value,
        metric_args={"stderr": trimmed.stderr, "n": trimmed.n},
    )
    return ModelCardData(
        base_model=base,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["trimlab", "pruned"],
        model_name=title,
        eval_results=[result],
    )


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
