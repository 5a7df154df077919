"""Begin a study or continue it: checks, the lease, terms, and the rows of a dead launch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from pydantic import ValidationError

from hpsearch.config.run import DataConfig
from hpsearch.config.space import SearchSpace
from hpsearch.cost.model import CostModel
from hpsearch.errors import InputError
from hpsearch.search.failures import drop_attributes
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
from hpsearch.search.trials import TrialFiles, TrialRows
from hpsearch.search.work import Search, StartCounts
from hpsearch.store import Experiment, Store, check_name, experiment_folder
from hpsearch.system import failpoint

RUNS_ROOT = Path("storage/runs")


def launch_study(
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
) -> Search:
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
        say: called with who drives the study while this call waits, and with each refused draw.
        molecules: ``data_hash`` and ``split_hash`` that the space gives on this machine.
        model: what configurations cost, needed where the space limits memory or seconds.

    Raises:
        LeaseHeld: another launch drives the study, and ``wait`` is not set.
        InputError: the name cannot be stored, the sampler is unknown, or the study was
            launched with another space, other molecules or another split. Nothing has been
            written.
    """
    name = check_name(space.name if name is None else name)
    _require_timings(space, model)
    # The launch prints what there is to say; Optuna would log every verdict besides.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = SeededPerTrial(space)
    require_consistent(store, space, name, molecules, force=force)
    experiment = store.begin_experiment("study", name, first_terms(space))
    store.drive(experiment, wait=wait, say=say)
    experiment, forced = _record_terms(store, experiment, space, molecules, force=force)
    rows = TrialRows(store, name, sampler)
    rows.describe({"space_hash": space.hash, "trials_wanted": space.trials})
    folder = runs_root.absolute() / experiment_folder(name, experiment.identity)
    files = TrialFiles(store, name, folder)
    at_start = _resume_or_end(rows, files, space, experiment.provenance)
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
        say=say,
    )


def _require_timings(space: SearchSpace, model: CostModel | None) -> None:
    if space.budget is not None and space.budget.is_measured and model is None:
        raise InputError(
            "a budget of memory or seconds must come with timings of this machine, got none; "
            "take them with: hpsearch launch SPACE --dry-run"
        )


# --- Terms ----------------------------------------------------------------------------------------


def _record_terms(
    store: Store,
    experiment: Experiment,
    space: SearchSpace,
    molecules: Mapping[str, str],
    *,
    force: bool,
) -> tuple[Experiment, list[str]]:
    """The study with this launch's terms, and the changes that it was forced to accept.

    Raises:
        InputError: another launch has given the study other terms before the lease was taken.
    """
    name = experiment.name
    # Again, now that no other launch can change it.
    stored = (store.experiment("study", name) or experiment).provenance
    require_same_space(name, stored, space, force=force)
    require_same_molecules(name, stored, molecules, force=force)
    forced = [*changes(stored, space), *molecule_changes(stored, molecules)]
    provenance = store.update_provenance(
        experiment.id,
        **launch_terms(space),
        trials_wanted_most=max(most_wanted(stored), space.trials),
        **(_forced_terms(stored, forced, molecules) if forced else {}),
    )
    return replace(experiment, provenance=provenance), forced


def _forced_terms(
    provenance: dict[str, Any], forced: list[str], molecules: Mapping[str, str]
) -> dict[str, Any]:
    """What a forced launch changes: this machine's molecules and split hold, and no quote does."""
    before = {key: provenance[key] for key in ("data_hash", "split_hash")}
    when = datetime.now(UTC).isoformat(timespec="seconds")
    history = [*provenance.get("forced", []), {"time": when, "changes": forced, **before}]
    return {**before, **molecules, "forced": history, "quote": None}


# --- What a dead launch left ----------------------------------------------------------------------


def _resume_or_end(
    rows: TrialRows, files: TrialFiles, space: SearchSpace, provenance: Mapping[str, Any]
) -> StartCounts:
    """End the RUNNING rows that cannot go on; the others are the search's to continue.

    Only the launch that has the lease may call it: it takes every RUNNING row for abandoned.
    """
    states = rows.states()
    room = max(space.trials - count_verdicts(states), 0)
    epochs: list[int] = []
    for row in states:
        if row.state != "RUNNING":
            continue
        failpoint.reach("reconciling")
        trial = rows.read(row.trial_id)
        if trial is not None and "failure" in trial.user_attrs:
            # Its verdict was known, and the launch died before it ended the row.
            rows.fail(row.trial_id)
            continue
        if trial is not None and _used_other_molecules(trial, space, provenance):
            reason = "it was trained on other molecules or another split"
        elif len(epochs) < room:
            epochs.append(0 if trial is None else len(trial.intermediate_values))
            continue
        else:
            reason = f"only {space.trials} trials are wanted now"
        rows.fail_because(row.trial_id, drop_attributes(reason))
        files.remove(row.number)
    return StartCounts(
        complete=count_state(states, "COMPLETE"),
        reclaimed=len(epochs),
        left=room - len(epochs),
        pruned=count_state(states, "PRUNED"),
        epochs=tuple(epochs),
    )


def _used_other_molecules(
    trial: FrozenTrial, space: SearchSpace, provenance: Mapping[str, Any]
) -> bool:
    """Whether a run saw, or was about to see, other molecules than a forced launch accepted."""
    hashes = {key: provenance[key] for key in ("data_hash", "split_hash")}
    if any(
        trial.user_attrs.get(key, accepted) != accepted
        for key, accepted in hashes.items()
        if accepted is not None
    ):
        return True
    try:
        data = DataConfig.model_validate(trial.user_attrs["config"]["data"])
    except (KeyError, ValidationError):
        return False  # it was not drawn yet, or says itself what is wrong when it goes on
    return data != space.data
