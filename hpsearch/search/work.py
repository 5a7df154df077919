"""`Search`: one launch of a study; it assigns the trials and records their results."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

from optuna.trial import Trial
from pydantic import ValidationError

from hpsearch.config.run import TrialConfig
from hpsearch.config.space import REFUSALS, SearchSpace
from hpsearch.cost.model import CostModel, refusal
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
from hpsearch.search.rungs import TRAINED_AGAIN, Place
from hpsearch.search.stopping import EarlyStopping
from hpsearch.search.trials import RUNGS, TrialFiles, TrialRows
from hpsearch.store import (
    PAUSED,
    STAGE,
    ChangedRun,
    Curve,
    Experiment,
    OpenTrials,
    Store,
    TrialState,
)
from hpsearch.system import failpoint
from hpsearch.system.errors import HpsearchError, InputError

_USED = "its number was used before, by a trial that was deleted"


@dataclass(frozen=True)
class StartCounts:
    """The numbers of a study's trials at the start of a launch.

    Attributes:
        complete: complete trials.
        resumed: unfinished trials of an earlier launch, which this launch resumes.
        left: trials still to be sampled.
        pruned: trials that were stopped early.
        paused: trials that wait at a rung.
        epochs: number of recorded epochs of each resumed trial.
    """

    complete: int
    resumed: int
    left: int
    pruned: int = 0
    paused: int = 0
    epochs: tuple[int, ...] = ()

    def __str__(self) -> str:
        pruned = f", {self.pruned} pruned" if self.pruned else ""
        pruned += f", {self.paused} paused" if self.paused else ""
        resumed = f"{self.resumed} resumed{_from_epochs(self.epochs)}"
        return f"{self.complete} complete{pruned}, {resumed}, {self.left} left"


def _from_epochs(epochs: Iterable[int]) -> str:
    texts = [str(epoch) for epoch in sorted(set(epochs), reverse=True)]
    if len(texts) < 2:
        return "".join(f" from epoch {text}" for text in texts)
    return f" from epochs {', '.join(texts[:-1])} and {texts[-1]}"


@dataclass
class RunningTrial:
    """A trial that this launch has assigned and that has not ended.

    Attributes:
        trial_id: the id of its row in Optuna's table.
        run_id: the id of its run in the store.
        reported: the losses reported to Optuna, by epoch.
        retries: the reasons for new attempts, one line for each.
        digest: of the last recorded epoch; ``None`` if the worker sends none.
        rungs: the epochs after which it pauses; empty without early stopping.
    """

    trial_id: int
    run_id: int
    reported: dict[int, float]
    retries: list[str] = field(default_factory=list)
    digest: str | None = None
    rungs: tuple[int, ...] = ()


@final
class Search:
    """One launch of a study, until it has the wanted number of complete trials (`messages.Work`).

    `launch_study` creates it. The important state is in the store: if the process dies, the next
    launch reads the rows and continues. The store's lease allows only one launch at a time, and
    refuses the writes of a launch whose study another one has taken over.

    Failures are counted per launch, because a user who launches again may have fixed the cause.

    Attributes:
        name: name of the study.
        space: the search space.
        at_start: the numbers of trials when the launch began.
        breakdown: the reason why the launch ends early, or ``None``.
        forced: changes of space, molecules and split that ``--force`` accepted.
        on_promoted: called with the key of each paused trial that goes on, and its place.
        on_stopped: called with the key of each trial that is stopped, and its lowest loss.
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
        stopping: EarlyStopping | None,
        say: Callable[[str], None],
    ) -> None:
        """Store the arguments; nothing is read or written.

        Args:
            store: the store, with the lease on ``experiment``.
            experiment: the study, with this launch's provenance.
            space: the search space.
            rows: the study's rows.
            files: the study's files.
            at_start: the present numbers of trials.
            forced: changes that the launch accepted.
            evaluate_test: whether complete trials record their test loss.
            model: the cost model; ``None`` if nothing was timed.
            stopping: decides which trials pause; ``None`` if every trial is trained to its end.
            say: called with each refused trial.
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
        self._stopping = stopping
        self._say = say
        self._running: dict[str, RunningTrial] = {}
        self._waiting: dict[str, TrialState] = {}
        self._failures = Failures(space.trials)
        self.on_promoted: Callable[[str, str], None] = lambda key, place: None
        self.on_stopped: Callable[[str, float], None] = lambda key, loss: None
        self._refused_in_a_row = 0

    # --- Work -------------------------------------------------------------------------------------

    def next(self) -> Assignment | None:
        """Return the next trial to train, or ``None`` if there is none now.

        An abandoned trial comes first, then a paused one that goes on, then a new one.
        """
        while self.breakdown is None:
            rows, abandoned = self._look()
            if self._stopping is not None and self._stop(
                self._stopping.hopeless(self.space.trials)
            ):
                continue
            held = rows.running_count - len(abandoned)
            # No further trial will be drawn.
            is_last = rows.finished + held >= self.space.trials
            if is_last:
                for row in abandoned:
                    self._drop(row, "enough trials are complete without it")
            assignment: Assignment | None
            if abandoned and not is_last:
                assignment = self._continue(abandoned[0])
            elif (chosen := self._promotable(is_last)) is not None:
                assignment = self._promote(*chosen)
            elif is_last:
                if not self._running:
                    self._stop(self.paused_keys)
                return None
            else:
                trial = self._rows.ask(enqueued=rows.waiting > 0)
                failpoint.reach("asked")
                assignment = self._draw_and_assign(trial, new=True)
            if assignment is not None:
                return assignment
        return None

    @property
    def finished(self) -> bool:
        """Whether all wanted trials are complete, or the launch ends early."""
        if self.breakdown is not None:
            return True
        rows, abandoned = self._look()
        return rows.finished >= self.space.trials and not abandoned and not self._waiting

    def started(self, key: str, facts: RunFacts) -> None:
        """Record the run's facts; the first run's data and split become the study's.

        Raises:
            InputError: the data or the split are not those of the study's other runs. The launch
                ends, because every later run would have the same error. Its trials can be resumed
                after the data are restored.
        """
        trial = self._running.get(key)
        if trial is None:
            return  # it has ended, here or in an earlier launch
        self._store.record_facts(trial.run_id, facts)
        # Epochs after the checkpoint are trained again, possibly with other results. Epochs before
        # it are recorded again after this.
        self._store.forget_epochs(trial.run_id, trial.trial_id, after=facts.resumed_from)
        trial.reported = {e: v for e, v in trial.reported.items() if e <= facts.resumed_from}
        given = {"data_hash": facts.data_hash, "split_hash": facts.split_hash}
        stored = self._store.fill_provenance(self._experiment_id, **given)
        self._split_hash = stored["split_hash"]
        for what, value in given.items():
            if stored[what] != value:
                raise InputError(
                    f"every run of the study '{self.name}' must use the same molecules; the "
                    f"{what.replace('_', ' ')} was {stored[what][:12]}, run {key} on "
                    f"{facts.host} has {value[:12]}; restore the data, start a new study with "
                    "--study NAME, or continue with --force"
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
        """Record an epoch in our table, then report its loss to Optuna."""
        trial = self._running.get(key)
        if trial is None:
            return  # it has ended, here or in an earlier launch
        self._store.record_epoch(trial.run_id, metrics)
        trial.digest = metrics.digest or None
        loss = metrics.validation_loss
        if math.isfinite(loss) and trial.reported.get(metrics.epoch) != loss:
            self._rows.report(trial.trial_id, metrics.epoch, loss)
            trial.reported[metrics.epoch] = loss
        self._compare_with_before(key, trial, metrics.epoch)

    def _compare_with_before(self, key: str, trial: RunningTrial, epoch: int) -> None:
        """Say if a trial that is trained again has another loss at a rung than it was judged by.

        Its checkpoint was lost. The decisions stay, because they were right for what was known.
        """
        if self._stopping is None or epoch not in trial.rungs:
            return
        judged, rung = self._stopping.judged(key), trial.rungs.index(epoch)
        lowest = min((v for e, v in trial.reported.items() if e <= epoch), default=math.nan)
        if rung < len(judged) and not math.isclose(lowest, judged[rung], rel_tol=TRAINED_AGAIN):
            self._say(
                f"trial {key}: trained again, its lowest loss at rung {rung + 1} is {lowest:,.6g}, "
                f"but it was judged by {judged[rung]:,.6g}; the decision stays"
            )

    def paused(self, key: str, epoch: int) -> None:
        """Record that the trial waits at a rung; its worker is free.

        Its row stays RUNNING, because Optuna has no other state for it.
        """
        trial = self._running.get(key)
        if trial is None or self._stopping is None:
            return  # it has ended, here or in an earlier launch
        rung = self._stopping.pause(key)
        failpoint.reach("paused")
        self._rows.annotate(
            trial.trial_id,
            {
                PAUSED: epoch,
                STAGE: f"paused at rung {rung + 1} of {len(trial.rungs)} (epoch {epoch})",
                **_measured(self._store.curve(trial.run_id)),
            },
        )
        self._waiting[key] = TrialState(int(key), trial.trial_id, "RUNNING")
        self._running.pop(key, None)

    def retried(self, key: str, failure: Failure) -> None:
        """Record the reason for a new attempt."""
        trial = self._running.get(key)
        if trial is not None:
            trial.retries.append(_retry(failure))
            self._rows.annotate(trial.trial_id, {"retries": trial.retries})

    def finish(self, key: str, outcome: Outcome) -> None:
        """End the trial's row; its value is the lowest recorded validation loss.

        A second call for the same trial does nothing.

        Raises:
            HpsearchError: the disk was full, or the machine cannot run any trial. The row stays
                RUNNING, and the next launch resumes the trial.
        """
        trial = self._running.get(key)
        if trial is None:
            return  # it has ended, here or in an earlier launch
        if isinstance(outcome, Failure) and outcome.kind in NO_VERDICTS:
            # The row stays RUNNING, and the next launch resumes the trial.
            raise HpsearchError(f"run {key} of the study '{self.name}': {outcome.message}")
        curve = self._store.curve(trial.run_id)
        if isinstance(outcome, Completion) and curve.best_validation_loss is None:
            outcome = Failure("diverged", "no epoch has a finite validation loss")
        digest = {} if trial.digest is None else {"digest": trial.digest}
        self._rows.annotate(trial.trial_id, _measured(curve) | digest)
        if self._stopping is not None:
            self._stopping.end(key, "complete" if isinstance(outcome, Completion) else "failed")
        if isinstance(outcome, Completion):
            assert curve.best_validation_loss is not None
            self._complete(trial.trial_id, outcome, curve.best_validation_loss)
        else:
            self._fail(trial.trial_id, outcome)
        self._running.pop(key, None)
        # Last, because the next launch resumes from the folder while the row is RUNNING.
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

    @property
    def paused_keys(self) -> tuple[str, ...]:
        """The keys of the paused trials."""
        return () if self._stopping is None else tuple(self._stopping.paused)

    def keep_quote(self, quote: Mapping[str, Any]) -> None:
        """Store the estimate with the study; the first one stays."""
        self._store.fill_provenance(self._experiment_id, quote=dict(quote))

    # --- Assigning --------------------------------------------------------------------------------

    def _look(self) -> tuple[OpenTrials, list[TrialState]]:
        """Return the numbers of rows, and the RUNNING rows that no worker trains.

        An earlier launch has abandoned these rows, or a row was created twice because the reply of
        the database was lost. A paused trial whose row somebody has ended or deleted does not count
        at its rungs any more.
        """
        ours = {trial.trial_id for trial in self._running.values()}
        paused = self.paused_keys
        # At first, the rows of the trials that an earlier launch has paused are not known.
        is_known = len(paused) == len(self._waiting)
        waiting = [row.trial_id for row in self._waiting.values()]
        rows = self._rows.open([*ours, *waiting] if is_known else None)
        if rows.running is None:
            return rows, []
        if self._stopping is not None:
            running = {str(row.number): row for row in rows.running}
            self._waiting = {key: running[key] for key in paused if key in running}
            for key in paused:
                if key not in running:
                    self._stopping.end(key, "failed")
                    self._files.remove(int(key))
        return rows, [
            row
            for row in rows.running
            if row.trial_id not in ours and str(row.number) not in self._waiting
        ]

    def _continue(self, row: TrialState) -> Assignment | None:
        key = str(row.number)
        if key in self._running:
            self._drop(row, _USED)
            return None
        try:
            run = self._store.run(self._experiment_id, key)
        except ValidationError as error:
            self._drop(row, f"its stored configuration is no longer valid: {_line(error)}")
            return None
        except ChangedRun as error:
            self._drop(row, str(error))
            return None
        if run is None:
            trial = self._rows.reopen(row.trial_id)
            return None if trial is None else self._draw_and_assign(trial, new=False)
        frozen = self._rows.read(row.trial_id)
        if frozen is None:
            return None
        if self.space.parameters and not frozen.params:
            # A run is recorded after all its parameters, so this run belongs to another row.
            self._drop(row, _USED)
            return None
        rungs = tuple(frozen.user_attrs.get(RUNGS, ()))
        assignment = self._record_and_assign(
            key, row.trial_id, run.config, frozen.intermediate_values, rungs
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
            # The space is wrong, or an enqueued trial has a value that the space does not allow.
            reason = f"its parameters give no valid configuration: {_line(error)}"
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
        self,
        key: str,
        trial_id: int,
        config: TrialConfig,
        reported: dict[int, float],
        rungs: tuple[int, ...] = (),
    ) -> Assignment:
        directory = str(self._files.directory(key))
        run = self._store.record_run(self._experiment_id, key, config, directory)
        attributes, until = _described(config) | self._quoted(config), None
        if self._stopping is not None:
            rungs = rungs or self._stopping.rung_epochs(config)
            until = self._stopping.until(key, rungs)
            attributes |= {RUNGS: list(rungs), PAUSED: None}
        self._rows.annotate(trial_id, attributes)
        self._running[key] = RunningTrial(trial_id, run.id, dict(reported), rungs=rungs)
        return Assignment(
            key,
            config,
            directory,
            evaluate_test=self._evaluate_test,
            expected_split=self._split_hash,
            until=until,
        )

    def _quoted(self, config: TrialConfig) -> dict[str, Any]:
        """Return the estimate of the trial, to be compared with its measured cost."""
        if self._model is None or not self._model.covers(config):
            return {}
        timing = self._model.timing(config)
        return {
            "quoted_epoch_seconds": timing.epoch_seconds,
            "quoted_memory_bytes": timing.memory_bytes,
        }

    # --- Early stopping ---------------------------------------------------------------------------

    def _promotable(self, is_last: bool) -> tuple[TrialState, Place] | None:
        """Return the paused trial that goes on now, and its place."""
        if self._stopping is None:
            return None
        chosen = self._stopping.next(last=is_last)
        return None if chosen is None else (self._waiting[chosen[0]], chosen[1])

    def _promote(self, row: TrialState, place: Place) -> Assignment | None:
        """Assign a paused trial again; its decision is stored first."""
        assert self._stopping is not None
        key = str(row.number)
        failpoint.reach("promoting")
        self._stopping.promote(key)
        del self._waiting[key]
        failpoint.reach("promoted")
        self._rows.annotate(row.trial_id, {STAGE: f"promoted from rung {place.rung + 1}: {place}"})
        self.on_promoted(key, f"from rung {place.rung + 1}, {place}")
        return self._continue(row)

    def _stop(self, keys: Collection[str]) -> bool:
        """Stop paused trials for good; return whether there were any.

        Each decision is stored before it takes effect.
        """
        for key in keys:
            assert self._stopping is not None
            failpoint.reach("pruning")
            self._stopping.end(key, "pruned")
            failpoint.reach("pruned")
            loss = self._stopping.pruned_loss(key)
            self._rows.end_pruned(self._waiting.pop(key).trial_id, loss)
            self._files.remove(int(key))
            self.on_stopped(key, loss)
        return bool(keys)

    # --- Failures ---------------------------------------------------------------------------------

    def _drop(self, row: TrialState, reason: str) -> None:
        """End an abandoned row without resuming it."""
        if self._stopping is not None:
            self._stopping.end(str(row.number), "failed")
        self._rows.fail_because(row.trial_id, drop_attributes(reason))
        if str(row.number) not in self._running:
            self._files.remove(row.number)

    def _refuse(self, number: int, trial_id: int, why: str) -> None:
        reason = f"refused, over the budget: {why}"
        self._rows.fail_because(trial_id, refusal_attributes(reason))
        self._say(f"trial {number}: {reason}")
        self._refused_in_a_row += 1
        if self._refused_in_a_row >= REFUSALS:
            reason = (
                f"{REFUSALS:,} configurations in a row were refused, over the budget; the last: "
                f"{why}; raise the budget or narrow the space"
            )
            self.breakdown = self.breakdown or Breakdown(reason, "")

    def _fail(self, trial_id: int, failure: Failure) -> None:
        self._rows.fail_because(trial_id, failure_attributes(failure))
        self.breakdown = self.breakdown or self._failures.note(failure)
        if self.breakdown is not None:
            for row in self._look()[1]:
                self._drop(row, "the search ended before it could be resumed")


def _measured(curve: Curve) -> dict[str, Any]:
    return {"seconds_per_epoch": curve.seconds_per_epoch, "best_epoch": curve.best_epoch}


def _described(config: TrialConfig) -> dict[str, Any]:
    """Return attributes for Optuna's dashboard: the widths that follow from the parameters."""
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
