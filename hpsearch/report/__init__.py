"""What a search and an ablation found: Table 1 with our numbers beside the paper's, as files.

Everything comes from the store. Tables are pandas frames first; the renderers turn them into text
for Markdown, HTML and LaTeX, while CSV keeps the frames' full precision.
"""

from hpsearch.report.ablation_sections import table1_sections
from hpsearch.report.comparison import comparison_sections
from hpsearch.report.document import sections
from hpsearch.report.render import Section, plain
from hpsearch.report.write import FORMATS, Written, write_files, write_report
from hpsearch.results.comparison import comparison_table, interval_table, over_targets
from hpsearch.results.subject import Subject, subject
from hpsearch.results.tables import averages, search_table, table1

__all__ = [
    "FORMATS",
    "Section",
    "Subject",
    "Written",
    "averages",
    "comparison_sections",
    "comparison_table",
    "interval_table",
    "over_targets",
    "plain",
    "search_table",
    "sections",
    "subject",
    "table1",
    "table1_sections",
    "write_files",
    "write_report",
]
