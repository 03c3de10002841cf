"""A tokenizer and the model that reads its tokens: whether and how far they fit."""

from typing import Any

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from trimlab.errors import InputError


def fit_tokenizer(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, name: str) -> None:
    """Checks that a model has an embedding for every token, and sets `model_max_length`.

    Args:
        tokenizer: The tokenizer.
        model: The model.
        name: The name of both, for messages.

    Raises:
        InputError: A token has no embedding. Special tokens need none (padding, an image in
            Gemma 3) as long as no row has them, see `encode`.
    """
    embeddings: Any = model.get_input_embeddings()
    rows = embeddings.weight.shape[0]
    outside = {i: token for token, i in tokenizer.get_vocab().items() if i >= rows}
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    # ordinary text has no special token; the encoding of rows refuses those beyond this
    tokenizer.n_embeddings = rows  # type: ignore[attr-defined]
    outside = {i: token for i, token in outside.items() if i not in special}
    if outside:
        raise InputError(
            f"the tokenizer of {name} has {len(outside)} tokens without an embedding, such as "
            f"{outside[min(outside)]!r} (id {min(outside)}; the model has {rows} embeddings): take "
            "the tokenizer that the model was trained with, or give the model more embeddings "
            "(model.resize_token_embeddings(len(tokenizer))) and save it again"
        )
    set_longest_text(tokenizer, model.config)


def set_longest_text(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> None:
    """Sets a tokenizer's `model_max_length` to the longest text that the model reads.

    It is the model's: OPT has no positions beyond it, and others were not trained there. A
    tokenizer often states a shorter one, left over from its last training.
    """
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    if limit is not None:
        tokenizer.model_max_length = limit
