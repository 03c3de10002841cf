"""The fast path of CPUs: oneDNN's linear layers, and passes side by side."""
