"""Rows of our tables: their values, and the statements that read and write them."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    Row,
    Table,
    and_,
    cast,
    func,
    inspect,
    select,
    type_coerce,
)

from hpsearch.runs.messages import Completion, Outcome
from hpsearch.store.records import (
    FORMER_NAMES,
    Decision,
    Experiment,
    Kind,
    RecordedRun,
    former_names,
    normal_form,
)
from hpsearch.store.tables import decisions, epochs, experiments, runs
from hpsearch.system.errors import HpsearchError, one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sqlalchemy.dialects import postgresql, sqlite


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
    # The rows are no part of the statement, so that SQLAlchemy compiles it only once.
    statement = _insert(connection, into)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=list(key),
            set_={column: statement.excluded[column] for column in replace},
        ),
        list(rows),
    )


def _insert(connection: Connection, into: Table) -> sqlite.Insert | postgresql.Insert:
    """Return an INSERT that can update. Only the database's own dialect is loaded."""
    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(into)
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(into)


def find_experiment(
    connection: Connection, kinds: Sequence[Kind], name: str | None
) -> Experiment | None:
    """Return the experiment of these kinds launched last, called ``name`` if that is given.

    The exact name is preferred to a name with the same normal form, and that one to a former name.
    """
    if name is not None:
        # Compared here, because a typed text may have characters that the database cannot store.
        names = experiment_names(connection, kinds)
        same = [each for each in names if normal_form(each) == normal_form(name)]
        same = same or _renamed_from(connection, kinds, name)
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


def _renamed_from(connection: Connection, kinds: Sequence[Kind], name: str) -> list[str]:
    """Return the names of the experiments that were called ``name``; the last launched last."""
    c = experiments.c
    # Only few experiments are ever renamed, so that the texts of the others are not read.
    renamed = select(c.kind, c.name, c.provenance).where(
        c.kind.in_(kinds), c.provenance.contains(f'"{FORMER_NAMES}"')
    )
    return [
        row.name
        for row in connection.execute(renamed.order_by(c.launched_at, c.id))
        if normal_form(name) in former_names(_provenance(row.kind, row.name, row.provenance))
    ]


def experiment_names(connection: Connection, kinds: Sequence[Kind]) -> list[str]:
    """Return the names of these kinds' experiments; the one launched last comes last."""
    c = experiments.c
    query = select(c.name).where(c.kind.in_(kinds)).order_by(c.launched_at, c.id)
    return list(dict.fromkeys(connection.execute(query).scalars()))


def read_recorded_runs(
    connection: Connection, experiment_id: int, keys: Collection[str] | None
) -> dict[str, RecordedRun]:
    """Return the runs by their keys, or those with ``keys``; the database sums up their epochs."""
    r, e = runs.c, epochs.c
    these = r.experiment_id == experiment_id
    if keys is not None:
        these = and_(these, r.key.in_(sorted(keys)))
    totals = (
        select(
            e.run_id,
            func.max(e.epoch).label("last"),
            func.count(e.seconds).label("timed"),
            func.avg(e.seconds).label("mean_seconds"),
        )
        .join_from(epochs, runs)
        .where(these)
        .group_by(e.run_id)
        .subquery()
    )
    query = (
        select(
            r.key,
            _most_epochs(connection).label("most_epochs"),
            r.weights,
            r.host,
            r.device,
            r.zero_output_loss,
            r.started_at,
            totals.c.last,
            totals.c.timed,
            totals.c.mean_seconds,
            e.validation_loss,
            e.seconds,
            e.created_at,
        )
        .outerjoin_from(runs, totals, totals.c.run_id == r.id)
        .outerjoin(epochs, and_(e.run_id == r.id, e.epoch == totals.c.last))
        .where(these)
        .order_by(r.id)
    )
    now = datetime.now(UTC).replace(tzinfo=None)
    return {row.key: _recorded(row, now) for row in connection.execute(query)}


def _most_epochs(connection: Connection) -> ColumnElement[int]:
    """Return the most epochs of a run, which the database takes out of its configuration."""
    stored = runs.c.configuration
    is_sqlite = connection.dialect.name == "sqlite"
    configuration = type_coerce(stored, JSON) if is_sqlite else cast(stored, JSON)
    epochs: ColumnElement[int] = configuration[("training", "epochs")].as_integer()
    return epochs


def _recorded(row: Row[Any], now: datetime) -> RecordedRun:
    began = row.created_at or row.started_at
    silent = 0.0 if began is None else max((now - began).total_seconds(), 0.0)
    return RecordedRun(
        key=row.key,
        epochs=row.most_epochs,
        weights=row.weights,
        host=row.host,
        device=row.device,
        zero_output_loss=row.zero_output_loss,
        epoch=row.last or 0,
        loss=row.validation_loss,
        last_seconds=row.seconds,
        timed=row.timed or 0,
        mean_seconds=row.mean_seconds,
        # Limited, because the clocks of two machines may differ, and because the driver may be
        # waiting for its database.
        silent_seconds=min(silent, row.mean_seconds) if row.mean_seconds is not None else 0.0,
    )


def read_decisions(
    connection: Connection, experiment_id: int, key: str | None = None
) -> list[Decision]:
    """Return the decisions on an experiment's trials in their order, or on the trial ``key``."""
    if not inspect(connection).has_table(decisions.name):
        return []  # the store has an older schema, which readers do not upgrade
    d = decisions.c
    query = (
        select(d.sequence, runs.c.key, d.kind, d.rung, d.epoch, d.loss)
        .join_from(decisions, runs, d.run_id == runs.c.id)
        .where(d.experiment_id == experiment_id)
        .order_by(d.sequence)
    )
    if key is not None:
        query = query.where(runs.c.key == key)
    return [Decision(*row) for row in connection.execute(query)]


def packed(values: Sequence[float] | None) -> bytes | None:
    """Return ``values`` as little-endian float32: seven digits, enough for a residual."""
    import numpy as np  # takes long to load

    return None if not values else np.asarray(values, dtype="<f4").tobytes()


def unpacked(content: bytes) -> NDArray[np.float64]:
    """Return the values that :func:`packed` wrote."""
    import numpy as np

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
