"""The ablation of section 4.4: a winner's variants, each trained anew for every target.

A *cell* is one variant, one target, one repeat: a single-target network trained once and tested
once. The plan names the cells and is a pure function of the export and the options, so the same
command again means the same cells; what is already in the store is not run again.
"""

from hpsearch.ablation.cells import CELL_COLUMNS, STATES, CellState, cell_table
from hpsearch.ablation.declared import declared_variants
from hpsearch.ablation.molecules import DataSummary, check_split, checked_split
from hpsearch.ablation.plan import AblationPlan, Cell, ablation_training, repeat_seed
from hpsearch.ablation.quote import PlanQuote
from hpsearch.ablation.variants import (
    VARIANT_NAMES,
    VARIANTS,
    Match,
    Variant,
    drop_vectors,
    match_weights,
    require_vectors,
    select_variants,
)
from hpsearch.ablation.work import Ablation, split_name

__all__ = [
    "CELL_COLUMNS",
    "STATES",
    "VARIANTS",
    "VARIANT_NAMES",
    "Ablation",
    "AblationPlan",
    "Cell",
    "CellState",
    "DataSummary",
    "Match",
    "PlanQuote",
    "Variant",
    "ablation_training",
    "cell_table",
    "check_split",
    "checked_split",
    "declared_variants",
    "drop_vectors",
    "match_weights",
    "repeat_seed",
    "require_vectors",
    "select_variants",
    "split_name",
]
