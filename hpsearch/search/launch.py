"""Create or continue a study: the checks, the lease, and the trials of an earlier launch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import optuna
from pydantic import ValidationError

from hpsearch.config.architecture import weights_of
from hpsearch.config.run import DataConfig
from hpsearch.config.rungs import Rungs
from hpsearch.config.space import SearchSpace
from hpsearch.cost.model import CostModel, refusal
from hpsearch.search.failures import drop_attributes
from hpsearch.search.quote import random_configs
from hpsearch.search.samplers import SeededPerTrial
from hpsearch.search.start import KnownTrial, not_enqueued, start_lines
from hpsearch.search.stopping import EarlyStopping
from hpsearch.search.terms import (
    COLUMNS,
    changes,
    count_finished,
    count_state,
    first_terms,
    last_wanted,
    launch_terms,
    molecule_changes,
    most_wanted,
    require_consistent,
    require_same_molecules,
    require_same_space,
    with_trials,
)
from hpsearch.search.trials import TrialFiles, TrialRows
from hpsearch.search.work import Search, StartCounts
from hpsearch.store import Experiment, Store, StoreReader, normal_form
from hpsearch.system import failpoint
from hpsearch.system.errors import InputError

DRAWS_TRIED = 1000
"""Random draws, of which one must be within the budget; trying them takes some seconds."""

RUNS_ROOT = Path("storage/runs")


def launch_study(
    store: Store,
    space: SearchSpace,
    name: str | None = None,
    runs_root: Path = RUNS_ROOT,
    *,
    evaluate_test: bool = False,
    force: bool = False,
    keep_trials: bool = False,
    wait: bool = False,
    say: Callable[[str], None] = lambda line: None,
    molecules: Mapping[str, Any] = MappingProxyType({}),
    model: CostModel | None = None,
    known: Sequence[KnownTrial] = (),
) -> Search:
    """Create the study called ``name``, or continue it.

    Args:
        store: opened by `Store.create`.
        space: the search space. It must equal the space of an existing study, except for the
            number of trials, comments and the description.
        name: the study's name; by default the space's name.
        runs_root: folder that contains the runs of all studies.
        evaluate_test: whether complete trials record their test loss, which the search does not
            use. With it, the paper's choice on the test set can be repeated.
        force: whether to accept another space, molecules or split; the change is recorded in the
            study's provenance.
        keep_trials: whether an existing study keeps its number of trials if that is larger than the
            space's, so that none of its trials is ended.
        wait: whether to wait for the end of another launch that drives the study.
        say: called with the driver of the study if this call waits, with the number of trials that
            the study keeps, and with each refused trial.
        molecules: ``data_hash`` and ``split_hash`` of the space on this machine, for own molecules
            also the hashes of their columns.
        model: the cost model, needed if the space limits memory or seconds.
        known: trials with known configurations, which come first.

    Raises:
        LeaseHeld: another launch drives the study, and ``wait`` is not set.
        InputError: the name cannot be stored, the sampler is unknown, the study was launched with
            another space, other molecules or another split, or it has no trials left for the known
            ones. Nothing was written.
    """
    asked = space.name if name is None else name
    name = store.launch_name("study", asked)
    if name != normal_form(asked):
        say(f"the study '{asked}' was renamed to '{name}', and continues")
    if force:
        space = _with_recorded_rungs(store, space, name, say)
    check_budget(space, model)
    check_rung_seconds(space, model)
    # The launch prints each trial's result; Optuna would log it again.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = SeededPerTrial(space)
    require_consistent(store, space, name, molecules, force=force)
    require_room(store, space, name, known, keep_trials=keep_trials)
    experiment = store.begin_experiment("study", name, first_terms(space))
    store.drive(experiment, wait=wait, say=say)
    if keep_trials:
        space = _keep_trials(store, experiment, space, say)
    experiment, forced = _record_terms(store, experiment, space, molecules, force=force)
    rows = TrialRows(store, name, sampler)
    rows.describe({"space_hash": space.hash, "trials_wanted": space.trials})
    folder = runs_root.absolute() / experiment.folder_name
    files = TrialFiles(store, name, folder)
    stopping = early_stopping(store, experiment, model)
    failpoint.reach("enqueuing")
    for line in start_lines(space, rows.enqueue(known)):
        say(line)
    at_start = _resume_or_end(rows, files, space, experiment.provenance, stopping)
    files.remove_unneeded(rows.states())
    return Search(
        store,
        experiment,
        space,
        rows,
        files,
        at_start,
        forced=forced,
        evaluate_test=evaluate_test,
        model=model,
        stopping=stopping,
        say=say,
    )


def early_stopping(
    store: Store, experiment: Experiment, model: CostModel | None
) -> EarlyStopping | None:
    """Return the early stopping of a study; ``None`` if its trials are trained to their end.

    The first launch records the rungs. Later launches keep them, because the recorded decisions
    follow from them.
    """
    recorded = experiment.provenance.get("rungs")
    if recorded is None:
        return None
    return EarlyStopping(Rungs.model_validate(recorded), store, experiment.id, model)


def check_rung_seconds(space: SearchSpace, model: CostModel | None) -> None:
    """Raise an error if the rungs are in seconds and nothing was timed.

    Args:
        space: the search space.
        model: the cost model; ``None`` if nothing was timed.

    Raises:
        InputError: the rungs need timings.
    """
    if space.rungs is not None and space.rungs.seconds is not None and model is None:
        raise InputError(
            "rungs in seconds need timings of this machine, got none; make them with: hpsearch "
            "launch SPACE --dry-run"
        )


def _with_recorded_rungs(
    store: Store, space: SearchSpace, name: str, say: Callable[[str], None]
) -> SearchSpace:
    """Return the space with the rungs of the study, because its decisions follow from them."""
    experiment = store.experiment("study", name)
    if experiment is None:
        return space
    recorded = experiment.provenance["space"]["content"].get("rungs")
    rungs = None if recorded is None else Rungs.model_validate(recorded)
    if rungs != space.rungs:
        say("the study keeps its rungs, which cannot change within a study")
    return space.model_copy(update={"rungs": rungs})


def require_room(
    store: StoreReader,
    space: SearchSpace,
    name: str,
    known: Sequence[KnownTrial],
    *,
    keep_trials: bool = True,
) -> None:
    """Raise an error if the study cannot train all known trials; only read the store.

    Args:
        store: the store that may have the study.
        space: the space of the launch.
        name: of the study.
        known: the known trials.
        keep_trials: whether an existing study keeps its larger number of trials.

    Raises:
        InputError: fewer trials are left than would be enqueued.
    """
    missing = not_enqueued(store, name, known)
    experiment = store.experiment("study", name) if missing else None
    wanted, begun = space.trials, 0
    if experiment is not None:
        wanted = max(wanted, last_wanted(experiment.provenance) if keep_trials else 0)
        trials = store.open_trials(name)
        begun = 0 if trials is None else trials.finished + trials.running_count + trials.waiting
    if missing and begun + len(missing) > wanted:
        raise InputError(
            f"the study '{name}' must have a trial for each of {len(missing)} known "
            f"configurations, got {max(wanted - begun, 0)} of {wanted} trials left; use --trials "
            f"{begun + len(missing)}"
        )


def check_budget(space: SearchSpace, model: CostModel | None) -> None:
    """Raise an error if the budget cannot be judged, or if no trial would be within it.

    Args:
        space: the search space.
        model: the cost model; ``None`` if nothing was timed.

    Raises:
        InputError: the budget needs timings, or it refuses each of many random draws.
    """
    if space.budget is None:
        return
    if space.budget.is_measured and model is None:
        raise InputError(
            "a budget of memory or seconds needs timings of this machine, got none; make them "
            "with: hpsearch launch SPACE --dry-run"
        )
    refused: list[tuple[int, str]] = []
    for config in itertools.islice(random_configs(space), DRAWS_TRIED):
        reason = refusal(space.budget, config, model)
        if reason is None:
            return
        refused.append((weights_of(config), reason))
    if refused:
        _, lightest = min(refused)
        raise InputError(
            f"the budget must allow some configurations of the space; it refuses all of "
            f"{len(refused):,} random draws, the lightest with {lightest}; raise the budget or "
            "narrow the space"
        )


# --- Terms ----------------------------------------------------------------------------------------


def _keep_trials(
    store: Store, experiment: Experiment, space: SearchSpace, say: Callable[[str], None]
) -> SearchSpace:
    """Return the space with the study's number of trials, if that is larger."""
    stored = (store.experiment("study", experiment.name) or experiment).provenance
    kept = with_trials(space, last_wanted(stored))
    if kept is not space:
        say(
            f"the study keeps its {kept.trials} trials; the space has {space.trials} "
            f"(--trials {space.trials} asks for fewer)"
        )
    return kept


