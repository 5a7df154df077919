"""What a search and an ablation found: Table 1 with our numbers beside the paper's, as files.

Everything comes from the store. Tables are pandas frames first; the renderers turn them into text
for Markdown, HTML and LaTeX, while CSV keeps the frames' full precision.
"""

from hpsearch.report.comparison import (
    comparison_sections,
    comparison_table,
    interval_table,
    over_targets,
)
from hpsearch.report.costs import (
    held_lines,
    quote_lines,
    search_quote_lines,
    short_quote_line,
    shorter_line,
    timed_line,
    untimed_line,
)
from hpsearch.report.document import Subject, sections, subject, table1_sections
from hpsearch.report.render import Section, plain
from hpsearch.report.terminal import (
    idle_line,
    molecule_facts,
    molecule_lines,
    plan_lines,
    section_lines,
    winner_lines,
)
from hpsearch.report.write import FORMATS, Written, write_files, write_report
from hpsearch.results.tables import averages, search_table, table1

__all__ = [
    "FORMATS",
    "Section",
    "Subject",
    "Written",
    "averages",
    "comparison_sections",
    "comparison_table",
    "held_lines",
    "idle_line",
    "interval_table",
    "molecule_facts",
    "molecule_lines",
    "over_targets",
    "plain",
    "plan_lines",
    "quote_lines",
    "search_quote_lines",
    "search_table",
    "section_lines",
    "sections",
    "short_quote_line",
    "shorter_line",
    "subject",
    "table1",
    "table1_sections",
    "timed_line",
    "untimed_line",
    "winner_lines",
    "write_files",
    "write_report",
]
