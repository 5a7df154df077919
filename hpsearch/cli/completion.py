"""Shell completion: names of studies and ablations, targets and other choices.

It must answer within a fraction of a second, so it queries the database directly, without the
store's libraries. It never creates a file. On an error it returns nothing.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from hpsearch.config.targets import TARGET_NAMES
from hpsearch.system.credentials import STORAGE_VARIABLE

# Repeated here, because the modules that define them take seconds to import. A test compares them.
STORE = "sqlite:///storage/hpsearch.db"
SAMPLERS = ("random", "tpe", "gp", "qmc")
SCHEDULES = ("plateau", "cosine", "constant_cooldown")
VARIANTS = ("L1Net", "L0Net", "L0NetDeep", "L0NetOutdeep", "L0NetBothDeep")
FORMATS = ("html", "csv", "md", "latex")
TARGETS = (*TARGET_NAMES, "all")
EXPORTS = ("paper_l1net",)

_SECONDS = 1
"""Longest wait for a database."""

_QUERY = "SELECT kind, name FROM hpsearch_experiments ORDER BY launched_at DESC"


def experiments(url: str | None, kinds: Sequence[str]) -> list[str]:
    """Return the names in the store at ``url``, or in the default store, last launched first."""
    url = url or os.environ.get(STORAGE_VARIABLE) or STORE
    try:
        rows = _sqlite(url) if url.startswith("sqlite") else _postgresql(url)
    except Exception:
        # The command itself will report the error.
        return []
    return list(dict.fromkeys(name for kind, name in rows if kind in kinds))


def listed(choices: Sequence[str], typed: str) -> list[str]:
    """Return the choices that complete the last name in a list separated by commas."""
    before, comma, last = typed.rpartition(",")
    chosen = before.split(",")
    return [
        f"{before}{comma}{choice}"
        for choice in choices
        if choice.startswith(last) and choice not in chosen
    ]


def _sqlite(url: str) -> list[tuple[str, str]]:
    path = Path(url.partition(":///")[2]).expanduser().absolute()
    if not path.is_file():
        return []
    uri = f"{path.as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=_SECONDS)) as database:
        return database.execute(_QUERY).fetchall()


def _postgresql(url: str) -> list[tuple[str, str]]:
    import psycopg

    address = f"postgresql:{url.partition(':')[2]}"
    limit = f"-c statement_timeout={1000 * _SECONDS}"
    # libpq waits at least two seconds for a host that does not answer.
    with psycopg.connect(address, connect_timeout=2, options=limit) as connection:
        return connection.execute(_QUERY).fetchall()
