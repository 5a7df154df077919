"""Sections of text and tables as Markdown, HTML and plain LaTeX."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs and at most one table whose cells are already text.

    Attributes:
        title: the heading.
        remarks: paragraphs between the heading and the table.
        header: the columns' headings; empty without a table.
        rows: the cells, row by row.
        groups: a second heading above each column; neighbours with equal text share one cell.
    """

    title: str
    remarks: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    groups: tuple[str, ...] = ()

    @property
    def spans(self) -> list[tuple[str, int]]:
        """Each group's heading with its number of columns."""
        return [(name, len(list(same))) for name, same in groupby(self.groups)]


@dataclass(frozen=True)
class Figure:
    """A drawing for an HTML document.

    Attributes:
        name: id of its element.
        title: the heading.
        html: the element, which needs `Figures.script`.
        csv: the rows that it draws; empty if the page has no ``frame``.
    """

    name: str
    title: str
    html: str
    csv: str = ""

    @property
    def csv_name(self) -> str:
        """The name of the file that has the rows."""
        return f"figure-{self.name}.csv"


@dataclass(frozen=True)
class Figures:
    """Drawings that share a script.

    Attributes:
        script: to be written once, before the drawings.
        drawn: the drawings.
        problems: a line for each page that could not be drawn.
    """

    script: str = ""
    drawn: tuple[Figure, ...] = ()
    problems: tuple[str, ...] = ()


def plain(section: Section) -> str:
    """Return the section's title and table for a terminal, aligned and without remarks."""
    lines = [section.header, *section.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(section.header))]
    first, last = 0, 0
    above = []
    for name, count in section.spans:
        last = first + count
        room = sum(widths[first:last]) + 2 * (count - 1)
        if len(name) > room:
            widths[last - 1] += len(name) - room
            room = len(name)
        above.append(name.center(room))
        first = last
    rows = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    heads = ["  ".join(above)] if section.groups else []
    return "\n".join(line.rstrip() for line in [section.title, *heads, *rows]) + "\n"


def markdown(sections: Iterable[Section]) -> str:
    """Return the sections as Markdown."""
    return "\n".join(_markdown_section(section) for section in sections)


def _markdown_section(section: Section) -> str:
    parts = [f"## {markdown_text(section.title)}\n"]
    parts += [f"{markdown_text(remark)}\n" for remark in section.remarks]
    if section.header:
        groups = section.groups or ("",) * len(section.header)
        named = zip(section.header, groups, strict=True)
        header = tuple(f"{name} ({group})" if group else name for name, group in named)
        head, *rows = (
            tuple(markdown_text(cell) for cell in line) for line in (header, *section.rows)
        )
        lines = [head, ("---",) * len(head), *rows]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")
    return "\n".join(parts)


def markdown_text(text: str) -> str:
    """Return ``text`` on one line, escaped so that it starts no cell, emphasis, link or HTML."""
    flat = " ".join(text.split()).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    for character in "|*_`[~":
        flat = flat.replace(character, f"\\{character}")
    # GitHub makes links of plain addresses.
    return flat.replace("://", "\\://").replace("www.", "www\\.")


_STYLE = """
body { margin: 2rem auto; max-width: 78rem; padding: 0 1rem; }
p, nav, figure { max-width: 64rem; }
h1 { font-size: 1.6rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 0.6rem; }
nav { color: var(--quiet); }
figure { margin: 1rem 0; }
figcaption { color: var(--quiet); font-size: 0.85rem; }
@media print {
  body { margin: 0; max-width: none; padding: 0; }
  nav { display: none; }
  .drawing { break-before: page; }
  figure { zoom: 0.68; }
}
""".strip()
"""On a screen, figures are as wide as the text. On paper, they are as wide as the page."""

_BROAD = 8
"""A table with more columns than this is printed in landscape."""

_LONG = 36
"""A cell with more characters than this may be broken into lines."""


def look() -> str:
    """Return the style sheet that the report and the dashboard's pages share."""
    return (resources.files(__package__) / "look.css").read_text(encoding="utf-8")


def html_document(
    title: str,
    sections: Iterable[Section],
    figures: Figures = Figures(),
    *,
    with_csv: bool = False,
) -> str:
    """Return the sections and drawings as one HTML document that loads no other file.

    Args:
        title: the heading.
        sections: the text before the drawings.
        figures: the drawings; their script is written once.
        with_csv: whether to link the CSV files with the drawings' rows.
    """
    parts = [f"<h1>{html.escape(title)}</h1>"]
    if figures.drawn:
        items = (
            f'<a href="#figure-{html.escape(each.name)}">{html.escape(each.title)}</a>'
            for each in figures.drawn
        )
        parts.append(f"<nav>Figures: {' · '.join(items)}</nav>")
    parts.append(html_sections(sections))
    if figures.drawn:
        parts.append(figures.script)
    parts += [_html_figure(each, with_csv) for each in figures.drawn]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{look()}\n{_STYLE}\n</style>\n"
        "</head>\n<body>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def html_sections(sections: Iterable[Section]) -> str:
    """Return the sections as parts of an HTML document."""
    return "\n".join(_html_section(section) for section in sections)


