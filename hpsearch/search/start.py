"""Known configurations as the first trials of a study: reading and enqueuing them."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpsearch.config.export import find_configuration
from hpsearch.config.run import TrialConfig, fingerprint
from hpsearch.config.start import Start, other_terms, parameters_of
from hpsearch.system.errors import InputError

if TYPE_CHECKING:
    from hpsearch.config.space import SearchSpace
    from hpsearch.search.study import Study
    from hpsearch.store import StoreReader

ORIGIN_KEY = "origin_key"
"""The attribute of an enqueued trial that says for which entry it was enqueued."""


@dataclass(frozen=True)
class KnownTrial:
    """A trial with a known configuration.

    Attributes:
        origin: where the configuration comes from, as the tables show it.
        key: equal for the trials of one entry of ``start_with`` that is enqueued only once.
        parameters: the searched parameters.
        config: the configuration, with the terms of its origin.
        repeats: number of trials with these parameters.
        of_study: whether the entry names a study. Its best trials may change, so all trials of the
            entry have the same key.
    """

    origin: str
    key: str
    parameters: dict[str, Any]
    config: TrialConfig
    repeats: int
    of_study: bool


def known_trials(
    space: SearchSpace, starts: Sequence[Start], store: StoreReader | None
) -> list[KnownTrial]:
    """Return the trials of all entries, in their order; only read.

    Args:
        space: the space of the study.
        starts: the entries of its ``start_with`` and of the launch.
        store: the store with the studies that entries name; ``None`` if none names a study.

    Raises:
        InputError: a configuration cannot be read or is outside the space, or a study or a trial
            does not exist.
    """
    found: dict[tuple[str, str], KnownTrial] = {}
    for start in starts:
        for origin, entry, config in _configs(start, store):
            try:
                parameters = parameters_of(space, config)
            except ValueError as error:
                raise InputError(
                    f"start_with: {origin} must be within the space: {error}; leave it out, or "
                    "widen the space"
                ) from None
            same = fingerprint(parameters)
            trial = KnownTrial(
                origin, entry or same, parameters, config, start.repeats, entry is not None
            )
            found.setdefault((trial.key, same), trial)
    return list(found.values())


def _configs(
    start: Start, store: StoreReader | None
) -> Iterator[tuple[str, str | None, TrialConfig]]:
    """Yield origin, text of the entry of a study, and configuration."""
    if start.configuration is not None:
        winner = find_configuration(start.configuration)
        source = winner.provenance if winner.untouched else None
        origin = winner.name if source is None else f"{source.study}, trial {source.trial}"
        yield origin, None, winner.config
        return
    assert start.study is not None and store is not None
    # Imported only here, because a launch without such an entry needs no table of trials.
    from hpsearch.search.study import Study

    study = Study.open(store, start.study)
    entry = f"{study.name}: {start.best or list(start.trials or ())}"
    for number in start.trials or _best(study, start.best or 1):
        config = study.config(number)
        if config is None:
            raise InputError(
                f"start_with: trial {number} must have a configuration in the study "
                f"'{study.name}', got none; name another trial"
            )
        yield f"{study.name}, trial {number}", entry, config


def _best(study: Study, count: int) -> list[int]:
    """Return the numbers of the best complete trials, best first."""
    complete = sorted(
        (trial.value, trial.number)
        for trial in study.records(facts=False, parameters=False)
        if trial.state == "COMPLETE" and trial.value is not None and math.isfinite(trial.value)
    )
    if len(complete) < count:
        raise InputError(
            f"start_with: the study '{study.name}' must have {count} complete trials, got "
            f"{len(complete)}; ask for fewer"
        )
    return [number for _, number in complete[:count]]


def missing_trials(known: Sequence[KnownTrial], enqueued: Iterable[str]) -> list[KnownTrial]:
    """Return the trials to enqueue, one for each repeat, in the order of the entries.

    Args:
        known: the trials of all entries.
        enqueued: the keys of the trials that the study has already.
    """
    before = Counter(enqueued)
    return [
        trial
        for trial in known
        for repeat in range(trial.repeats)
        # All trials of a study's entry are enqueued in one transaction, so one of them means all.
        if not before[trial.key] or (not trial.of_study and before[trial.key] <= repeat)
    ]


def not_enqueued(store: StoreReader, study: str, known: Sequence[KnownTrial]) -> list[KnownTrial]:
    """Return the known trials that the study called ``study`` does not have yet."""
    if not known:
        return []
    return missing_trials(known, store.attribute_values(study, ORIGIN_KEY).values())


def start_lines(space: SearchSpace, trials: Sequence[KnownTrial]) -> Iterator[str]:
    """Yield a line for each known configuration, with the terms that the study changes.

    Args:
        space: the space of the study.
        trials: one for each repeat.
    """
    for origin, same in itertools.groupby(trials, key=lambda trial: trial.origin):
        first, *others = same
        times = f", {1 + len(others)} times" if others else ""
        terms = ", ".join(other_terms(space, first.config))
        yield f"starts with: {origin}{times}{f' (here {terms})' if terms else ''}"
