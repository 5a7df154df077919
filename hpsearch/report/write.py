"""Writing a report's files into a folder: all of them or none."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hpsearch.report.csv_files import csv_files
from hpsearch.report.document import Document
from hpsearch.report.model_card import model_cards
from hpsearch.report.render import (
    Figure,
    Figures,
    Section,
    html_document,
    latex,
    markdown,
    markdown_text,
)
from hpsearch.results.findings import Findings
from hpsearch.results.subject import Subject
from hpsearch.store import StoreReader
from hpsearch.system.errors import InputError, unwritable
from hpsearch.system.files import write_together

FORMATS = ("html", "csv", "md", "latex")

DrawPages = Callable[[StoreReader, str | None, str | None], Figures]
"""The type of ``pages.draw_pages``: from a store, an experiment's name and its kind. The function
is an argument, so that this module need not import plotly."""


@dataclass(frozen=True)
class Written:
    """A report that was written.

    Attributes:
        paths: the files written.
        problems: one line for each page that could not be drawn.
        table1: Table 1's sections; empty without an ablation.
    """

    paths: tuple[Path, ...]
    problems: tuple[str, ...] = ()
    table1: tuple[Section, ...] = ()


def check_formats(formats: Collection[str]) -> tuple[str, ...]:
    """Return the formats in a fixed order, without repeats.

    Raises:
        InputError: a format is unknown, or there are none.
    """
    for name in formats:
        if name not in FORMATS:
            raise InputError(f"a format must be one of {', '.join(FORMATS)}; got '{name}'")
    if not formats:
        raise InputError(f"at least one format is needed; choose from {', '.join(FORMATS)}")
    return tuple(name for name in FORMATS if name in formats)


def write_report(
    store: StoreReader,
    directory: Path,
    name: str | None = None,
    formats: Collection[str] = FORMATS,
    pages: DrawPages | None = None,
    *,
    distinct: bool = False,
) -> Written:
    """Write the report of the study or ablation called ``name``, by default the latest launched.

    Args:
        store: the store that has the runs.
        directory: created if it does not exist; files of an earlier report in it are replaced.
        name: of an ablation or a study.
        formats: some of ``FORMATS``.
        pages: draws the pages for the HTML file and returns their rows for CSV files; ``None`` for
            a report without pages.
        distinct: whether U0, U, H and G count as one target in the tests over targets.

    Raises:
        InputError: there is nothing to report, a format is unknown, or the folder cannot be
            written.
        HpsearchError: the disk is full.
    """
    wanted = check_formats(formats)
    # The pages show the same moment as the tables, and nothing is read a second time.
    store = store.snapshot()
    findings = Findings.read(store, name)
    figures = Figures()
    if {"html", "csv"} & set(wanted) and pages is not None:
        figures = _figures(store, findings.about, pages)
    document = Document.of(findings, distinct=distinct)
    files = _documents(document, wanted, figures)
    if findings.ablation is not None and "md" in wanted:
        files |= model_cards(findings.ablation)
    if findings.ablation is not None and "latex" in wanted:
        files["table1.tex"] = latex(document.table1)
        files["comparisons.tex"] = latex(document.comparisons)
    if "csv" in wanted:
        files |= csv_files(findings)
        files |= {figure.csv_name: figure.csv for figure in figures.drawn if figure.csv}
    return Written(write_files(directory, files), figures.problems, document.table1)


def _figures(store: StoreReader, about: Subject, pages: DrawPages) -> Figures:
    """Draw the pages of the ablation and of the study."""
    script = ""
    drawn: list[Figure] = []
    problems: dict[str, None] = {}
    for name, kind in ((about.ablation, "ablation"), (about.study, "study")):
        if name is None:
            continue
        of_kind = pages(store, name, kind)
        script = of_kind.script
        drawn += [replace(figure, title=f"{figure.title} ({kind})") for figure in of_kind.drawn]
        problems.update(dict.fromkeys(of_kind.problems))
    return Figures(script, tuple(drawn), tuple(problems))


def _documents(document: Document, formats: Collection[str], figures: Figures) -> dict[str, str]:
    files: dict[str, str] = {}
    title, sections = document.title, document.sections
    if "md" in formats:
        files["report.md"] = f"# {markdown_text(title)}\n\n{markdown(sections)}"
    if "html" in formats:
        files["report.html"] = html_document(title, sections, figures, with_csv="csv" in formats)
    return files


def write_files(directory: Path, files: Mapping[str, str]) -> tuple[Path, ...]:
    """Write every file into a hidden folder in ``directory``, then rename them.

    So the earlier files stay complete if the disk is full or the process is killed.

    Raises:
        InputError: ``directory`` is a file, or cannot be written.
        HpsearchError: the disk is full.
    """
    if directory.exists() and not directory.is_dir():
        raise InputError(f"the report must go into a folder; '{directory}' is a file")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return write_together(directory, files)
    except OSError as error:
        raise unwritable(directory, error) from None
