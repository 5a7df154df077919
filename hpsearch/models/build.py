"""Makes a model of the kept weights of one or several runs.

The molecules must be on this machine: the ranges of the training molecules, the calibration of the
intervals and the errors on the test molecules are computed here, and kept in the model.
"""

# n molecules, T targets

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from hpsearch.config.run import DataConfig, TrialConfig
from hpsearch.config.targets import SYMBOLS, Target
from hpsearch.data import own
from hpsearch.data.molecule import Floats, Integers, Molecules
from hpsearch.data.split import Split, make_split, unused_rows
from hpsearch.data.statistics import TargetStatistics, target_values
from hpsearch.models.description import Description, Network, Origin, Tested
from hpsearch.models.intervals import Calibration, Spread, TargetIntervals
from hpsearch.models.model import Member, Model, residuals, statistics_of
from hpsearch.models.ranges import TrainingRanges
from hpsearch.nn import MultiTargetNetwork
from hpsearch.runs import checkpoint
from hpsearch.search.study import Study
from hpsearch.store import Experiment, StoreReader
from hpsearch.system import installation
from hpsearch.system.errors import HpsearchError, InputError, nearest, one_line
from hpsearch.system.files import Say, silent

CALIBRATION_MOLECULES = 2_000
"""Most molecules that calibrate the intervals."""

LEAST_UNUSED = 100
"""With fewer unused molecules, the validation molecules calibrate the intervals."""

_SIZE_GROUPS = 4
_LEAST_IN_GROUP = 20


@dataclass(frozen=True)
class KeptRun:
    """A run whose weights were kept.

    Attributes:
        origin: its experiment and key; the epoch and the digest are read from the file.
        directory: its folder.
    """

    origin: Origin
    directory: Path


@dataclass(frozen=True, eq=False)
class _Kept:
    """The weights of a run's best epoch, as they were kept."""

    origin: Origin
    config: TrialConfig
    statistics: Mapping[str, Any]
    data_hash: str
    split_hash: str
    tensors: dict[str, Tensor]


def build_model(
    name: str,
    runs: Sequence[KeptRun],
    say: Say = silent,
    loaded: tuple[Molecules, Split] | None = None,
) -> Model:
    """Make the model of one run, or of several runs on the same molecules.

    Several networks for one target are an ensemble.

    Args:
        name: of the model.
        runs: at least one.
        say: function for lines about the progress.
        loaded: the molecules and the split of the runs; ``None`` loads and makes them.

    Raises:
        InputError: the runs have different molecules or splits, or the molecules of this machine
            are not theirs.
        HpsearchError: kept weights are missing or damaged.
    """
    kept = [_read(run) for run in runs]
    data = _common_data(kept)
    if loaded is None:
        molecules = own.load(data, say)
        loaded = molecules, make_split(molecules, data)
    molecules, split = loaded
    _require_same(kept[0], molecules, split)
    members = tuple(_member(one, molecules) for one in kept)
    predicted = {target for one in kept for target in one.config.targets}
    targets = [target for target in molecules.target_table if target.name in predicted]
    judged = _Judged(members, targets, molecules, say)
    unused = unused_rows(molecules, split, data)[-CALIBRATION_MOLECULES:]
    optimistic = len(unused) < LEAST_UNUSED
    calibration = _calibration(judged, split.validation, None if optimistic else unused)
    description = Description(
        name=name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        elements=tuple(SYMBOLS[number] for number in molecules.elements),
        data=data,
        networks=tuple(
            Network(
                config=one.config.network,
                training=one.config.training,
                targets=one.config.targets,
                statistics=dict(one.statistics),
                origin=one.origin,
            )
            for one in kept
        ),
        ranges=_ranges(members, targets, molecules, split.train),
        calibration=calibration,
        tested=_tested(judged, split.test, calibration),
        data_hash=molecules.content_hash,
        split_hash=split.hash,
        code=installation.code(),
    )
    return Model(description, members)


# --- Kept weights --------------------------------------------------------------------------------


