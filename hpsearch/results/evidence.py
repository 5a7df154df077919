"""What the store says of an ablation and of the search behind it, for those who check it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from hpsearch.data.molecule import Molecules
from hpsearch.store import Store

State = Literal["unbroken", "broken", "unknown"]

_DIGITS = 12
"""Of a hash; a commit's are as many."""

_SHOWN = 3
"""Findings of one link that are told; the others are counted."""

BY_HAND = "the configuration was written by hand"


@dataclass(frozen=True)
class Link:
    """One link of the chain.

    Attributes:
        name: ``data``, ``split``, ``space``, ``study``, ``export``, ``runs``, ``code`` or
            ``environment``.
        value: what was recorded, in short.
        state: ``unbroken`` if everything that could be compared agrees, ``broken`` if something
            does not, ``unknown`` if something that must be compared is not there.
        detail: one line that says why.
    """

    name: str
    value: str
    state: State
    detail: str


@dataclass(frozen=True)
class Search:
    """What the store says of the search that an export comes from.

    Attributes:
        provenance: of the study.
        state: of the exported trial, as Optuna has it; ``None`` if it has no such trial.
        run: the trial's row in our table, empty if there is none.
        best_loss: lowest validation loss among the trial's epochs.
    """

    provenance: dict[str, Any]
    state: str | None
    run: dict[str, Any]
    best_loss: float | None


@dataclass(frozen=True)
class Evidence:
    """Everything that the links are checked with.

    Attributes:
        ablation: the experiment's provenance.
        export: the configuration that was exported, with its origin.
        origin: where the export comes from; ``None`` if it was written by hand or is not recorded.
        search: the study of that origin; ``None`` if this store does not have it.
        runs: the ablation's networks.
        molecules: this machine's.
    """

    ablation: dict[str, Any]
    export: dict[str, Any]
    origin: dict[str, Any] | None
    search: Search | None
    runs: pd.DataFrame
    molecules: Molecules | None

    @classmethod
    def read(cls, store: Store, ablation: str, molecules: Molecules | None) -> Evidence:
        """What ``store`` says of the ablation.

        Raises:
            InputError: it has no such ablation.
        """
        experiment = store.find(ablation, "ablation")
        export = experiment.provenance.get("winner") or {}
        origin = export.get("provenance")
        return cls(
            ablation=experiment.provenance,
            export=export,
            origin=origin,
            search=None if origin is None else _read_search(store, origin),
            runs=store.runs(experiment.id),
            molecules=molecules,
        )

    @property
    def no_origin(self) -> str:
        """Why nothing can be said of a search."""
        return BY_HAND if self.export else "the export is not recorded"

    def seen_by_runs(self, column: str) -> list[tuple[str, str]]:
        """Who and what: each distinct value of a column, with the runs that have it."""
        known = self.runs.dropna(subset=[column])
        groups = known.groupby(column, sort=False)["key"]
        return [(_named(keys.tolist()), str(value)) for value, keys in groups]


def _read_search(store: Store, origin: Mapping[str, Any]) -> Search | None:
    name, trial = str(origin.get("study")), str(origin.get("trial"))
    experiment = store.experiment("study", name)
    if experiment is None:
        return None
    states = {str(row.number): row.state for row in store.trial_states(name) or []}
    runs = store.runs(experiment.id)
    found: list[dict[Any, Any]] = runs[runs["key"] == trial].to_dict("records")
    run = found[0] if found else {}
    best = store.curve(run["run_id"]).best_validation_loss if run else None
    return Search(experiment.provenance, states.get(trial), run, best)


def _named(keys: list[str]) -> str:
    more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
    return f"the run {keys[0]}{more}"


# --- Comparing ------------------------------------------------------------------------------------


def link(name: str, value: str, sound: str, broken: list[str], unknown: list[str]) -> Link:
    """A link whose worst finding decides, with all findings of that kind."""
    state: State = "broken" if broken else "unknown" if unknown else "unbroken"
    findings = list(dict.fromkeys(broken or unknown))
    more = len(findings) - _SHOWN
    said = "; ".join(findings[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
    return Link(name, value, state, said or sound)


def known(who: str, value: Any) -> list[tuple[str, str]]:
    """Who recorded what, or nothing where it is missing."""
    return [] if value is None or pd.isna(value) else [(who, str(value))]


def disagreements(seen: list[tuple[str, str]]) -> list[str]:
    """Everyone whose value is not the first one's."""
    who, first = seen[0]
    return [
        f"{other} has {short(value)}, {who} {short(first)}"
        for other, value in seen
        if value != first
    ]


def short(digest: object) -> str:
    """The first digits of a hash."""
    return str(digest)[:_DIGITS]