def _record_terms(
    store: Store,
    experiment: Experiment,
    space: SearchSpace,
    molecules: Mapping[str, Any],
    *,
    force: bool,
) -> tuple[Experiment, list[str]]:
    """Record this launch's terms; return the study and the changes that ``force`` accepted.

    Raises:
        InputError: another launch changed the study's terms before the lease was taken.
    """
    name = experiment.name
    # Read again, now that no other launch can change it.
    stored = (store.experiment("study", name) or experiment).provenance
    require_same_space(name, stored, space, force=force)
    require_same_molecules(name, stored, molecules, force=force)
    forced = [*changes(stored, space), *molecule_changes(stored, molecules)]
    columns = {} if stored.get(COLUMNS) or COLUMNS not in molecules else molecules[COLUMNS]
    provenance = store.update_provenance(
        experiment.id,
        **launch_terms(space),
        **({COLUMNS: columns} if columns else {}),
        trials_wanted_most=max(most_wanted(stored), space.trials),
        **(_forced_terms(stored, forced, molecules) if forced else {}),
    )
    return replace(experiment, provenance=provenance), forced


def _forced_terms(
    provenance: dict[str, Any], forced: list[str], molecules: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the changed terms of a forced launch: new molecules and split, and no estimate."""
    before = {key: provenance[key] for key in ("data_hash", "split_hash")}
    when = datetime.now(UTC).isoformat(timespec="seconds")
    history = [*provenance.get("forced", []), {"time": when, "changes": forced, **before}]
    return {**before, **molecules, "forced": history, "quote": None}


# --- Trials of an earlier launch ------------------------------------------------------------------


def _resume_or_end(
    rows: TrialRows,
    files: TrialFiles,
    space: SearchSpace,
    provenance: Mapping[str, Any],
    stopping: EarlyStopping | None,
) -> StartCounts:
    """End the RUNNING rows that cannot be resumed; the search resumes the others.

    A paused trial stays: what becomes of it is decided by its losses.

    Only the launch with the lease may call this: every RUNNING row is treated as abandoned.
    """
    states = rows.states()
    waiting = () if stopping is None else set(stopping.paused)
    paused = {row.number for row in states if row.state == "RUNNING" and str(row.number) in waiting}
    room = max(space.trials - count_finished(states) - len(paused), 0)
    epochs: list[int] = []
    # Read at once, because many trials may be paused.
    known = rows.running_attributes("failure", "config", *_HASHES)
    for row in states:
        if row.state != "RUNNING":
            continue
        failpoint.reach("reconciling")
        attributes = known.get(row.trial_id, {})
        if stopping is not None and stopping.was_pruned(str(row.number)):
            # The launch died between its decision and this.
            rows.end_pruned(row.trial_id, stopping.pruned_loss(str(row.number)))
            continue
        if "failure" in attributes:
            # The trial failed, and the launch died before it ended the row.
            rows.fail(row.trial_id)
            continue
        if _used_other_molecules(attributes, space, provenance):
            reason = "it was trained on other molecules or another split"
        elif row.number in paused:
            continue
        elif len(epochs) < room:
            trial = rows.read(row.trial_id)
            epochs.append(0 if trial is None else len(trial.intermediate_values))
            continue
        else:
            reason = f"only {space.trials} trials are wanted now"
        if stopping is not None:
            stopping.end(str(row.number), "failed")
        rows.fail_because(row.trial_id, drop_attributes(reason))
        files.remove(row.number)
    return StartCounts(
        complete=count_state(states, "COMPLETE"),
        resumed=len(epochs),
        left=room - len(epochs),
        pruned=count_state(states, "PRUNED"),
        paused=len(paused),
        epochs=tuple(epochs),
    )


_HASHES = ("data_hash", "split_hash")


def _used_other_molecules(
    attributes: Mapping[str, Any], space: SearchSpace, provenance: Mapping[str, Any]
) -> bool:
    """Whether a run used, or would use, other molecules than the study's present ones.

    Args:
        attributes: of the trial.
        space: of the launch.
        provenance: of the study.
    """
    hashes = {key: provenance[key] for key in _HASHES}
    if any(
        attributes.get(key, accepted) != accepted
        for key, accepted in hashes.items()
        if accepted is not None
    ):
        return True
    try:
        data = DataConfig.model_validate(attributes["config"]["data"])
    except (KeyError, ValidationError):
        return False  # not sampled yet, or the error is reported when the trial is resumed
    return data != space.data
