"""Trim a model on a domain: scan, fine-tune, drop, heal, export, report."""

from trimlab.commands._quiet import quiet


def run(arguments: list[str]) -> None:
    """`trimlab fit`: one run, from the base model to the report."""
    quiet()
    from trimlab.commands._notes import print_notes
    from trimlab.runs.config import FitCLI
    from trimlab.runs.summary import print_summary

    run = FitCLI(arguments).make_run()
    print_notes(run.data.report().notes)
    print_summary(run(), run.folder.path)
