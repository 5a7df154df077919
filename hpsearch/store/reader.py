"""`StoreReader` reads a store and has no method that writes; a `Snapshot` reads each part once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable
from functools import cached_property
from typing import Any, NoReturn, Self, TypeVar, final

import pandas as pd
from optuna.storages import RDBStorage
from sqlalchemy import Connection, Select, func, select

from hpsearch.config.run import TrialConfig
from hpsearch.store import frames
from hpsearch.store.address import Address, require_file
from hpsearch.store.engine import PATIENCE_SECONDS, Database
from hpsearch.store.lease import Holder, find_holder
from hpsearch.store.ledger import read_ledger
from hpsearch.store.optuna_rows import (
    best_trials,
    count_refused,
    count_trials,
    kept_storage,
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
    unknown_experiment,
)
from hpsearch.store.rows import experiment_names, find_experiment, unpacked
from hpsearch.store.schema import check_tables
from hpsearch.store.tables import epochs, results, runs

Result = TypeVar("Result")


class StoreReader:
    """A store to read: no method writes, and opening one makes and changes nothing.

    Every call waits for a database that is locked or restarting. Make one by :meth:`open`, close it
    at the end.

    Attributes:
        label: for messages: the file's absolute path, or the URL with its password hidden.
    """

    def __init__(self, database: Database) -> None:
        self.label = database.address.label
        self._database = database

    @classmethod
    def open(cls, url: str, *, patience_seconds: float = PATIENCE_SECONDS) -> Self:
        """The store at ``url``, which must exist.

        Raises:
            InputError: there is no store, it has another schema, or it cannot be reached.
        """
        address = Address(url)
        require_file(address)
        database = Database(address, create=False, patience_seconds=patience_seconds)
        database.first_use(lambda: check_tables(address, database.engine))
        return cls(database)

    def close(self) -> None:
        """Close every connection; a writer gives its lease back first."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.label!r})"

    def __reduce__(self) -> NoReturn:
        # A pickle would carry the password, and only the driver may use the database.
        raise TypeError("a Store cannot be pickled; workers never open the database")

    @cached_property
    def optuna_reader(self) -> RDBStorage:
        """Optuna's storage to read: the database refuses its writes; no driver waits for it."""
        return kept_storage(self._database, writes=False)

    def wait(self, action: Callable[[], Result]) -> Result:
        """Call ``action``, again while the database is locked or away; it must be repeatable.

        Raises:
            HpsearchError: the database stayed away for longer than the store waits, or refused for
                good.
        """
        return self._database.wait(action)

    def once(self, what: Hashable, read: Callable[[], Result]) -> Result:
        """Return ``read()``; a `Snapshot` remembers the result under ``what``."""
        return read()

    def snapshot(self) -> Snapshot:
        """Return a reader that remembers what it has read."""
        return Snapshot(self)

    # --- Experiments and trials -------------------------------------------------------------------

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
        found = self._found(wanted, name)
        if found is None:
            names = self._database.read(lambda connection: experiment_names(connection, wanted))
            raise unknown_experiment(self.label, wanted, name, names)
        return found

    def experiment(self, kind: Kind | None, name: str | None = None) -> Experiment | None:
        """As :meth:`find`, of one kind or of both; ``None`` if there is no such experiment."""
        return self._found(KINDS if kind is None else (kind,), name)

    def latest(self, kind: Kind) -> str | None:
        """Name of the experiment of that kind which was launched last, or ``None``."""
        found = self.experiment(kind)
        return None if found is None else found.name

    def holder(self, experiment_id: int) -> Holder | None:
        """Who drives an experiment, or did when it died; ``None`` for nobody."""
        return self._database.read(lambda connection: find_holder(connection, experiment_id))

    def run(self, experiment_id: int, key: str) -> StoredRun | None:
        """The run ``key`` of an experiment, or ``None``."""
        query = select(runs.c.id, runs.c.configuration).where(
            runs.c.experiment_id == experiment_id, runs.c.key == key
        )
        row = self._database.read(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            return None
        config = TrialConfig.from_dict(json.loads(row.configuration))
        return StoredRun(row.id, key, config)

    def trial_states(self, study: str) -> list[TrialState] | None:
        """Optuna's rows of the study, by number; ``None`` if it has no study of that name.

        Optuna's own reading keeps what it has read: a row deleted meanwhile stays in its memory,
        RUNNING for ever. And it reads parameters and epochs too, seconds for 10,000 trials.
        """
        return self._database.read(lambda connection: trial_states(connection, study))

    def ledger(self, experiment_id: int, study: str) -> Ledger:
        """All rows of a study, read at one instant, for `hpsearch verify`.

        Args:
            experiment_id: of the study.
            study: its name.
        """
        return self._database.read(lambda connection: read_ledger(connection, experiment_id, study))

    def count_refused(self, study: str) -> int:
        """Trials of the study that were drawn beyond its budget; they are among the failed rows."""
        return self._database.read(lambda connection: count_refused(connection, study))

    def best_trials(self, study: str, count: int) -> set[int]:
        """Numbers of the complete trials with the ``count`` lowest values, the first of equals."""
        return self._database.read(lambda connection: best_trials(connection, study, count))

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

        return self._database.read(work)

    def revision(self) -> str:
        """A text that changes whenever a run, an epoch or a result is added; cheap to compute."""
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

        return self._database.read(work)

    def experiments(self) -> pd.DataFrame:
        """Every experiment, the one launched last at the end.

        Columns: id, kind, name, provenance (dict), created_at, launched_at (UTC).
        """

        def read() -> pd.DataFrame:
            frame = self._frame(frames.all_experiments())
            frame["provenance"] = frame["provenance"].map(json.loads)
            return frame

        return self._frame_once("experiments", read)

    def runs(self, experiment_id: int | None = None) -> pd.DataFrame:
        """Every run of an experiment, or of all, in the order they were made.

        Columns: kind, experiment (name), key, run_id, configuration (dict), fingerprint,
        directory, weights, host, device, data_hash, split_hash, zero_output_loss, created_at,
        started_at (UTC). Empty from weights on until the run's worker has started.
        """

        def read() -> pd.DataFrame:
            frame = self._frame(frames.all_runs(experiment_id))
            frame["configuration"] = frame["configuration"].map(json.loads)
            return frame

        return self._frame_once(("runs", experiment_id), read)

    def epochs(self, experiment_id: int | None = None) -> pd.DataFrame:
        """Every recorded epoch, by run and epoch.

        Columns: kind, experiment, key, epoch, learning_rate, seconds, training_loss,
        validation_loss, created_at (UTC).

        A learning rate is that of the epoch's last optimizer step. Epochs that code from before
        30 November 2026 recorded have the rate of the step after it.
        """
        return self._frame_once(
            ("epochs", experiment_id), lambda: self._frame(frames.all_epochs(experiment_id))
        )

    def target_errors(self, experiment_id: int | None = None) -> pd.DataFrame:
        """Validation errors after each epoch, by run, epoch and target.

        Columns: kind, experiment, key, epoch, target, loss (normalised), mae (reporting unit).
        """
        return self._frame_once(
            ("target_errors", experiment_id),
            lambda: self._frame(frames.all_target_errors(experiment_id)),
        )

    def results(self, experiment_id: int | None = None) -> pd.DataFrame:
        """Verdicts of ablation runs.

        Columns: kind, experiment, key, weights, state (complete or failed), epochs, best_epoch,
        best_validation_loss, test_loss, failure_kind, failure_message, failure_traceback,
        failure_epoch, failure_step, finished_at (UTC).
        """
        return self._frame_once(
            ("results", experiment_id), lambda: self._frame(frames.all_results(experiment_id))
        )

    def test_errors(self, experiment_id: int | None = None) -> pd.DataFrame:
        """Test errors of completed ablation runs.

        Columns: kind, experiment, key, target, mae (reporting unit).
        """
        return self._frame_once(
            ("test_errors", experiment_id),
            lambda: self._frame(frames.all_test_errors(experiment_id)),
        )

    def test_residuals(self, experiment_id: int) -> pd.DataFrame:
        """Prediction less reference of every test molecule, of completed ablation runs.

        Columns: kind, experiment, key, target, residuals (float64 array in reporting units, in the
        order of the split's test rows). A run that was recorded without them has no row.
        """

        def read() -> pd.DataFrame:
            frame = self._database.read(lambda c: frames.all_test_residuals(c, experiment_id))
            frame["residuals"] = frame["residuals"].map(unpacked)
            return frame

        return self._frame_once(("test_residuals", experiment_id), read)

    def _found(self, kinds: tuple[Kind, ...], name: str | None) -> Experiment | None:
        return self.once(
            ("experiment", kinds, name),
            lambda: self._database.read(lambda c: find_experiment(c, kinds, name)),
        )

    def _frame(self, query: Select[Any]) -> pd.DataFrame:
        return self._database.read(lambda connection: frames.read_frame(connection, query))

    def _frame_once(self, what: Hashable, read: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        # A shallow copy shares the memory; pandas copies a column when somebody writes into it.
        return self.once(what, read).copy(deep=False)


@final
class Snapshot(StoreReader):
    """A reader that reads each part of a store once, for one document.

    Whatever is drawn from it shows the store at one moment. It is for one thread, and it lives no
    longer than the reader that it was made from.
    """

    def __init__(self, reader: StoreReader) -> None:
        super().__init__(reader._database)
        self._reader = reader
        self._remembered: dict[Hashable, Any] = {}

    @cached_property
    def optuna_reader(self) -> RDBStorage:
        """Optuna's storage of the reader that this was made from."""
        return self._reader.optuna_reader

    def once(self, what: Hashable, read: Callable[[], Result]) -> Result:
        """Return ``read()``, called the first time that somebody asks for ``what``."""
        if what not in self._remembered:
            self._remembered[what] = read()
        result: Result = self._remembered[what]
        return result

    def close(self) -> None:
        """Do nothing: the reader that this was made from closes the database."""
