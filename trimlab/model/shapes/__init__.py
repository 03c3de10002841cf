"""Shapes: configs of well-known architectures, to plan and to time without their weights.

A shape is one file that defines `CONFIG`. Its name is the file's, with `-` for `_`.
"""
