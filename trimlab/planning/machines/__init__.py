"""Machines by name, for `trimlab plan --machine NAME`.

A machine is one file that defines `MACHINE`. Its name is the file's, with `-` for `_`.
"""
