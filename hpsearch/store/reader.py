"""`StoreReader` reads a store and has no method that writes; a `Snapshot` reads each part once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Hashable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, final

from sqlalchemy import Connection, Select, func, select
from sqlalchemy.exc import SQLAlchemyError

from hpsearch.store import frames
from hpsearch.store.address import Address, require_file
from hpsearch.store.engine import PATIENCE_SECONDS, Database
from hpsearch.store.lease import Holder, find_holder
from hpsearch.store.ledger import first_unreadable, read_ledger
from hpsearch.store.optuna_rows import (
    attribute_values,
    best_trials,
    count_paused,
    count_refused,
    count_trials,
    distributions_of,
    open_trials,
    running_attributes,
    study_id_of,
    trial_records,
    trial_states,
)
from hpsearch.store.records import (
    KINDS,
    ChangedRun,
    Curve,
    Decision,
    Experiment,
    Kind,
    Ledger,
    OpenTrials,
    RecordedRun,
    StoredRun,
    TrialRecord,
    TrialState,
    check_name,
    unknown_experiment,
)
from hpsearch.store.rows import (
    experiment_names,
    find_experiment,
    read_decisions,
    read_recorded_runs,
    unpacked,
)
from hpsearch.store.schema import check_tables
from hpsearch.store.tables import epochs, results, runs, target_errors
from hpsearch.system.errors import HpsearchError

if TYPE_CHECKING:  # `hpsearch status` uses no frames, and pandas takes half a second to load
    import pandas as pd
    from optuna.distributions import BaseDistribution
    from optuna.storages import RDBStorage

Result = TypeVar("Result")

_OF_DAMAGE = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""What reading a damaged row raises, in our code or in a library."""


