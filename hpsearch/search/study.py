"""`Study`: a search as stored; it only reads."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Self, final

from hpsearch.cost.accuracy import MeasuredTrial, QuoteAccuracy
from hpsearch.search.failures import shape
from hpsearch.search.terms import last_wanted
from hpsearch.store import ORIGIN, Curve, Experiment, StoredRun, StoreReader, TrialRecord
from hpsearch.store.lease import Holder
from hpsearch.system.errors import HpsearchError, InputError

if TYPE_CHECKING:  # `hpsearch status` needs none of these, and they take long to load
    import optuna
    import pandas as pd
    from optuna.distributions import BaseDistribution

    from hpsearch.config.export import Winner
    from hpsearch.config.run import TrialConfig
    from hpsearch.config.targets import Targets

LEAST_TRIALS = 5
"""The least number of complete trials for which importances are computed."""

MOST_TRIALS = 1_000
"""The most complete trials from which importances are computed."""


@dataclass(frozen=True)
class Counts:
    """The number of a study's trials in each state.

    Attributes:
        complete: trained to their end.
        running: running now, or abandoned by a launch that died.
        failed: failed, and replaced by other trials.
        refused: not trained, because they exceed the budget; replaced too.
        paused: waiting at a rung, for a decision on whether they go on.
        pruned: stopped early.
        waiting: enqueued by hand.
        wanted: number of complete trials that the last launch wanted.
    """

    complete: int
    running: int
    paused: int
    failed: int
    refused: int
    pruned: int
    waiting: int
    wanted: int

    def __str__(self) -> str:
        parts = [f"{self.complete} of {self.wanted} complete"]
        for name in ("running", "paused", "failed", "refused", "pruned", "waiting"):
            if number := getattr(self, name):
                parts.append(f"{number} {name}")
        return ", ".join(parts)


@dataclass(frozen=True)
class StudyRows:
    """The stored rows of a study, each table read once.

    Attributes:
        trials: the trials by number.
        target_errors: validation errors after each epoch, as from `StoreReader.target_errors`.
        epochs: losses and seconds of each epoch, as from `StoreReader.epochs`.
        runs: the runs, as from `StoreReader.runs`.
    """

    trials: tuple[TrialRecord, ...]
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
        study_id = store.study_id(experiment.name)
        if study_id is None:
            raise HpsearchError(
                f"the trials of the study '{experiment.name}' were deleted or renamed outside "
                "hpsearch"
            )
        return cls(store, experiment, study_id)

    def read(self) -> StudyRows:
        """Read all rows of the study now."""
        return StudyRows(
            trials=tuple(self.records()),
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
    def created_at(self) -> datetime:
        """The time of its first launch (UTC)."""
        return self._experiment.created_at

    @property
    def targets(self) -> Targets:
        """All targets of its molecules, in the order of tables.

        Raises:
            InputError: the record is not valid for this version.
        """
        return self._experiment.targets

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
            found["PAUSED"] = self._store.count_paused(self.name)
            found["RUNNING"] -= found["PAUSED"]
        else:
            trials = self._rows.trials
            refused = sum(trial.facts.get("failure") == "refused" for trial in trials)
            found = Counter(trial.state for trial in trials)
        return Counts(
            complete=found["COMPLETE"],
            running=found["RUNNING"],
            paused=found["PAUSED"],
            failed=found["FAIL"] - refused,
            refused=refused,
            pruned=found["PRUNED"],
            waiting=found["WAITING"],
            wanted=last_wanted(self.provenance),
        )

    def holder(self) -> Holder | None:
        """Return the study's driver, which may have died; ``None`` if it has none."""
        return self._store.holder(self._experiment.id)

    def records(
        self,
        *,
        numbers: Collection[int] | None = None,
        facts: bool = True,
        parameters: bool = True,
    ) -> list[TrialRecord]:
        """Return the trials by number.

        Args:
            numbers: of the wanted trials, a few thousand at most; ``None`` for all.
            facts: whether the records need the trials' facts and reported losses.
            parameters: whether the records need the trials' parameters, which take longest to read.
        """
        if self._rows is not None:
            trials = self._rows.trials
            return [trial for trial in trials if numbers is None or trial.number in numbers]
        return self._store.trial_records(
            self._study_id, numbers=numbers, facts=facts, parameters=parameters
        )

    def trials(
        self, *, numbers: Collection[int] | None = None, parameters: bool = True
    ) -> pd.DataFrame:
        """Return one row per trial, by number.

        Columns: number, state, value (lowest validation loss of a complete trial), epochs
        (recorded), last_loss, best_loss (so far), weights, host, device, seconds_per_epoch,
        started, ended (local time), zero_output_loss, failure (kind), failure_reason,
        failure_traceback, stage (where it stands in a study with rungs), origin (of a known
        configuration), and ``params_<name>`` for each parameter.

        Args:
            numbers: of the wanted trials, a few thousand at most; ``None`` for all.
            parameters: whether the parameters are needed, which take longest to read.
        """
        import pandas as pd

        def table() -> pd.DataFrame:
            trials = self.records(numbers=numbers, parameters=parameters)
            return pd.DataFrame(map(table_row, trials), columns=table_columns(trials))

        chosen = None if numbers is None else frozenset(numbers)
        what = ("table of trials", self._study_id, chosen, parameters, self._rows is None)
        return self._store.once(what, table).copy(deep=False)

    def quote_accuracy(self, trials: Sequence[TrialRecord] | None = None) -> QuoteAccuracy | None:
        """Return the accuracy of the estimates; ``None`` if no trial had one.

        Args:
            trials: all trials, if they have been read.
        """
        trials = self.records(parameters=False) if trials is None else trials
        return QuoteAccuracy.of(
            self.provenance.get("quote"),
            [
                MeasuredTrial(
                    _epochs_seconds(trial),
                    float(trial.facts["seconds_per_epoch"]),
                    trial.facts.get("peak_memory_bytes"),
                    trial.facts.get("quoted_epoch_seconds"),
                    trial.facts.get("quoted_memory_bytes"),
                )
                for trial in trials
                if trial.state == "COMPLETE" and trial.facts.get("seconds_per_epoch")
            ],
            sum(_epochs_seconds(trial) for trial in trials if trial.state == "FAIL"),
        )

    def target_losses(self, numbers: Collection[int] | None = None) -> pd.DataFrame:
        """Return each target's loss (Eq. 17) at the best epoch of each complete trial.

        Args:
            numbers: of the wanted trials, a few thousand at most; ``None`` for all.
        """
        best = {
            str(trial.number): trial.facts.get("best_epoch")
            for trial in self.records(numbers=numbers, parameters=False)
            if trial.state == "COMPLETE"
        }
        if self._rows is None:
            keys = None if numbers is None else [str(number) for number in numbers]
            errors = self._store.best_target_errors(self._experiment.id, keys)
        else:
            errors = self._rows.target_errors
        errors = errors[errors["epoch"] == errors["key"].map(best)]
        table = errors.assign(trial=errors["key"].astype(int)).pivot_table(
            index="trial", columns="target", values="loss"
        )
        return table[[name for name in self.targets.names if name in table.columns]]

    def importances(self) -> pd.DataFrame:
        """Return each hyperparameter's importance for the loss and each target: `importances`.

        Of more than :data:`MOST_TRIALS` complete trials it uses an even sample, because the time
        grows with them.
        """
        states = self._store.trial_states(self.name) if self._rows is None else self._rows.trials
        complete = [trial.number for trial in states or () if trial.state == "COMPLETE"]
        numbers = evenly(complete, MOST_TRIALS)
        trials, by_target = self.records(numbers=numbers), self.target_losses(numbers)
        whole = {trial.number: trial.value for trial in trials if trial.value is not None}
        losses: dict[str, dict[int, float]] = {"all": whole}
        losses |= {
            str(name): {int(number): float(loss) for number, loss in column.dropna().items()}  # type: ignore[call-overload]
            for name, column in by_target.items()
        }
        return importances(trials, self._store.distributions(self._study_id, numbers), losses)

    def best(self, trials: Sequence[TrialRecord] | None = None) -> tuple[float, str] | None:
        """Return the lowest validation loss of a complete trial and the trial's number.

        Args:
            trials: all trials, if they have been read.
        """
        complete = (
            (trial.value, str(trial.number))
            for trial in (self.records(parameters=False) if trials is None else trials)
            if trial.state == "COMPLETE" and trial.value is not None and not math.isnan(trial.value)
        )
        return min(complete, default=None)

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
        # The facts of every trial take long to read.
        trials = self.records(facts=select_on == "test", parameters=False)
        complete = [trial for trial in trials if trial.state == "COMPLETE"]
        rank = {trial.number: trial.value or 0.0 for trial in complete}
        if select_on == "test":
            rank = {t.number: t.facts["test_loss"] for t in complete if "test_loss" in t.facts}
            if len(rank) < len(complete):
                raise InputError(
                    f"the choice on the test set needs the test loss of every trial; "
                    f"{len(complete) - len(rank)} of {len(complete)} have none; launch a study "
                    "with --open-test-set"
                )
        for number in sorted(rank, key=lambda number: (rank[number], number)):
            run = self._store.run(self._experiment.id, str(number))
            found = self.records(numbers=[number], parameters=False)
            trial = next((each for each in found if each.state == "COMPLETE"), None)
            if run is None or trial is None or trial.value is None:
                continue
            if "zero_output_loss" not in trial.facts:
                continue
            curve = self._store.curve(run.id)
            best = curve.best_validation_loss
            if best is not None and math.isclose(best, trial.value, rel_tol=1e-12):
                return self._export(trial, run, curve, select_on)
        reason = most_common_failure(self.records(parameters=False))
        raise HpsearchError(
            f"the study '{self.name}' has no winner: {self.counts()}"
            + (f"; most frequent failure: {reason}" if reason else "")
        )

    def config(self, number: int) -> TrialConfig | None:
        """Return the configuration of a trial; ``None`` if it has none, or does not exist."""
        run = self._store.run(self._experiment.id, str(number))
        return None if run is None else run.config

    def _export(
        self,
        trial: TrialRecord,
        run: StoredRun,
        curve: Curve,
        selected_on: Literal["validation", "test"],
    ) -> Winner:
        from hpsearch.config.export import MeanAbsoluteError, Provenance, Winner

        stored = self.provenance
        maes = self._store.maes(run.id, curve.best_epoch)
        facts = trial.facts
        units = {target.name: target.unit for target in run.config.target_table}
        origin = Provenance(
            study=self.name,
            trial=trial.number,
            selected_on=selected_on,
            validation_loss=float(curve.best_validation_loss or 0.0),
            zero_output_loss=float(facts["zero_output_loss"]),
            validation_maes={
                name: MeanAbsoluteError(mae=maes[name], unit=units[name])
                for name in run.config.targets
                if name in maes
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
    "stage",
    ORIGIN,
)


def table_columns(trials: Sequence[TrialRecord]) -> list[str]:
    """Return the columns of `Study.trials`: those of every study, then the parameters by name."""
    parameters = {name for trial in trials for name in trial.parameters}
    return [*_COLUMNS, *(f"params_{name}" for name in sorted(parameters))]


def table_row(trial: TrialRecord) -> dict[str, Any]:
    """Return the trial's row of `Study.trials`, without the parameters that it does not have."""
    row = {name: trial.facts.get(name) for name in _COLUMNS} | {
        "number": trial.number,
        "state": trial.state,
        "value": trial.value,
        "epochs": trial.epochs,
        "last_loss": trial.last_loss,
        "best_loss": trial.best_loss,
        "started": trial.started,
        "ended": trial.ended,
    }
    return row | {f"params_{name}": value for name, value in trial.parameters.items()}


def _epochs_seconds(trial: TrialRecord) -> float:
    """Return the seconds of all recorded epochs of the trial."""
    return trial.epochs * float(trial.facts.get("seconds_per_epoch") or 0)


def most_common_failure(trials: Sequence[TrialRecord]) -> str | None:
    """Return the most common reason of failed trials, ignoring numbers; ``None`` if none failed."""
    reasons = [
        trial.facts.get("failure_reason", "ended without a reason")
        for trial in trials
        if trial.state == "FAIL"
    ]
    if not reasons:
        return None
    shapes = [shape(reason) for reason in reasons]
    most_common, _ = Counter(shapes).most_common(1)[0]
    return str(reasons[shapes.index(most_common)])


def importances(
    trials: Sequence[TrialRecord],
    distributions: Mapping[int, Mapping[str, BaseDistribution]],
    losses: Mapping[str, Mapping[int, float]],
) -> pd.DataFrame:
    """Return the importances of the parameters by Optuna's PED-ANOVA.

    It compares a parameter's values in the best trials with its values in all trials.

    Args:
        trials: complete trials of a study.
        distributions: of their parameters, by the trial's number.
        losses: for each loss's name, its values by the trial's number.

    Returns:
        One row per loss, in the order of ``losses``, and one column per parameter, by falling mean.
        Each row adds up to 1. Empty for fewer than :data:`LEAST_TRIALS` complete trials.
    """
    import pandas as pd

    rows: dict[str, dict[str, float]] = {}
    studies: dict[tuple[int, ...], optuna.Study] = {}
    for name, values in losses.items():
        known = [trial for trial in trials if trial.number in values]
        if len(known) < LEAST_TRIALS:
            continue
        numbers = tuple(trial.number for trial in known)
        # Made once for all losses, because that takes longer than the importances.
        if numbers not in studies:
            studies[numbers] = _study_of(known, distributions)
        rows[name] = _importances(studies[numbers], [values[number] for number in numbers])
    table = pd.DataFrame.from_dict(rows, orient="index").fillna(0.0)
    return table[table.mean().sort_values(ascending=False).index]


def evenly(numbers: Sequence[int], most: int) -> list[int]:
    """Return at most ``most`` of the numbers, evenly by their place."""
    if len(numbers) <= most:
        return list(numbers)
    return [numbers[place * len(numbers) // most] for place in range(most)]


def _study_of(
    trials: Sequence[TrialRecord], distributions: Mapping[int, Mapping[str, BaseDistribution]]
) -> optuna.Study:
    """Return a study in memory with these trials, numbered by their place."""
    import optuna
    from optuna.trial import FrozenTrial, TrialState

    from hpsearch.search.samplers import PartOfStudy

    # Otherwise Optuna logs a line for every study that it creates.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return PartOfStudy.of(
        optuna.create_study(),
        [
            FrozenTrial(
                number=place,
                trial_id=place,
                state=TrialState.COMPLETE,
                value=0.0,
                datetime_start=trial.started_utc,
                datetime_complete=trial.ended_utc,
                params=dict(trial.parameters),
                distributions=dict(distributions.get(trial.number, {})),
                user_attrs={},
                system_attrs={},
                intermediate_values={},
            )
            for place, trial in enumerate(trials)
        ],
    )


def _importances(study: optuna.Study, losses: Sequence[float]) -> dict[str, float]:
    import optuna

    with warnings.catch_warnings():
        # Optuna warns about parameters with a single value; their importance is 0. It also says
        # that lower losses count as better, which is right.
        warnings.simplefilter("ignore")
        return optuna.importance.get_param_importances(
            study, target=lambda trial: losses[trial.number]
        )
