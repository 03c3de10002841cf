"""The findings on the page."""

import html
from collections.abc import Iterable, Sequence

from analysis.findings._finding import Answer, Comparison, Finding
from analysis.findings_markdown import HEADS, RULES, missing_text, summary_rows, texts
from analysis.names import series_title


def summary_html(findings: Sequence[Finding]) -> str:
    """The answers in a few words; each question leads to its comparisons.

    Args:
        findings: The findings, at least one.
    """
    heads, rows = summary_rows(findings)
    body = ""
    for finding, (question, *answers) in zip(findings, rows, strict=True):
        link = f'<a href="#finding-{finding.name}">{html.escape(question)}</a>'
        cells = "".join(
            f'<td data-series="{html.escape(head)}">{html.escape(text)}</td>'
            for head, text in zip(heads[1:], answers, strict=True)
        )
        body += f"<tr><th>{link}</th>{cells}</tr>"
    columns = "".join(f"<th>{html.escape(head)}</th>" for head in heads[1:])
    return (
        f'<table class="answers"><thead><tr><th></th>{columns}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def findings_html(findings: Sequence[Finding]) -> str:
    """Every comparison, folded by question.

    Args:
        findings: The findings.
    """
    return f'<p class="footnote">{html.escape(RULES)}</p>' + "".join(map(_finding, findings))


def _finding(finding: Finding) -> str:
    answers = "".join(
        f"<h4>{html.escape(series_title(series))}: {html.escape(answer.summary)}</h4>"
        + _answer(answer)
        for series, answer in finding.answers.items()
    )
    return (
        f'<details id="finding-{finding.name}"><summary>{html.escape(finding.question)}</summary>'
        f'<p class="caption">{html.escape(finding.method)}</p>{answers}</details>'
    )


def _answer(answer: Answer) -> str:
    table = ""
    if answer.comparisons:
        rows = "".join(f"<tr>{_comparison(c)}</tr>" for c in answer.comparisons)
        table = f'<div class="scroll"><table><thead><tr>{_cells(HEADS, "th")}</tr></thead>'
        table += f"<tbody>{rows}</tbody></table></div>"
    if answer.command:
        commands = html.escape(answer.command.replace(" && ", "\n"))
        table += f'<p class="footnote">{html.escape(missing_text(answer.missing))}</p>'
        table += f"<pre>{commands}</pre>"
    return table


def _comparison(comparison: Comparison) -> str:
    what, number, *others = texts(comparison)
    shown = html.escape(number)
    if comparison.records:
        hint = html.escape(", ".join(comparison.records))
        shown = f'<a href="#{html.escape(comparison.records[0])}" title="{hint}">{shown}</a>'
    return f"<th>{html.escape(what)}</th><td>{shown}</td>{_cells(others, 'td')}"


def _cells(parts: Iterable[str], tag: str) -> str:
    return "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in parts)