class StoreReader:
    """A store opened for reading: no method writes, and :meth:`open` creates and changes nothing.

    Every call waits for a database that is locked or restarting. Open it with :meth:`open` and
    close it at the end.

    Attributes:
        label: the name in messages: the absolute path, or the URL with its password hidden.
    """

    def __init__(self, database: Database) -> None:
        self.label = database.address.label
        self._database = database

    @classmethod
    def open(
        cls,
        url: str,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        say: Callable[[str], None] | None = None,
    ) -> Self:
        """Open the store at ``url``.

        Args:
            url: the address of the store.
            patience_seconds: how long a call waits for the database.
            say: called with a line when a call waits for long, and when that ends.

        Raises:
            InputError: the store does not exist, has an unknown schema, or cannot be reached.
        """
        address = Address(url)
        require_file(address)
        database = Database(address, create=False, patience_seconds=patience_seconds, say=say)
        database.first_use(lambda: check_tables(address, database.engine))
        return cls(database)

    def close(self) -> None:
        """Close all connections; a writer first gives its lease back."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if isinstance(error, _OF_DAMAGE):
                self._explain(error)
        finally:
            self.close()

    def _explain(self, error: BaseException) -> None:
        """Raise an error that names an unreadable row, if the store has one."""
        try:
            found = self._database.read(first_unreadable)
        except (HpsearchError, SQLAlchemyError):
            return  # the first error says more
        if found is not None:
            raise HpsearchError(
                f"every row of the store {self.label} must be readable, but {found}; restore a "
                "backup, or delete this experiment"
            ) from error

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.label!r})"

    def __reduce__(self) -> NoReturn:
        # A pickle would carry the password, and only the driver may use the database.
        raise TypeError("a Store cannot be pickled; workers never open the database")

    @cached_property
    def optuna_reader(self) -> RDBStorage:
        """Optuna's storage for reading. It cannot write and never blocks a driver."""
        # Imported here, because Optuna takes long to load and most reading needs no Optuna.
        from hpsearch.store.optuna_storage import open_optuna_storage

        return open_optuna_storage(self._database, writes=False)

    def wait(self, action: Callable[[], Result]) -> Result:
        """Call ``action``; repeat it while the database is locked or unavailable.

        ``action`` must be safe to repeat.

        Raises:
            HpsearchError: the error is permanent, or the database was unavailable for longer than
                the store waits.
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
        """Return the experiment called ``name``, or the one launched last.

        Args:
            name: of the experiment. If a study and an ablation have the same name, the one launched
                last is returned.
            kinds: the kinds to search; both if none is given.

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
        """Return the experiment as :meth:`find` does, or ``None`` if there is none."""
        return self._found(KINDS if kind is None else (kind,), name)

    def launch_name(self, kind: Kind, name: str) -> str:
        """Return the name that a launch of the experiment ``name`` uses.

        An experiment keeps its name, even if new experiments may no longer have such a name.

        Raises:
            InputError: there is no such experiment, and a new one may not have the name.
        """
        found = self.experiment(kind, name)
        return check_name(name, kind) if found is None else found.name

    def latest(self, kind: Kind) -> str | None:
        """Return the name of the experiment of that kind launched last, or ``None``."""
        found = self.experiment(kind)
        return None if found is None else found.name

    def holder(self, experiment_id: int) -> Holder | None:
        """Return the experiment's driver, which may have died; ``None`` if it has none."""
        return self._database.read(lambda connection: find_holder(connection, experiment_id))

    def run(self, experiment_id: int, key: str) -> StoredRun | None:
        """Return the run ``key`` of an experiment, or ``None``.

        Raises:
            ChangedRun: its configuration is not the one that was recorded.
        """
        # Imported here, because it loads pydantic, which most reading does not need.
        from hpsearch.config.run import TrialConfig, fingerprint

        query = select(runs.c.id, runs.c.configuration, runs.c.fingerprint).where(
            runs.c.experiment_id == experiment_id, runs.c.key == key
        )
        row = self._database.read(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            return None
        configuration = json.loads(row.configuration)
        if fingerprint(configuration) != row.fingerprint:
            raise ChangedRun(
                f"the configuration of the run '{key}' in the store {self.label} must have the "
                f"recorded fingerprint {row.fingerprint[:12]}, got one with "
                f"{fingerprint(configuration)[:12]}: it was changed; restore a backup"
            )
        config = TrialConfig.from_dict(configuration)
        return StoredRun(row.id, key, config)

    def run_id(self, experiment_id: int, key: str) -> int | None:
        """Return the id of the run ``key`` of an experiment, or ``None``."""
        query = select(runs.c.id).where(runs.c.experiment_id == experiment_id, runs.c.key == key)
        return self._database.read(lambda connection: connection.execute(query).scalar())

    def trial_states(self, study: str) -> list[TrialState] | None:
        """Return Optuna's rows of the study by number; ``None`` if Optuna has no such study.

        Optuna's own query is not used. It caches rows, so that a deleted row stays RUNNING for
        ever. It also reads parameters and epochs, which takes seconds for 10,000 trials.
        """
        return self._database.read(lambda connection: trial_states(connection, study))

    def open_trials(self, study: str, expected: Sequence[int] | None = None) -> OpenTrials | None:
        """Return the number of trials in each state, and the RUNNING ones.

        Args:
            study: name of the study.
            expected: ids of the trials that should be RUNNING. If they are, their rows are not
                read, because thousands may be paused. ``None`` if that is not known.

        Returns:
            The trials; ``None`` if Optuna has no such study.
        """
        return self._database.read(lambda connection: open_trials(connection, study, expected))

    def study_id(self, study: str) -> int | None:
        """Return Optuna's key of the study; ``None`` if Optuna has no study of that name."""
        return self._database.read(lambda connection: study_id_of(connection, study))

    def trial_records(
        self,
        study_id: int,
        *,
        numbers: Collection[int] | None = None,
        facts: bool = True,
        parameters: bool = True,
    ) -> list[TrialRecord]:
        """Return what Optuna's tables have of a study's trials, by number.

        Args:
            study_id: Optuna's key of the study.
            numbers: of the wanted trials, a few thousand at most; ``None`` for all.
            facts: whether the records have the trials' facts and reported losses.
            parameters: whether the records have the trials' parameters.
        """
        parts = {"facts": facts, "parameters": parameters}

        def work(connection: Connection) -> list[TrialRecord]:
            return trial_records(connection, study_id, numbers=numbers, **parts)

        what = ("trial records", study_id, _hashable(numbers))
        found = self.once((*what, facts, parameters), lambda: self._database.read(work))
        if parameters:
            # A snapshot gives these records to callers that need no parameters, too.
            self.once((*what, facts, False), lambda: found)
        return found

    def distributions(
        self, study_id: int, numbers: Collection[int]
    ) -> dict[int, dict[str, BaseDistribution]]:
        """Return the distributions of these trials' parameters, by the trials' numbers."""
        return self.once(
            ("distributions", study_id, _hashable(numbers)),
            lambda: self._database.read(lambda c: distributions_of(c, study_id, numbers)),
        )

    def recorded_runs(
        self, experiment_id: int, keys: Collection[str] | None = None
    ) -> dict[str, RecordedRun]:
        """Return the runs of an experiment by their keys, with a summary of their epochs.

        Args:
            experiment_id: of the experiment.
            keys: of the wanted runs, a few thousand at most; ``None`` for all.
        """
        return self._database.read(lambda c: read_recorded_runs(c, experiment_id, keys))

    def ledger(self, experiment: Experiment, key: str | None = None) -> Ledger:
        """Return all rows of an experiment, read at one instant, for `hpsearch verify`.

        Args:
            experiment: a study or an ablation.
            key: of the only run to read; ``None`` for all.
        """
        return self._database.read(lambda connection: read_ledger(connection, experiment, key))

    def decisions(self, experiment_id: int) -> list[Decision]:
        """Return the decisions of early stopping on an experiment's trials, in their order."""
        return self._database.read(lambda connection: read_decisions(connection, experiment_id))

    def count_refused(self, study: str) -> int:
        """Return the number of trials that exceeded the budget; their rows are failed ones."""
        return self._database.read(lambda connection: count_refused(connection, study))

    def count_paused(self, study: str) -> int:
        """Return the number of the study's trials that wait at a rung."""
        return self._database.read(lambda connection: count_paused(connection, study))

    def attribute_values(self, study: str, key: str) -> dict[int, Any]:
        """Return the attribute ``key`` of the study's trials that have it, by their numbers."""
        return self._database.read(lambda connection: attribute_values(connection, study, key))

    def running_attributes(self, study: str, keys: Collection[str]) -> dict[int, dict[str, Any]]:
        """Return those attributes of the study's RUNNING trials that are in ``keys``, by ids."""
        return self._database.read(lambda connection: running_attributes(connection, study, keys))

    def best_trials(self, study: str, count: int) -> set[int]:
        """Return the numbers of the ``count`` complete trials with the lowest values."""
        return self._database.read(lambda connection: best_trials(connection, study, count))

    def curve(self, run_id: int) -> Curve:
        """Return a summary of the run's recorded epochs."""
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

    def maes(self, run_id: int, epoch: int | None) -> dict[str, float]:
        """Return the known validation MAEs of a run after ``epoch``, by target (reporting unit)."""
        c = target_errors.c
        query = select(c.target, c.mae).where(
            c.run_id == run_id, c.epoch == epoch, c.mae.is_not(None)
        )
        return self._database.read(lambda c: {row.target: row.mae for row in c.execute(query)})

    def revision(self) -> str:
        """Return a text that changes whenever a run, an epoch or a result is added."""
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
        """Return all experiments; the one launched last comes last.

        Columns: id, kind, name, provenance (dict), created_at, launched_at (UTC).
        """

        def read() -> pd.DataFrame:
            frame = self._frame(frames.all_experiments())
            frame["provenance"] = frame["provenance"].map(json.loads)
            return frame

        return self._frame_once("experiments", read)

    def runs(
        self, experiment_id: int | None = None, keys: Collection[str] | None = None
    ) -> pd.DataFrame:
        """Return the runs of one experiment or of all, in the order of their creation.

        Args:
            experiment_id: of the experiment; ``None`` for all.
            keys: of the wanted runs, a few thousand at most; ``None`` for all.

        Columns: kind, experiment (name), key, run_id, configuration (dict), fingerprint,
        directory, weights, host, device, data_hash, split_hash, zero_output_loss, created_at,
        started_at (UTC). The columns from weights on are empty until a worker has started the run.
        """

        def read() -> pd.DataFrame:
            frame = self._frame(frames.all_runs(experiment_id), keys)
            frame["configuration"] = frame["configuration"].map(json.loads)
            return frame

        return self._frame_once(("runs", experiment_id, _hashable(keys)), read)

    def epochs(
        self, experiment_id: int | None = None, keys: Collection[str] | None = None
    ) -> pd.DataFrame:
        """Return the recorded epochs, by run and epoch.

        Args:
            experiment_id: of the experiment; ``None`` for all.
            keys: of the wanted runs, a few thousand at most; ``None`` for all.

        Columns: kind, experiment, key, epoch, learning_rate, seconds, training_loss,
        validation_loss, created_at (UTC).

        The learning rate is that of the epoch's last optimizer step. In epochs recorded by code
        from before 30 November 2026 it is that of the next step.
        """
        return self._frame_once(
            ("epochs", experiment_id, _hashable(keys)),
            lambda: self._frame(frames.all_epochs(experiment_id), keys),
        )

    def target_errors(
        self, experiment_id: int | None = None, keys: Collection[str] | None = None
    ) -> pd.DataFrame:
        """Return the validation errors after each epoch, by run, epoch and target.

        Args:
            experiment_id: of the experiment; ``None`` for all.
            keys: of the wanted runs, a few thousand at most; ``None`` for all.

        Columns: kind, experiment, key, epoch, target, loss (normalised), mae (reporting unit).
        """
        return self._frame_once(
            ("target_errors", experiment_id, _hashable(keys)),
            lambda: self._frame(frames.all_target_errors(experiment_id), keys),
        )

    def best_target_errors(
        self, experiment_id: int, keys: Collection[str] | None = None
    ) -> pd.DataFrame:
        """Return the validation errors after each run's best epoch, with the same columns.

        Args:
            experiment_id: of the experiment.
            keys: of the wanted runs, a few thousand at most; ``None`` for all.
        """
        return self._frame_once(
            ("best target errors", experiment_id, _hashable(keys)),
            lambda: self._frame(frames.best_target_errors(experiment_id, keys)),
        )

    def results(self, experiment_id: int | None = None) -> pd.DataFrame:
        """Return the verdicts of ablation runs.

        Columns: kind, experiment, key, weights, state (complete or failed), epochs, best_epoch,
        best_validation_loss, test_loss, failure_kind, failure_message, failure_traceback,
        failure_epoch, failure_step, finished_at (UTC).
        """
        return self._frame_once(
            ("results", experiment_id), lambda: self._frame(frames.all_results(experiment_id))
        )

    def test_errors(self, experiment_id: int | None = None) -> pd.DataFrame:
        """Return the test errors of completed ablation runs.

        Columns: kind, experiment, key, target, mae (reporting unit).
        """
        return self._frame_once(
            ("test_errors", experiment_id),
            lambda: self._frame(frames.all_test_errors(experiment_id)),
        )

    def test_residuals(self, experiment_id: int) -> pd.DataFrame:
        """Return prediction minus reference of every test molecule, for completed ablation runs.

        Columns: kind, experiment, key, target, residuals (float64 array in reporting units, in the
        order of the split's test molecules). A run that was recorded without residuals has no row.
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

    def _frame(self, query: Select[Any], keys: Collection[str] | None = None) -> pd.DataFrame:
        if keys is not None:
            query = query.where(runs.c.key.in_(sorted(keys)))
        return self._database.read(lambda connection: frames.read_frame(connection, query))

    def _frame_once(self, what: Hashable, read: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        # A shallow copy shares the memory; pandas copies a column when somebody writes into it.
        return self.once(what, read).copy(deep=False)


def _hashable(chosen: Collection[Hashable] | None) -> frozenset[Hashable] | None:
    return None if chosen is None else frozenset(chosen)


@final
class Snapshot(StoreReader):
    """A reader that reads each part of a store once, for one document.

    So the parts of a document agree, although runs are recorded meanwhile. Use it in one thread
    only, and not after the reader that it was made from is closed.
    """

    def __init__(self, reader: StoreReader) -> None:
        super().__init__(reader._database)
        self._reader = reader
        self._remembered: dict[Hashable, Any] = {}

    @cached_property
    def optuna_reader(self) -> RDBStorage:
        """Optuna's storage of the original reader."""
        return self._reader.optuna_reader

    def once(self, what: Hashable, read: Callable[[], Result]) -> Result:
        """Return ``read()``; later calls with the same ``what`` return the first result."""
        if what not in self._remembered:
            self._remembered[what] = read()
        result: Result = self._remembered[what]
        return result

    def close(self) -> None:
        """Do nothing: the original reader closes the database."""