def _read(run: KeptRun) -> _Kept:
    """Read the weights of a run's best epoch.

    Raises:
        HpsearchError: they are missing or damaged.
    """
    key = f"{run.origin.experiment}, {run.origin.key}"
    for path in checkpoint.files(run.directory, checkpoint.BEST):
        if (content := checkpoint.read(path)) is None:
            continue
        tensors, state = content
        digests = state.get(checkpoint.DIGESTS) or [None]
        update = {"epoch": checkpoint.epoch_of(path), "epoch_digest": digests[-1]}
        if run.origin.fingerprint and state["fingerprint"] != run.origin.fingerprint:
            continue
        return _Kept(
            origin=run.origin.model_copy(update={**update, "fingerprint": state["fingerprint"]}),
            config=TrialConfig.from_dict(state["config"]),
            statistics=state["statistics"],
            data_hash=state["data_hash"],
            split_hash=state["split_hash"],
            tensors=tensors,
        )
    raise HpsearchError(
        f"the weights of {key} must be in {run.directory}, got none or damaged ones; a study keeps "
        "those of its best trials only, on the machine that trained them"
    )


def _common_data(kept: Sequence[_Kept]) -> DataConfig:
    first = kept[0]
    for other in kept[1:]:
        for what in ("data_hash", "split_hash"):
            if getattr(other, what) != getattr(first, what):
                raise InputError(
                    "the runs of a model must have the same molecules and the same split, got "
                    f"another {what.removesuffix('_hash')} for {other.origin.key} than for "
                    f"{first.origin.key}; choose other runs"
                )
    return first.config.data


def _require_same(first: _Kept, molecules: Molecules, split: Split) -> None:
    for what, recorded, here in (
        ("molecules", first.data_hash, molecules.content_hash),
        ("split", first.split_hash, split.hash),
    ):
        if recorded != here:
            raise InputError(
                f"this machine must have the {what} of the run {first.origin.key} (hash "
                f"{recorded[:12]}), got other ones ({here[:12]}); copy them from the machine that "
                "trained it"
            )


def _member(kept: _Kept, molecules: Molecules) -> Member:
    table, elements = molecules.target_table, molecules.elements
    statistics = TargetStatistics.from_dict(kept.statistics, table, elements)
    network = MultiTargetNetwork(
        kept.config.network, len(kept.config.targets), len(elements), statistics.extensive
    )
    network.load_state_dict(kept.tensors)
    return Member(network.eval(), statistics)


# --- What the model does on molecules ------------------------------------------------------------


class _Judged:
    """Predictions for molecules whose targets are known."""

    def __init__(
        self, members: Sequence[Member], targets: Sequence[Target], molecules: Molecules, say: Say
    ) -> None:
        self.ensembles = {
            target.name: sum(target.name in member.statistics.targets for member in members) > 1
            for target in targets
        }
        self.targets = targets
        self._members = members
        self._molecules = molecules
        self._say = say

    def on(self, rows: Integers, what: str) -> tuple[Floats, Floats, Integers]:
        """Residuals and spreads [n, T] in reporting units, and numbers of atoms [n]."""
        self._say(f"predicting {len(rows):,} {what} molecules")
        chosen = self._molecules.select(rows)
        return *residuals(self._members, self.targets, chosen), chosen.atom_counts


def _calibration(judged: _Judged, validation: Integers, unused: Integers | None) -> Calibration:
    of_validation = judged.on(validation, "validation")
    residuals, deviations, atoms = of_validation
    if unused is not None:
        residuals, deviations, atoms = judged.on(unused, "calibration")
    found: dict[str, TargetIntervals] = {}
    for place, target in enumerate(judged.targets):
        spread = Spread.fit(
            of_validation[0][:, place], of_validation[2], ensemble=judged.ensembles[target.name]
        )
        widths = spread.of(deviations[:, place], atoms)
        found[target.name] = TargetIntervals.fit(spread, residuals[:, place], widths)
    return Calibration(
        molecules="validation" if unused is None else "unused",
        optimistic=unused is None,
        targets=found,
    )


def _tested(judged: _Judged, rows: Integers, calibration: Calibration) -> dict[str, Tested]:
    residuals, deviations, atoms = judged.on(rows, "test")
    found = {}
    for place, target in enumerate(judged.targets):
        intervals = calibration.targets[target.name]
        known = np.isfinite(residuals[:, place])
        errors = np.abs(residuals[known, place])
        widths = intervals.spread.of(deviations[known, place], atoms[known])
        inside = {name: errors <= q * widths for name, q in intervals.quantiles.items()}
        found[target.name] = Tested(
            molecules=len(errors),
            mae=float(errors.mean()),
            coverage={name: float(mask.mean()) for name, mask in inside.items()},
            by_size=tuple(_by_size(atoms[known], errors, inside.get("95"))),
        )
    return found


