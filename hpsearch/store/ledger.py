"""All rows of one study or ablation, Optuna's and ours, read at one instant."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Table,
    column,
    inspect,
    null,
    select,
    table,
)

from hpsearch.runs.record import EpochRecord, RunRecord
from hpsearch.store.optuna_rows import (
    fetched,
    json_or,
    number_or,
    read_directions,
    read_trials,
    study_id_of,
)
from hpsearch.store.records import Experiment, Ledger, LedgerVerdict
from hpsearch.store.rows import read_decisions
from hpsearch.store.tables import epochs, experiments, results, runs, target_errors, test_errors
from hpsearch.system.errors import one_line

_Errors = tuple[dict[str, float | None], dict[str, float | None]]
"""The losses and the mean absolute errors of an epoch, by target."""

_FACTS = ("weights", "data_hash", "split_hash", "zero_output_loss", "digest")


def read_ledger(connection: Connection, experiment: Experiment, key: str | None = None) -> Ledger:
    """Read all rows of an experiment, in a fixed number of queries.

    ``connection`` must have no open transaction: all queries must see the same instant. Otherwise a
    trial that ends between two of them would look inconsistent.

    Args:
        connection: to the database.
        experiment: whose rows are read.
        key: of the only run and trial to read; ``None`` for all.
    """
    if connection.dialect.name == "postgresql":
        # A transaction of SQLite always sees one instant.
        connection = connection.execution_options(isolation_level="REPEATABLE READ")
    reading = _Reading(connection, experiment, key)
    text, digest = reading.provenance()
    if experiment.kind == "ablation":
        return Ledger(text, digest, reading.runs(), verdicts=reading.verdicts())
    study_id = study_id_of(connection, experiment.name)
    if study_id is None:
        return Ledger(text, digest, reading.runs())
    return Ledger(
        text,
        digest,
        reading.runs(),
        read_trials(connection, study_id, None if key is None else int(key)),
        read_directions(connection, study_id),
        decisions=tuple(read_decisions(connection, experiment.id, key)),
    )


class _Reading:
    """Reads our tables. Columns that an older schema lacks are read as NULL."""

    def __init__(self, connection: Connection, experiment: Experiment, key: str | None) -> None:
        self._connection = connection
        self._experiment = experiment
        self._these: ColumnElement[bool] = runs.c.experiment_id == experiment.id
        if key is not None:
            self._these &= runs.c.key == key

    def provenance(self) -> tuple[str, str | None]:
        """Return the text of the provenance and its digest."""
        known = self._known(experiments)
        these = experiments.c.id == self._experiment.id
        query = select(experiments.c.provenance, known["digest"]).where(these)
        text, digest = self._connection.execute(query).one()
        return text, digest

    def runs(self) -> tuple[RunRecord, ...]:
        """Return the runs with their epochs."""
        damage: defaultdict[int, list[str]] = defaultdict(list)
        recorded = self._epochs(damage)
        known = self._known(runs)
        c = runs.c
        query = select(
            *(c.id, c.key, c.configuration, c.fingerprint, c.directory),
            *(known[name].label(name) for name in _FACTS),
        )
        found = []
        for row in self._connection.execute(query.where(self._these).order_by(c.id)):
            broken = damage[row.id]
            configuration = json_or({}, row.configuration, broken, "a configuration")
            if not isinstance(configuration, dict):
                broken.append("has a configuration that is no JSON object")
                configuration = {}
            weights = number_or(row.weights, broken, "a number of weights")
            found.append(
                RunRecord(
                    row.key,
                    configuration,
                    row.fingerprint,
                    row.directory,
                    None if weights is None else int(weights),
                    row.data_hash,
                    row.split_hash,
                    number_or(row.zero_output_loss, broken, "a loss of predicting zero"),
                    row.digest,
                    recorded.get(row.id, {}),
                    tuple(dict.fromkeys(broken)),
                )
            )
        return tuple(found)

    def verdicts(self) -> dict[str, LedgerVerdict]:
        """Return the verdicts of an ablation's runs by key."""
        errors: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        known = self._known(test_errors)
        e = test_errors.c
        for key, target, mae, residuals in self._of_runs(
            test_errors, runs.c.key, e.target, e.mae, known["residuals"]
        ):
            errors[key].append({"target": target, "mae": mae, "residuals": residuals})
        known = self._known(results)
        # finished_at is left out: no rule needs it, and a damaged time would be an error here.
        names = [name for name in known if name != "finished_at"]
        columns = [known[name].label(name) for name in names]
        return {
            key: LedgerVerdict(dict(zip(names, values, strict=True)), tuple(errors[key]))
            for key, *values in self._of_runs(results, runs.c.key, *columns)
        }

    def _epochs(self, damage: dict[int, list[str]]) -> dict[int, dict[int, EpochRecord]]:
        errors: defaultdict[tuple[int, int], _Errors] = defaultdict(lambda: ({}, {}))
        e = target_errors.c
        columns = (e.run_id, e.epoch, e.target, e.loss, e.mae)
        what = "an error of {} at epoch {}"
        kept: dict[str, str] = {}
        # Most values are numbers, and a million calls that return them unchanged take a second.
        for run_id, epoch, target, loss, mae in self._of_runs(target_errors, *columns):
            losses, maes = errors[run_id, epoch]
            # A million rows have only a dozen different names, which are kept once.
            name, broken = kept.setdefault(target, target), damage[run_id]
            losses[name] = (
                loss if type(loss) is float else number_or(loss, broken, what, name, epoch)
            )
            maes[name] = mae if type(mae) is float else number_or(mae, broken, what, name, epoch)
        known = self._known(epochs)
        found: defaultdict[int, dict[int, EpochRecord]] = defaultdict(dict)
        names = ("learning_rate", "training_loss", "validation_loss")
        for run_id, epoch, digest, *numbers in self._of_runs(
            epochs, epochs.c.run_id, epochs.c.epoch, known["digest"], *(known[n] for n in names)
        ):
            rate, training, validation = (
                number_or(value, damage[run_id], "a {} at epoch {}", name.replace("_", " "), epoch)
                for name, value in zip(names, numbers, strict=True)
            )
            found[run_id][epoch] = EpochRecord(
                rate, training, validation, *errors.get((run_id, epoch), ({}, {})), digest
            )
        return found

    def _of_runs(self, table: FromClause, *columns: Any) -> Iterator[Any]:
        """Yield ``columns`` of the rows of ``table`` that belong to the experiment's runs."""
        joined = select(*columns).join_from(table, runs, table.c.run_id == runs.c.id)
        yield from fetched(self._connection, joined.where(self._these))

    def _known(self, table: Table) -> dict[str, ColumnElement[Any]]:
        """Return the columns of ``table`` by name; NULL for one that the database lacks."""
        present = {column["name"] for column in inspect(self._connection).get_columns(table.name)}
        return {
            column.name: column if column.name in present else null() for column in table.columns
        }


