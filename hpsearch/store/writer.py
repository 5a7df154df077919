"""`Store`: a reader that also writes experiments, runs and epochs."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, Self, TypeVar, final

from optuna.storages import RDBStorage
from sqlalchemy import Connection, delete, func, insert, select, update

from hpsearch.config.run import TrialConfig
from hpsearch.runs.messages import Completion, EpochMetrics, Outcome, RunFacts
from hpsearch.runs.record import result_digest, text_digest
from hpsearch.store.address import Address, make_folder
from hpsearch.store.engine import PATIENCE_SECONDS, Database, writer
from hpsearch.store.lease import Lease, find_holder
from hpsearch.store.optuna_rows import forget_values, rename_in_optuna, study_names
from hpsearch.store.optuna_storage import in_one_transaction, open_optuna_storage
from hpsearch.store.reader import StoreReader
from hpsearch.store.records import (
    FORMER_NAMES,
    DecisionKind,
    Experiment,
    Kind,
    StoredRun,
    check_name,
    normal_form,
)
from hpsearch.store.rows import (
    experiment_names,
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
from hpsearch.store.tables import (
    decisions,
    epochs,
    experiments,
    results,
    runs,
    target_errors,
    test_errors,
)
from hpsearch.system.errors import InputError

Result = TypeVar("Result")


@final
class Store(StoreReader):
    """A store opened for reading and writing.

    Every write is one transaction and can be repeated safely, so it waits for a database that is
    locked or restarting. Open it with :meth:`create`, or with :meth:`open` if the store exists, and
    close it at the end.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._writer = writer(database.engine)
        self._lease = Lease(writer(database.engine, fenced=False), database.wait)
        database.fence = self._lease.verify
        database.at_close(self.leave)

    @classmethod
    def create(
        cls,
        url: str,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        say: Callable[[str], None] | None = None,
    ) -> Self:
        """Open the store at ``url``; create or upgrade it if needed.

        Args:
            url: the address of the store.
            patience_seconds: how long a call waits for the database.
            say: called with a line when a call waits for long, and when that ends.

        Raises:
            InputError: the URL cannot be parsed or reached, or the store has a newer schema.
        """
        address = Address(url)
        make_folder(address)
        database = Database(address, create=True, patience_seconds=patience_seconds, say=say)
        database.first_use(lambda: make_tables(address, writer(database.engine)))
        return cls(database)

    @cached_property
    def reader(self) -> StoreReader:
        """A reader of this store; it is closed with the store."""
        return StoreReader(self._database)

    # --- Optuna -----------------------------------------------------------------------------------

    @cached_property
    def optuna_storage(self) -> RDBStorage:
        """Optuna's storage for the driver; on SQLite its transactions take the write lock first."""
        return open_optuna_storage(self._database, fence=self._lease.verify, locks=True)

    @cached_property
    def optuna_by_hand(self) -> RDBStorage:
        """Optuna's storage for changes by hand in Optuna's dashboard; it needs no lease.

        On SQLite a transaction takes the write lock only when it writes, so reading does not block
        the driver.
        """
        return open_optuna_storage(self._database)

    def one_transaction(self) -> AbstractContextManager[None]:
        """Put what `optuna_storage` writes in the block into one transaction.

        Use it inside :meth:`wait`, which repeats it: see `in_one_transaction`. Write nothing else
        to the store in the block: on SQLite that would wait for this transaction.
        """
        return in_one_transaction(self.optuna_storage)

    # --- The lease --------------------------------------------------------------------------------

    def drive(
        self,
        experiment: Experiment,
        *,
        wait: bool = False,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Take the lease on an experiment. From then on this store writes only with the lease.

        Args:
            experiment: the experiment to drive. The lease on an earlier one is given back.
            wait: whether to wait for the end of another driver that is alive.
            say: called with the name of the holder, if this call has to wait.

        Raises:
            LeaseHeld: another driver is alive, and ``wait`` is not set.
        """
        what = f"the {experiment.kind} '{experiment.name}'"
        self._lease.take(experiment.id, what, wait=wait, say=say)

    def leave(self) -> None:
        """Give the lease back, if this store has one. Another driver may then start at once."""
        self._lease.give_back()

    # --- Writing ----------------------------------------------------------------------------------

    def begin_experiment(self, kind: Kind, name: str, provenance: dict[str, Any]) -> Experiment:
        """Return the experiment called ``name``; create it with ``provenance`` if it is missing.

        A new experiment has the name in its normal form. An existing experiment keeps its
        provenance. The time of its last launch is set to now.

        Raises:
            InputError: the name cannot be stored.
        """
        name = self.launch_name(kind, name)
        text = to_json(provenance)
        values = {
            "kind": kind,
            "name": name,
            "identity": uuid.uuid4().hex,
            "provenance": text,
            "digest": text_digest(text),
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
        """Set entries of the experiment's provenance; return the result."""
        return self._change_provenance(experiment_id, lambda stored: {**stored, **changes})

    def fill_provenance(self, experiment_id: int, **values: Any) -> dict[str, Any]:
        """Set those entries of the provenance that are missing or ``None``; return the result.

        If several callers set the same entry, all of them get the value of the first.
        """

        def fill(stored: dict[str, Any]) -> dict[str, Any]:
            missing = {key: value for key, value in values.items() if stored.get(key) is None}
            return {**stored, **missing}

        return self._change_provenance(experiment_id, fill)

    def rename_study(self, study_id: int, name: str) -> None:
        """Rename a study, in Optuna's tables and in ours.

        Optuna's dashboard would copy the trials into a new study, which our rows do not know. The
        study is still found by its former names, as long as no other study has them.

        Args:
            study_id: Optuna's key of the study. The study need not be one of ours.
            name: the new name.

        Raises:
            InputError: there is no such study, a launch drives it, another study has the name, or
                the name cannot be stored.
        """
        name = check_name(name)

        def work(connection: Connection) -> None:
            present = study_names(connection)
            if study_id not in present:
                raise InputError(f"the store {self.label} has no study with the key {study_id}")
            before = present.pop(study_id)
            others = {*present.values(), *experiment_names(connection, ("study",))} - {before}
            if name in map(normal_form, others):
                raise InputError(
                    f"the store {self.label} has another study '{name}'; choose another name"
                )
            experiment = find_experiment(connection, ("study",), before)
            if experiment is not None and experiment.name == before:
                holder = find_holder(connection, experiment.id)
                if holder is not None and holder.drives:
                    raise InputError(
                        f"the study '{before}' cannot be renamed while a launch drives it "
                        f"({holder}); wait for its end, or stop it"
                    )
                former = list(dict.fromkeys((*experiment.former_names, before)))
                changed = {**experiment.provenance, FORMER_NAMES: former}
                _update_experiment(connection, experiment.id, changed, name=name)
            rename_in_optuna(connection, study_id, name)

        self._write(work)

    def record_run(
        self, experiment_id: int, key: str, config: TrialConfig, directory: str
    ) -> StoredRun:
        """Return the run ``key``; create it if it is missing.

        Raises:
            InputError: the run is recorded with another configuration.
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
        """Record what a worker knows before the first epoch; replace an earlier worker's facts."""
        values = {
            "weights": facts.weights,
            "host": plain(facts.host),
            "device": plain(facts.device),
            "data_hash": facts.data_hash,
            "split_hash": facts.split_hash,
            "zero_output_loss": finite(facts.zero_output_loss),
            "digest": facts.digest or None,
            "started_at": now(),
        }
        self._write(lambda c: c.execute(update(runs).where(runs.c.id == run_id).values(values)))

    def record_epoch(self, run_id: int, metrics: EpochMetrics) -> None:
        """Record an epoch and its targets' errors, replacing an earlier record of the epoch.

        A number that is not finite is stored as NULL, so that no minimum is NaN.
        """
        key = {"run_id": run_id, "epoch": metrics.epoch}
        row = {
            **key,
            "learning_rate": finite(metrics.learning_rate),
            "seconds": finite(metrics.seconds),
            "training_loss": finite(metrics.training_loss),
            "validation_loss": finite(metrics.validation_loss),
            "digest": metrics.digest or None,
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
        measured = ("learning_rate", "seconds", "training_loss", "validation_loss", "digest")

        def work(connection: Connection) -> None:
            # An epoch that is recorded again keeps its sequence number.
            _, row["sequence"] = _next_sequence(connection, run_id)
            upsert(connection, epochs, [row], key=("run_id", "epoch"), replace=measured)
            upsert(
                connection,
                target_errors,
                errors,
                key=("run_id", "epoch", "target"),
                replace=("loss", "mae"),
            )

        self._write(work)

    def record_decision(
        self, run_id: int, kind: DecisionKind, rung: int, epoch: int, loss: float | None
    ) -> None:
        """Record a decision on a trial, unless it is recorded already; see `Decision`."""
        row = {
            "run_id": run_id,
            "kind": kind,
            "rung": rung,
            "epoch": epoch,
            "loss": finite(loss),
            "created_at": now(),
        }
        this = (decisions.c.run_id == run_id) & (decisions.c.kind == kind)

        def work(connection: Connection) -> None:
            found = select(decisions.c.sequence).where(this, decisions.c.rung == rung)
            if connection.execute(found).scalar_one_or_none() is None:
                experiment_id, sequence = _next_sequence(connection, run_id)
                values = {**row, "experiment_id": experiment_id, "sequence": sequence}
                connection.execute(insert(decisions).values(values))

        self._write(work)

    def forget_epochs(self, run_id: int, trial_id: int | None = None, *, after: int) -> None:
        """Delete a run's epochs after ``after``, and Optuna's values if ``trial_id`` is given."""

        def work(connection: Connection) -> None:
            of_run = (epochs.c.run_id == run_id) & (epochs.c.epoch > after)
            forgotten = connection.execute(delete(epochs).where(of_run)).rowcount
            if forgotten and trial_id is not None:
                forget_values(connection, trial_id, after)

        self._write(work)

    def record_result(self, run_id: int, outcome: Outcome) -> None:
        """Record the outcome of an ablation run. A failure may be replaced, a completion not."""
        row = result_row(run_id, outcome)
        columns = [*(name for name in row if name != "run_id"), "digest"]
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
            state = select(results.c.state).where(results.c.run_id == run_id).with_for_update()
            if connection.execute(state).scalar_one_or_none() == "complete":
                return
            # A failed run is trained again, which changes its epochs before its verdict.
            before = _last_digest(connection, run_id) if row["state"] == "complete" else None
            signed = {**row, "digest": result_digest(before, row, errors)}
            upsert(connection, results, [signed], key=("run_id",), replace=columns)
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
            _update_experiment(connection, experiment_id, changed)
            return changed

        return self._write(work)

    def _write(self, work: Callable[[Connection], Result]) -> Result:
        def transaction() -> Result:
            with self._writer.begin() as connection:
                return work(connection)

        return self.wait(transaction)


def _update_experiment(
    connection: Connection, experiment_id: int, provenance: dict[str, Any], **more: Any
) -> None:
    """Replace the provenance, and with it its digest; ``more`` are further columns."""
    text = to_json(provenance)
    values = {"provenance": text, "digest": text_digest(text), **more}
    connection.execute(update(experiments).where(experiments.c.id == experiment_id).values(values))


def _next_sequence(connection: Connection, run_id: int) -> tuple[int, int]:
    """Return the run's experiment and its next number, in the same transaction as its use."""
    c = experiments.c
    of_run = c.id == select(runs.c.experiment_id).where(runs.c.id == run_id).scalar_subquery()
    following = func.coalesce(c.last_sequence, 0) + 1
    connection.execute(update(experiments).where(of_run).values(last_sequence=following))
    experiment_id, sequence = connection.execute(select(c.id, c.last_sequence).where(of_run)).one()
    return experiment_id, sequence


def _last_digest(connection: Connection, run_id: int) -> str | None:
    """Return the digest of the run's last epoch; ``None`` if it is unsigned or has no epoch."""
    query = select(epochs.c.digest).where(epochs.c.run_id == run_id)
    return connection.execute(query.order_by(epochs.c.epoch.desc()).limit(1)).scalar_one_or_none()
