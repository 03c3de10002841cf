"""Ways to make inference cheaper: one file per method, whose name is the method's.

The weights need not make sense: a method stands here for the time and the memory that it takes.
"""