# --- Damage ---------------------------------------------------------------------------------------

_JSON = (
    ("hpsearch_experiments", "id", "provenance"),
    ("hpsearch_runs", "id", "configuration"),
    ("trial_user_attributes", "trial_id", "value_json"),
    ("trial_system_attributes", "trial_id", "value_json"),
    ("study_user_attributes", "study_id", "value_json"),
    ("study_system_attributes", "study_id", "value_json"),
    ("trial_params", "trial_id", "distribution_json"),
)
_OBJECTS = {
    "provenance": frozenset(),
    "configuration": frozenset({"targets", "network", "training", "data"}),
    "distribution_json": frozenset({"name", "attributes"}),
}
"""The columns whose JSON must be an object, with its required keys."""


def first_unreadable(connection: Connection) -> str | None:
    """Return the first row of the store that nobody can read, in words; ``None`` without one."""
    for name, key, content in _JSON:
        rows = table(name, column(key), column(content))
        for identity, text in connection.execute(select(rows.c[key], rows.c[content])):
            if not _readable(text, _OBJECTS.get(content)):
                return (
                    f"{content} of the row {key} {identity} in the table {name} is "
                    f"'{one_line(str(text))}'"
                )
    return None


def _readable(text: Any, keys: frozenset[str] | None) -> bool:
    damage: list[str] = []
    value = json_or(None, text, damage, "")
    if damage or keys is None:
        return not damage
    return isinstance(value, dict) and keys <= value.keys()