def _by_size(
    atoms: Integers, errors: Floats, inside: np.ndarray[Any, Any] | None
) -> list[dict[str, float]]:
    """The errors in groups of molecules of similar size."""
    parts = np.linspace(0, 1, _SIZE_GROUPS + 1)[1:-1]
    edges = np.unique(np.quantile(atoms, parts, method="lower"))
    group = np.searchsorted(edges, atoms, side="left")
    rows = []
    for number in np.unique(group):
        mask = group == number
        if mask.sum() < _LEAST_IN_GROUP:
            continue
        row = {
            "least_atoms": float(atoms[mask].min()),
            "most_atoms": float(atoms[mask].max()),
            "molecules": float(mask.sum()),
            "mae": float(errors[mask].mean()),
        }
        if inside is not None:
            row["coverage"] = float(inside[mask].mean())
        rows.append(row)
    return rows


def _ranges(
    members: Sequence[Member], targets: Sequence[Target], molecules: Molecules, rows: Integers
) -> TrainingRanges:
    normalised = {}
    for name in (target.name for target in targets):
        values = target_values(molecules, rows, [name])[:, 0]
        normalised[name] = statistics_of(members, name).per_atom(name, values, molecules, rows)
    return TrainingRanges.of(molecules, rows, normalised)


# --- The runs of a store --------------------------------------------------------------------------


def runs_of(store: StoreReader, name: str | None, keys: Sequence[str]) -> list[KeptRun]:
    """Return the runs that ``keys`` name; without keys, the winner of a study.

    Args:
        store: the store.
        name: of the study or the ablation; ``None`` for the one launched last.
        keys: of a study, the numbers of trials. Of an ablation, ``L1Net/mu/0`` for a cell,
            ``L1Net/mu`` for all its repeats and ``L1Net`` for all targets.

    Raises:
        InputError: there is no such experiment or complete run, or an ablation has no keys.
        HpsearchError: the study has no winner.
    """
    experiment = store.find(name)
    if experiment.kind == "study":
        study = Study.open(store, experiment.name)
        if not keys:
            provenance = study.winner().provenance
            assert provenance is not None
            keys = [str(provenance.trial)]
        done = [str(trial.number) for trial in study.records(facts=False, parameters=False)
                if trial.state == "COMPLETE"]  # fmt: skip
    else:
        results = store.results(experiment.id)
        done = list(results.loc[results["state"] == "complete", "key"])
        if not keys:
            arms = dict.fromkeys(key.partition("/")[0] for key in done)
            raise InputError(
                f"an ablation has several models: name one with --run, such as --run "
                f"{next(iter(arms), 'L1Net')}/TARGET; complete are {_shown(done)}"
            )
    chosen = [key for wanted in keys for key in _matching(experiment, wanted, done)]
    return [_kept(experiment, row) for row in _rows(store, experiment, list(dict.fromkeys(chosen)))]


def _matching(experiment: Experiment, wanted: str, done: Sequence[str]) -> list[str]:
    found = [key for key in done if key == wanted or key.startswith(f"{wanted}/")]
    if not found:
        what = "a complete trial" if experiment.kind == "study" else "a complete cell"
        raise InputError(
            f"--run must be {what} of {experiment.name}, got '{one_line(wanted)}'; "
            f"{nearest(wanted, done) if len(done) < 200 else f'complete are {_shown(done)}'}"
        )
    return found


def _shown(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - 8:,} more" if len(keys) > 8 else ""
    return (", ".join(keys[:8]) or "none") + more


def _rows(store: StoreReader, experiment: Experiment, keys: list[str]) -> list[dict[Any, Any]]:
    found: list[dict[Any, Any]] = store.runs(experiment.id, keys).to_dict("records")
    rows = {row["key"]: row for row in found}
    return [rows[key] for key in keys if key in rows]


def _kept(experiment: Experiment, row: dict[Any, Any]) -> KeptRun:
    origin = Origin(
        kind=experiment.kind,
        experiment=experiment.name,
        key=str(row["key"]),
        fingerprint=row["fingerprint"],
        epoch=0,
    )
    return KeptRun(origin, Path(row["directory"]))
