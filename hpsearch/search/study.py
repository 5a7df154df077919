"""`Study`: a search as stored; it only reads."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Self, final

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from hpsearch.config.export import MeanAbsoluteError, Provenance, Winner
from hpsearch.config.targets import TARGET_NAMES, target
from hpsearch.cost.accuracy import MeasuredTrial, QuoteAccuracy
from hpsearch.errors import HpsearchError, InputError
from hpsearch.search.failures import shape
from hpsearch.search.terms import last_wanted
from hpsearch.store import Curve, Experiment, StoredRun, StoreReader
from hpsearch.store.lease import Holder

LEAST_TRIALS = 5
"""The least number of complete trials for which importances are computed."""


@dataclass(frozen=True)
class Counts:
    """The number of a study's trials in each state.

    Attributes:
        complete: trained to their end.
        running: running now, or abandoned by a launch that died.
        failed: failed, and replaced by other trials.
        refused: not trained, because they exceed the budget; replaced too.
        pruned: stopped early by a scheduler.
        waiting: enqueued by hand.
        wanted: number of complete trials that the last launch wanted.
    """

    complete: int
    running: int
    failed: int
    refused: int
    pruned: int
    waiting: int
    wanted: int

    def __str__(self) -> str:
        parts = [f"{self.complete} of {self.wanted} complete"]
        for name in ("running", "failed", "refused", "pruned", "waiting"):
            if number := getattr(self, name):
                parts.append(f"{number} {name}")
        return ", ".join(parts)


@dataclass(frozen=True)
class StudyRows:
    """The stored rows of a study, each table read once.

    Attributes:
        trials: Optuna's trials by number.
        target_errors: validation errors after each epoch, as from `StoreReader.target_errors`.
        epochs: losses and seconds of each epoch, as from `StoreReader.epochs`.
        runs: the runs, as from `StoreReader.runs`.
    """

    trials: tuple[FrozenTrial, ...]
    target_errors: pd.DataFrame
    epochs: pd.DataFrame
    runs: pd.DataFrame


@final
class Study:
    """A stored study. Every call reads the store again, unless the study comes from :meth:`at`.

    Attributes:
        name: of the study.
    """

    def __init__(
        self,
        store: StoreReader,
        experiment: Experiment,
        study_id: int,
        rows: StudyRows | None = None,
    ) -> None:
        self.name = experiment.name
        self._store = store
        self._experiment = experiment
        self._study_id = study_id
        self._rows = rows

    @classmethod
    def open(cls, store: StoreReader, name: str | None = None) -> Self:
        """Return the study called ``name``, or the one launched last.

        Raises:
            InputError: there is no such study.
            HpsearchError: its trials were deleted or renamed outside hpsearch.
        """
        experiment = store.find(name, "study")
        name = experiment.name
        try:
            study_id = store.wait(lambda: store.optuna_reader.get_study_id_from_name(name))
        except KeyError:
            raise HpsearchError(
                f"the trials of the study '{name}' were deleted or renamed outside hpsearch"
            ) from None
        return cls(store, experiment, study_id)

    def read(self) -> StudyRows:
        """Read all rows of the study now."""
        return StudyRows(
            trials=tuple(self._trials()),
            target_errors=self._target_errors(),
            epochs=self._store.epochs(self._experiment.id),
            runs=self._store.runs(self._experiment.id),
        )

    def at(self, rows: StudyRows) -> Self:
        """Return this study as of the time when ``rows`` were read.

        The rows are used instead of the store, except for the driver, the time left and the
        winner's run.
        """
        return type(self)(self._store, self._experiment, self._study_id, rows)

    @property
    def experiment_id(self) -> int:
        """The study's id in the store, for the store's data frames."""
        return self._experiment.id

    @property
    def provenance(self) -> dict[str, Any]:
        """The space, the hashes of data and split, and the versions of the last launch."""
        if self._rows is not None:
            return self._experiment.provenance
        experiment = self._store.experiment("study", self.name)
        return {} if experiment is None else experiment.provenance

    def counts(self) -> Counts:
        """Return the number of trials in each state."""
        if self._rows is None:
            refused = self._store.count_refused(self.name)
            found = Counter(row.state for row in self._store.trial_states(self.name) or [])
        else:
            trials = self._rows.trials
            refused = sum(trial.user_attrs.get("failure") == "refused" for trial in trials)
            found = Counter(trial.state.name for trial in trials)
        return Counts(
            complete=found["COMPLETE"],
            running=found["RUNNING"],
            failed=found["FAIL"] - refused,
            refused=refused,
            pruned=found["PRUNED"],
            waiting=found["WAITING"],
            wanted=last_wanted(self.provenance),
        )

    def holder(self) -> Holder | None:
        """Return the study's driver, which may have died; ``None`` if it has none."""
        return self._store.holder(self._experiment.id)

    def trials(self) -> pd.DataFrame:
        """Return one row per trial, by number.

        Columns: number, state, value (lowest validation loss of a complete trial), epochs
        (recorded), last_loss, best_loss (so far), weights, host, device, seconds_per_epoch,
        started, ended (local time), zero_output_loss, failure (kind), failure_reason,
        failure_traceback, and ``params_<name>`` for each parameter.
        """
        rows = [_table_row(trial) for trial in self._trials()]
        parameters = sorted({key for row in rows for key in row if key.startswith("params_")})
        return pd.DataFrame(rows, columns=[*_COLUMNS, *parameters])

    def quote_accuracy(self) -> QuoteAccuracy | None:
        """Return the accuracy of the estimates; ``None`` if no trial had one."""
        trials = self._trials()
        return QuoteAccuracy.of(
            self.provenance.get("quote"),
            [
                MeasuredTrial(
                    _epochs_seconds(trial),
                    float(trial.user_attrs["seconds_per_epoch"]),
                    trial.user_attrs.get("peak_memory_bytes"),
                    trial.user_attrs.get("quoted_epoch_seconds"),
                    trial.user_attrs.get("quoted_memory_bytes"),
                )
                for trial in trials
                if trial.state == TrialState.COMPLETE and trial.user_attrs.get("seconds_per_epoch")
            ],
            sum(_epochs_seconds(trial) for trial in trials if trial.state == TrialState.FAIL),
        )

    def target_losses(self) -> pd.DataFrame:
        """Return each target's loss (Eq. 17) at the best epoch of each complete trial."""
        best = {
            str(trial.number): trial.user_attrs.get("best_epoch")
            for trial in self._trials()
            if trial.state == TrialState.COMPLETE
        }
        errors = self._target_errors()
        errors = errors[errors["epoch"] == errors["key"].map(best)]
        table = errors.assign(trial=errors["key"].astype(int)).pivot_table(
            index="trial", columns="target", values="loss"
        )
        return table[[name for name in TARGET_NAMES if name in table.columns]]

    def importances(self) -> pd.DataFrame:
        """Return each hyperparameter's importance for the loss and each target: `importances`."""
        trials, by_target = self._trials(), self.target_losses()
        whole = {trial.number: trial.value for trial in trials if trial.value is not None}
        losses: dict[str, dict[int, float]] = {"all": whole}
        losses |= {
            str(name): {int(number): float(loss) for number, loss in column.dropna().items()}  # type: ignore[call-overload]
            for name, column in by_target.items()
        }
        return importances(trials, losses)

    def best(self) -> tuple[float, str] | None:
        """Return the lowest validation loss of a complete trial and the trial's number."""
        table = self.trials()
        complete = table[(table["state"] == "COMPLETE") & table["value"].notna()]
        pairs = zip(complete["value"], complete["number"], strict=True)
        return min(((float(loss), str(number)) for loss, number in pairs), default=None)

    def winner(self, select_on: Literal["validation", "test"] = "validation") -> Winner:
        """Return the complete trial with the lowest validation loss, and its origin.

        A trial whose value is not the lowest loss of its recorded epochs is skipped: somebody has
        ended it by hand, for example in a dashboard.

        Args:
            select_on: ``test`` for the lowest test loss, as in the paper (section 4.3). Its test
                errors then do not measure the errors on new molecules.

        Raises:
            InputError: ``select_on`` is ``test``, and test losses were not recorded.
            HpsearchError: no trial is complete.
        """
        trials = self._trials()
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        rank = {trial.number: trial.value or 0.0 for trial in complete}
        if select_on == "test":
            rank = {
                t.number: t.user_attrs["test_loss"] for t in complete if "test_loss" in t.user_attrs
            }
            if len(rank) < len(complete):
                raise InputError(
                    f"the choice on the test set needs the test loss of every trial; "
                    f"{len(complete) - len(rank)} of {len(complete)} have none; launch a study "
                    "with --open-test-set"
                )
        for trial in sorted(complete, key=lambda trial: (rank[trial.number], trial.number)):
            run = self._store.run(self._experiment.id, str(trial.number))
            if run is None or trial.value is None or "zero_output_loss" not in trial.user_attrs:
                continue
            curve = self._store.curve(run.id)
            best = curve.best_validation_loss
            if best is not None and math.isclose(best, trial.value, rel_tol=1e-12):
                return self._export(trial, run, curve, select_on)
        reason = most_common_failure(trials)
        raise HpsearchError(
            f"the study '{self.name}' has no winner: {self.counts()}"
            + (f"; most frequent failure: {reason}" if reason else "")
        )

    def _export(
        self,
        trial: FrozenTrial,
        run: StoredRun,
        curve: Curve,
        selected_on: Literal["validation", "test"],
    ) -> Winner:
        stored = self.provenance
        errors = self._target_errors()
        errors = errors[(errors["key"] == run.key) & (errors["epoch"] == curve.best_epoch)]
        facts = trial.user_attrs
        origin = Provenance(
            study=self.name,
            trial=trial.number,
            selected_on=selected_on,
            validation_loss=float(curve.best_validation_loss or 0.0),
            zero_output_loss=float(facts["zero_output_loss"]),
            validation_maes={
                name: MeanAbsoluteError(mae=float(mae), unit=target(name).unit)
                for name in run.config.targets
                for mae in errors.loc[errors["target"] == name, "mae"].dropna()
            },
            # The trial's hashes, because a forced launch may have changed the study's.
            data_hash=facts["data_hash"],
            split_hash=facts["split_hash"],
            space_name=stored["space"]["content"]["name"],
            space_hash=stored["space"]["hash"],
            versions=stored["versions"],
            git_commit=stored["git_commit"],
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        return Winner(name=self.name, config=run.config, provenance=origin)

    def _target_errors(self) -> pd.DataFrame:
        if self._rows is not None:
            return self._rows.target_errors
        return self._store.target_errors(self._experiment.id)

    def _trials(self) -> list[FrozenTrial]:
        if self._rows is not None:
            return list(self._rows.trials)
        storage = self._store.optuna_reader
        try:
            found = self._store.once(
                ("trials", self._study_id),
                lambda: self._store.wait(
                    lambda: storage.get_all_trials(self._study_id, deepcopy=False)
                ),
            )
        except KeyError:
            raise HpsearchError(f"the study '{self.name}' was deleted outside hpsearch") from None
        return sorted(found, key=lambda trial: trial.number)


_COLUMNS = (
    "number",
    "state",
    "value",
    "epochs",
    "last_loss",
    "best_loss",
    "weights",
    "host",
    "device",
    "seconds_per_epoch",
    "started",
    "ended",
    "zero_output_loss",
    "failure",
    "failure_reason",
    "failure_traceback",
)


def _table_row(trial: FrozenTrial) -> dict[str, Any]:
    losses = trial.intermediate_values
    facts = trial.user_attrs
    row = {name: facts.get(name) for name in _COLUMNS} | {
        "number": trial.number,
        "state": trial.state.name,
        "value": trial.value,
        "epochs": len(losses),
        "last_loss": losses[max(losses)] if losses else None,
        "best_loss": min(losses.values(), default=None),
        "started": trial.datetime_start,
        "ended": trial.datetime_complete,
    }
    return row | {f"params_{name}": value for name, value in trial.params.items()}


def _epochs_seconds(trial: FrozenTrial) -> float:
    """Return the seconds of all recorded epochs of the trial."""
    return len(trial.intermediate_values) * float(trial.user_attrs.get("seconds_per_epoch") or 0)


def most_common_failure(trials: list[FrozenTrial]) -> str | None:
    """Return the most common reason of failed trials, ignoring numbers; ``None`` if none failed."""
    reasons = [
        trial.user_attrs.get("failure_reason", "ended without a reason")
        for trial in trials
        if trial.state == TrialState.FAIL
    ]
    if not reasons:
        return None
    shapes = [shape(reason) for reason in reasons]
    most_common, _ = Counter(shapes).most_common(1)[0]
    return str(reasons[shapes.index(most_common)])


def importances(
    trials: Sequence[FrozenTrial], losses: Mapping[str, Mapping[int, float]]
) -> pd.DataFrame:
    """Return the importances of the parameters by Optuna's PED-ANOVA.

    It compares a parameter's values in the best trials with its values in all trials.

    Args:
        trials: of a study.
        losses: for each loss's name, its values by the trial's number.

    Returns:
        One row per loss, in the order of ``losses``, and one column per parameter, by falling mean.
        Each row adds up to 1. Empty for fewer than :data:`LEAST_TRIALS` complete trials.
    """
    rows: dict[str, dict[str, float]] = {}
    for name, values in losses.items():
        known = [t for t in trials if t.state == TrialState.COMPLETE and t.number in values]
        if len(known) < LEAST_TRIALS:
            continue
        rows[name] = _importances(known, values)
    table = pd.DataFrame.from_dict(rows, orient="index").fillna(0.0)
    return table[table.mean().sort_values(ascending=False).index]


def _importances(trials: Sequence[FrozenTrial], values: Mapping[int, float]) -> dict[str, float]:
    # Otherwise Optuna logs a line for every study that it creates.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    study.add_trials(
        [
            optuna.trial.create_trial(
                value=values[trial.number],
                params=trial.params,
                distributions=trial.distributions,
            )
            for trial in trials
        ]
    )
    with warnings.catch_warnings():
        # Optuna warns about parameters with a single value; their importance is 0.
        warnings.simplefilter("ignore")
        return optuna.importance.get_param_importances(study)
