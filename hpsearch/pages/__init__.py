"""The pages in dashboards/: one Plotly figure a file.

A page is a Python file with ``TITLE`` and ``figure(store, name=None)``, and if it likes
``frame(store, name=None)``, the rows that the figure draws, and ``tables(store, name=None)``. It is
opened by path, so a person adds one without touching the engine: there, or in a folder of their own
that they name, for opening a page runs it. What such a file does wrong is told in one line.
"""

from hpsearch.pages.plots import (
    BEST_FIRST,
    NEUTRAL,
    PALETTE,
    PANEL_EDGES,
    below,
    colours_of,
    complete_trials,
    log_axis,
    panels,
    short_number,
    study_of,
)

__all__ = [
    "BEST_FIRST",
    "NEUTRAL",
    "PALETTE",
    "PANEL_EDGES",
    "below",
    "colours_of",
    "complete_trials",
    "log_axis",
    "panels",
    "short_number",
    "study_of",
]
