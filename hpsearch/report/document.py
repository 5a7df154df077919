"""The whole report: the sections on an ablation, then those on its search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from hpsearch.report.ablation_sections import failure_sections, origin_section, table1_sections
from hpsearch.report.checks import provenance_section, validation_gap_section
from hpsearch.report.comparison import comparison_sections
from hpsearch.report.render import Section
from hpsearch.report.search_sections import search_sections
from hpsearch.results.findings import AblationFindings, Findings, SearchFindings
from hpsearch.results.provenance import chain, molecules_at_hand


@dataclass(frozen=True)
class Document:
    """The sections of a report.

    Attributes:
        title: of the report.
        table1: Table 1, which comes first; empty without an ablation.
        comparisons: the comparison of the arms over repeats; empty without an ablation.
        checks: failures, the configuration and the checks; empty without an ablation.
        search: the winner and the trials; empty without a search.
    """

    title: str
    table1: tuple[Section, ...] = ()
    comparisons: tuple[Section, ...] = ()
    checks: tuple[Section, ...] = ()
    search: tuple[Section, ...] = ()

    @classmethod
    def of(cls, findings: Findings, *, distinct: bool = False) -> Self:
        """Return the report of ``findings``.

        Args:
            findings: the study and the ablation.
            distinct: whether U0, U, H and G count as one target in the tests over targets.
        """
        ablation, search = findings.ablation, findings.search
        title = f"hpsearch report: {findings.about.name}"
        of_search = () if search is None else tuple(search_sections(search.study))
        if ablation is None:
            return cls(title, search=of_search)
        return cls(
            title,
            tuple(table1_sections(ablation)),
            tuple(comparison_sections(ablation, distinct=distinct)),
            _checks(ablation, search),
            of_search,
        )

    @property
    def sections(self) -> tuple[Section, ...]:
        """All sections in the order of the report."""
        return (*self.table1, *self.comparisons, *self.checks, *self.search)


def _checks(ablation: AblationFindings, search: SearchFindings | None) -> tuple[Section, ...]:
    return (
        *failure_sections(ablation),
        origin_section(ablation),
        validation_gap_section(ablation),
        provenance_section(chain(ablation, search, molecules_at_hand(ablation.experiment.data))),
    )
