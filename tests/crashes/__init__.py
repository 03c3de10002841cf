"""Kills real runs of a tiny model, resumes them, and compares what they end with.

A run that is killed before each of its writes in turn, in the middle of them, and at random moments
ends as one that nobody touched: the same files, but for times. As a script, for as long as wanted:

    python -m tests.crashes --minutes 60
"""
