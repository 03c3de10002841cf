"""What a run needs, worked out before anything is downloaded: memory, time, and what would fit.

One block of the model is run on tensors without data. What its operations hold in memory, compute
and move is counted, and the rest is arithmetic.
"""
