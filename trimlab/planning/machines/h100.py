"""One NVIDIA H100 SXM with 80 GB.

Source: NVIDIA H100 datasheet: 1,979 TFLOP/s of bf16 with sparsity, half of it dense; 3.35 TB/s.
"""

from trimlab.planning.machine import Machine

MACHINE = Machine(name="h100", memory=79 * 2**30, matrix_rate=989e12, bandwidth=3.35e12)
