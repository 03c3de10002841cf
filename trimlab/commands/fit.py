"""Trim a model on a domain: scan, fine-tune, drop, heal, export, report."""

from trimlab.commands._quiet import quiet


def run(arguments: list[str]) -> None:
    """`trimlab fit`: one run, from the base model to the report."""
    quiet()
    from trimlab import ranks
    from trimlab.commands._notes import print_notes
    from trimlab.runs.config import FitCLI
    from trimlab.runs.summary import print_summary

    run = FitCLI(arguments).make_run()
    if ranks.is_first():
        print_notes(run.data.report().notes)
    summary = run()
    if ranks.is_first():
        print_summary(summary, run.folder.path)
