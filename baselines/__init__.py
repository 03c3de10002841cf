"""Methods that trimming is compared with: one file each, found by its name.

Dropping by rule needs no file: `top`, `bottom`, `alternate` and `random` are scorers, as are the
scores of other papers (`block_influence` is ShortGPT's). `trimlab.baseline` is the interface,
`trimlab compress --help` the command.
"""
