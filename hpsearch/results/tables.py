"""Table 1 and the table of a search's trials, as pandas frames.

A value is empty if no completed run has it.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from hpsearch.ablation.variants import VARIANT_NAMES
from hpsearch.config.targets import Target
from hpsearch.results import published
from hpsearch.results.findings import AblationFindings
from hpsearch.results.published import COMPARISONS
from hpsearch.search.study import Study

TABLE_1_ARMS = ("L1Net", "L0Net", "L0NetDeep")
"""The arms that Table 1 compares. Their columns are always there."""

BASELINES = ("mean", "composition")


def table1(findings: AblationFindings) -> pd.DataFrame:
    """Return Table 1 of an ablation, with the published columns after ours.

    It has one row per target of the ablation, in the order of the targets. Columns:

    - ``symbol``, ``unit``, ``train_molecules``;
    - ``mean``, ``composition``: errors of the two predictions that ignore the geometry;
    - each arm's name: its test MAE, averaged over the completed repeats;
    - ``published.COMPARISONS``: %E_{L1,L0}, %E_{Deep,L0}, ΔE_{L1,Deep}, %E_{L1,Deep} of our arms;
    - ``<arm>_weights``, ``<arm>_runs``: trainable weights; completed repeats;
    - ``paper_<network>`` and ``paper_<comparison>``: as published, trained on 109,000 molecules;
      not for a user's own molecules.
    """
    cells = findings.cells
    arms = arms_of(cells)
    present = set(cells["target"])
    rows = [
        _row(target, cells[cells["target"] == target.name], arms, findings.data)
        | ({} if findings.is_own else _published(target.name))
        for target in findings.targets
        if target.name in present
    ]
    columns = _columns(arms, with_paper=not findings.is_own)
    table = pd.DataFrame(rows, columns=["target", *columns]).set_index("target")
    return table.astype(columns)


def arms_of(cells: pd.DataFrame) -> tuple[str, ...]:
    """Return Table 1's three arms and all other arms of ``cells``, in the order of the variants."""
    present = list(dict.fromkeys(cells["variant"]))
    known = [name for name in VARIANT_NAMES if name in TABLE_1_ARMS or name in present]
    return (*known, *(name for name in present if name not in known))


def averages(table: pd.DataFrame) -> dict[str, float]:
    """Return the mean over targets of each % column, ours and the paper's.

    Rows without a value are left out. Errors and their differences are not averaged, because their
    units differ between targets.
    """
    columns = [name for name in COMPARISONS if name.startswith("relative")]
    means = {
        name: table[name].mean()
        for name in [*columns, *(f"paper_{column}" for column in columns)]
        if name in table and table[name].notna().any()
    }
    return {name: float(value) for name, value in means.items()}


def _columns(arms: tuple[str, ...], *, with_paper: bool) -> dict[str, str]:
    paper = (*published.NETWORKS, *COMPARISONS) if with_paper else ()
    numbers = [*BASELINES, *arms, *COMPARISONS, *(f"paper_{name}" for name in paper)]
    counts = [f"{arm}_{what}" for what in ("weights", "runs") for arm in arms]
    return {
        "symbol": "str",
        "unit": "str",
        "train_molecules": "Int64",
        **dict.fromkeys(numbers, "Float64"),
        **dict.fromkeys(counts, "Int64"),
    }


def _row(
    target: Target, cells: pd.DataFrame, arms: tuple[str, ...], data: dict[str, Any]
) -> dict[str, Any]:
    """Return the row of one target, without values that are not known."""
    complete = cells[cells["state"] == "complete"].groupby("variant")
    means = complete["test_mae"].mean().dropna()
    errors = {str(arm): float(mae) for arm, mae in means.items()}
    known = data.get("baselines", {})
    return {
        "target": target.name,
        "symbol": target.symbol,
        "unit": target.unit,
        "train_molecules": cells["train_size"].iloc[0],
        **{kind: known.get(kind, {}).get(target.name) for kind in BASELINES},
        **errors,
        **published.compare(errors),
        **{f"{arm}_weights": weights_of(cells, arm) for arm in arms},
        **{f"{arm}_runs": int(count) for arm, count in complete.size().items()},
    }


def _published(name: str) -> dict[str, Any]:
    """Return the paper's part of the row of a target of QM9."""
    errors = published.MAES[name]
    return {f"paper_{what}": value for what, value in (errors | published.compare(errors)).items()}


def weights_of(cells: pd.DataFrame, arm: str) -> int | None:
    """Return the number of weights of an arm's networks; ``None`` before one has started."""
    counts = cells.loc[cells["variant"] == arm, "weights"].dropna()
    return None if counts.empty else int(counts.iloc[0])


# --- The search ----------------------------------------------------------------------------------

TRIAL_COLUMNS = ("state", "value", "epochs", "weights", "seconds_per_epoch", "reason", "origin")


def search_table(study: Study) -> pd.DataFrame:
    """Return the trials of a study, by number.

    Columns: state (complete, running, paused, failed, refused, waiting or pruned), value (lowest
    validation loss, Eq. 18), epochs, weights, seconds_per_epoch, reason (of a failure or a
    refusal), origin (of a known configuration), and one column per searched parameter. Unknown
    values are empty.
    """
    trials = study.trials().set_index("number").rename_axis("trial")
    table = trials.rename(columns={"failure_reason": "reason"})
    table["state"] = table["state"].str.lower().replace({"fail": "failed"})
    table["state"] = table["state"].mask(trials["failure"] == "refused", "refused")
    parameters = [name for name in table.columns if name.startswith("params_")]
    table = table[[*TRIAL_COLUMNS, *parameters]]
    return table.rename(columns={name: name.removeprefix("params_") for name in parameters})
