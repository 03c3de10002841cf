"""One file per kind of input: `prepare(folder)` writes valid ones and returns what tries others."""
