"""One NVIDIA A100 SXM with 80 GB.

Source: NVIDIA A100 datasheet: 312 TFLOP/s of dense bf16; 2,039 GB/s.
"""

from trimlab.planning.machine import Machine

MACHINE = Machine(name="a100-80gb", memory=79 * 2**30, matrix_rate=312e12, bandwidth=2.039e12)
