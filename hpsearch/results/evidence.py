"""What the store says of an ablation and of the search behind it, for those who check it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from hpsearch.data.molecule import Molecules
from hpsearch.results.findings import AblationFindings, SearchFindings

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
class ExportedTrial:
    """What the store says of the trial that an export comes from.

    Attributes:
        provenance: of its study.
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
        search: the trial of that origin; ``None`` if this store does not have its study.
        runs: the ablation's networks.
        molecules: this machine's.
    """

    ablation: dict[str, Any]
    export: dict[str, Any]
    origin: dict[str, Any] | None
    search: ExportedTrial | None
    runs: pd.DataFrame
    molecules: Molecules | None

    @classmethod
    def of(
        cls, ablation: AblationFindings, search: SearchFindings | None, molecules: Molecules | None
    ) -> Evidence:
        """What is known of the ablation and of the search that it comes from."""
        export = ablation.provenance.get("winner") or {}
        origin = export.get("provenance")
        return cls(
            ablation=ablation.provenance,
            export=export,
            origin=origin,
            search=None if origin is None or search is None else _exported(search, origin),
            runs=ablation.rows.runs,
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


def _exported(search: SearchFindings, origin: Mapping[str, Any]) -> ExportedTrial:
    trial = str(origin.get("trial"))
    rows = search.rows
    states = {str(row.number): row.state.name for row in rows.trials}
    found: list[dict[Any, Any]] = rows.runs[rows.runs["key"] == trial].to_dict("records")
    losses = rows.epochs.loc[rows.epochs["key"] == trial, "validation_loss"].dropna()
    return ExportedTrial(
        provenance=search.study.provenance,
        state=states.get(trial),
        run=found[0] if found else {},
        best_loss=float(losses.min()) if len(losses) else None,
    )


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
