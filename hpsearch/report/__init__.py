"""The report on a search and its ablation: documents, with Table 1 next to the paper's numbers.

A user's own pages may call the functions below. Each function does its imports when it is called,
so importing the package is cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpsearch.report.render import Section

if TYPE_CHECKING:
    import pandas as pd

    from hpsearch.search.study import Study
    from hpsearch.store import StoreReader

__all__ = [
    "Section",
    "comparison_sections",
    "interval_table",
    "search_table",
    "table1",
    "table1_sections",
]


def table1(store: StoreReader, ablation: str) -> pd.DataFrame:
    """Return Table 1 of an ablation with the paper's columns; see `results.tables.table1`.

    Raises:
        InputError: the store has no such ablation.
    """
    from hpsearch.results import tables
    from hpsearch.results.findings import AblationFindings

    return tables.table1(AblationFindings.read(store, ablation))


def interval_table(store: StoreReader, ablation: str) -> pd.DataFrame:
    """Return each arm's test MAE with its interval; see `results.comparison.interval_table`.

    Raises:
        InputError: the store has no such ablation.
    """
    from hpsearch.results import comparison
    from hpsearch.results.findings import AblationFindings

    return comparison.interval_table(AblationFindings.read(store, ablation))


def search_table(study: Study) -> pd.DataFrame:
    """Return the trials of a study with their parameters; see `results.tables.search_table`."""
    from hpsearch.results import tables

    return tables.search_table(study)


def table1_sections(store: StoreReader, ablation: str) -> list[Section]:
    """Return Table 1 in three sections: errors, differences of errors, arms.

    Raises:
        InputError: the store has no such ablation.
    """
    from hpsearch.report import ablation_sections
    from hpsearch.results.findings import AblationFindings

    return ablation_sections.table1_sections(AblationFindings.read(store, ablation))


def comparison_sections(
    store: StoreReader, ablation: str, *, distinct: bool = False
) -> list[Section]:
    """Return the intervals, the differences of each pair of arms, and the tests over targets.

    Args:
        store: the store that has the ablation.
        ablation: its name.
        distinct: whether U0, U, H and G count as one target in the tests over targets.

    Raises:
        InputError: the store has no such ablation.
    """
    from hpsearch.report import comparison
    from hpsearch.results.findings import AblationFindings

    findings = AblationFindings.read(store, ablation)
    return comparison.comparison_sections(findings, distinct=distinct)
