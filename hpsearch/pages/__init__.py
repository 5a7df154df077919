"""The pages in dashboards/, of one Plotly figure each, and the web server of the dashboard.

A page is a Python file with ``TITLE`` and ``figure(store, name=None)``. Two functions are optional:
``frame(store, name=None)`` returns the rows that the figure draws, and ``tables(store, name=None)``
returns tables to show below it.

Pages are opened by path. A user adds a page in ``dashboards/`` or in a folder of their own, without
changing this package. Opening a page runs its code, so only a folder that the user names is read.
An error in a page is reported in one line.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpsearch.pages.plots import (
        BEST_FIRST,
        NEUTRAL,
        PALETTE,
        PANEL_EDGES,
        below,
        colours_of,
        complete_trials,
        drawn_targets,
        evenly,
        log_axis,
        panel_title,
        panels,
        plain_text,
        short_number,
        study_of,
        symbols_of,
        target_axis,
        thinned,
        thinned_note,
        zero_output_note,
    )

__all__ = [
    "BEST_FIRST",
    "NEUTRAL",
    "PALETTE",
    "PANEL_EDGES",
    "below",
    "colours_of",
    "complete_trials",
    "drawn_targets",
    "evenly",
    "log_axis",
    "panel_title",
    "panels",
    "plain_text",
    "short_number",
    "study_of",
    "symbols_of",
    "target_axis",
    "thinned",
    "thinned_note",
    "zero_output_note",
]


if not TYPE_CHECKING:  # a type checker would otherwise accept any attribute of this module

    def __getattr__(name: str) -> Any:
        """Return a function for pages. It is imported on first use, because it loads plotly."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from hpsearch.pages import plots

        return getattr(plots, name)
