"""The model card of an exported folder."""

from html import escape

import yaml

from trimlab.data.domain import DomainData
from trimlab.model.loading import about
from trimlab.records.lost_accuracy import lost_accuracy
from trimlab.records.model_result import ModelResult, with_stderr


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
    header = yaml.safe_dump({"base_model": base}, width=10**6, allow_unicode=True).strip()
    base = escape(base, quote=False)  # a folder of any name
    return f"""---
{header}
library_name: transformers
pipeline_tag: text-generation
tags: [trimlab, pruned]
---

# {base}, trimmed to {trimmed.layer_memory_ratio:.0%} of its layer memory for {task.name}

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


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
