"""The verbs of the command line: a file each, with `run(arguments)`.

`trimlab --help` shows the first line of each file's docstring. Verbs parse and print. Heavy imports
stay inside functions, so that `trimlab --help` is quick.
"""
