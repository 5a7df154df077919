"""Numbers and settings as text, for the report and the terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import PureWindowsPath
from typing import Any

BLANK = ""


def number(value: Any, *, sign: bool = False) -> str:
    """Return four significant digits, without an exponent for large numbers; blank if unknown."""
    if _is_unknown(value):
        return BLANK
    plus = "+" if sign else ""
    return f"{value:{plus},.0f}" if abs(value) >= 1000 else f"{value:{plus}.4g}"


def percent(fraction: Any) -> str:
    """Return a signed percentage with one decimal."""
    return f"{100 * fraction:+.1f} %"


def value(entry: Any) -> str:
    """Return any stored value as text; blank if unknown."""
    if not isinstance(entry, str) and _is_unknown(entry):
        return BLANK
    if isinstance(entry, (bool, str)):
        return str(entry).lower() if isinstance(entry, bool) else entry
    if float(entry) == int(entry):
        return f"{int(entry):,}"
    return f"{entry:.4g}"


def _is_unknown(value: Any) -> bool:
    if value is None:
        return True
    # Imported here, because `hpsearch status` needs no frames and pandas takes long to load.
    import pandas as pd

    return bool(pd.isna(value))


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


ZERO_OUTPUT_LEGEND = "zero output = the loss of predicting zero (100 % of it = nothing learned)"
"""The explanation of the short form, to be printed once near it."""


def share(loss: float, zero_output_loss: float, *, of: str = "") -> str:
    """Return ``loss`` as a part of the loss of predicting zero: ``12.8 %``, ``15 times``.

    Args:
        loss: of a network.
        zero_output_loss: of predicting zero, on the same molecules.
        of: follows a percentage.
    """
    ratio = loss / zero_output_loss
    return f"{100 * ratio:.1f} %{of}" if ratio < 10 else f"{ratio:,.3g} times"


def relative(loss: float, zero_output_loss: float) -> str:
    """Return the short form of a comparison: ``12.8 % of zero output``."""
    return f"{share(loss, zero_output_loss, of=' of')} zero output"


def compared_loss(loss: float, zero_output_loss: float) -> str:
    """Return a loss with the full comparison to the loss of predicting zero."""
    part = share(loss, zero_output_loss, of=" of")
    nothing = 1 if part.endswith("times") else "100 %"
    return f"{loss:,.4g}, {part} the loss of predicting zero ({nothing} = nothing learned)"


def settings(config: dict[str, Any], assumed: Collection[str] = ()) -> tuple[tuple[str, str], ...]:
    """Return each setting of a configuration that has an effect, with its value."""
    return tuple(
        (row, (text or "null") + _mark(f"{part}.{name}" in assumed))
        for part in ("network", "training", "data")
        for name, entry in config.get(part, {}).items()
        if f"{part}.{name}" != "training.seed" and _decides(part, name, config)
        for row, text in _rows(f"{part}.{name}", entry)
    )


def _rows(name: str, entry: Any) -> Iterator[tuple[str, str]]:
    """Yield a row for each value of a setting, which may have named parts."""
    if name == "data.targets":
        for target in entry:
            rest = {key: part for key, part in target.items() if key != "name"}
            yield f"{name}.{target['name']}", _listed(rest)
    elif isinstance(entry, Mapping):
        for key, part in entry.items():
            # A person who reads the report elsewhere has another folder.
            text = file_name(part) if key in ("path", "labels") else _listed(part)
            yield f"{name}.{key}", text
    else:
        yield name, _listed(entry)


def _listed(entry: Any) -> str:
    if isinstance(entry, Mapping):
        return ", ".join(f"{key} {_listed(part)}" for key, part in entry.items())
    if isinstance(entry, (list, tuple)):
        return ", ".join(map(_listed, entry))
    return value(entry)


def file_name(path: object) -> str:
    """Return the last part of a path, of this system or another one."""
    return PureWindowsPath(str(path)).name


def _decides(part: str, name: str, config: dict[str, Any]) -> bool:
    """Return whether the setting has an effect. With a split file, sizes and seed have none."""
    by_file = part == "data" and config["data"].get("split_file") is not None
    return not by_file or name == "split_file"


def _mark(assumed: bool) -> str:
    return " (assumed)" if assumed else BLANK
