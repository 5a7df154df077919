"""What a search and an ablation found, as documents: Table 1 with the paper's numbers beside ours.

Importing the package is cheap: each of these functions imports what it needs when it is called.
They are what a page of a person's own may call; the rest is in the package's modules.
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
    """Table 1 of an ablation, ours and the paper's: `results.tables.table1`.

    Raises:
        InputError: the store has no such ablation.
    """
    from hpsearch.results import tables
    from hpsearch.results.findings import AblationFindings

    return tables.table1(AblationFindings.read(store, ablation))


def interval_table(store: StoreReader, ablation: str) -> pd.DataFrame:
    """Each arm's test MAE with its interval over the repeats: `results.comparison.interval_table`.

    Raises:
        InputError: the store has no such ablation.
    """
    from hpsearch.results import comparison
    from hpsearch.results.findings import AblationFindings

    return comparison.interval_table(AblationFindings.read(store, ablation))


def search_table(study: Study) -> pd.DataFrame:
    """The trials of a study with their parameters: `results.tables.search_table`."""
    from hpsearch.results import tables

    return tables.search_table(study)


def table1_sections(store: StoreReader, ablation: str) -> list[Section]:
    """Table 1 in three parts: errors, their differences, the arms.

    Raises:
        InputError: the store has no such ablation.
    """
    from hpsearch.report import ablation_sections
    from hpsearch.results.findings import AblationFindings

    return ablation_sections.table1_sections(AblationFindings.read(store, ablation))


def comparison_sections(
    store: StoreReader, ablation: str, *, distinct: bool = False
) -> list[Section]:
    """The intervals, the differences of each pair, and the tests over targets.

    Args:
        store: where the ablation is.
        ablation: its name.
        distinct: whether U0, U, H and G count once in tests over targets.

    Raises:
        InputError: the store has no such ablation.
    """
    from hpsearch.report import comparison
    from hpsearch.results.findings import AblationFindings

    findings = AblationFindings.read(store, ablation)
    return comparison.comparison_sections(findings, distinct=distinct)
