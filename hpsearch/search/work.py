"""`Search`: the runs of one launch of a study, handed out and recorded."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

from optuna.trial import Trial
from pydantic import ValidationError

from hpsearch.config.run import TrialConfig
from hpsearch.config.space import REFUSALS, SearchSpace
from hpsearch.cost.model import CostModel, refusal
from hpsearch.errors import HpsearchError, InputError
from hpsearch.runs.messages import (
    NO_VERDICTS,
    Assignment,
    Completion,
    EpochMetrics,
    Failure,
    Outcome,
    RunFacts,
)
from hpsearch.search.failures import (
    Breakdown,
    Failures,
    drop_attributes,
    failure_attributes,
    refusal_attributes,
)
from hpsearch.search.terms import count_state, count_verdicts
from hpsearch.search.trials import TrialFiles, TrialRows
from hpsearch.store import Experiment, Store, TrialState
from hpsearch.system import failpoint

_USED = "its number had been given before, to a trial that was deleted since"


@dataclass(frozen=True)
class StartCounts:
    """A study's trials when a launch begins, counted.

    Attributes:
        complete: trials trained to their end.
        reclaimed: runs that an earlier launch left unfinished, and this one continues.
        left: trials still to be asked.
        pruned: trials that a scheduler stopped early, a verdict as well.
        epochs: recorded epochs of each reclaimed run.
    """

    complete: int
    reclaimed: int
    left: int
    pruned: int = 0
    epochs: tuple[int, ...] = ()

    def __str__(self) -> str:
        pruned = f", {self.pruned} pruned" if self.pruned else ""
        epochs = sorted(set(self.epochs), reverse=True)
        at = f" at epoch{'s' * (len(epochs) > 1)} {', '.join(map(str, epochs))}" if epochs else ""
        return f"{self.complete} complete{pruned}, {self.reclaimed} reclaimed{at}, {self.left} left"


@dataclass
class RunningTrial:
    """A trial that this launch has handed out and that has not ended.

    Attributes:
        trial_id: Optuna's key of its row.
        run_id: the store's key of its run.
        reported: the losses that Optuna has of it, by epoch.
        retries: why it was tried again, one line each.
    """

    trial_id: int
    run_id: int
    reported: dict[int, float]
    retries: list[str] = field(default_factory=list)


@final
class Search:
    """Drives a study until it has the wanted number of complete trials; a `runs.messages.Work`.

    `launch_study` makes it. All state that matters is in the store: whenever the process dies, the
    next launch reads the rows and goes on. The store's lease lets one launch drive a study at a
    time, and stops the writes of one whose study another took over.

    Failures are counted per launch: who launches again expects that it may work now.

    Attributes:
        name: of the study.
        space: what is searched.
        at_start: the study's trials when the launch began.
        breakdown: why the launch stops early; ``None`` while it does not.
        forced: changes of space, molecules and split that this launch was forced to accept.
    """

    def __init__(
        self,
        store: Store,
        experiment: Experiment,
        space: SearchSpace,
        rows: TrialRows,
        files: TrialFiles,
        at_start: StartCounts,
        *,
        forced: list[str],
        evaluate_test: bool,
        model: CostModel | None,
        say: Callable[[str], None],
    ) -> None:
        """Remember what the launch has prepared; nothing is read or written.

        Args:
            store: that drives ``experiment``.
            experiment: the study, with this launch's provenance.
            space: what is searched.
            rows: of the study.
            files: of the study.
            at_start: the study's trials now.
            forced: changes that the launch accepted.
            evaluate_test: whether finished trials record their test loss.
            model: what configurations cost; ``None`` where nothing was timed.
            say: called with each draw that is refused.
        """
        self.name = experiment.name
        self.space = space
        self.at_start = at_start
        self.forced = forced
        self.breakdown: Breakdown | None = None
        self._store = store
        self._experiment_id = experiment.id
        self._split_hash: str | None = experiment.provenance["split_hash"]
        self._rows = rows
        self._files = files
        self._evaluate_test = evaluate_test
        self._model = model
        self._say = say
        self._running: dict[str, RunningTrial] = {}
        self._failures = Failures(space.trials)
        self._refused_in_a_row = 0

    # --- Work -------------------------------------------------------------------------------------

    def next(self) -> Assignment | None:
        """An abandoned trial, else a new one while verdicts are missing, else ``None``."""
        while self.breakdown is None:
            rows = self._rows.states()
            abandoned = self._abandoned(rows)
            running = count_state(rows, "RUNNING") - len(abandoned)
            if count_verdicts(rows) + running >= self.space.trials:
                for row in abandoned:
                    self._drop(row, "enough trials are complete without it")
                return None
            if abandoned:
                assignment = self._continue(abandoned[0])
            else:
                trial = self._rows.ask(enqueued=count_state(rows, "WAITING") > 0)
                failpoint.reach("asked")
                assignment = self._draw_and_assign(trial, new=True)
            if assignment is not None:
                return assignment
        return None

    @property
    def finished(self) -> bool:
        """Whether all wanted trials are complete, or the launch stops early."""
        if self.breakdown is not None:
            return True
        rows = self._rows.states()
        enough = count_verdicts(rows) >= self.space.trials
        return enough and not self._abandoned(rows)

    def started(self, key: str, facts: RunFacts) -> None:
        """Record the run's facts; the first run's data and split become the study's.

        Raises:
            InputError: the data or the split are not those of the study's other runs. The launch
                must end: no later run would fare better, and the rows can be continued once the
                data are back.
        """
        trial = self._running.get(key)
        if trial is None:
            return  # it has ended, here or in an earlier launch
        self._store.record_facts(trial.run_id, facts)
        # Epochs beyond the checkpoint are trained again, on another machine to other numbers and
        # perhaps not to the same end; those before it are recorded again after this.
        self._store.forget_epochs(trial.run_id, trial.trial_id, after=facts.resumed_from)
        trial.reported = {e: v for e, v in trial.reported.items() if e <= facts.resumed_from}
        given = {"data_hash": facts.data_hash, "split_hash": facts.split_hash}
        stored = self._store.fill_provenance(self._experiment_id, **given)
        self._split_hash = stored["split_hash"]
        for what, value in given.items():
            if stored[what] != value:
                raise InputError(
                    f"every run of the study '{self.name}' must see the same molecules; the "
                    f"{what.replace('_', ' ')} was {stored[what][:12]}, run {key} on "
                    f"{facts.host} has {value[:12]}; restore the data, start a new study with "
                    "--study NAME, or go on with --force"
                )
        self._rows.annotate(
            trial.trial_id,
            {
                "weights": facts.weights,
                "host": facts.host,
                "device": facts.device,
                **given,
                "zero_output_loss": facts.zero_output_loss,
                **({"resumed_from_epoch": facts.resumed_from} if facts.resumed_from else {}),
                **({"damaged_checkpoints": list(facts.damaged)} if facts.damaged else {}),
            },
        )

    def epoch(self, key: str, metrics: EpochMetrics) -> None:
        """Record an epoch, first in our own table: it holds more, and Optuna's repeats its loss."""
        trial = self._running.get(key)
        if trial is None:
            return  # it has ended, here or in an earlier launch
        self._store.record_epoch(trial.run_id, metrics)
        loss = metrics.validation_loss
        if math.isfinite(loss) and trial.reported.get(metrics.epoch) != loss:
            self._rows.report(trial.trial_id, metrics.epoch, loss)
            trial.reported[metrics.epoch] = loss

    def retried(self, key: str, failure: Failure) -> None:
        """Record why the run is tried again."""
        trial = self._running.get(key)
        if trial is not None:
            trial.retries.append(_retry(failure))
            self._rows.annotate(trial.trial_id, {"retries": trial.retries})

    def finish(self, key: str, outcome: Outcome) -> None:
        """End the run's row once; its value is the lowest validation loss recorded.

        Raises:
            HpsearchError: the run found no space for its checkpoint, or its machine is not fit for
                any run. Its row stays RUNNING; the next launch goes on with it.
        """
        trial = self._running.get(key)
        if trial is None:
            return  # it has ended, here or in an earlier launch
        if isinstance(outcome, Failure) and outcome.kind in NO_VERDICTS:
            # No verdict: the row stays RUNNING, for the next launch to continue.
            raise HpsearchError(f"run {key} of the study '{self.name}': {outcome.message}")
        curve = self._store.curve(trial.run_id)
        if isinstance(outcome, Completion) and curve.best_validation_loss is None:
            outcome = Failure("diverged", "no epoch had a validation loss that is a number")
        self._rows.annotate(
            trial.trial_id,
            {"seconds_per_epoch": curve.seconds_per_epoch, "best_epoch": curve.best_epoch},
        )
        if isinstance(outcome, Completion):
            assert curve.best_validation_loss is not None
            self._complete(trial.trial_id, outcome, curve.best_validation_loss)
        else:
            self._fail(trial.trial_id, outcome)
        self._running.pop(key, None)
        # Only now: until the row has ended, the folder is what a next launch continues from.
        self._files.trial_ended(key)

    def _complete(self, trial_id: int, outcome: Completion, loss: float) -> None:
        measured = {
            "test_loss": outcome.test_loss,
            "peak_memory_bytes": outcome.peak_memory_bytes,
        }
        known = {name: value for name, value in measured.items() if value is not None}
        if known:
            self._rows.annotate(trial_id, known)
        failpoint.reach("before-tell")
        self._rows.complete(trial_id, loss)
        self._failures.note_completion()

    def keep_quote(self, quote: Mapping[str, Any]) -> None:
        """Store with the study what it was quoted to cost; the first quote stays."""
        self._store.fill_provenance(self._experiment_id, quote=dict(quote))

    # --- Handing out ------------------------------------------------------------------------------

    def _abandoned(self, rows: list[TrialState]) -> list[TrialState]:
        """RUNNING rows that nobody runs.

        A dead launch left them, or a lost answer of the database had a row made twice.
        """
        ours = {trial.trial_id for trial in self._running.values()}
        return [row for row in rows if row.state == "RUNNING" and row.trial_id not in ours]

    def _continue(self, row: TrialState) -> Assignment | None:
        key = str(row.number)
        if key in self._running:
            self._drop(row, _USED)
            return None
        try:
            run = self._store.run(self._experiment_id, key)
        except ValidationError as error:
            self._drop(row, f"its stored configuration is not valid any more: {_line(error)}")
            return None
        if run is None:
            trial = self._rows.reopen(row.trial_id)
            return None if trial is None else self._draw_and_assign(trial, new=False)
        frozen = self._rows.read(row.trial_id)
        if frozen is None:
            return None
        if self.space.parameters and not frozen.params:
            # The run was recorded after its whole draw, so it is not this row's.
            self._drop(row, _USED)
            return None
        assignment = self._record_and_assign(
            key, row.trial_id, run.config, frozen.intermediate_values
        )
        self._running[key].retries += frozen.user_attrs.get("retries", [])
        return assignment

    def _draw_and_assign(self, trial: Trial, *, new: bool) -> Assignment | None:
        key, trial_id = str(trial.number), trial._trial_id
        if new and (key in self._running or self._store.run(self._experiment_id, key) is not None):
            self._drop(TrialState(trial.number, trial_id, "RUNNING"), _USED)
            return None
        try:
            config = self._rows.draw(trial, self.space.suggest)
        except ValueError as error:
            # Of the space, or of a row that someone put in line with a value that it cannot have.
            reason = f"no configuration follows from its parameters: {_line(error)}"
            self._fail(trial_id, Failure("exception", reason))
            return None
        if config is None:
            return None
        why = refusal(self.space.budget, config, self._model)
        if why is not None:
            self._refuse(trial.number, trial_id, why)
            return None
        self._refused_in_a_row = 0
        return self._record_and_assign(key, trial_id, config, {})

    def _record_and_assign(
        self, key: str, trial_id: int, config: TrialConfig, reported: dict[int, float]
    ) -> Assignment:
        directory = str(self._files.directory(key))
        run = self._store.record_run(self._experiment_id, key, config, directory)
        self._rows.annotate(trial_id, _described(config) | self._quoted(config))
        self._running[key] = RunningTrial(trial_id, run.id, dict(reported))
        return Assignment(
            key,
            config,
            directory,
            evaluate_test=self._evaluate_test,
            expected_split=self._split_hash,
        )

    def _quoted(self, config: TrialConfig) -> dict[str, Any]:
        """What the trial should take, stored to compare with what it takes."""
        if self._model is None or not self._model.covers(config):
            return {}
        timing = self._model.timing(config)
        return {
            "quoted_epoch_seconds": timing.epoch_seconds,
            "quoted_memory_bytes": timing.memory_bytes,
        }

    # --- Failures ---------------------------------------------------------------------------------

    def _drop(self, row: TrialState, reason: str) -> None:
        """End a row that nobody runs, since it is not to go on."""
        self._rows.fail_because(row.trial_id, drop_attributes(reason))
        if str(row.number) not in self._running:
            self._files.remove(row.number)

    def _refuse(self, number: int, trial_id: int, why: str) -> None:
        reason = f"refused, beyond the budget: {why}"
        self._rows.fail_because(trial_id, refusal_attributes(reason))
        self._say(f"trial {number}: {reason}")
        self._refused_in_a_row += 1
        if self._refused_in_a_row >= REFUSALS:
            reason = (
                f"{REFUSALS:,} draws in a row were refused, beyond the budget; the last: {why}; "
                "raise the budget or narrow the space"
            )
            self.breakdown = self.breakdown or Breakdown(reason, "")

    def _fail(self, trial_id: int, failure: Failure) -> None:
        self._rows.fail_because(trial_id, failure_attributes(failure))
        self.breakdown = self.breakdown or self._failures.note(failure)
        if self.breakdown is not None:
            for row in self._abandoned(self._rows.states()):
                self._drop(row, "the search was given up before it could be continued")


def _described(config: TrialConfig) -> dict[str, Any]:
    """Attributes for readers of Optuna's dashboard: the widths that follow from the parameters."""
    network = config.network
    return {
        "featurization_scalars": network.featurization_scalars,
        "featurization_vectors": network.featurization_vectors,
        "output_scalars": network.output_scalars,
        "output_vectors": network.output_vectors,
        "config": config.to_dict(),
    }


def _retry(failure: Failure) -> str:
    at = f" (epoch {failure.epoch})" if failure.epoch else ""
    return f"{failure.kind}{at}: {failure.message}"


def _line(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return next(iter(str(error).splitlines()), type(error).__name__)
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
