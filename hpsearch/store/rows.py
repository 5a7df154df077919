"""Single rows of our tables: their values, and the statements that read and write them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Table, select
from sqlalchemy.dialects import postgresql, sqlite

from hpsearch.errors import HpsearchError, one_line
from hpsearch.runs.messages import Completion, Outcome
from hpsearch.store.records import Experiment, Kind, normal_form
from hpsearch.store.tables import experiments


def upsert(
    connection: Connection,
    into: Table,
    rows: Sequence[dict[str, Any]],
    *,
    key: Sequence[str],
    replace: Sequence[str],
) -> None:
    """Insert ``rows``; for a row whose ``key`` exists, update only the columns in ``replace``."""
    if not rows:
        return
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    statement = insert(into).values(list(rows))
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=list(key),
            set_={column: statement.excluded[column] for column in replace},
        )
    )


def find_experiment(
    connection: Connection, kinds: Sequence[Kind], name: str | None
) -> Experiment | None:
    """Return the experiment of these kinds launched last, called ``name`` if that is given.

    The exact name is preferred to a name with the same normal form.
    """
    if name is not None:
        # Compared here, because a typed text may have characters that the database cannot store.
        names = experiment_names(connection, kinds)
        same = [each for each in names if normal_form(each) == normal_form(name)]
        if not same:
            return None
        name = name if name in same else same[-1]
    c = experiments.c
    # By name, because older schemas lack newer columns.
    query = select(
        c.id, c.kind, c.name, c.identity, c.provenance, c.created_at, c.launched_at
    ).where(c.kind.in_(kinds))
    if name is not None:
        query = query.where(c.name == name)
    latest = query.order_by(c.launched_at.desc(), c.id.desc()).limit(1)
    row = connection.execute(latest).one_or_none()
    if row is None:
        return None
    return Experiment(
        id=row.id,
        kind=row.kind,
        name=row.name,
        identity=row.identity,
        provenance=_provenance(row.kind, row.name, row.provenance),
        created_at=row.created_at,
        launched_at=row.launched_at,
    )


def _provenance(kind: str, name: str, text: str) -> dict[str, Any]:
    try:
        provenance = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        provenance = None
    if not isinstance(provenance, dict):
        raise HpsearchError(
            f"the recorded facts of the {kind} '{name}' must be a JSON object, got "
            f"'{one_line(str(text))}'; restore a backup of the store"
        )
    return provenance


def experiment_names(connection: Connection, kinds: Sequence[Kind]) -> list[str]:
    """Return the names of these kinds' experiments; the one launched last comes last."""
    c = experiments.c
    query = select(c.name).where(c.kind.in_(kinds)).order_by(c.launched_at, c.id)
    return list(dict.fromkeys(connection.execute(query).scalars()))


def packed(values: Sequence[float] | None) -> bytes | None:
    """Return ``values`` as little-endian float32: seven digits, enough for a residual."""
    return None if not values else np.asarray(values, dtype="<f4").tobytes()


def unpacked(content: bytes) -> NDArray[np.float64]:
    """Return the values that :func:`packed` wrote."""
    return np.frombuffer(content, dtype="<f4").astype(np.float64)


def result_row(run_id: int, outcome: Outcome) -> dict[str, Any]:
    """Return the row for the verdict of an ablation run."""
    row: dict[str, Any] = {
        "run_id": run_id,
        "state": "failed",
        "epochs": None,
        "best_epoch": None,
        "best_validation_loss": None,
        "test_loss": None,
        "failure_kind": None,
        "failure_message": None,
        "failure_traceback": None,
        "failure_epoch": None,
        "failure_step": None,
        "finished_at": now(),
    }
    if isinstance(outcome, Completion):
        return row | {
            "state": "complete",
            "epochs": outcome.epochs,
            "best_epoch": outcome.best_epoch,
            "best_validation_loss": finite(outcome.best_validation_loss),
            "test_loss": finite(outcome.test_loss),
        }
    return row | {
        "failure_kind": outcome.kind,
        "failure_message": plain(outcome.message),
        "failure_traceback": plain(outcome.traceback),
        "failure_epoch": outcome.epoch,
        "failure_step": outcome.step,
    }


def to_json(value: Any) -> str:
    """Return ``value`` as JSON; raise an error for NaN."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)


def now() -> datetime:
    """Return the time in UTC without a time zone, because SQLite stores none."""
    return datetime.now(UTC).replace(tzinfo=None)


def finite(value: float | None) -> float | None:
    """Return ``value``, or ``None`` (NULL) if it is not finite."""
    return float(value) if value is not None and math.isfinite(value) else None


def plain(text: str) -> str:
    """Return ``text`` without NUL and lone surrogates, which PostgreSQL cannot store."""
    return text.replace("\0", "�").encode("utf-8", "replace").decode()
