"""What a shell may put after a word that is half typed: names of the store, targets, choices.

It has to answer within a fraction of a second, so it asks the database itself, without the store's
libraries; it makes nothing, and where there is no answer it says nothing.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from hpsearch.config.targets import TARGET_NAMES
from hpsearch.system.credentials import STORAGE_VARIABLE

# Written here again, for what defines them takes seconds to import; a test holds both equal.
STORE = "sqlite:///storage/hpsearch.db"
SAMPLERS = ("random", "tpe", "gp", "qmc")
SCHEDULES = ("plateau", "cosine")
VARIANTS = ("L1Net", "L0Net", "L0NetDeep", "L0NetOutdeep", "L0NetBothDeep")
FORMATS = ("html", "csv", "md", "latex")
TARGETS = (*TARGET_NAMES, "all")
EXPORTS = ("paper_l1net",)

_SECONDS = 1
"""Longest that a database may take."""

_QUERY = "SELECT kind, name FROM hpsearch_experiments ORDER BY launched_at DESC"


def experiments(url: str | None, kinds: Sequence[str]) -> list[str]:
    """Names in the store at ``url``, or in the default one, the one launched last at the front."""
    url = url or os.environ.get(STORAGE_VARIABLE) or STORE
    try:
        rows = _sqlite(url) if url.startswith("sqlite") else _postgresql(url)
    except Exception:
        # Whatever it is, a person who types has no use for it: the command itself will say it.
        return []
    return list(dict.fromkeys(name for kind, name in rows if kind in kinds))


def listed(choices: Sequence[str], typed: str) -> list[str]:
    """``choices`` for the last of the names that were typed, separated by commas."""
    before, comma, last = typed.rpartition(",")
    chosen = before.split(",")
    return [
        f"{before}{comma}{each}" for each in choices if each.startswith(last) and each not in chosen
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
    # Two seconds are the least that libpq waits for a host that does not answer.
    with psycopg.connect(address, connect_timeout=2, options=limit) as connection:
        return connection.execute(_QUERY).fetchall()
