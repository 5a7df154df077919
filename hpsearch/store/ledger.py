"""All rows of one study, Optuna's and ours, as they stood at one instant."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, column, func, select, table

from hpsearch.store.tables import epochs, runs, target_errors


@dataclass(frozen=True)
class LedgerEpoch:
    """A recorded epoch.

    Attributes:
        validation_loss: ``None`` where it was not finite.
        targets: names of the targets that have errors.
        losses: how many of these have a loss.
        loss_sum: sum of these losses; ``None`` without any.
    """

    validation_loss: float | None
    targets: frozenset[str]
    losses: int
    loss_sum: float | None


@dataclass(frozen=True)
class LedgerRun:
    """A recorded run.

    Attributes:
        key: unique within the study, as far as the database's constraint held.
        configuration: as stored, of whatever age.
        weights: ``None`` until the run's worker has started.
        data_hash: likewise.
        split_hash: likewise.
        epochs: by number.
    """

    key: str
    configuration: dict[str, Any]
    weights: int | None
    data_hash: str | None
    split_hash: str | None
    epochs: dict[int, LedgerEpoch]


@dataclass(frozen=True)
class LedgerTrial:
    """One of Optuna's rows.

    Attributes:
        number: of the trial, from 0.
        state: RUNNING, COMPLETE, PRUNED, FAIL or WAITING.
        value: ``None`` without one that is finite.
        reported: the finite intermediate values, by epoch.
        failure_reason: ``None`` without one.
    """

    number: int
    state: str
    value: float | None
    reported: dict[int, float]
    failure_reason: str | None


@dataclass(frozen=True)
class Ledger:
    """A study's rows.

    Attributes:
        trials: by number; ``None`` if Optuna has no study of that name.
        runs: in the order they were made.
    """

    trials: tuple[LedgerTrial, ...] | None
    runs: tuple[LedgerRun, ...]


_studies = table("studies", column("study_id"), column("study_name"))
_trials = table("trials", column("trial_id"), column("number"), column("study_id"), column("state"))
_values = table("trial_values", column("trial_id"), column("objective"), column("value"))
_reported = table(
    "trial_intermediate_values",
    column("trial_id"),
    column("step"),
    column("intermediate_value"),
)
_attributes = table(
    "trial_user_attributes", column("trial_id"), column("key"), column("value_json")
)


def read_ledger(connection: Connection, experiment_id: int, study: str) -> Ledger:
    """Rows of the study called ``study``, in a number of queries that does not grow with it.

    ``connection`` must not have begun: the queries must see one instant, or a trial that ends
    between two of them would look broken.
    """
    if connection.dialect.name == "postgresql":
        # SQLite's transactions see one instant anyhow.
        connection = connection.execution_options(isolation_level="REPEATABLE READ")
    study_id = connection.execute(
        select(_studies.c.study_id).where(_studies.c.study_name == study)
    ).scalar_one_or_none()
    return Ledger(
        trials=None if study_id is None else _read_trials(connection, study_id),
        runs=_read_runs(connection, experiment_id),
    )


def _read_trials(connection: Connection, study_id: int) -> tuple[LedgerTrial, ...]:
    t = _trials.c
    rows = connection.execute(
        select(t.trial_id, t.number, t.state)
        .where(t.study_id == study_id)
        .order_by(t.number, t.trial_id)
    ).all()
    these = t.study_id == study_id
    v = _values.c
    values = {
        row.trial_id: row.value
        for row in connection.execute(
            select(v.trial_id, v.value)
            .join_from(_values, _trials, v.trial_id == t.trial_id)
            .where(these, v.objective == 0)
        )
    }
    r = _reported.c
    reported: defaultdict[int, dict[int, float]] = defaultdict(dict)
    for trial_id, step, value in connection.execute(
        select(r.trial_id, r.step, r.intermediate_value)
        .join_from(_reported, _trials, r.trial_id == t.trial_id)
        .where(these, r.intermediate_value.is_not(None))
    ):
        reported[trial_id][step] = value
    a = _attributes.c
    reasons = {
        trial_id: json.loads(text)
        for trial_id, text in connection.execute(
            select(a.trial_id, a.value_json)
            .join_from(_attributes, _trials, a.trial_id == t.trial_id)
            .where(these, a.key == "failure_reason")
        )
    }
    return tuple(
        LedgerTrial(
            row.number,
            row.state,
            values.get(row.trial_id),
            reported.get(row.trial_id, {}),
            reasons.get(row.trial_id),
        )
        for row in rows
    )


def _read_runs(connection: Connection, experiment_id: int) -> tuple[LedgerRun, ...]:
    c = runs.c
    these = c.experiment_id == experiment_id
    e = target_errors.c
    errors: dict[tuple[int, int], tuple[str, int, float | None]] = {
        (run_id, epoch): (targets, losses, loss_sum)
        for run_id, epoch, targets, losses, loss_sum in connection.execute(
            select(
                e.run_id,
                e.epoch,
                func.aggregate_strings(e.target, ","),
                func.count(e.loss),
                func.sum(e.loss),
            )
            .join_from(target_errors, runs, e.run_id == c.id)
            .where(these)
            .group_by(e.run_id, e.epoch)
        )
    }
    recorded: defaultdict[int, dict[int, LedgerEpoch]] = defaultdict(dict)
    for run_id, epoch, loss in connection.execute(
        select(epochs.c.run_id, epochs.c.epoch, epochs.c.validation_loss)
        .join_from(epochs, runs, epochs.c.run_id == c.id)
        .where(these)
        .order_by(epochs.c.run_id, epochs.c.epoch)
    ):
        targets, losses, loss_sum = errors.get((run_id, epoch), ("", 0, None))
        names = frozenset(targets.split(",")) - {""}
        recorded[run_id][epoch] = LedgerEpoch(loss, names, losses, loss_sum)
    rows = connection.execute(
        select(c.id, c.key, c.configuration, c.weights, c.data_hash, c.split_hash)
        .where(these)
        .order_by(c.id)
    )
    return tuple(
        LedgerRun(
            row.key,
            json.loads(row.configuration),
            row.weights,
            row.data_hash,
            row.split_hash,
            recorded.get(row.id, {}),
        )
        for row in rows
    )
