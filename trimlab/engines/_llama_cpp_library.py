"""The C interface of llama.cpp, as far as it is needed, in the library that xllamacpp ships.

xllamacpp has no Python interface to logits; its library exports llama.cpp's functions.

Source: https://github.com/ggml-org/llama.cpp (include/llama.h, build 11549).
"""

import ctypes as c
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from trimlab.errors import InputError

FLOAT16, FLOAT32 = 1, 0  # of `ggml_type`
FLASH_ATTENTION_AUTO, FLASH_ATTENTION_OFF = -1, 0


class ModelParams(c.Structure):
    """`llama_model_params`."""

    _fields_: ClassVar = [
        *((name, c.c_void_p) for name in ("devices", "tensor_buft_overrides")),
        *((name, c.c_int32) for name in ("n_gpu_layers", "split_mode", "load_mode", "lazy_mode")),
        ("main_gpu", c.c_int32),
        *((name, c.c_void_p) for name in ("tensor_split", "progress_callback", "progress_data")),
        ("kv_overrides", c.c_void_p),
        *((name, c.c_bool) for name in ("vocab_only", "check_tensors", "use_extra_bufts")),
        *((name, c.c_bool) for name in ("no_host", "no_alloc", "load_mtp")),
    ]


class ContextParams(c.Structure):
    """`llama_context_params`."""

    _fields_: ClassVar = [
        *((name, c.c_uint32) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq")),
        *((name, c.c_uint32) for name in ("n_outputs_max", "n_outputs_max_per_seq")),
        *((name, c.c_int32) for name in ("n_threads", "n_threads_batch", "ctx_type")),
        *((name, c.c_int32) for name in ("rope_scaling_type", "pooling_type", "attention_type")),
        ("flash_attn_type", c.c_int32),
        *((name, c.c_float) for name in ("rope_freq_base", "rope_freq_scale", "yarn_ext_factor")),
        *((name, c.c_float) for name in ("yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow")),
        ("yarn_orig_ctx", c.c_uint32),
        *((name, c.c_void_p) for name in ("cb_eval", "cb_eval_user_data")),
        *((name, c.c_int32) for name in ("type_k", "type_v")),
        ("moe_cache_size", c.c_size_t),
        *((name, c.c_void_p) for name in ("abort_callback", "abort_callback_data")),
        *((name, c.c_bool) for name in ("embeddings", "offload_kqv", "no_perf", "op_offload")),
        *((name, c.c_bool) for name in ("swa_full", "kv_unified")),
        ("samplers", c.c_void_p),
        ("n_samplers", c.c_size_t),
        ("ctx_other", c.c_void_p),
    ]


class Batch(c.Structure):
    """`llama_batch`."""

    _fields_: ClassVar = [
        ("n_tokens", c.c_int32),
        ("token", c.POINTER(c.c_int32)),
        *((name, c.c_void_p) for name in ("embd", "pos", "n_seq_id", "seq_id")),
        ("logits", c.POINTER(c.c_int8)),
    ]


_Log = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)
_silent = _Log(lambda _level, _text, _data: None)

_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "ggml_quantize_chunk": (
        c.c_size_t,
        [c.c_int, c.c_void_p, c.c_void_p, c.c_int64, c.c_int64, c.c_int64, c.c_void_p],
    ),
    "llama_backend_init": (None, []),
    "llama_context_default_params": (ContextParams, []),
    "llama_decode": (c.c_int32, [c.c_void_p, Batch]),
    "llama_free": (None, [c.c_void_p]),
    "llama_get_logits": (c.POINTER(c.c_float), [c.c_void_p]),
    "llama_init_from_model": (c.c_void_p, [c.c_void_p, ContextParams]),
    "llama_log_set": (None, [_Log, c.c_void_p]),
    "llama_model_default_params": (ModelParams, []),
    "llama_model_free": (None, [c.c_void_p]),
    "llama_model_get_vocab": (c.c_void_p, [c.c_void_p]),
    "llama_model_load_from_file": (c.c_void_p, [c.c_char_p, ModelParams]),
    "llama_tokenize": (
        c.c_int32,
        [c.c_void_p, c.c_char_p, c.c_int32, c.POINTER(c.c_int32), c.c_int32, c.c_bool, c.c_bool],
    ),
    "llama_vocab_n_tokens": (c.c_int32, [c.c_void_p]),
}


@cache
def library() -> Any:
    """The library, which prints nothing.

    Raises:
        InputError: It is another version, with other structures.
    """
    spec = find_spec("xllamacpp")
    assert spec is not None and spec.origin is not None
    lib = c.CDLL(str(next(Path(spec.origin).parent.glob("xllamacpp*.so"))))
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    lib.llama_log_set(_silent, None)
    lib.llama_backend_init()
    params = lib.llama_context_default_params()
    found = (params.n_ctx, params.flash_attn_type, params.type_k, params.type_v)
    if found != (512, FLASH_ATTENTION_AUTO, FLOAT16, FLOAT16):
        raise InputError(
            "this version of xllamacpp is not known: install the one in trimlab's constraints.txt"
        )
    return lib
