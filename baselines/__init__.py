"""What a user would run instead of trimming: one method a file, found by its name.

Dropping by rule needs no file: `top`, `bottom`, `alternate` and `random` are scorers, as are the
scores of other papers (`block_influence` is ShortGPT's). See `trimlab.compression` for the
interface, and `trimlab compress --help` for the command.
"""
