"""Numbers and settings as text, for the report and the terminal."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pandas as pd

BLANK = ""


def number(value: Any, *, sign: bool = False) -> str:
    """Return four significant digits, without an exponent for large numbers; blank if unknown."""
    if value is None or pd.isna(value):
        return BLANK
    plus = "+" if sign else ""
    return f"{value:{plus},.0f}" if abs(value) >= 1000 else f"{value:{plus}.4g}"


def percent(fraction: Any) -> str:
    """Return a signed percentage with one decimal."""
    return f"{100 * fraction:+.1f} %"


def value(entry: Any) -> str:
    """Return any stored value as text; blank if unknown."""
    if entry is None or (not isinstance(entry, str) and pd.isna(entry)):
        return BLANK
    if isinstance(entry, (bool, str)):
        return str(entry).lower() if isinstance(entry, bool) else entry
    if float(entry) == int(entry):
        return f"{int(entry):,}"
    return f"{entry:.4g}"


def unit_symbol(unit: object) -> str:
    """Return a unit of Table 1 with its superscripts and subscripts."""
    return str(unit).replace("a0^3", "a₀³").replace("a0^2", "a₀²")


def duration(seconds: float) -> str:
    """Return ``seconds`` in a suitable unit: ``48 s``, ``3 min``, ``2.5 h``, ``4.1 d``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} min"
    if seconds < 172_800:
        return f"{seconds / 3_600:.1f} h"
    return f"{seconds / 86_400:.1f} d"


def relative(loss: float, zero_output_loss: float) -> str:
    """``loss`` against that of a network whose output is zero."""
    ratio = loss / zero_output_loss
    share = f"{ratio:.1%} of" if ratio < 10 else f"{ratio:,.3g} times"
    return f"{share} zero output's"


def settings(config: dict[str, Any], assumed: Collection[str] = ()) -> tuple[tuple[str, str], ...]:
    """Return each setting of a configuration that has an effect, with its value."""
    return tuple(
        (f"{part}.{name}", (value(entry) or "null") + _mark(f"{part}.{name}" in assumed))
        for part in ("network", "training", "data")
        for name, entry in config.get(part, {}).items()
        if f"{part}.{name}" != "training.seed" and _decides(part, name, config)
    )


def _decides(part: str, name: str, config: dict[str, Any]) -> bool:
    """Return whether the setting has an effect. With a split file, sizes and seed have none."""
    by_file = part == "data" and config["data"].get("split_file") is not None
    return not by_file or name == "split_file"


def _mark(assumed: bool) -> str:
    return " (assumed)" if assumed else BLANK
