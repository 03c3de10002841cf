"""The scan: what becomes of the model when each candidate is dropped, without N evaluations."""
