"""The queries for the data frames of `StoreReader`, which describes their columns."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Select, func, inspect, select

from hpsearch.store.tables import epochs, experiments, results, runs, target_errors, test_errors

if TYPE_CHECKING:
    import pandas as pd

_WHICH = (
    experiments.c.kind,
    experiments.c.name.label("experiment"),
    runs.c.key,
)


def _of(query: Select[Any], experiment_id: int | None) -> Select[Any]:
    if experiment_id is None:
        return query
    return query.where(experiments.c.id == experiment_id)


def all_experiments() -> Select[Any]:
    """One row per experiment."""
    c = experiments.c
    return select(c.id, c.kind, c.name, c.provenance, c.created_at, c.launched_at).order_by(
        c.launched_at, c.id
    )


def all_runs(experiment_id: int | None) -> Select[Any]:
    """One row per run."""
    c = runs.c
    query = select(
        *_WHICH,
        c.id.label("run_id"),
        c.configuration,
        c.fingerprint,
        c.directory,
        c.weights,
        c.host,
        c.device,
        c.data_hash,
        c.split_hash,
        c.zero_output_loss,
        c.created_at,
        c.started_at,
    ).join_from(runs, experiments)
    return _of(query, experiment_id).order_by(c.id)


def all_epochs(experiment_id: int | None) -> Select[Any]:
    """One row per run and epoch."""
    c = epochs.c
    query = (
        select(
            *_WHICH,
            c.epoch,
            c.learning_rate,
            c.seconds,
            c.training_loss,
            c.validation_loss,
            c.created_at,
        )
        .join_from(epochs, runs)
        .join(experiments)
    )
    return _of(query, experiment_id).order_by(c.run_id, c.epoch)


def all_target_errors(experiment_id: int | None) -> Select[Any]:
    """One row per run, epoch and target."""
    c = target_errors.c
    query = (
        select(*_WHICH, c.epoch, c.target, c.loss, c.mae)
        .join_from(target_errors, runs, c.run_id == runs.c.id)
        .join(experiments)
    )
    return _of(query, experiment_id).order_by(c.run_id, c.epoch, c.target)


def best_target_errors(experiment_id: int, keys: Collection[str] | None) -> Select[Any]:
    """One row per run and target, after the run's first epoch with the lowest validation loss."""
    e, c = epochs.c, target_errors.c
    these = runs.c.experiment_id == experiment_id
    if keys is not None:
        these &= runs.c.key.in_(sorted(keys))
    place = func.row_number().over(partition_by=e.run_id, order_by=(e.validation_loss, e.epoch))
    places = (
        select(e.run_id, e.epoch, place.label("place"))
        .join_from(epochs, runs)
        .where(these, e.validation_loss.is_not(None))
        .subquery()
    )
    at_best = (c.run_id == places.c.run_id) & (c.epoch == places.c.epoch)
    return (
        select(*_WHICH, c.epoch, c.target, c.loss, c.mae)
        .join_from(places, target_errors, at_best)
        .join(runs, c.run_id == runs.c.id)
        .join(experiments)
        .where(places.c.place == 1)
        .order_by(c.run_id, c.target)
    )


def all_results(experiment_id: int | None) -> Select[Any]:
    """One row per finished ablation run."""
    c = results.c
    query = (
        select(
            *_WHICH,
            runs.c.weights,
            c.state,
            c.epochs,
            c.best_epoch,
            c.best_validation_loss,
            c.test_loss,
            c.failure_kind,
            c.failure_message,
            c.failure_traceback,
            c.failure_epoch,
            c.failure_step,
            c.finished_at,
        )
        .join_from(results, runs)
        .join(experiments)
    )
    return _of(query, experiment_id).order_by(c.run_id)


def all_test_errors(experiment_id: int | None) -> Select[Any]:
    """One row per completed ablation run and target."""
    c = test_errors.c
    query = (
        select(*_WHICH, c.target, c.mae)
        .join_from(test_errors, runs, c.run_id == runs.c.id)
        .join(experiments)
    )
    return _of(query, experiment_id).order_by(c.run_id, c.target)


def all_test_residuals(connection: Connection, experiment_id: int) -> pd.DataFrame:
    """One row per completed ablation run and target whose residuals were recorded."""
    import pandas as pd

    c = test_errors.c
    recorded = {column["name"] for column in inspect(connection).get_columns(test_errors.name)}
    if c.residuals.name not in recorded:  # schemas before 0003
        return pd.DataFrame(columns=[*(column.name for column in _WHICH), "target", "residuals"])
    query = (
        select(*_WHICH, c.target, c.residuals)
        .join_from(test_errors, runs, c.run_id == runs.c.id)
        .join(experiments)
        .where(c.residuals.is_not(None))
    )
    return read_frame(connection, _of(query, experiment_id).order_by(c.run_id, c.target))


def read_frame(connection: Connection, query: Select[Any]) -> pd.DataFrame:
    """Return the query's rows; an empty frame has the columns too."""
    import pandas as pd

    rows = connection.execute(query)
    names = list(rows.keys())
    columns: list[list[Any]] = [[] for _ in names]
    # Column by column, and equal texts only once: a large study has a million target errors.
    texts: dict[str, str] = {}
    for part in rows.partitions(50_000):
        for column, values in zip(columns, zip(*part, strict=True), strict=True):
            if isinstance(values[0], str):
                values = tuple(value and texts.setdefault(value, value) for value in values)
            column.extend(values)
    return pd.DataFrame(dict(zip(names, columns, strict=True)), columns=names)
