"""The Modelfile with which Ollama reads a GGUF file.

Source: https://github.com/ollama/ollama/blob/main/docs/modelfile.md
"""

from typing import NamedTuple

from transformers import PreTrainedTokenizerBase


class _Chat(NamedTuple):
    """A common chat format: the text that gives it away, Ollama's template, and where turns end."""

    mark: str
    template: str
    stops: tuple[str, ...]


_SYSTEM = "{{ if .System }}%s{{ end }}"
_CHATS = (
    _Chat(
        "<|im_start|>",
        _SYSTEM % "<|im_start|>system\n{{ .System }}<|im_end|>\n"
        + "<|im_start|>user\n{{ .Prompt }}<|im_end|>\n<|im_start|>assistant\n"
        + "{{ .Response }}<|im_end|>\n",
        ("<|im_end|>",),
    ),
    _Chat(
        "<start_of_turn>",
        "<start_of_turn>user\n" + _SYSTEM % "{{ .System }}\n\n" + "{{ .Prompt }}<end_of_turn>\n"
        "<start_of_turn>model\n{{ .Response }}<end_of_turn>\n",
        ("<end_of_turn>",),
    ),
    _Chat(
        "<|start_header_id|>",
        _SYSTEM % "<|start_header_id|>system<|end_header_id|>\n\n{{ .System }}<|eot_id|>"
        + "<|start_header_id|>user<|end_header_id|>\n\n{{ .Prompt }}<|eot_id|>"
        + "<|start_header_id|>assistant<|end_header_id|>\n\n{{ .Response }}<|eot_id|>",
        ("<|eot_id|>",),
    ),
    _Chat(
        "[INST]",
        "[INST] " + _SYSTEM % "{{ .System }}\n\n" + "{{ .Prompt }} [/INST]{{ .Response }}</s>",
        ("[INST]", "</s>"),
    ),
)
_PLAIN = _Chat("", "{{ .Prompt }}", ())


def modelfile(weights: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Text of a Modelfile, with the tokenizer's chat format where it is a common one.

    Args:
        weights: File name of the GGUF file beside it.
        tokenizer: The model's tokenizer.
    """
    known = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    chat = next((chat for chat in _CHATS if chat.mark in known), _PLAIN)
    stops = "".join(f'PARAMETER stop "{stop}"\n' for stop in chat.stops)
    return f'FROM ./{weights}\nTEMPLATE """{chat.template}"""\n{stops}'
