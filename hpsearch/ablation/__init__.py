"""The ablation of section 4.4: a winner's variants, each trained anew for every target.

A *cell* is one variant, one target, one repeat: a single-target network trained once and tested
once. The plan names the cells and is a pure function of the export and the options, so the same
command again means the same cells; what is already in the store is not run again.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpsearch.ablation.cells import cell_table as cell_table


def __getattr__(name: str) -> Any:
    """`cell_table`, for people's own pages; read when it is asked for, since it loads pandas."""
    if name == "cell_table":
        from hpsearch.ablation.cells import cell_table

        return cell_table
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
