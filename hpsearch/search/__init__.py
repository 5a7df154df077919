"""A search's bookkeeping: the study in SQL is the only truth of what was asked and told."""

from hpsearch.search.accuracy import Held, Measured
from hpsearch.search.failures import Breakdown
from hpsearch.search.quote import (
    Quote,
    drawn,
    to_time,
    usual_epochs,
    ways_down,
    within_reach,
)
from hpsearch.search.study import Counts, Study
from hpsearch.search.terms import verdicts
from hpsearch.search.work import Found, Search

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
