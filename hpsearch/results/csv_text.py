"""CSV files that a spreadsheet shows and does not run."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

_FORMULA = re.compile(r"[=+\-@\t\r]")
"""The first characters that make a spreadsheet calculate a cell."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf", re.IGNORECASE)


@lru_cache(maxsize=4096)
def inert(cell: str) -> str:
    """Return the text of a cell, after an apostrophe if a spreadsheet would run it as a formula.

    A name that somebody else chose must not do anything on the machine of those who open the file.
    Numbers stay as they are.
    """
    is_formula = _FORMULA.match(cell) and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if is_formula else cell


def csv_text(frame: pd.DataFrame, **options: Any) -> str:
    """Return the frame as the text of a CSV file, with full precision.

    Args:
        frame: the table.
        options: further arguments of ``DataFrame.to_csv``.
    """
    safe = frame.copy(deep=False)
    safe.columns = safe.columns.map(_inert_value)
    if not is_numeric_dtype(safe.index.dtype):
        safe.index = safe.index.map(_inert_value)
    for place, kind in enumerate(safe.dtypes):
        if not is_numeric_dtype(kind):
            inert_column: Any = safe.iloc[:, place].map(_inert_value)
            safe.isetitem(place, inert_column)
    return str(safe.to_csv(**options))


def _inert_value(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_inert_value, value))
    return inert(value) if isinstance(value, str) else value
