"""Fuzzers: valid inputs of every kind, mutated, through the readers that a command uses.

A target is one file in `targets/`; `python -m tests.fuzzing --minutes 60` tries them all in turn
and counts. Every input is made from the target's name and a number, so that a finding is one
command: `python -m tests.fuzzing --only records --case 1234`.
"""
