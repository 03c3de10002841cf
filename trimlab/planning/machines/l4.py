"""One NVIDIA L4 with 24 GB.

Source: NVIDIA L4 datasheet: 242 TFLOP/s of bf16 with sparsity, half of it dense; 300 GB/s.
"""

from trimlab.planning.machine import Machine

MACHINE = Machine(name="l4", memory=22 * 2**30, matrix_rate=121e12, bandwidth=0.3e12)
