"""A table as LaTeX, for booktabs."""

from analysis.tables import Cell, Group, Part, Table, TableRow, marks

# Characters with a special meaning, or without a glyph, in LaTeX
_TEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "—": "---",
    "→": r"$\rightarrow$",
    "<": r"$<$",
    ">": r"$>$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "¹": r"$^{1}$",
    "†": r"$^{\dagger}$",
    "‡": r"$^{\ddagger}$",
    "Δ": r"$\Delta$",
    "×": r"$\times$",
}


def latex(table: Table) -> str:
    """A floating table; needs the packages booktabs and graphicx.

    Args:
        table: The table.
    """
    spec = "l" + "".join("r" * len(column.parts) for column in table.columns.values())
    return "\n".join(
        [
            "% needs \\usepackage{booktabs} and \\usepackage{graphicx}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(table.title)}. {_tex(table.caption)} {_tex(table.footnote)}}}",
            r"\resizebox{\linewidth}{!}{%",
            rf"\begin{{tabular}}{{{spec}}}",
            r"\toprule",
            *_heads(table),
            *_body(table),
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
            "",
        ]
    )


def _heads(table: Table) -> list[str]:
    heads, rules, subheads, at = [], [], [], 2
    for column in table.columns.values():
        width = len(column.parts)
        heads.append(rf"\multicolumn{{{width}}}{{c}}{{{_tex(column.title)}}}")
        rules.append(rf"\cmidrule(lr){{{at}-{at + width - 1}}}")
        subheads += [_tex(table.head(part)) for part in column.parts]
        at += width
    return [_line(["", *heads]), "".join(rules), _line(["", *subheads])]


def _body(table: Table) -> list[str]:
    width = 1 + sum(len(column.parts) for column in table.columns.values())
    lines = []
    for group in table.groups:
        lines.append(r"\midrule")
        if group.title:
            lines.append(rf"\multicolumn{{{width}}}{{l}}{{\emph{{{_tex(group.title)}}}}} \\")
        for row in group.rows:
            parts = [
                _part(table, group, row, key, part=part)
                for key, column in table.columns.items()
                for part in column.parts
            ]
            lines.append(_line([_tex(row.title), *parts]))
    return lines


def _part(table: Table, group: Group, row: TableRow, key: str, *, part: Part) -> str:
    cell = row.cells.get(key, Cell())
    text = _tex(table.text(key, cell, part))
    if table.is_best(group, row, key, part):
        text = rf"\textbf{{{text}}}"
    if part == "measured":
        text += "".join(_tex(mark) for mark in marks(cell.measured))
    return text


def _line(texts: list[str]) -> str:
    return " & ".join(texts) + r" \\"


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)
