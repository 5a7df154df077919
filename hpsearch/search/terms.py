"""The terms of a study (space, molecules, split), which a new launch must not change."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hpsearch.system import installation
from hpsearch.system.errors import InputError

if TYPE_CHECKING:
    from hpsearch.config.space import SearchSpace
    from hpsearch.store import StoreReader, TrialState

_FREE = ("trials", "description", "start_with")
"""Entries of the space that may differ between launches of a study."""

COLUMNS = "columns"
"""Key of the hashes of the columns of own molecules, which say what has changed."""

_SHOWN = 6

_KEPT = re.compile(r"parameters\.[^.]+\.(choices|type|scale):")
"""Changes that Optuna refuses: a parameter must have the same kind of distribution throughout."""


def first_terms(space: SearchSpace) -> dict[str, Any]:
    """Return the provenance of a new study; its first run sets the hashes."""
    rungs = space.early_stopping
    recorded = {} if rungs is None else {"rungs": rungs.model_dump(mode="json")}
    return {"data_hash": None, "split_hash": None, **recorded, **launch_terms(space)}


def launch_terms(space: SearchSpace) -> dict[str, Any]:
    """Return the entries that every launch records: number of trials, comments and code."""
    return {"space": space.to_provenance(), **installation.code()}


def most_wanted(stored: Mapping[str, Any]) -> int:
    """Return the largest number of trials that any launch of the study wanted.

    The oldest studies recorded only the number of the last launch.
    """
    return int(stored.get("trials_wanted_most") or last_wanted(stored))


def last_wanted(stored: Mapping[str, Any]) -> int:
    """Return the number of trials that the study's last launch wanted."""
    return int(stored["space"]["content"]["trials"])


def with_trials(space: SearchSpace, wanted: int) -> SearchSpace:
    """Return ``space`` with ``wanted`` trials if that is more than it has.

    A launch that does not name a number must not end the trials that an earlier launch asked for.
    """
    return space if wanted <= space.trials else space.with_overrides(trials=wanted)


def changes(stored: Mapping[str, Any], space: SearchSpace) -> list[str]:
    """Return the differences between the study's space and ``space``: ``name: before -> after``."""
    before = dict(_flat(stored["space"]["content"]))
    now = dict(_flat(space.to_provenance()["content"]))
    return [
        f"{key}: {_shown(before, key)} -> {_shown(now, key)}"
        for key in sorted(before.keys() | now.keys())
        if key not in _FREE and before.get(key) != now.get(key)
    ]


def require_same_space(
    name: str, stored: Mapping[str, Any], space: SearchSpace, *, force: bool
) -> None:
    """Raise an error unless ``space`` equals the study's, except for trials and comments.

    Args:
        name: of the study.
        stored: its provenance.
        space: of this launch.
        force: whether to accept changes, except those that Optuna refuses.

    Raises:
        InputError: it names the differences, stored value first.
    """
    different = changes(stored, space)
    kept = [change for change in different if _KEPT.match(change)]
    if not (kept if force else different):
        return
    shown = kept if force else different
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    fix = "--study NAME, which begins a new study"
    fix += "" if kept else ", or with --force, which continues this one"
    refused = ", and choices, types and scales cannot change within a study" if kept else ""
    raise InputError(
        f"the study '{name}' was launched with another space: {', '.join(shown[:_SHOWN])}{more}"
        f"{refused}; undo the change, or run the same command with {fix}"
    )


def molecule_changes(stored: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return which of the molecules and the split have changed: ``name: before -> after``.

    Args:
        stored: the study's provenance.
        found: ``data_hash`` and ``split_hash`` on this machine, for own molecules also
            :data:`COLUMNS`; empty if unknown.
    """
    different = [
        f"{key.replace('_', ' ')}: {stored[key][:12]} -> {value[:12]}"
        for key, value in found.items()
        if key != COLUMNS and stored.get(key) not in (None, value)
    ]
    before, now = stored.get(COLUMNS) or {}, found.get(COLUMNS) or {}
    if not different or not before or not now:
        return different
    columns = [
        f"{name}: {before.get(name, '(none)')[:12]} -> {now.get(name, '(none)')[:12]}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]
    return [*different, *columns]


def require_same_molecules(
    name: str, stored: Mapping[str, Any], found: Mapping[str, Any], *, force: bool
) -> None:
    """Raise an error unless this machine has the molecules and the split of the study's runs.

    Without this check the runs would detect it one by one and fail, and unfinished trials would be
    lost.

    Args:
        name: of the study.
        stored: its provenance.
        found: ``data_hash`` and ``split_hash`` on this machine, for own molecules also
            :data:`COLUMNS`; empty if unknown.
        force: whether others are accepted.

    Raises:
        InputError: it names the differences, stored value first.
    """
    different = molecule_changes(stored, found)
    if different and not force:
        raise InputError(
            f"the study '{name}' was launched with other molecules or another split: "
            f"{', '.join(different)}; restore the data, start a new study with --study NAME, or "
            "continue with --force"
        )


def finished_trials(
    store: StoreReader,
    space: SearchSpace,
    name: str,
    molecules: Mapping[str, Any] = MappingProxyType({}),
    *,
    force: bool = False,
) -> tuple[int, int] | None:
    """Return how many trials of a study are finished, and how many it wants; only read the store.

    Args:
        store: the store that may have the study.
        space: the search space of the launch.
        name: of the study.
        molecules: ``data_hash`` and ``split_hash`` of the space on this machine.
        force: whether another space, molecules or split are accepted.

    Returns:
        Complete and pruned trials, and the number that the last launch wanted; ``None`` if there is
        no such study.

    Raises:
        InputError: the launch would raise it too.
    """
    require_consistent(store, space, name, molecules, force=force)
    rows, experiment = store.trial_states(name), store.experiment("study", name)
    if rows is None or experiment is None:
        return None
    return count_finished(rows), last_wanted(experiment.provenance)


def require_consistent(
    store: StoreReader, space: SearchSpace, name: str, molecules: Mapping[str, Any], *, force: bool
) -> None:
    """Raise an error if a launch would mix two studies; only read the store."""
    in_optuna = store.trial_states(name) is not None
    # Read second: a launch that starts just now creates the experiment before Optuna's study.
    experiment = store.experiment("study", name)
    if experiment is None and in_optuna:
        raise InputError(
            f"the store {store.label} has a study '{name}' that hpsearch did not make; "
            "choose another name with --study NAME"
        )
    if experiment is None:
        return
    require_same_space(name, experiment.provenance, space, force=force)
    require_same_molecules(name, experiment.provenance, molecules, force=force)
    if not in_optuna and len(store.runs(experiment.id)):
        raise InputError(
            f"the trials of the study '{name}' were deleted or renamed outside hpsearch; "
            "choose another name with --study NAME"
        )


def count_state(rows: list[TrialState], state: str) -> int:
    """Return how many of ``rows`` are in ``state``."""
    return sum(row.state == state for row in rows)


def count_finished(rows: list[TrialState]) -> int:
    """Return how many of ``rows`` are finished: complete or pruned."""
    return count_state(rows, "COMPLETE") + count_state(rows, "PRUNED")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if key == "targets" and isinstance(value, list) and _are_declared(value):
            # Their order is that of the network's outputs.
            yield prefix + key, [each["name"] for each in value]
            yield from _flat({each["name"]: _rest(each) for each in value}, f"{prefix}{key}.")
        elif isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _are_declared(targets: list[Any]) -> bool:
    return all(isinstance(each, Mapping) and "name" in each for each in targets)


def _rest(target: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in target.items() if key != "name"}


def _shown(values: Mapping[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "(none)"
