"""A search's bookkeeping: the study in SQL is the only truth of what was asked and told."""

from hpsearch.study.failures import Breakdown
from hpsearch.study.quote import (
    Held,
    Measured,
    Quote,
    drawn,
    to_time,
    usual_epochs,
    ways_down,
    within_reach,
)
from hpsearch.study.search import Found, Search, verdicts
from hpsearch.study.study import Counts, Study

__all__ = [
    "Breakdown",
    "Counts",
    "Found",
    "Held",
    "Measured",
    "Quote",
    "Search",
    "Study",
    "drawn",
    "to_time",
    "usual_epochs",
    "verdicts",
    "ways_down",
    "within_reach",
]
