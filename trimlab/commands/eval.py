"""Score a model, trimmed or not, on tasks."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimlab.commands._placement import add_placement, check_placement
from trimlab.commands._quiet import quiet
from trimlab.data.splits import read_test_set
from trimlab.errors import InputError
from trimlab.files import exists

if TYPE_CHECKING:
    from trimlab.engines._engine import Engine


def run(arguments: list[str]) -> None:
    """`trimlab eval`: score a model on tasks."""
    quiet()
    import json

    from rich.console import Console
    from rich.table import Table

    options = _parser().parse_args(arguments)
    _check(options)
    placement = check_placement(options)
    engine = _engine(options)
    headings = ("task", "prompt", "metric", "value", "± standard error", "n", "in its card")
    table = Table(*headings, title=options.model)
    for row in _rows(options, placement, engine, _read_tasks(options)):
        if options.json:
            print(json.dumps(row))
        numbers = (f"{row['value']:.2f}", f"{row['stderr']:.2f}", str(row["n"]))
        table.add_row(row["task"], row["prompt"], row["metric"], *numbers, _said(row["card"]))
    if not options.json:
        Console().print(table)


def _said(card: dict[str, Any] | None) -> str:
    """The result that a model card names."""
    return "" if card is None else f"{card['value']:.2f} ± {card['stderr']:.2f}, n = {card['n']}"


def _parser() -> Any:
    from typing import Literal

    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog="trimlab eval",
        exit_on_error=False,
        description="Scores a model on tasks: accuracy in percent with its standard error. A "
        "folder of `trimlab export` is scored by its own engine, beside what its card says of the "
        "model before the export.",
    )
    parser.add_argument(
        "model",
        type=str,
        help="an embedded model, a local folder, also of an export, a file in one, or a hub id",
    )
    parser.add_argument("--tasks", type=str, required=True, help="task names, with commas between")
    _add_data_options(parser)
    parser.add_argument(
        "--extra_metrics",
        "--further",  # its earlier name
        action="store_true",
        help="also length-normalised accuracy; a little slower",
    )
    parser.add_argument(
        "--generate",
        type=int | None,
        help="test items that the model also answers in its own words (exact match, token F1); "
        "slow. By default 50 for the tasks completion and chat, and none for others",
    )
    add_placement(parser)
    parser.add_argument(
        "--engine",
        type=str | None,
        help="engine that computes: llama.cpp, onnxruntime, openvino, vllm, or transformers (in "
        "this program); by default the one that reads the folder",
    )
    parser.add_argument("--threads", type=int | None, help="CPU threads of another engine")
    parser.add_argument(
        "--backend",
        type=Literal["trimlab", "lm-eval"],
        default="trimlab",
        help="trimlab, or lm-evaluation-harness itself (acc and acc_norm)",
    )
    parser.add_argument("--batch_size", type=int, default=8, help="requests at once (lm-eval)")
    parser.add_argument("--json", action="store_true", help="one JSON line per metric")
    return parser


def _add_data_options(parser: Any) -> None:
    from typing import Literal

    from trimlab.data.source import DataSource

    parser.add_class_arguments(DataSource, "data")
    parser.add_argument(
        "--data.prompt",
        type=str | None,
        help="prompt format; by default `authors` and, for the backend lm-eval, the harness's own "
        "wherever it has the task",
    )
    parser.add_argument(
        "--data.metric",
        type=Literal["exp_neg_loss", "token_accuracy"] | None,
        help="metric of tasks without alternatives, exp_neg_loss by default",
    )
    parser.add_argument(
        "--data.chat_template", type=Path | None, help="file with a chat template, for task chat"
    )
    parser.add_argument("--data.test_rows", type=int | None, help="test items, all by default")
    parser.add_argument(
        "--data.max_length",
        type=int | None,
        help="longest text in tokens, by default the model's limit; a longer context loses its "
        "oldest tokens",
    )


def _check(options: Any) -> None:
    for option, value, least in (
        ("data.test_rows", options.data.test_rows, 1),
        ("data.max_length", options.data.max_length, 1),
        ("batch_size", options.batch_size, 1),
        ("generate", options.generate, 0),
        ("threads", options.threads, 1),
    ):
        if value is not None and value < least:
            raise InputError(f"{option} must be at least {least}, not {value}")
    if options.backend == "lm-eval" and (options.extra_metrics or options.generate):
        raise InputError("--extra_metrics and --generate need the backend trimlab")


def _engine(options: Any) -> "Engine | None":
    """The engine that computes; None where this program does.

    Raises:
        InputError: There is no such engine, it is not installed, or it lacks what is asked for.
    """
    from trimlab.commands._engine_folder import engine_folder, engine_of
    from trimlab.engines._engine import engine_for

    if options.engine is None and not exists(options.model):
        return None
    folder = engine_folder(options.model)
    if options.engine is None and engine_for(folder) is None:
        return None  # loading it here says what is missing
    options.model = str(folder)
    engine = engine_of(folder, options.engine)
    if engine.name == "transformers":
        return None
    for option, asked in (
        ("--backend lm-eval", options.backend == "lm-eval"),
        ("--generate", options.generate),
        (f"--device {options.device}", options.device not in ("auto", "cpu")),
    ):
        if asked:
            raise InputError(f"{option} needs --engine transformers, and not {engine.name}")
    return engine


def _read_tasks(options: Any) -> list[tuple[str, str, list[Any]]]:
    """Name, prompt format and test items of every task, read before the first is scored."""
    from trimlab.commands._notes import print_notes
    from trimlab.data.chat_template import use_chat_template
    from trimlab.data.source import DataSource, source_options
    from trimlab.data.task import load_task
    from trimlab.model.loading import load_tokenizer

    tokenizer = load_tokenizer(options.model)
    if options.data.chat_template is not None:
        use_chat_template(tokenizer, options.data.chat_template)
    source = DataSource(**source_options(options.data))
    harness, data = options.backend == "lm-eval", options.data
    tasks = []
    for name in options.tasks.split(","):
        task = load_task(name)
        if harness and task.metric != "accuracy":
            raise InputError(f"lm-eval scores multiple choice, and {name} has no alternatives")
        task = task.scored_by(data.metric).with_tokenizer(tokenizer)
        prompt = data.prompt or (task.prompts[-1] if harness else task.prompts[0])
        found = read_test_set(task, source, data.test_rows, prompt=prompt)
        print_notes(found.notes)
        tasks.append((name, prompt, found.items))
    return tasks


def _rows(
    options: Any, placement: Any, engine: "Engine | None", tasks: list[tuple[str, str, list[Any]]]
) -> Iterator[dict[str, Any]]:
    """A row per task and metric, with everything that a repetition needs."""
    from trimlab.commands._notes import print_notes
    from trimlab.data.domain import DomainData
    from trimlab.data.items import fingerprint
    from trimlab.export._card import recorded_accuracy
    from trimlab.records.provenance import provenance

    with _loaded(options, placement, engine) as (model, tokenizer, where):
        for name, prompt, items in tasks:
            data = DomainData(
                tokenizer,
                name,
                max_length=options.data.max_length or tokenizer.model_max_length,
                metric=options.data.metric,
                chat_template=options.data.chat_template,
                bad_rows=options.data.bad_rows,
            )
            items = data.usable(items, "test")
            print_notes(data.notes(items, "test"))
            about = {"model": options.model, "task": name, "prompt": prompt}
            about |= {"max_length": data.max_length, "backend": options.backend, **where}
            about |= {"rows": fingerprint(items), **provenance()}
            for metric, estimate in _scores(options, model, data, items).items():
                card = recorded_accuracy(Path(options.model), name, metric)
                said = {"card": None if card is None else card._asdict()}
                yield {"metric": metric, **estimate._asdict(), **about, **said}


@contextmanager
def _loaded(
    options: Any, placement: Any, engine: "Engine | None"
) -> Iterator[tuple[Any, Any, dict[str, str]]]:
    """The model, here or in its engine; its tokenizer; and where and in what it computes."""
    from trimlab.model.loading import load_model, load_tokenizer
    from trimlab.model.sublayers import SublayerStack

    if engine is None:
        model, tokenizer = load_model(options.model, **placement._asdict())
        dtype = str(model.dtype).removeprefix("torch.")
        yield SublayerStack(model), tokenizer, {"device": str(model.device), "dtype": dtype}
        return
    tokenizer = load_tokenizer(options.model)
    dtype = None if options.dtype == "auto" else placement.dtype
    with engine.load(Path(options.model), threads=options.threads, dtype=dtype) as loaded:
        dtype = str(loaded.dtype).removeprefix("torch.")
        yield loaded, tokenizer, {"engine": loaded.engine, "device": "cpu", "dtype": dtype}


def _scores(options: Any, model: Any, data: Any, items: list[Any]) -> dict[str, Any]:
    """Estimates by metric, of a `SublayerStack` or of a model in an engine."""
    from trimlab.model.sublayers import SublayerStack

    task = data.task
    if not isinstance(model, SublayerStack):
        return _engine_scores(options, model, data, items)
    if options.backend == "lm-eval":
        from trimlab.evaluation.harness import harness_evaluate

        return harness_evaluate(
            model.model,
            data.tokenizer,
            items,
            name=task.name,
            batch_size=options.batch_size,
            max_length=data.max_length,
        )
    from trimlab.runs.measure import measure

    measured = measure(
        model,
        data,
        items,
        metric=task.metric,
        extra_metrics=options.extra_metrics,
        generate=task.generate if options.generate is None else options.generate,
        progress=not options.json,
        name=task.name,
    )
    found = {
        task.metric: measured.answers.score,
        "accuracy_normalised": measured.normalised,
        **(measured.written._asdict() if measured.written else {}),
    }
    return {metric: estimate for metric, estimate in found.items() if estimate is not None}


def _engine_scores(options: Any, model: Any, data: Any, items: list[Any]) -> dict[str, Any]:
    """Estimates by metric of a model in an engine."""
    from trimlab.evaluation.answers import normalised_score
    from trimlab.evaluation.engine_answers import engine_answers

    task, progress = data.task, not options.json
    batches = data.evaluation_batches(items)
    answers = engine_answers(model, batches, task.metric, progress=progress, name=task.name)
    found = {task.metric: answers.score}
    if options.extra_metrics and task.metric == "accuracy":
        found["accuracy_normalised"] = normalised_score(answers, items)
    return found
