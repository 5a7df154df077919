"""The check that an ablation was trained and tested on the molecules that its records name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from hpsearch.ablation.molecules import check_split
from hpsearch.ablation.plan import CellKey, split_name
from hpsearch.config.run import DataConfig, fingerprint
from hpsearch.data.molecule import Molecules
from hpsearch.data.split import Split, make_split
from hpsearch.results.evidence import Evidence, Link, disagreements, known, link, short
from hpsearch.system.errors import InputError


def split_link(seen: Evidence) -> Link:
    """Check that each run's split can be made again, without test molecules that the search saw."""
    runs = seen.runs.dropna(subset=["split_hash"])
    if runs.empty:
        return Link("split", "", "unknown", "no run has recorded its split")
    value = ", ".join(short(split) for split in runs["split_hash"].unique())
    broken = _unlike_the_launch(seen, runs)
    if (origin := seen.origin) is not None and seen.search is not None:
        both = known("the trial", seen.search.run.get("split_hash"))
        both += known("the export", origin.get("split_hash"))
        broken += disagreements(both) if both else []
    remade, missing = _remade(seen, runs)
    sound = "made again from the configurations; no test molecule was seen by the search"
    if seen.origin is None:
        sound = "made again from the configurations"
    return link("split", value, sound, broken + remade, missing)


def _unlike_the_launch(seen: Evidence, runs: pd.DataFrame) -> list[str]:
    """Return the runs whose split is not the one that the launch recorded for their repeat."""
    wrong = []
    for key, split in zip(runs["key"], runs["split_hash"], strict=True):
        repeat = CellKey.parse(str(key)).repeat
        recorded = seen.ablation.get(split_name(bool(seen.ablation.get("vary_split")), repeat))
        if recorded not in (None, split):
            wrong.append(f"the run {key} has {short(split)}, the launch {short(recorded)}")
    return wrong


def _remade(seen: Evidence, runs: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Make the splits again; return those that differ and those that cannot be made."""
    if seen.molecules is None:
        return [], ["this machine has no molecules to make it again"]
    if set(runs["data_hash"].dropna()) - {seen.molecules.content_hash}:
        return [], ["this machine has other molecules than the runs"]
    splits = _Splits(seen.molecules)
    broken: list[str] = []
    unknown: list[str] = []
    search: Split | None = None
    try:
        search = splits.of_the_search(seen, broken)
    except ValueError as error:
        unknown.append(f"the search's cannot be made again: {error}")
    for key, split, config in zip(
        runs["key"], runs["split_hash"], runs["configuration"], strict=True
    ):
        try:
            made = splits.of(config["data"])
        except ValueError as error:
            unknown.append(f"it cannot be made again: {error}")
            continue
        if made.hash != split:
            again = short(made.hash)
            broken.append(f"the run {key} has {short(split)}, its configuration makes {again}")
        broken += splits.overlap(search, made)
    return broken, unknown


class _Splits:
    """Makes splits again, once for each configuration."""

    def __init__(self, molecules: Molecules) -> None:
        self._molecules = molecules
        self._made: dict[str, Split] = {}
        self._overlaps: dict[str, list[str]] = {}

    def of(self, data: Mapping[str, Any]) -> Split:
        """Return the split of a stored configuration.

        Raises:
            ValueError: the split cannot be made; the message is one line.
        """
        try:
            config = DataConfig.model_validate(data)
            name = fingerprint(config.model_dump(mode="json"))
            if name not in self._made:
                self._made[name] = make_split(self._molecules, config)
        except (ValueError, InputError) as error:
            raise ValueError(" ".join(str(error).split())) from error
        return self._made[name]

    def of_the_search(self, seen: Evidence, broken: list[str]) -> Split | None:
        """Return the search's split; ``None`` without a search, or if its hash is not the export's.

        Raises:
            ValueError: the split cannot be made; the message is one line.
        """
        if seen.origin is None:
            return None
        made = self.of((seen.export.get("config") or {}).get("data") or {})
        recorded = seen.origin.get("split_hash")
        if recorded not in (None, made.hash):
            again = short(made.hash)
            broken.append(f"the search has {short(recorded)}, the export makes {again}")
            return None
        return made

    def overlap(self, search: Split | None, run: Split) -> list[str]:
        """Return a line if the search has seen test molecules of a run."""
        if search is None:
            return []
        if run.hash not in self._overlaps:
            self._overlaps[run.hash] = []
            try:
                check_split(search, run)
            except InputError as error:
                self._overlaps[run.hash] = [str(error)]
        return self._overlaps[run.hash]