def _html_figure(figure: Figure, with_csv: bool) -> str:
    name, file = html.escape(figure.name), html.escape(figure.csv_name)
    caption = f'<figcaption>Numbers of this figure: <a href="{file}">{file}</a></figcaption>'
    return (
        f'<section class="drawing"><h2 id="figure-{name}">{html.escape(figure.title)}</h2>\n'
        f"<figure>{figure.html}{caption if with_csv and figure.csv else ''}</figure></section>"
    )


def _html_section(section: Section) -> str:
    broad = ' class="broad"' if len(section.header) > _BROAD else ""
    parts = [f"<section{broad}><h2>{html.escape(section.title)}</h2>"]
    parts += [f"<p>{html.escape(remark)}</p>" for remark in section.remarks]
    if section.header:
        head = _html_row(section.header, "th")
        if section.groups:
            spans = "".join(
                f'<th colspan="{count}">{html.escape(name)}</th>' for name, count in section.spans
            )
            head = f'<tr class="groups">{spans}</tr>\n{head}'
        body = "\n".join(_html_row(row, "td") for row in section.rows)
        parts.append(
            f'<div class="wide"><table>\n<thead>\n{head}\n</thead>\n<tbody>\n{body}\n</tbody>\n'
            "</table></div>"
        )
    return "\n".join([*parts, "</section>"])


def _html_row(cells: Sequence[str], tag: str) -> str:
    long = [' class="long"' if tag == "td" and len(cell) > _LONG else "" for cell in cells]
    parts = (f"<{tag}{a}>{html.escape(cell)}</{tag}>" for a, cell in zip(long, cells, strict=True))
    return f"<tr>{''.join(parts)}</tr>"


_LETTERS = """
β beta γ gamma δ delta ζ zeta η eta θ theta ι iota κ kappa λ lambda ν nu ξ xi π pi ρ rho σ sigma
τ tau φ varphi χ chi ψ psi ω omega
Γ Gamma Θ Theta Λ Lambda Ξ Xi Π Pi Σ Sigma Φ Phi Ψ Psi Ω Omega
"""
_GREEK = _LETTERS.split()

_LATEX_CHARACTERS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": r"{[}",
    "]": r"{]}",
    "μ": r"$\mu$",
    "α": r"$\alpha$",
    "ε": r"$\epsilon$",
    "Δ": r"$\Delta$",
    "⟨": r"$\langle$",
    "⟩": r"$\rangle$",
    **{letter: rf"$\{name}$" for letter, name in zip(_GREEK[::2], _GREEK[1::2], strict=True)},
    **{digit: rf"$^{n}$" for n, digit in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
    **{digit: rf"$_{n}$" for n, digit in enumerate("₀₁₂₃₄₅₆₇₈₉")},
    "⁻": r"$^-$",
    "⁺": r"$^+$",
    "°": r"$^\circ$",
    "µ": r"$\mu$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "→": r"$\to$",
    "–": "--",
    "−": r"$-$",
    "Å": r"\AA{}",
}
"""The special characters of our tables in plain LaTeX, without a package.

Brackets are braced, because LaTeX reads a bracket after ``\\\\`` as its argument.
"""


def latex_escape(text: str) -> str:
    """Return ``text`` for LaTeX; a character without an equivalent becomes a question mark."""
    flat = " ".join(text.split())
    return "".join(
        _LATEX_CHARACTERS.get(character, character if character.isascii() else "?")
        for character in flat
    )


def latex(sections: Iterable[Section]) -> str:
    r"""Return the sections' tables as plain ``tabular`` environments, for ``\input``."""
    return "\n".join(_latex_section(section) for section in sections)


def _latex_section(section: Section) -> str:
    lines = [rf"\paragraph{{{latex_escape(section.title)}}}"]
    lines += [latex_escape(remark) for remark in section.remarks]
    if section.header:
        # Small, because the widest table has fourteen columns.
        lines += ["", r"{\noindent\scriptsize\setlength{\tabcolsep}{2pt}"]
        lines += [rf"\begin{{tabular}}{{l{'r' * (len(section.header) - 1)}}}", r"\hline"]
        if section.groups:
            spans = (
                rf"\multicolumn{{{n}}}{{c}}{{{latex_escape(name)}}}" for name, n in section.spans
            )
            lines.append(" & ".join(spans) + r" \\")
        lines += [_latex_row(section.header), r"\hline"]
        lines += [_latex_row(row) for row in section.rows]
        lines += [r"\hline", r"\end{tabular}\par}", ""]
    return "\n".join(lines) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(latex_escape(cell) for cell in cells) + r" \\"
