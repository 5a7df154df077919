"""All rows of one study, Optuna's and ours, read at one instant."""

from __future__ import annotations

import json
from collections import defaultdict

from sqlalchemy import Connection, func, select

from hpsearch.store.optuna_rows import read_trials, study_id_of
from hpsearch.store.records import Ledger, LedgerEpoch, LedgerRun
from hpsearch.store.tables import epochs, runs, target_errors


def read_ledger(connection: Connection, experiment_id: int, study: str) -> Ledger:
    """Read all rows of a study, in a fixed number of queries.

    ``connection`` must have no open transaction: all queries must see the same instant. Otherwise a
    trial that ends between two of them would look inconsistent.
    """
    if connection.dialect.name == "postgresql":
        # A transaction of SQLite always sees one instant.
        connection = connection.execution_options(isolation_level="REPEATABLE READ")
    study_id = study_id_of(connection, study)
    return Ledger(
        trials=None if study_id is None else read_trials(connection, study_id),
        runs=_read_runs(connection, experiment_id),
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
