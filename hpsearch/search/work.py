"""`Search`: one launch of a study, from what an earlier one left to the last verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, final

import optuna
from optuna.trial import FrozenTrial, Trial
from pydantic import ValidationError

from hpsearch.config.run import DataConfig, TrialConfig
from hpsearch.config.space import REFUSALS, SearchSpace
from hpsearch.cost.model import CostModel, refusal
from hpsearch.errors import HpsearchError, InputError
from hpsearch.runs import checkpoint
from hpsearch.runs.messages import (
    NO_VERDICTS,
    Assignment,
    Completion,
    EpochMetrics,
    Failure,
    Outcome,
    RunFacts,
)
from hpsearch.search.failures import Breakdown, Failures
from hpsearch.search.samplers import SeededPerTrial
from hpsearch.search.terms import (
    changes,
    count_state,
    count_verdicts,
    first_terms,
    launch_terms,
    molecule_changes,
    most_wanted,
    require_consistent,
    require_same_molecules,
    require_same_space,
)
from hpsearch.search.trial_rows import TrialRows
from hpsearch.store import Experiment, Store, TrialState, check_name, experiment_folder
from hpsearch.system import failpoint

RUNS_ROOT = Path("storage/runs")

KEPT_WEIGHTS = 5
"""So many complete trials, the best ones, keep the weights of their best epoch: 40 to 150 MB each
for a network of Table 3. The others' are removed when they are beaten."""

LONGEST_TRACEBACK = 8_000
_USED = "its number had been given before, to a trial that was deleted since"


