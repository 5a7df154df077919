"""`Store`: records experiments, runs and epochs, and reads them back."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, NoReturn, Self, TypeVar, final

import pandas as pd
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import Connection, delete, func, select, update
from sqlalchemy.exc import SQLAlchemyError

from hpsearch.config.run import TrialConfig
from hpsearch.errors import HpsearchError, InputError
from hpsearch.runs.messages import Completion, EpochMetrics, Outcome, RunFacts
from hpsearch.store import frames
from hpsearch.store.address import Address, make_folder, require_file
from hpsearch.store.engine import PATIENCE_SECONDS, make_engine, refusal, wait_for, writer
from hpsearch.store.lease import Holder, Lease, find_holder
from hpsearch.store.ledger import read_ledger
from hpsearch.store.optuna_rows import (
    best_trials,
    count_refused,
    count_trials,
    forget_values,
    joined,
    optuna_storage,
    trial_states,
)
from hpsearch.store.records import (
    KINDS,
    Curve,
    Experiment,
    Kind,
    Ledger,
    StoredRun,
    TrialState,
    check_name,
    unknown_experiment,
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
    unpacked,
    upsert,
)
from hpsearch.store.schema import check_tables, make_tables
from hpsearch.store.tables import epochs, experiments, results, runs, target_errors, test_errors

Result = TypeVar("Result")


@final
class Store:
    """One database of experiments.

    Every write is one transaction and may be repeated without harm, so each waits for a database
    that is locked or restarting. Make one by :meth:`create` or :meth:`open`, close it at the end.

    Attributes:
        label: for messages: the file's absolute path, or the URL with its password hidden.
        patience_seconds: how long a call waits for the database.
    """

    def __init__(self, address: Address, *, create: bool, patience_seconds: float) -> None:
        self.label = address.label
        self.patience_seconds = patience_seconds
        self._address = address
        # Called later, when there is a lease: the lease itself needs the engine.
        self._engine = make_engine(address, create=create, fence=lambda c: self._lease.verify(c))
        self._writer = writer(self._engine)
        self._lease = Lease(writer(self._engine, fenced=False), self.wait)

    @classmethod
    def create(cls, url: str, *, patience_seconds: float = PATIENCE_SECONDS) -> Self:
        """The store at ``url``, made or upgraded where needed.

        Raises:
            InputError: the URL cannot be parsed or reached, or holds a newer schema.
        """
        address = Address(url)
        make_folder(address)
        store = cls(address, create=True, patience_seconds=patience_seconds)
        store._first_use(lambda: make_tables(address, store._writer))
        return store

    @classmethod
    def open(cls, url: str, *, patience_seconds: float = PATIENCE_SECONDS) -> Self:
        """The store at ``url``, which must exist; nothing is made or changed by opening it.

        Raises:
            InputError: there is no store, it has another schema, or it cannot be reached.
        """
        address = Address(url)
        require_file(address)
        store = cls(address, create=False, patience_seconds=patience_seconds)
        store._first_use(lambda: check_tables(address, store._engine))
        return store

    def close(self) -> None:
        """Give the lease back and close every connection."""
        self.leave()
        self._engine.dispose()
        for name in ("optuna_storage", "optuna_reader"):
            if name in self.__dict__:
                storage = self.__dict__.pop(name)
                storage.remove_session()
                storage.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({self.label!r})"

    def __reduce__(self) -> NoReturn:
        # A pickle would carry the password, and only the driver may use the database.
        raise TypeError("a Store cannot be pickled; workers never open the database")

    # --- Optuna -----------------------------------------------------------------------------------

    @cached_property
    def optuna_storage(self) -> RDBStorage:
        """Optuna's storage for the driver: on SQLite each of its transactions locks at once."""
        return self.wait(lambda: optuna_storage(self._address, fence=self._lease.verify))

    @cached_property
    def optuna_reader(self) -> RDBStorage:
        """Optuna's storage for those who look: it never makes the driver wait."""
        return self.wait(lambda: optuna_storage(self._address, writes=False))

    def one_transaction(self) -> AbstractContextManager[None]:
        """Have what `optuna_storage` writes inside stand or fall together; see `joined`.

        Within :meth:`wait`, as part of what may be repeated. Nothing else may be written to the
        store inside: on SQLite it would wait for this transaction.
        """
        return joined(self.optuna_storage)

    def wait(self, action: Callable[[], Result]) -> Result:
        """``action()``, repeated while the database is locked or away; it must be repeatable.

        Raises:
            HpsearchError: the database stayed away for ``patience_seconds``, or refused for good.
        """
        return wait_for(action, self._address, self.patience_seconds)

    # --- The lease --------------------------------------------------------------------------------

    def drive(
        self,
        experiment: Experiment,
        *,
        wait: bool = False,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Take the lease on an experiment: from now on this store writes only while it has it.

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

    def holder(self, experiment_id: int) -> Holder | None:
        """Who drives an experiment, or did when it died; ``None`` for nobody."""
        return self._read(lambda connection: find_holder(connection, experiment_id))

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

        Of several who settle the same entry the first one wins and all are told the same.
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
        """What the run's worker knows before the first epoch; a later worker's replaces it."""
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
        """One epoch with its targets' errors; repeated, the later numbers stand.

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
        """An ablation run's verdict. A completion stands for ever; a failure may be replaced."""
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

    # --- Reading ----------------------------------------------------------------------------------

    def find(self, name: str | None = None, *kinds: Kind) -> Experiment:
        """The experiment called ``name``, or the one launched last.

        Args:
            name: of the experiment. A study and an ablation may have one name; the one of them that
                was launched last is then found.
            kinds: which kinds are looked for; both without any.

        Raises:
            InputError: the store has no such experiment.
        """
        wanted = kinds or KINDS
        found = self._read(lambda connection: find_experiment(connection, wanted, name))
        if found is None:
            names = self._read(lambda connection: experiment_names(connection, wanted))
            raise unknown_experiment(self.label, wanted, name, names)
        return found

    def experiment(self, kind: Kind, name: str | None = None) -> Experiment | None:
        """As :meth:`find`, with ``None`` where the store has no such experiment."""
        return self._read(lambda connection: find_experiment(connection, (kind,), name))

    def latest(self, kind: Kind) -> str | None:
        """Name of the experiment of that kind which was launched last, or ``None``."""
        found = self.experiment(kind)
        return None if found is None else found.name

    def run(self, experiment_id: int, key: str) -> StoredRun | None:
        """The run ``key`` of an experiment, or ``None``."""
        query = select(runs.c.id, runs.c.configuration).where(
            runs.c.experiment_id == experiment_id, runs.c.key == key
        )
        row = self._read(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            return None
        config = TrialConfig.from_dict(json.loads(row.configuration))
        return StoredRun(row.id, key, config)

    def trial_states(self, study: str) -> list[TrialState] | None:
        """Optuna's rows of the study, by number; ``None`` if it has no study of that name.

        Optuna's own reading keeps what it has read: a row deleted meanwhile stays in its memory,
        RUNNING for ever. And it reads parameters and epochs too, seconds for 10,000 trials.
        """
        return self._read(lambda connection: trial_states(connection, study))

    def ledger(self, experiment_id: int, study: str) -> Ledger:
        """All rows of a study as they stand at one instant, for those who check them.

        Args:
            experiment_id: of the study.
            study: its name.
        """
        return self._read(lambda connection: read_ledger(connection, experiment_id, study))

    def count_refused(self, study: str) -> int:
        """Trials of the study that were drawn beyond its budget; they are among the failed rows."""
        return self._read(lambda connection: count_refused(connection, study))

    def best_trials(self, study: str, count: int) -> set[int]:
        """Numbers of the complete trials with the ``count`` lowest values, the first of equals."""
        return self._read(lambda connection: best_trials(connection, study, count))

    def curve(self, run_id: int) -> Curve:
        """What the run's recorded epochs say."""
        loss = epochs.c.validation_loss
        these = epochs.c.run_id == run_id
        totals = select(func.count(), func.avg(epochs.c.seconds)).where(these)
        lowest = select(epochs.c.epoch, loss).where(these, loss.is_not(None))
        lowest = lowest.order_by(loss, epochs.c.epoch).limit(1)

        def work(connection: Connection) -> Curve:
            count, seconds = connection.execute(totals).one()
            best = connection.execute(lowest).one_or_none()
            epoch, value = (None, None) if best is None else best
            return Curve(count, epoch, value, seconds)

        return self._read(work)

    def revision(self) -> str:
        """A text that differs once a run, an epoch or a verdict has come; cheap to ask for."""
        e, r = epochs.c, runs.c
        queries = (
            select(func.count(), func.max(e.created_at)).select_from(epochs),
            select(func.count(), func.count(r.weights), func.max(r.started_at)).select_from(runs),
            select(func.count(), func.max(results.c.finished_at)).select_from(results),
        )

        def work(connection: Connection) -> str:
            rows = [tuple(connection.execute(query).one()) for query in queries]
            seen = repr((rows, count_trials(connection)))
            return hashlib.sha256(seen.encode()).hexdigest()[:16]

        return self._read(work)

    def experiments(self) -> pd.DataFrame:
        """Every experiment, the one launched last at the end.

        Columns: id, kind, name, provenance (dict), created_at, launched_at (UTC).
        """
        frame = self._read(lambda c: frames.read_frame(c, frames.all_experiments()))
        frame["provenance"] = frame["provenance"].map(json.loads)
        return frame

    def runs(self, experiment_id: int | None = None) -> pd.DataFrame:
        """Every run of an experiment, or of all, in the order they were made.

        Columns: kind, experiment (name), key, run_id, configuration (dict), fingerprint,
        directory, weights, host, device, data_hash, split_hash, zero_output_loss, created_at,
        started_at (UTC). Empty from weights on until the run's worker has started.
        """
        frame = self._read(lambda c: frames.read_frame(c, frames.all_runs(experiment_id)))
        frame["configuration"] = frame["configuration"].map(json.loads)
        return frame

    def epochs(self, experiment_id: int | None = None) -> pd.DataFrame:
        """Every recorded epoch, by run and epoch.

        Columns: kind, experiment, key, epoch, learning_rate, seconds, training_loss,
        validation_loss, created_at (UTC).

        A learning rate is that of the epoch's last optimizer step. Epochs that code from before
        30 November 2026 recorded have the rate of the step after it.
        """
        return self._read(lambda c: frames.read_frame(c, frames.all_epochs(experiment_id)))

    def target_errors(self, experiment_id: int | None = None) -> pd.DataFrame:
        """Validation errors after each epoch, by run, epoch and target.

        Columns: kind, experiment, key, epoch, target, loss (normalised), mae (reporting unit).
        """
        return self._read(lambda c: frames.read_frame(c, frames.all_target_errors(experiment_id)))

    def results(self, experiment_id: int | None = None) -> pd.DataFrame:
        """Verdicts of ablation runs.

        Columns: kind, experiment, key, weights, state (complete or failed), epochs, best_epoch,
        best_validation_loss, test_loss, failure_kind, failure_message, failure_traceback,
        failure_epoch, failure_step, finished_at (UTC).
        """
        return self._read(lambda c: frames.read_frame(c, frames.all_results(experiment_id)))

    def test_errors(self, experiment_id: int | None = None) -> pd.DataFrame:
        """Test errors of completed ablation runs.

        Columns: kind, experiment, key, target, mae (reporting unit).
        """
        return self._read(lambda c: frames.read_frame(c, frames.all_test_errors(experiment_id)))

    def test_residuals(self, experiment_id: int) -> pd.DataFrame:
        """Prediction less reference of every test molecule, of completed ablation runs.

        Columns: kind, experiment, key, target, residuals (float64 array in reporting units, in the
        order of the split's test rows). A run that was recorded without them has no row.
        """
        frame = self._read(lambda c: frames.all_test_residuals(c, experiment_id))
        frame["residuals"] = frame["residuals"].map(unpacked)
        return frame

    # --- Transactions -----------------------------------------------------------------------------

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

    def _read(self, work: Callable[[Connection], Result]) -> Result:
        def transaction() -> Result:
            with self._engine.connect() as connection:
                return work(connection)

        return self.wait(transaction)

    def _first_use(self, action: Callable[[], None]) -> None:
        # Here a failure is far more often a wrong URL than a database that is away for a moment,
        # so PostgreSQL's is reported at once. A SQLite file that is locked is in use: it exists.
        try:
            if self._address.path is None:
                action()
            else:
                self.wait(action)
        except InputError:
            self.close()
            raise
        except (HpsearchError, SQLAlchemyError, StorageInternalError) as error:
            self.close()
            raise refusal(self._address, error) from None
