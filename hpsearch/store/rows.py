"""Values as the tables hold them, and the one statement that writes them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, String, Table, cast, column, delete, func, select, table
from sqlalchemy.dialects import postgresql, sqlite

from hpsearch.runs.messages import Completion, Outcome
from hpsearch.store.records import Experiment, Kind, TrialState
from hpsearch.store.tables import experiments


def upsert(
    connection: Connection,
    into: Table,
    rows: Sequence[dict[str, Any]],
    *,
    key: Sequence[str],
    replace: Sequence[str],
) -> None:
    """Insert ``rows``; one whose ``key`` exists takes over only the columns in ``replace``."""
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
    """The experiment of these kinds called ``name``, or of any name: the one launched last."""
    c = experiments.c
    query = select(experiments).where(c.kind.in_(kinds))
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
        provenance=json.loads(row.provenance),
        created_at=row.created_at,
        launched_at=row.launched_at,
    )


def experiment_names(connection: Connection, kinds: Sequence[Kind]) -> list[str]:
    """Names of the experiments of these kinds, the one launched last at the end."""
    c = experiments.c
    query = select(c.name).where(c.kind.in_(kinds)).order_by(c.launched_at, c.id)
    return list(dict.fromkeys(connection.execute(query).scalars()))


_optuna_studies = table("studies", column("study_id"), column("study_name"))
_optuna_trials = table(
    "trials", column("trial_id"), column("number"), column("study_id"), column("state")
)


def trial_states(connection: Connection, study: str) -> list[TrialState] | None:
    """Rows of the study, by number; ``None`` if Optuna has no study of that name."""
    studies, trials = _optuna_studies.c, _optuna_trials.c
    study_id = connection.execute(
        select(studies.study_id).where(studies.study_name == study)
    ).scalar_one_or_none()
    if study_id is None:
        return None
    query = (
        select(trials.number, trials.trial_id, trials.state)
        .where(trials.study_id == study_id)
        .order_by(trials.number, trials.trial_id)
    )
    return [TrialState(*row) for row in connection.execute(query)]


def count_trials(connection: Connection) -> list[tuple[str, int]]:
    """How many of Optuna's rows are in each state, over all studies."""
    state = _optuna_trials.c.state
    query = select(state, func.count()).group_by(state).order_by(state)
    return [(name, count) for name, count in connection.execute(query)]


def count_refused(connection: Connection, study: str) -> int:
    """Rows of the study that were drawn beyond its budget."""
    studies, trials, attributes = _optuna_studies.c, _optuna_trials.c, _optuna_attributes.c
    query = (
        select(func.count())
        .select_from(_optuna_attributes)
        .join(_optuna_trials, trials.trial_id == attributes.trial_id)
        .join(_optuna_studies, studies.study_id == trials.study_id)
        .where(studies.study_name == study)
        .where(attributes.key == "failure", attributes.value_json == json.dumps("refused"))
    )
    return int(connection.execute(query).scalar_one())


_optuna_attributes = table(
    "trial_user_attributes", column("trial_id"), column("key"), column("value_json")
)
_optuna_reported = table("trial_intermediate_values", column("trial_id"), column("step"))
_optuna_values = table("trial_values", column("trial_id"), column("value"))


def best_trials(connection: Connection, study: str, count: int) -> set[int]:
    """Numbers of the complete trials of the study with the ``count`` lowest values."""
    studies, trials, values = _optuna_studies.c, _optuna_trials.c, _optuna_values.c
    # PostgreSQL has a type of its own for states, which no text equals.
    complete = cast(trials.state, String) == "COMPLETE"
    query = (
        select(trials.number)
        .join(_optuna_studies, studies.study_id == trials.study_id)
        .join(_optuna_values, values.trial_id == trials.trial_id)
        .where(studies.study_name == study, complete, values.value.is_not(None))
        .order_by(values.value, trials.number)
        .limit(count)
    )
    return set(connection.execute(query).scalars())


def forget_values(connection: Connection, trial_id: int, after: int) -> None:
    """Remove a trial's intermediate values beyond a step, which Optuna has no call for."""
    c = _optuna_reported.c
    these = (c.trial_id == trial_id) & (c.step > after)
    connection.execute(delete(_optuna_reported).where(these))


def packed(values: Sequence[float] | None) -> bytes | None:
    """``values`` as little-endian float32, whose seven digits are more than a residual has."""
    return None if not values else np.asarray(values, dtype="<f4").tobytes()


def unpacked(content: bytes) -> NDArray[np.float64]:
    """What :func:`packed` wrote."""
    return np.frombuffer(content, dtype="<f4").astype(np.float64)


def result_row(run_id: int, outcome: Outcome) -> dict[str, Any]:
    """An ablation run's verdict."""
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
    """``value`` as JSON; a NaN is refused rather than stored."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)


def now() -> datetime:
    """UTC without a zone: SQLite keeps none."""
    return datetime.now(UTC).replace(tzinfo=None)


def finite(value: float | None) -> float | None:
    """``value``, or ``None`` (NULL) for one that is not finite."""
    return float(value) if value is not None and math.isfinite(value) else None


def plain(text: str) -> str:
    """``text`` without what PostgreSQL cannot store: NUL and lone surrogates."""
    return text.replace("\0", "�").encode("utf-8", "replace").decode()
