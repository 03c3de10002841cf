"""Export formats: a trimmed model for programs that know nothing of trimlab, one file each."""
