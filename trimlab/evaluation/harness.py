"""lm-evaluation-harness on our items, for comparison with published numbers and for benchmarks.

The harness is an optional dependency (`pip install 'trimlab[lm-eval]'`), imported on use. It runs
offline: its task reads a file of items that hold their prompts.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimlab.data.encoding import token_ids
from trimlab.data.items import Item
from trimlab.errors import InputError
from trimlab.evaluation.metrics import Estimate
from trimlab.model.sublayers import evaluating

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM


def harness_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int = 1,
    max_length: int | None = None,
) -> "HFLM":
    """Wraps a model, trimmed or not, for the harness.

    The harness counts what a tokenizer appends (EOS) as part of a prompt; with such a tokenizer,
    texts are tokenised as everywhere else here.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        batch_size: Requests per forward pass.
        max_length: Longest text in tokens; by default the model's maximum.

    Raises:
        InputError: lm-eval is not installed.
    """
    try:
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise InputError(
            "lm-evaluation-harness is not installed: pip install 'trimlab[lm-eval]'"
        ) from error

    class WithoutEnd(HFLM):
        def tok_encode(
            self, string: str, add_special_tokens: bool | None = None, **options: Any
        ) -> list[int]:
            if add_special_tokens is False or options:
                return super().tok_encode(string, add_special_tokens, **options)  # type: ignore[attr-defined]
            return token_ids(tokenizer, string)

    text = "a"
    appends = len(tokenizer(text)["input_ids"]) > len(token_ids(tokenizer, text))  # type: ignore[arg-type]
    # it takes slow and fast tokenizers; its types name slow ones only
    options: dict[str, Any] = {"tokenizer": tokenizer, "batch_size": batch_size}
    made = WithoutEnd if appends else HFLM
    return made(pretrained=model, max_length=max_length, **options)  # type: ignore[call-arg]


def harness_likelihoods(lm: "HFLM", items: Sequence[Item]) -> list[list[float]]:
    """Log-likelihood of every choice of every item by the harness, in the order of the items."""
    from lm_eval.api.instance import Instance

    requests = [
        Instance("loglikelihood", {}, (item.context, choice), index)
        for item in items
        for index, choice in enumerate(item.choices)
    ]
    # the base class does not declare the option its subclasses share
    answers = iter(lm.loglikelihood(requests, disable_tqdm=True))  # type: ignore[call-arg]
    return [[next(answers)[0] for _ in item.choices] for item in items]


def harness_evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    name: str = "items",
    batch_size: int = 8,
    max_length: int | None = None,
) -> dict[str, Estimate]:
    """Scores a model with the harness itself, from its task loading to its metrics.

    Args:
        model: The model, trimmed or not.
        tokenizer: Its tokenizer.
        items: Multiple-choice items; each choice begins with a space.
        name: Name of the task in the harness.
        batch_size: Requests per forward pass.
        max_length: Longest text in tokens; by default the model's maximum.

    Returns:
        `acc` and `acc_norm` (length-normalised), in percent.

    Raises:
        InputError: lm-eval is not installed.
    """
    lm = harness_model(model, tokenizer, batch_size, max_length)
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    with evaluating(model), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "items.jsonl"
        # acc_norm divides by the length of a choice without the space before it
        choices = [[choice.removeprefix(" ") for choice in item.choices] for item in items]
        rows = (
            {"context": item.context, "choices": texts, "gold": item.gold}
            for item, texts in zip(items, choices, strict=True)
        )
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        task: Any = {
            "task": f"trimlab_{name}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(path)}, "cache_dir": folder},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{context}}",
            "doc_to_choice": "choices",
            "doc_to_target": "gold",
            "target_delimiter": " ",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        }
        # without its own tasks, whose files take half a minute to read
        manager = TaskManager(include_defaults=False)
        results: Any = simple_evaluate(lm, tasks=[task], task_manager=manager, log_samples=False)
    (found,) = results["results"].values()
    return {
        metric: Estimate(
            100 * found[f"{metric},none"], 100 * found[f"{metric}_stderr,none"], len(items)
        )
        for metric in ("acc", "acc_norm")
    }
