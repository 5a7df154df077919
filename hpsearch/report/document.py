"""The whole report: what was ablated, what was searched, and what it may be compared with."""

from __future__ import annotations

from hpsearch.report.ablation_sections import failure_sections, origin_section, table1_sections
from hpsearch.report.checks import provenance_section, validation_gap_section
from hpsearch.report.comparison import comparison_sections
from hpsearch.report.render import Section
from hpsearch.report.search_sections import search_sections
from hpsearch.results.provenance import chain, molecules_at_hand
from hpsearch.results.subject import Subject
from hpsearch.search.study import Study
from hpsearch.store import Store


def sections(store: Store, about: Subject, *, distinct: bool = False) -> list[Section]:
    """The whole report: Table 1 first, since it is what one opens a report for.

    Args:
        store: where the runs are.
        about: what it is of.
        distinct: whether U0, U, H and G count once in tests over targets.
    """
    found: list[Section] = []
    if about.ablation is not None:
        found += table1_sections(store, about.ablation)
        found += comparison_sections(store, about.ablation, distinct=distinct)
        found += failure_sections(store, about.ablation)
        found.append(origin_section(store, about.ablation))
        found.append(validation_gap_section(store, about.ablation))
        found.append(provenance_section(chain(store, about.ablation, molecules_at_hand())))
    if about.study is not None:
        found += search_sections(Study.open(store, about.study))
    return found
