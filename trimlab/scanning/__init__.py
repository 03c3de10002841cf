"""The scan: statistics of the model with each candidate bypassed, without N evaluations."""
