"""The model card of an exported folder."""

from trimlab.data.domain import DomainData
from trimlab.model.loading import about
from trimlab.records.rows import Row


def model_card(base: str, data: DomainData, row: Row, untrimmed: Row, point: Row) -> str:
    """Text of a README.md: base model, data, dropped sublayers, accuracy, licence.

    Args:
        base: Name of the base model.
        data: The domain.
        row: Measurements of the reloaded export, a row of the run's summary.
        untrimmed: The same measurements of the base model.
        point: The operating point's row in the record.
    """
    info, task = about(base), data.task
    metric = task.metric
    dropped = ", ".join(row["dropped"]) or "nothing"
    speed = ""
    if "tokens_per_second" in row:
        speed = (
            f"| tokens per second | {row['untrimmed_tokens_per_second']:.1f} "
            f"| {row['tokens_per_second']:.1f} |\n"
        )
    return f"""---
base_model: {base}
library_name: transformers
pipeline_tag: text-generation
tags: [trimlab, pruned]
---

# {base}, trimmed to {row["layer_memory_ratio"]:.0%} of its layer memory for {task.name}

An ordinary dense model with {row["blocks"]} blocks (export tier {row["tier"]}), made with trimlab
(TrimLLM, arXiv 2412.11242): fine-tuned on the domain while the attention and MLP sublayers that
the domain does not need were dropped. It loads without trimlab:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("PATH_OF_THIS_FOLDER")
tokenizer = AutoTokenizer.from_pretrained("PATH_OF_THIS_FOLDER")
```

| {task.name}, test, n = {row["n"]} | untrimmed | this model |
|---|---|---|
| {metric} | {_score(untrimmed, metric)} | {_score(row, metric)} |
| layer-memory ratio | 1 | {row["layer_memory_ratio"]:.3f} |
| whole-model ratio | 1 | {row["model_memory_ratio"]:.3f} |
{speed}
± is the standard error over the test items. Accuracy, bytes and speed were measured on this
folder, reloaded.

- Base model: {base}{f" ({info.note})" if info.note else ""}
- Data: {task.name}, {point["optimizer_steps"]} optimizer steps of {data.batch_size} rows
- Dropped, in this order: {dropped}
- Licence: the base model's ({info.licence}) and the data's ({task.licence}) both apply.
"""


def _score(row: Row, metric: str) -> str:
    return f"{row[metric]:.1f} ± {row['stderr']:.1f}"
