"""One NVIDIA H200 SXM with 141 GB.

Source: NVIDIA H200 datasheet: 1,979 TFLOP/s of bf16 with sparsity, half of it dense; 4.8 TB/s.
"""

from trimlab.planning.machine import Machine

MACHINE = Machine(name="h200", memory=139 * 2**30, matrix_rate=989e12, bandwidth=4.8e12)