@dataclass(frozen=True)
class Found:
    """What a launch found in the store.

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
class _Flight:
    trial_id: int
    run_id: int
    reported: dict[int, float]
    directory: Path
    retries: list[str] = field(default_factory=list)


@final
class Search:
    """Drives a study until it has the wanted number of complete trials; a `runs.messages.Work`.

    Nothing that matters is kept here: whatever instant the process dies at, the next launch
    finds the rows and goes on. The store's lease lets one launch drive a study at a time, and none
    write after another took it over.

    Failures are counted per launch: to launch again is a person's decision that it may now work.

    Attributes:
        name: of the study.
        space: what is searched.
        found: what the launch found.
        breakdown: why it gave up; ``None`` while it has not.
        forced: changes of space, molecules and split that this launch was told to accept.
    """

    def __init__(
        self,
        store: Store,
        space: SearchSpace,
        experiment: Experiment,
        rows: TrialRows,
        root: Path,
        evaluate_test: bool,
        model: CostModel | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.name = experiment.name
        self.space = space
        self.breakdown: Breakdown | None = None
        self.forced: list[str] = []
        self._store = store
        self._experiment_id = experiment.id
        self._rows = rows
        self._evaluate_test = evaluate_test
        self._folder = root / experiment_folder(experiment.name, experiment.identity)
        self._split_hash: str | None = experiment.provenance["split_hash"]
        self._molecules = {key: experiment.provenance[key] for key in ("data_hash", "split_hash")}
        self._flights: dict[str, _Flight] = {}
        self._failures = Failures(space.trials)
        self._model = model
        self._say = say
        self._refused_in_a_row = 0
        self.found = self._look_around()
        self._tidy()

    @classmethod
    def launch(
        cls,
        store: Store,
        space: SearchSpace,
        name: str | None = None,
        runs_root: Path = RUNS_ROOT,
        *,
        evaluate_test: bool = False,
        force: bool = False,
        wait: bool = False,
        say: Callable[[str], None] = lambda line: None,
        molecules: Mapping[str, str] = MappingProxyType({}),
        model: CostModel | None = None,
    ) -> Self:
        """Create the study called ``name``, or continue it.

        Args:
            store: made by `Store.create`.
            space: what is searched; for an existing study its own, where the number of trials,
                comments and the description may differ.
            name: of the study; by default the space's.
            runs_root: folder that holds the runs of all studies.
            evaluate_test: whether finished trials record their test loss too, so that the paper's
                choice on the test set can be repeated; it takes no part in the search.
            force: whether to go on with another space, molecules or split; the change is kept in
                the study's provenance.
            wait: whether to wait for the end of another launch that drives the study.
            say: told who drives it while this call waits, and of each draw that is refused.
            molecules: ``data_hash`` and ``split_hash`` that the space gives on this machine.
            model: what configurations cost, needed where the space limits memory or seconds.

        Raises:
            LeaseHeld: another launch drives the study, and ``wait`` is not set.
            InputError: the name cannot be stored, the sampler is unknown, or the study was
                launched with another space, other molecules or another split. Nothing has been
                written.
        """
        name = check_name(space.name if name is None else name)
        if space.budget is not None and space.budget.is_measured and model is None:
            raise InputError(
                "a budget of memory or seconds must come with timings of this machine, got none; "
                "take them with: hpsearch launch SPACE --dry-run"
            )
        # The launch prints what there is to say; Optuna would log every verdict besides.
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = SeededPerTrial(space)
        require_consistent(store, space, name, molecules, force=force)
        experiment = store.begin_experiment("study", name, first_terms(space))
        store.drive(experiment, wait=wait, say=say)
        # Again, now that no other launch can change it.
        stored = (store.experiment("study", name) or experiment).provenance
        require_same_space(name, stored, space, force=force)
        require_same_molecules(name, stored, molecules, force=force)
        forced = [*changes(stored, space), *molecule_changes(stored, molecules)]
        most = max(most_wanted(stored), space.trials)
        experiment = replace(
            experiment,
            provenance=store.update_provenance(
                experiment.id,
                **launch_terms(space),
                trials_wanted_most=most,
                **(_resettled(stored, forced, molecules) if forced else {}),
            ),
        )
        rows = TrialRows(store, name, sampler)
        rows.describe({"space_hash": space.hash, "trials_wanted": space.trials})
        search = cls(
            store, space, experiment, rows, runs_root.absolute(), evaluate_test, model, say
        )
        search.forced = forced
        return search

    # --- Work -------------------------------------------------------------------------------------

    def next(self) -> Assignment | None:
        """A run that was left unfinished, else a new one while verdicts are missing."""
        while self.breakdown is None:
            rows = self._rows.states()
            left_behind = self._left_behind(rows)
            in_flight = count_state(rows, "RUNNING") - len(left_behind)
            if count_verdicts(rows) + in_flight >= self.space.trials:
                for row in left_behind:
                    self._give_up(row, "enough trials are complete without it")
                return None
            if left_behind:
                assignment = self._continue(left_behind[0])
            else:
                trial = self._rows.ask(in_line=count_state(rows, "WAITING") > 0)
                failpoint.reach("asked")
                assignment = self._assign(trial, new=True)
            if assignment is not None:
                return assignment
        return None

    @property
    def finished(self) -> bool:
        """Whether all wanted trials are complete, or the launch has given up."""
        if self.breakdown is not None:
            return True
        rows = self._rows.states()
        enough = count_verdicts(rows) >= self.space.trials
        return enough and not self._left_behind(rows)

    def started(self, key: str, facts: RunFacts) -> None:
        """Record the run's facts; the first run's data and split become the study's.

        Raises:
            InputError: the data or the split are not those of the study's other runs. The launch
                must end: no later run would fare better, and the rows can be continued once the
                data are back.
        """
        flight = self._flight(key)
        if flight is None:
            return
        self._store.record_facts(flight.run_id, facts)
        # Epochs beyond the checkpoint are trained again, on another machine to other numbers and
        # perhaps not to the same end; those before it are told again after this.
        self._store.forget_epochs(flight.run_id, flight.trial_id, after=facts.resumed_from)
        flight.reported = {e: v for e, v in flight.reported.items() if e <= facts.resumed_from}
        given = {"data_hash": facts.data_hash, "split_hash": facts.split_hash}
        settled = self._store.settle(self._experiment_id, **given)
        self._split_hash = settled["split_hash"]
        for what, value in given.items():
            if settled[what] != value:
                raise InputError(
                    f"every run of the study '{self.name}' must see the same molecules; the "
                    f"{what.replace('_', ' ')} was {settled[what][:12]}, run {key} on "
                    f"{facts.host} has {value[:12]}; restore the data, start a new study with "
                    "--study NAME, or go on with --force"
                )
        self._rows.annotate(
            flight.trial_id,
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
        flight = self._flight(key)
        if flight is None:
            return
        self._store.record_epoch(flight.run_id, metrics)
        loss = metrics.validation_loss
        if math.isfinite(loss) and flight.reported.get(metrics.epoch) != loss:
            self._rows.report(flight.trial_id, metrics.epoch, loss)
            flight.reported[metrics.epoch] = loss

    def retried(self, key: str, failure: Failure) -> None:
        """Record why the run is tried again."""
        flight = self._flight(key)
        if flight is not None:
            flight.retries.append(_retry(failure))
            self._rows.annotate(flight.trial_id, {"retries": flight.retries})

    def finish(self, key: str, outcome: Outcome) -> None:
        """Tell the run's verdict, once: its value is the lowest validation loss recorded.

        Raises:
            HpsearchError: the run found no space for its checkpoint, or its machine is not fit for
                any run. Nothing has been told; the next launch goes on with it.
        """
        flight = self._flight(key)
        if flight is None:
            return
        if isinstance(outcome, Failure) and outcome.kind in NO_VERDICTS:
            # No verdict: the row stays RUNNING, for the next launch to continue.
            raise HpsearchError(f"run {key} of the study '{self.name}': {outcome.message}")
        curve = self._store.curve(flight.run_id)
        if isinstance(outcome, Completion) and curve.best_validation_loss is None:
            outcome = Failure("diverged", "no epoch had a validation loss that is a number")
        self._rows.annotate(
            flight.trial_id,
            {"seconds_per_epoch": curve.seconds_per_epoch, "best_epoch": curve.best_epoch},
        )
        if isinstance(outcome, Completion):
            assert curve.best_validation_loss is not None
            measured = {
                "test_loss": outcome.test_loss,
                "peak_memory_bytes": outcome.peak_memory_bytes,
            }
            known = {name: value for name, value in measured.items() if value is not None}
            if known:
                self._rows.annotate(flight.trial_id, known)
            failpoint.reach("before-tell")
            self._rows.complete(flight.trial_id, curve.best_validation_loss)
            self._failures.note_completion()
        else:
            self._fail(flight.trial_id, outcome)
        self._flights.pop(key, None)
        # Only now: until the verdict is told, the folder is what a next launch continues from.
        self._keep_the_best()
        checkpoint.discard(flight.directory, keep_best=int(key) in self._kept)

    # --- Rows -------------------------------------------------------------------------------------

    def _look_around(self) -> Found:
        rows = self._rows.states()
        room = max(self.space.trials - count_verdicts(rows), 0)
        epochs: list[int] = []
        for row in self._left_behind(rows):
            failpoint.reach("reconciling")
            trial = self._rows.read(row.trial_id)
            if trial is not None and "failure" in trial.user_attrs:
                # Its verdict was known, and the launch died before it was told.
                self._rows.fail(row.trial_id)
            elif trial is not None and self._saw_others(trial):
                self._give_up(row, "it was trained on other molecules or another split")
            elif len(epochs) < room:
                epochs.append(0 if trial is None else len(trial.intermediate_values))
            else:
                self._give_up(row, f"only {self.space.trials} trials are wanted now")
        return Found(
            complete=count_state(rows, "COMPLETE"),
            reclaimed=len(epochs),
            left=room - len(epochs),
            pruned=count_state(rows, "PRUNED"),
            epochs=tuple(epochs),
        )

    def _saw_others(self, trial: FrozenTrial) -> bool:
        """Whether a run saw, or was about to see, other molecules than a forced launch settled."""
        if any(
            trial.user_attrs.get(key, settled) != settled
            for key, settled in self._molecules.items()
            if settled is not None
        ):
            return True
        try:
            data = DataConfig.model_validate(trial.user_attrs["config"]["data"])
        except (KeyError, ValidationError):
            return False  # it was not drawn yet, or says itself what is wrong when it goes on
        return data != self.space.data

    def _left_behind(self, rows: list[TrialState]) -> list[TrialState]:
        """RUNNING rows that nobody runs: a dead launch's, or asked twice for want of an answer."""
        flying = {flight.trial_id for flight in self._flights.values()}
        return [row for row in rows if row.state == "RUNNING" and row.trial_id not in flying]

    def _continue(self, row: TrialState) -> Assignment | None:
        key = str(row.number)
        if key in self._flights:
            self._give_up(row, _USED)
            return None
        try:
            run = self._store.run(self._experiment_id, key)
        except ValidationError as error:
            self._give_up(row, f"its stored configuration is not valid any more: {_line(error)}")
            return None
        if run is None:
            trial = self._rows.reopen(row.trial_id)
            return None if trial is None else self._assign(trial, new=False)
        frozen = self._rows.read(row.trial_id)
        if frozen is None:
            return None
        if self.space.parameters and not frozen.params:
            # The run was recorded after its whole draw, so it is not this row's.
            self._give_up(row, _USED)
            return None
        assignment = self._take_off(key, row.trial_id, run.config, frozen.intermediate_values)
        self._flights[key].retries += frozen.user_attrs.get("retries", [])
        return assignment

    def _assign(self, trial: Trial, *, new: bool) -> Assignment | None:
        key, trial_id = str(trial.number), trial._trial_id
        if new and (key in self._flights or self._store.run(self._experiment_id, key) is not None):
            self._give_up(TrialState(trial.number, trial_id, "RUNNING"), _USED)
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
        return self._take_off(key, trial_id, config, {})

    def _refuse(self, number: int, trial_id: int, why: str) -> None:
        reason = f"refused, beyond the budget: {why}"
        self._rows.annotate(trial_id, {"failure_reason": reason, "failure": "refused"})
        self._rows.fail(trial_id)
        self._say(f"trial {number}: {reason}")
        self._refused_in_a_row += 1
        if self._refused_in_a_row >= REFUSALS:
            reason = (
                f"{REFUSALS:,} draws in a row were refused, beyond the budget; the last: {why}; "
                "raise the budget or narrow the space"
            )
            self.breakdown = self.breakdown or Breakdown(reason, "")

    def _take_off(
        self, key: str, trial_id: int, config: TrialConfig, reported: dict[int, float]
    ) -> Assignment:
        directory = str(self._folder / key)
        run = self._store.record_run(self._experiment_id, key, config, directory)
        self._rows.annotate(trial_id, _described(config) | self._quoted(config))
        self._flights[key] = _Flight(trial_id, run.id, dict(reported), Path(directory))
        return Assignment(
            key,
            config,
            directory,
            evaluate_test=self._evaluate_test,
            expected_split=self._split_hash,
        )

    def _quoted(self, config: TrialConfig) -> dict[str, Any]:
        """What the trial should take, to be held against what it takes."""
        if self._model is None or not self._model.reaches(config):
            return {}
        timing = self._model.timing(config)
        return {
            "quoted_epoch_seconds": timing.epoch_seconds,
            "quoted_memory_bytes": timing.memory_bytes,
        }

    def keep_quote(self, quote: Mapping[str, Any]) -> None:
        """Keep what the search was said to cost with the study; the first quote stands."""
        self._store.settle(self._experiment_id, quote=dict(quote))

    def _flight(self, key: str) -> _Flight | None:
        """The run under way; ``None`` for one that has ended, here or in an earlier launch."""
        return self._flights.get(key)

    # --- Files ------------------------------------------------------------------------------------

    def _tidy(self) -> None:
        """Remove files that no row needs any more, and that a launch which died has left."""
        self._kept = self._store.best_trials(self.name, KEPT_WEIGHTS)
        # Of two rows with one number, the one that goes on decides.
        rows = sorted(self._rows.states(), key=lambda row: row.state in ("RUNNING", "WAITING"))
        states = {str(row.number): row.state for row in rows}
        for folder in self._folder.iterdir() if self._folder.is_dir() else ():
            # What has no row, or one that may still be continued, is left alone.
            ended = states.get(folder.name) in ("COMPLETE", "FAIL", "PRUNED")
            if ended and not folder.is_symlink():
                checkpoint.discard(folder, keep_best=int(folder.name) in self._kept)

    def _keep_the_best(self) -> None:
        """Remove the weights of trials that are not among the best complete ones any more."""
        before, self._kept = self._kept, self._store.best_trials(self.name, KEPT_WEIGHTS)
        for number in before - self._kept:
            checkpoint.discard(self._folder / str(number), keep_best=False)

    # --- Failures ---------------------------------------------------------------------------------

    def _give_up(self, row: TrialState, reason: str) -> None:
        self._rows.annotate(row.trial_id, {"failure_reason": reason, "failure": "given_up"})
        self._rows.fail(row.trial_id)
        if str(row.number) not in self._flights:
            checkpoint.discard(self._folder / str(row.number), keep_best=False)

    def _fail(self, trial_id: int, failure: Failure) -> None:
        attributes = {
            "failure_reason": failure.message,
            "failure_traceback": failure.traceback[-LONGEST_TRACEBACK:],
            "failure_epoch": failure.epoch,
            "failure_step": failure.step,
            # Last, because it says that the others are there: see _look_around.
            "failure": failure.kind,
        }
        known = {key: value for key, value in attributes.items() if value not in ("", None)}
        self._rows.annotate(trial_id, known)
        self._rows.fail(trial_id)
        self.breakdown = self.breakdown or self._failures.note(failure)
        if self.breakdown is not None:
            for row in self._left_behind(self._rows.states()):
                self._give_up(row, "the search was given up before it could be continued")


def _resettled(
    provenance: dict[str, Any], forced: list[str], molecules: Mapping[str, str]
) -> dict[str, Any]:
    """What a forced launch changes: molecules and split are this machine's now, no quote holds."""
    before = {key: provenance[key] for key in ("data_hash", "split_hash")}
    when = datetime.now(UTC).isoformat(timespec="seconds")
    history = [*provenance.get("forced", []), {"time": when, "changes": forced, **before}]
    return {**before, **molecules, "forced": history, "quote": None}


def _described(config: TrialConfig) -> dict[str, Any]:
    """What a reader of the dashboard wants beside the parameters: widths are derived from them."""
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
