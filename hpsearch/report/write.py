"""Writes a report's files into a folder, each whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from hpsearch.ablation.cells import cell_table
from hpsearch.errors import InputError, unwritable
from hpsearch.report.ablation_sections import table1_sections
from hpsearch.report.comparison import comparison_sections
from hpsearch.report.document import sections
from hpsearch.report.model_card import model_cards
from hpsearch.report.render import Figure, Figures, html_document, latex, markdown
from hpsearch.results.comparison import comparison_table, interval_table
from hpsearch.results.subject import Subject, subject
from hpsearch.results.tables import search_table, table1
from hpsearch.search.study import Study
from hpsearch.store import Store
from hpsearch.system.files import write_together

FORMATS = ("html", "csv", "md", "latex")

DrawPages = Callable[[Store, str | None, str | None], Figures]
"""``pages.draw_pages``: of an experiment's name and kind. Handed in, since this module draws
nothing and must not import plotly."""


@dataclass(frozen=True)
class Written:
    """What became of a report.

    Attributes:
        paths: the files written.
        problems: one line for each page that could not be drawn.
    """

    paths: tuple[Path, ...]
    problems: tuple[str, ...] = ()


def check_formats(formats: Collection[str]) -> tuple[str, ...]:
    """The formats in their order, without repeats.

    Raises:
        InputError: one is unknown, or there is none.
    """
    for name in formats:
        if name not in FORMATS:
            raise InputError(f"a format must be one of {', '.join(FORMATS)}; got '{name}'")
    if not formats:
        raise InputError(f"at least one format is needed; choose from {', '.join(FORMATS)}")
    return tuple(name for name in FORMATS if name in formats)


def write_report(
    store: Store,
    directory: Path,
    name: str | None = None,
    formats: Collection[str] = FORMATS,
    pages: DrawPages | None = None,
    *,
    distinct: bool = False,
) -> Written:
    """Writes the report of the study or ablation called ``name``, by default the latest launched.

    Args:
        store: where the runs are.
        directory: made if need be; files of an earlier report in it are replaced.
        name: of an ablation or of a study.
        formats: of ``FORMATS``.
        pages: draws the pages into the HTML, and hands out the rows behind each figure as CSV;
            ``None`` for a report without.
        distinct: whether U0, U, H and G count once in tests over targets.

    Raises:
        InputError: there is nothing to report, a format is unknown, or the folder cannot be
            written.
        HpsearchError: the disk is full.
    """
    wanted = check_formats(formats)
    about = subject(store, name)
    figures = Figures()
    if {"html", "csv"} & set(wanted) and pages is not None:
        figures = _figures(store, about, pages)
    files = _texts(store, about, wanted, figures, distinct)
    return Written(write_files(directory, files), figures.problems)


def _figures(store: Store, about: Subject, pages: DrawPages) -> Figures:
    """The pages of the ablation and of the study."""
    script = ""
    drawn: list[Figure] = []
    problems: dict[str, None] = {}
    for name, kind in ((about.ablation, "ablation"), (about.study, "study")):
        if name is None:
            continue
        found = pages(store, name, kind)
        script = found.script
        drawn += [replace(each, title=f"{each.title} ({kind})") for each in found.drawn]
        problems.update(dict.fromkeys(found.problems))
    return Figures(script, tuple(drawn), tuple(problems))


def _texts(
    store: Store,
    about: Subject,
    formats: Collection[str],
    figures: Figures,
    distinct: bool,
) -> dict[str, str]:
    files: dict[str, str] = {}
    everything = sections(store, about, distinct=distinct)
    title = f"hpsearch report: {about.name}"
    if "md" in formats:
        files["report.md"] = f"# {title}\n\n{markdown(everything)}"
    if "html" in formats:
        files["report.html"] = html_document(title, everything, figures, with_csv="csv" in formats)
    if about.ablation is not None:
        if "md" in formats:
            files |= model_cards(store, about.ablation)
        if "latex" in formats:
            files["table1.tex"] = latex(table1_sections(store, about.ablation))
            compared = comparison_sections(store, about.ablation, distinct=distinct)
            files["comparisons.tex"] = latex(compared)
        if "csv" in formats:
            experiment = store.find(about.ablation, "ablation")
            files["table1.csv"] = table1(store, about.ablation).to_csv()
            files["cells.csv"] = cell_table(store, experiment.id).to_csv(index=False)
            files["intervals.csv"] = interval_table(store, about.ablation).to_csv(index=False)
            files["comparisons.csv"] = comparison_table(store, about.ablation).to_csv(index=False)
    if about.study is not None and "csv" in formats:
        study = Study.open(store, about.study)
        kinds = study.trials().set_index("number")["failure"]
        files["trials.csv"] = search_table(study).join(kinds).to_csv()
        files["importances.csv"] = study.importances().to_csv(index_label="loss")
    if "csv" in formats:
        files |= _curves(store, about)
        files |= {each.csv_name: each.csv for each in figures.drawn if each.csv}
    return files


def _curves(store: Store, about: Subject) -> dict[str, str]:
    """What the figures of epochs, configurations and predictions are drawn from.

    A residual's molecule is its place among the test molecules.
    """
    found = (
        about.study and store.experiment("study", about.study),
        about.ablation and store.experiment("ablation", about.ablation),
    )
    known = [experiment.id for experiment in found if experiment]
    runs = pd.concat([store.runs(identity) for identity in known], ignore_index=True)
    drawn = pd.json_normalize(list(runs.pop("configuration")))
    residuals = pd.concat([store.test_residuals(identity) for identity in known])
    epochs = pd.concat([store.epochs(identity) for identity in known])
    errors = pd.concat([store.target_errors(identity) for identity in known])
    files = {
        "runs.csv": runs.drop(columns=["run_id", "directory"]).join(drawn).to_csv(index=False),
        "epochs.csv": epochs.to_csv(index=False),
        "target_errors.csv": errors.to_csv(index=False),
    }
    if len(residuals):
        residuals["molecule"] = [list(range(len(values))) for values in residuals["residuals"]]
        files["residuals.csv"] = residuals.explode(["residuals", "molecule"]).to_csv(index=False)
    return files


def write_files(directory: Path, files: Mapping[str, str]) -> tuple[Path, ...]:
    """Writes every file into a hidden folder in ``directory``, then renames them.

    A full disk or a kill so leaves the earlier files whole.

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
