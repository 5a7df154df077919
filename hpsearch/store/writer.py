"""`Store`: a reader that also records experiments, runs and epochs."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, Self, TypeVar, final

from optuna.storages import RDBStorage
from sqlalchemy import Connection, delete, select, update

from hpsearch.config.run import TrialConfig
from hpsearch.errors import InputError
from hpsearch.runs.messages import Completion, EpochMetrics, Outcome, RunFacts
from hpsearch.store.address import Address, make_folder
from hpsearch.store.engine import PATIENCE_SECONDS, Database, writer
from hpsearch.store.lease import Lease
from hpsearch.store.optuna_rows import forget_values, joined, kept_storage
from hpsearch.store.reader import StoreReader
from hpsearch.store.records import Experiment, Kind, StoredRun, check_name
from hpsearch.store.rows import (
    find_experiment,
    finite,
    now,
    packed,
    plain,
    result_row,
    to_json,
    upsert,
)
from hpsearch.store.schema import make_tables
from hpsearch.store.tables import epochs, experiments, results, runs, target_errors, test_errors

Result = TypeVar("Result")


@final
class Store(StoreReader):
    """A store to write and to read.

    Every write is one transaction and may be repeated without harm, so each waits for a database
    that is locked or restarting. Make one by :meth:`create`, or by :meth:`open` where there is a
    store already; close it at the end.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._writer = writer(database.engine)
        self._lease = Lease(writer(database.engine, fenced=False), database.wait)
        database.fence = self._lease.verify
        database.at_close(self.leave)

    @classmethod
    def create(cls, url: str, *, patience_seconds: float = PATIENCE_SECONDS) -> Self:
        """The store at ``url``, made or upgraded where needed.

        Raises:
            InputError: the URL cannot be parsed or reached, or holds a newer schema.
        """
        address = Address(url)
        make_folder(address)
        database = Database(address, create=True, patience_seconds=patience_seconds)
        database.first_use(lambda: make_tables(address, writer(database.engine)))
        return cls(database)

    @cached_property
    def reader(self) -> StoreReader:
        """A reader of this store, closed with it."""
        return StoreReader(self._database)

    # --- Optuna -----------------------------------------------------------------------------------

    @cached_property
    def optuna_storage(self) -> RDBStorage:
        """Optuna's storage for the driver: on SQLite each of its transactions locks at once."""
        return kept_storage(self._database, fence=self._lease.verify, locks=True)

    @cached_property
    def optuna_by_hand(self) -> RDBStorage:
        """Optuna's storage for what a person changes in its dashboard, without the lease.

        On SQLite a transaction locks only once it writes: the driver does not wait for a look.
        """
        return kept_storage(self._database)

    def one_transaction(self) -> AbstractContextManager[None]:
        """Make one transaction of what `optuna_storage` writes in the block; see `joined`.

        Within :meth:`wait`, as part of what may be repeated. Nothing else may be written to the
        store inside: on SQLite it would wait for this transaction.
        """
        return joined(self.optuna_storage)

    # --- The lease --------------------------------------------------------------------------------

    def drive(
        self,
        experiment: Experiment,
        *,
        wait: bool = False,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Take the lease on an experiment; from then on this store writes only while it has it.

        Args:
            experiment: what is to be driven; one that this store drove before is given back.
            wait: whether to wait for another driver that is alive until it ends.
            say: told who holds the lease while this call waits.

        Raises:
            LeaseHeld: another driver is alive, and ``wait`` is not set.
        """
        what = f"the {experiment.kind} '{experiment.name}'"
        self._lease.take(experiment.id, what, wait=wait, say=say)

    def leave(self) -> None:
        """Give the lease back, if this store has one; another driver may then begin at once."""
        self._lease.give_back()

    # --- Writing ----------------------------------------------------------------------------------

    def begin_experiment(self, kind: Kind, name: str, provenance: dict[str, Any]) -> Experiment:
        """The experiment called ``name``, made with ``provenance`` unless it exists.

        An existing one keeps its provenance. Either way it is now the one launched last.

        Raises:
            InputError: the name cannot be stored.
        """
        check_name(name, kind)
        values = {
            "kind": kind,
            "name": name,
            "identity": uuid.uuid4().hex,
            "provenance": to_json(provenance),
            "created_at": now(),
            "launched_at": now(),
        }

        def work(connection: Connection) -> Experiment:
            upsert(
                connection,
                experiments,
                [values],
                key=("kind", "name"),
                replace=("launched_at",),
            )
            found = find_experiment(connection, (kind,), name)
            assert found is not None
            return found

        return self._write(work)

    def update_provenance(self, experiment_id: int, **changes: Any) -> dict[str, Any]:
        """Set entries of the experiment's provenance; returns all of it."""
        return self._change_provenance(experiment_id, lambda stored: {**stored, **changes})

    def settle(self, experiment_id: int, **values: Any) -> dict[str, Any]:
        """Set entries that are still missing or ``None``; returns all of the provenance.

        If several callers settle the same entry, the first one wins and all get its value.
        """

        def fill(stored: dict[str, Any]) -> dict[str, Any]:
            missing = {key: value for key, value in values.items() if stored.get(key) is None}
            return {**stored, **missing}

        return self._change_provenance(experiment_id, fill)

    def record_run(
        self, experiment_id: int, key: str, config: TrialConfig, directory: str
    ) -> StoredRun:
        """The run ``key``, made unless it exists.

        Raises:
            InputError: it is recorded with another configuration.
        """
        fingerprint = config.fingerprint
        values = {
            "experiment_id": experiment_id,
            "key": key,
            "configuration": to_json(config.to_dict()),
            "fingerprint": fingerprint,
            "directory": directory,
            "created_at": now(),
        }
        this = (runs.c.experiment_id == experiment_id) & (runs.c.key == key)

        def work(connection: Connection) -> StoredRun:
            stored = connection.execute(select(runs.c.fingerprint).where(this)).scalar()
            if stored not in (None, fingerprint):
                raise InputError(
                    f"the run '{key}' is recorded with another configuration in the store "
                    f"{self.label}; start a new experiment under another name"
                )
            upsert(
                connection,
                runs,
                [values],
                key=("experiment_id", "key"),
                replace=("directory",),
            )
            run_id = connection.execute(select(runs.c.id).where(this)).scalar_one()
            return StoredRun(run_id, key, config)

        return self._write(work)

    def record_facts(self, run_id: int, facts: RunFacts) -> None:
        """Record what a worker knows before the first epoch; a later worker's facts replace it."""
        values = {
            "weights": facts.weights,
            "host": plain(facts.host),
            "device": plain(facts.device),
            "data_hash": facts.data_hash,
            "split_hash": facts.split_hash,
            "zero_output_loss": finite(facts.zero_output_loss),
            "started_at": now(),
        }
        self._write(lambda c: c.execute(update(runs).where(runs.c.id == run_id).values(values)))

    def record_epoch(self, run_id: int, metrics: EpochMetrics) -> None:
        """Record an epoch with its targets' errors; recorded again, the later numbers stay.

        A number that is not finite is stored as NULL, so that no minimum is ever NaN.
        """
        key = {"run_id": run_id, "epoch": metrics.epoch}
        row = {
            **key,
            "learning_rate": finite(metrics.learning_rate),
            "seconds": finite(metrics.seconds),
            "training_loss": finite(metrics.training_loss),
            "validation_loss": finite(metrics.validation_loss),
            "created_at": now(),
        }
        errors = [
            {
                **key,
                "target": target,
                "loss": finite(metrics.target_losses.get(target)),
                "mae": finite(metrics.target_maes.get(target)),
            }
            for target in dict.fromkeys([*metrics.target_losses, *metrics.target_maes])
        ]
        measured = ("learning_rate", "seconds", "training_loss", "validation_loss")

        def work(connection: Connection) -> None:
            upsert(connection, epochs, [row], key=("run_id", "epoch"), replace=measured)
            upsert(
                connection,
                target_errors,
                errors,
                key=("run_id", "epoch", "target"),
                replace=("loss", "mae"),
            )

        self._write(work)

    def forget_epochs(self, run_id: int, trial_id: int | None = None, *, after: int) -> None:
        """Remove a run's epochs beyond ``after``; of a search's trial Optuna's values as well."""

        def work(connection: Connection) -> None:
            of_run = (epochs.c.run_id == run_id) & (epochs.c.epoch > after)
            forgotten = connection.execute(delete(epochs).where(of_run)).rowcount
            if forgotten and trial_id is not None:
                forget_values(connection, trial_id, after)

        self._write(work)

    def record_result(self, run_id: int, outcome: Outcome) -> None:
        """Record an ablation run's outcome. A completion is never replaced; a failure may be."""
        row = result_row(run_id, outcome)
        columns = [name for name in row if name != "run_id"]
        maes = outcome.test_maes if isinstance(outcome, Completion) else {}
        residuals = outcome.test_residuals if isinstance(outcome, Completion) else {}
        errors = [
            {
                "run_id": run_id,
                "target": target,
                "mae": finite(mae),
                "residuals": packed(residuals.get(target)),
            }
            for target, mae in maes.items()
        ]

        def work(connection: Connection) -> None:
            stands = select(results.c.state).where(results.c.run_id == run_id).with_for_update()
            if connection.execute(stands).scalar_one_or_none() == "complete":
                return
            upsert(connection, results, [row], key=("run_id",), replace=columns)
            measured = ("mae", "residuals")
            upsert(connection, test_errors, errors, key=("run_id", "target"), replace=measured)

        self._write(work)

    def _change_provenance(
        self, experiment_id: int, change: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> dict[str, Any]:
        this = experiments.c.id == experiment_id
        query = select(experiments.c.provenance).where(this).with_for_update()

        def work(connection: Connection) -> dict[str, Any]:
            changed = change(json.loads(connection.execute(query).scalar_one()))
            connection.execute(update(experiments).where(this).values(provenance=to_json(changed)))
            return changed

        return self._write(work)

    def _write(self, work: Callable[[Connection], Result]) -> Result:
        def transaction() -> Result:
            with self._writer.begin() as connection:
                return work(connection)

        return self.wait(transaction)
