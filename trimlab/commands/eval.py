"""Score a model, trimmed or not, on tasks."""

from trimlab.commands._quiet import quiet
from trimlab.data.splits import read_test_items
from trimlab.errors import InputError


def run(arguments: list[str]) -> None:
    """`trimlab eval`: score a model on tasks."""
    quiet()
    import json
    from pathlib import Path
    from typing import Literal

    from jsonargparse import ArgumentParser
    from rich.console import Console
    from rich.table import Table

    parser = ArgumentParser(
        prog="trimlab eval",
        exit_on_error=False,
        description="Scores a model on tasks: accuracy in percent with its standard error.",
    )
    parser.add_argument("model", type=str, help="an embedded model, a local folder, or a hub id")
    parser.add_argument("--tasks", type=str, required=True, help="task names, with commas between")
    parser.add_argument("--data.root", type=Path | None, help="folder with local .jsonl files")
    parser.add_argument(
        "--data.prompt",
        type=str | None,
        help="prompt format; by default `authors` and, for the backend lm-eval, the harness's own "
        "wherever it has the task",
    )
    parser.add_argument("--data.test_rows", type=int | None, help="test items, all by default")
    parser.add_argument(
        "--data.max_length",
        type=int | None,
        help="longest text in tokens, by default what the model reads; a longer context loses its "
        "oldest tokens",
    )
    parser.add_argument(
        "--further", action="store_true", help="also length-normalised accuracy; a little slower"
    )
    parser.add_argument(
        "--generate",
        type=int,
        default=0,
        help="test items that the model also answers in its own words (exact match); slow",
    )
    parser.add_argument("--device", type=str, default="cpu", help="e.g. cuda")
    parser.add_argument(
        "--backend",
        type=Literal["trimlab", "lm-eval"],
        default="trimlab",
        help="who scores: trimlab, or lm-evaluation-harness itself (acc and acc_norm)",
    )
    parser.add_argument("--batch_size", type=int, default=8, help="requests at once (lm-eval)")
    parser.add_argument("--json", action="store_true", help="one JSON line per task")
    options = parser.parse_args(arguments)

    from trimlab.data.domain import DomainData
    from trimlab.data.items import fingerprint
    from trimlab.data.task import load_task
    from trimlab.evaluation.answers import answer, normalised_score
    from trimlab.evaluation.generation import exact_match
    from trimlab.evaluation.harness import harness_evaluate
    from trimlab.model.loading import load_model
    from trimlab.model.sublayers import SublayerStack
    from trimlab.records.provenance import provenance

    harness, rows = options.backend == "lm-eval", options.data
    for option, value, least in (
        ("data.test_rows", rows.test_rows, 1),
        ("data.max_length", rows.max_length, 1),
        ("batch_size", options.batch_size, 1),
        ("generate", options.generate, 0),
    ):
        if value is not None and value < least:
            raise InputError(f"{option} must be at least {least}, not {value}")
    if harness and (options.further or options.generate):
        raise InputError("--further and --generate are the backend trimlab's")
    asked = []
    for name in options.tasks.split(","):  # all of them are read before the first is scored
        task = load_task(name)
        if harness and task.metric != "accuracy":
            raise InputError(f"lm-eval scores multiple choice, and {name} is plain text")
        prompt = rows.prompt or (task.prompts[-1] if harness else task.prompts[0])
        asked.append(
            (name, prompt, read_test_items(task, rows.root, rows.test_rows, prompt=prompt))
        )

    model, tokenizer = load_model(options.model)
    stack = SublayerStack(model.to(options.device))
    limit = rows.max_length or getattr(model.config, "max_position_embeddings", 1024)
    headings = ("task", "prompt", "metric", "value", "± standard error", "n")
    table = Table(*headings, title=options.model)
    for name, prompt, items in asked:
        data = DomainData(tokenizer, name, max_length=limit)
        most = data.max_length  # the tokenizer may know a lower limit
        metric, further = data.task.metric, options.further and data.task.metric == "accuracy"
        if harness:
            scores = harness_evaluate(model, tokenizer, items, name, options.batch_size, most)
        else:
            batches = data.evaluation_batches(items)
            answers = answer(stack, batches, metric, further, not options.json, name)
            scores = {metric: answers.score}
            if further:
                scores["accuracy_normalised"] = normalised_score(answers, items)
            if options.generate:
                some = items[: options.generate]
                written = exact_match(stack, tokenizer, some, most, not options.json, name)
                scores |= {} if written is None else {"exact_match": written}
        about = {"model": options.model, "task": name, "prompt": prompt, "max_length": most}
        about |= {"backend": options.backend, "rows": fingerprint(items), **provenance()}
        for metric, score in scores.items():
            if options.json:
                print(json.dumps({"metric": metric, **score._asdict(), **about}))
            numbers = (f"{score.value:.2f}", f"{score.stderr:.2f}", str(score.n))
            table.add_row(name, prompt, metric, *numbers)
    if not options.json:
        Console().print(table)
