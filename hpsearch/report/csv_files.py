"""The numbers of a report, as CSV files with full precision."""

from __future__ import annotations

import pandas as pd

from hpsearch.results.comparison import comparison_table, interval_table
from hpsearch.results.csv_text import csv_text
from hpsearch.results.findings import AblationFindings, Findings, SearchFindings
from hpsearch.results.tables import search_table, table1


def csv_files(findings: Findings) -> dict[str, str]:
    """Return the text of each CSV file by its name."""
    files: dict[str, str] = {}
    if findings.ablation is not None:
        files |= _of_ablation(findings.ablation)
    if findings.search is not None:
        files |= _of_search(findings.search)
    return files | _of_runs(findings)


def _of_ablation(findings: AblationFindings) -> dict[str, str]:
    return {
        "table1.csv": csv_text(table1(findings)),
        "cells.csv": csv_text(findings.cells, index=False),
        "intervals.csv": csv_text(interval_table(findings), index=False),
        "comparisons.csv": csv_text(comparison_table(findings), index=False),
    }


def _of_search(findings: SearchFindings) -> dict[str, str]:
    study = findings.study
    kinds = study.trials().set_index("number")["failure"]
    return {
        "trials.csv": csv_text(search_table(study).join(kinds)),
        "importances.csv": csv_text(study.importances(), index_label="loss"),
    }


def _of_runs(findings: Findings) -> dict[str, str]:
    """Return the runs, epochs and errors that the figures are drawn from."""
    parts = [each.rows for each in (findings.search, findings.ablation) if each is not None]
    runs = pd.concat([part.runs for part in parts], ignore_index=True)
    drawn = pd.json_normalize(list(runs.pop("configuration")))
    epochs = pd.concat([part.epochs for part in parts])
    errors = pd.concat([part.target_errors for part in parts])
    files = {
        "runs.csv": csv_text(runs.drop(columns=["run_id", "directory"]).join(drawn), index=False),
        "epochs.csv": csv_text(epochs, index=False),
        "target_errors.csv": csv_text(errors, index=False),
    }
    if findings.ablation is not None and len(findings.ablation.residuals):
        files["residuals.csv"] = csv_text(_residuals(findings.ablation.residuals), index=False)
    return files


def _residuals(recorded: pd.DataFrame) -> pd.DataFrame:
    """Return a row per residual, with the index of its molecule among the test molecules.

    A molecule whose target is unknown has no residual.
    """
    rows = recorded.copy(deep=False)
    rows["molecule"] = [list(range(len(values))) for values in recorded["residuals"]]
    return rows.explode(["residuals", "molecule"]).dropna(subset=["residuals"])
