"""One NVIDIA GeForce RTX 4090 with 24 GB.

Source: NVIDIA Ada GPU architecture whitepaper: 165.2 TFLOP/s of dense bf16 with float32
accumulation; 1,008 GB/s.
"""

from trimlab.planning.machine import Machine

MACHINE = Machine(name="rtx-4090", memory=24 * 2**30, matrix_rate=165.2e12, bandwidth=1.008e12)
