"""The ablation of section 4.4: it trains a winner and its variants for every target.

A *cell* is one run: one variant, one target, one repeat. It trains a single-target network once and
tests it once. The plan lists the cells. It depends only on the export and the options, so the same
command plans the same cells. Cells that are complete in the store are not run again.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpsearch.ablation.cells import cell_table as cell_table


def __getattr__(name: str) -> Any:
    """Return `cell_table`, for users' own pages; imported on first use, because it loads pandas."""
    if name == "cell_table":
        from hpsearch.ablation.cells import cell_table

        return cell_table
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
