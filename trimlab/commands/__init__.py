"""The verbs of the command line: a file each, with `run(arguments)`.

The first line of a file's docstring is what `trimlab --help` says of its verb. Verbs parse and
print; heavy imports stay inside `run`, so that `trimlab --help` is quick.
"""
