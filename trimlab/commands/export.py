"""Write a trimmed model for Transformers, vLLM, llama.cpp and other engines."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimlab.commands._quiet import quiet
from trimlab.errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from trimlab.export._format import Export, ExportFormat
    from trimlab.model.sublayers import SublayerStack
    from trimlab.runs.folder import RunFolder


def run(arguments: list[str]) -> None:
    """`trimlab export`: write a model in another format, reload it in its engine and compare."""
    options = _parser().parse_args(arguments)
    out = options.out.expanduser()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty; choose another --out")

    quiet()
    import torch

    from trimlab.engines._engine import load_engine
    from trimlab.export._card import CARD
    from trimlab.export._format import load_format

    target = load_format(options.to)
    if options.dtype is not None and options.dtype not in target.dtypes:
        raise InputError(f"{options.to} has no type {options.dtype}: {', '.join(target.dtypes)}")
    if options.check is not None:
        load_engine(options.check).check()
    stack, tokenizer, stored = _trimmed(options)
    dtype = options.dtype or str(stored).removeprefix("torch.")
    if dtype not in target.dtypes:
        dtype = "float32"
    path = Path(str(stack.model.name_or_path)) / CARD
    card = path.read_text(encoding="utf-8") if path.is_file() else None
    with torch.inference_mode():
        export = target.write(stack, tokenizer, out, dtype, engine=options.check, card=card)
    _report(export, target, stack, options.check)


def _trimmed(options: Any) -> tuple["SublayerStack", "PreTrainedTokenizerBase", "torch.dtype"]:
    """The model to export, its tokenizer, and the type that it has on disk."""
    from trimlab.export._packing import drop_dead
    from trimlab.memory import main_memory
    from trimlab.model.loading import base_dtype, load_model
    from trimlab.model.sublayers import SublayerStack

    path = Path(options.model).expanduser()
    if path.suffix == ".ckpt":
        return _checkpoint(path)
    source = _source(path, options.ratio)
    name = str(source) if source is not None else options.model
    stored = base_dtype(name)
    model, tokenizer = load_model(name)
    if 2 * model.num_parameters() * 4 > main_memory():  # the model and the reloaded one
        del model
        model, tokenizer = load_model(name, dtype=stored)
    stack = SublayerStack(model)
    drop_dead(stack)
    return stack, tokenizer, stored


def _checkpoint(path: Path) -> tuple["SublayerStack", "PreTrainedTokenizerBase", "torch.dtype"]:
    """The model of a checkpoint, also of a run that has not ended."""
    from trimlab.model.loading import base_dtype
    from trimlab.model.notes import note_once
    from trimlab.runs.compare import FULL_DEPTH
    from trimlab.runs.folder import RunFolder
    from trimlab.training.checkpoints import load_checkpoint, restore
    from trimlab.training.module import DomainLM

    checkpoint = load_checkpoint(path)
    saved = checkpoint["hyper_parameters"]
    module = DomainLM(**{key: value for key, value in saved.items() if not key.startswith("_")})
    fine_tuned = RunFolder(path.parent.parent).models / FULL_DEPTH
    if checkpoint["trimlab"]["fingerprint"] != module.fingerprint and fine_tuned.is_dir():
        module.start_from(fine_tuned)  # run.trim_from fine_tuned
    restore(module, path)
    if not module.stack.history:
        note_once(f"nothing is dropped in {path} yet: the whole model is exported")
    return module.stack, module.tokenizer, base_dtype(module.base)


def _source(path: Path, ratio: float | None) -> Path | None:
    """The folder of the model to export; None where the name is no run folder.

    Raises:
        InputError: The run has no model, or none at this ratio.
    """
    from trimlab.runs.folder import RunFolder

    folder = RunFolder(path)
    if not folder.config.is_file():
        if ratio is not None:
            raise InputError(f"--ratio chooses a model of a run, and {path} is no run folder")
        return None
    summary = folder.read_summary()
    models = [m for m in (summary and summary.models) or [] if m.folder is not None]
    if not models:
        raise InputError(_unfinished(folder))
    found = models[-1]
    if ratio is not None:
        named = {m.asked_ratio or m.layer_memory_ratio: m for m in models}
        if ratio not in named:
            there = ", ".join(f"{value:.4g}" for value in named)
            raise InputError(f"the run {path} has no model at ratio {ratio:g}; there are {there}")
        found = named[ratio]
    return Path(str(found.folder))


def _unfinished(folder: "RunFolder") -> str:
    """Why a run has no model to export, and what to do."""
    checkpoints = [folder.checkpoints / f"{name}.ckpt" for name in ("good", "last")]
    there = next((path for path in checkpoints if path.is_file()), None)
    said = (
        f"the run {folder.path} has no trimmed model yet: it has not ended, or it trimmed nothing; "
        "let `trimlab fit` with the same options finish it"
    )
    return said if there is None else f"{said}, or export {there} as it is"


def _report(
    export: "Export", target: "ExportFormat", stack: "SublayerStack", checked_in: str | None
) -> None:
    size = export.bytes_on_disk / 1e6
    print(f"{export.folder}: tier {export.tier}, {export.blocks} blocks, {size:.1f} MB")
    if export.tier == "T2":
        print(_cost_of_zeros(export, stack))
    print(f"reloaded in {export.engine}: {export.difference}")
    if export.checked is not None:
        furthest = export.checked.log_probs
        print(
            f"reloaded in {checked_in}: {export.checked}, log-probabilities within {furthest:.1e}"
        )
    elif export.engine != target.engine:
        print(
            f"not run here: {target.engine}, the format's own engine; --check {target.engine} does"
        )
    if export.compressed is not None:
        print(f"weights in {export.dtype}: {export.compressed}")
    print("to run it:")
    for command in target.start(export.folder):
        print(f"  {command}")


def _cost_of_zeros(export: "Export", stack: "SublayerStack") -> str:
    """What the dead sublayers of tier T2 take, and what `trim.packable` would have given."""
    from trimlab.export._packing import pack, packable_blocks

    whole = {s.kind: s for s in stack.original if s in set(stack)}
    sizes = {kind: stack.bytes_of(sublayer) for kind, sublayer in whole.items()}
    blocks = pack(stack)
    attentions = sum(block.attention is None for block in blocks)
    mlps = sum(block.mlp is None for block in blocks)
    zeros = attentions * sizes.get("attention", 0) + mlps * sizes.get("mlp", 0)
    kept = stack.bytes_of(*stack)
    packable = packable_blocks(stack, stack.layer_memory_ratio)
    return (
        f"T2: {attentions} attentions and {mlps} MLPs of zeros fill the gaps, "
        f"{100 * zeros / (kept + zeros):.0f} % of the layers' bytes; they take memory and time and "
        f"change no result. trim.packable true would have given {packable} blocks without zeros"
    )


def _parser() -> Any:
    from jsonargparse import ArgumentParser

    from trimlab.plugins import hyphenated_names

    formats = hyphenated_names("trimlab.export")
    parser = ArgumentParser(
        prog="trimlab export",
        exit_on_error=False,
        description="Writes a trimmed model for other programs. The written model is reloaded in "
        "its own engine and its logits are compared with the trimmed model's; where they differ, "
        "nothing is left behind and the exit code is 1. "
        "hf: a stock Hugging Face folder (Transformers, vLLM, SGLang). "
        "nemotron-nas: DeciLM blocks with real no-ops (vLLM). "
        "gguf: llama.cpp and Ollama. openvino, onnx: engines with fast low-precision CPU kernels. "
        "Example: trimlab export runs/quickstart --to gguf --dtype q8_0 --out quickstart-gguf",
    )
    parser.add_argument(
        "model",
        type=str,
        help="a run folder, or a folder of `models/` in it, or a checkpoint (.ckpt) of a run that "
        "has not ended, or any model's name",
    )
    parser.add_argument("--to", type=str, required=True, help=f"format: {', '.join(formats)}")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to write: a new or empty one"
    )
    parser.add_argument(
        "--ratio",
        type=float | None,
        help="layer-memory ratio of the run's model, as in trim.save_at; by default its last",
    )
    parser.add_argument(
        "--dtype",
        type=str | None,
        help="type of the weights, by default as they are stored: float32, float16, bfloat16; "
        "and by format, gguf: q8_0 (8 bits), q4_k_m (4 bits), openvino and onnx: int8, int4",
    )
    parser.add_argument(
        "--check",
        type=str | None,
        help="name of another engine in which the written model is compared, too: vllm reads hf "
        "and nemotron-nas",
    )
    return parser
