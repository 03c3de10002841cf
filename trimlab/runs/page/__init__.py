"""`report.html`: a run on one page, self-contained, for a browser without a network."""
