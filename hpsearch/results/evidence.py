"""The records that the chain of provenance is checked with, and how two records are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from hpsearch.data.molecule import Molecules
from hpsearch.results.findings import AblationFindings, SearchFindings

State = Literal["unbroken", "broken", "unknown"]

_DIGITS = 12
"""Digits shown of a hash or a commit."""

_SHOWN = 3
"""Most problems of one link that are written out; the others are only counted."""

BY_HAND = "the configuration was written by hand"


@dataclass(frozen=True)
class Link:
    """One link of the chain.

    Attributes:
        name: ``data``, ``split``, ``space``, ``study``, ``export``, ``runs``, ``code`` or
            ``environment``.
        value: the recorded value, shortened.
        state: ``unbroken`` if all records agree, ``broken`` if two records differ, ``unknown`` if a
            record is missing.
        detail: the reason, in one line.
    """

    name: str
    value: str
    state: State
    detail: str


@dataclass(frozen=True)
class ExportedTrial:
    """The store's records of the trial that an export comes from.

    Attributes:
        provenance: of the study.
        state: the trial's state in Optuna's table; ``None`` if the table has no such trial.
        run: the trial's row in our table of runs; empty if there is none.
        best_loss: the trial's lowest validation loss; ``None`` if it has no epochs.
    """

    provenance: dict[str, Any]
    state: str | None
    run: dict[str, Any]
    best_loss: float | None


@dataclass(frozen=True)
class Evidence:
    """All records that the links are checked with.

    Attributes:
        ablation: the ablation's provenance.
        export: the exported configuration, with its origin.
        origin: the origin of the export; ``None`` if a person wrote it or the store lacks it.
        search: the exported trial; ``None`` if this store does not have its study.
        runs: the ablation's networks.
        molecules: this machine's molecules; ``None`` if it has none.
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
        """Collect the records of an ablation and of the search that it comes from."""
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
        """The reason why there is no search to check."""
        return BY_HAND if self.export else "the export is not recorded"

    def recorded_by_runs(self, column: str) -> list[tuple[str, str]]:
        """Return each distinct value of a column, after the names of the runs that recorded it."""
        known = self.runs.dropna(subset=[column])
        groups = known.groupby(column, sort=False)["key"]
        return [(_named(keys.tolist()), str(value)) for value, keys in groups]


def _exported(search: SearchFindings, origin: Mapping[str, Any]) -> ExportedTrial:
    trial = str(origin.get("trial"))
    rows = search.rows
    states = {str(row.number): row.state for row in rows.trials}
    records: list[dict[Any, Any]] = rows.runs[rows.runs["key"] == trial].to_dict("records")
    losses = rows.epochs.loc[rows.epochs["key"] == trial, "validation_loss"].dropna()
    return ExportedTrial(
        provenance=search.study.provenance,
        state=states.get(trial),
        run=records[0] if records else {},
        best_loss=float(losses.min()) if len(losses) else None,
    )


def _named(keys: list[str]) -> str:
    more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
    return f"the run {keys[0]}{more}"


# --- Comparing ------------------------------------------------------------------------------------


def link(name: str, value: str, sound: str, broken: list[str], unknown: list[str]) -> Link:
    """Return a link with its state and detail.

    Args:
        name: of the link.
        value: the recorded value, shortened.
        sound: the detail if there is no problem.
        broken: records that differ, one line per record.
        unknown: records that are missing, one line per record; shown only if no records differ.
    """
    state: State = "broken" if broken else "unknown" if unknown else "unbroken"
    problems = list(dict.fromkeys(broken or unknown))
    more = len(problems) - _SHOWN
    detail = "; ".join(problems[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
    return Link(name, value, state, detail or sound)


def known(who: str, value: Any) -> list[tuple[str, str]]:
    """Return the value after the name of its record; empty if the value is missing."""
    return [] if value is None or pd.isna(value) else [(who, str(value))]


def disagreements(seen: list[tuple[str, str]]) -> list[str]:
    """Return a line for each value that differs from the first one."""
    who, first = seen[0]
    return [
        f"{other} has {short(value)}, {who} {short(first)}"
        for other, value in seen
        if value != first
    ]


def short(digest: object) -> str:
    """Return the first digits of a hash."""
    return str(digest)[:_DIGITS]
