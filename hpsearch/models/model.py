"""A model in memory: its networks, and predictions with intervals and flags."""

# n molecules, A atoms of all of them, T targets

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from hpsearch.config.targets import Target, Targets
from hpsearch.config.units import conversion
from hpsearch.data.molecule import Floats, Integers, Molecules
from hpsearch.data.statistics import TargetStatistics, target_values
from hpsearch.models.description import Description
from hpsearch.models.intervals import LEVELS, level_name
from hpsearch.models.ranges import Geometries
from hpsearch.nn import MultiTargetNetwork
from hpsearch.runs.evaluation import EVALUATION_ATOMS, EVALUATION_BATCH
from hpsearch.runs.training import torch_device
from hpsearch.system.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from hpsearch.models.calculator import ModelCalculator

DEFAULT_LEVELS = (0.68, 0.95)


class Member(NamedTuple):
    """A network of a model, with what makes values of its outputs.

    Attributes:
        network: in evaluation mode.
        statistics: of its training molecules.
    """

    network: MultiTargetNetwork
    statistics: TargetStatistics


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions for n molecules; NaN for a molecule with an unknown element.

    Attributes:
        targets: the T predicted targets.
        values: [n, T] in the targets' reporting units.
        spreads: [n, T] population's standard deviation over the networks; 0 with one.
        halves: half of the interval's width [n, T], by level.
        flags: what of each molecule lies outside the ranges of the training molecules.
        known: [n] whether the molecule was predicted.
    """

    targets: tuple[Target, ...]
    values: Floats
    spreads: Floats
    halves: dict[float, Floats]
    flags: list[list[str]]
    known: NDArray[np.bool_]

    def reported_as(self, targets: Sequence[Target]) -> Predictions:
        """Return the same with the same targets in other units; see `in_units`."""
        factors = np.array(
            [
                new.reporting_factor / old.reporting_factor
                for new, old in zip(targets, self.targets, strict=True)
            ]
        )
        return replace(
            self,
            targets=tuple(targets),
            values=self.values * factors,
            spreads=self.spreads * factors,
            halves={level: half * factors for level, half in self.halves.items()},
        )


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model.

    Attributes:
        description: everything but the weights.
        members: its networks, in the order of the description.
        digest: of the whole model's description, also after :meth:`select`.
        chosen: names of the predicted targets; ``None`` for all.
    """

    description: Description
    members: tuple[Member, ...]
    digest: str = ""
    chosen: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.description.name

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets that it predicts, in the order of the columns of predictions."""
        return tuple(
            target
            for target in self.description.targets
            if self.chosen is None or target.name in self.chosen
        )

    def to(self, device: str) -> Model:
        """Move the networks to a device, such as ``cpu`` or ``cuda``.

        Raises:
            InputError: this machine has no such device.
        """
        for member in self.members:
            member.network.to(torch_device(device))
        return self

    def double(self) -> Model:
        """Turn the weights into float64; then predictions have no rounding of float32."""
        for member in self.members:
            member.network.double()
        return self

    def calculator(self, energy: str | None = None) -> ModelCalculator:
        """Return an ASE calculator; see :class:`hpsearch.models.calculator.ModelCalculator`.

        Raises:
            InputError: ASE is not installed, or the energy is not clear.
        """
        try:
            from hpsearch.models.calculator import ModelCalculator
        except ImportError:
            raise InputError(
                "a calculator needs ASE; install it with: pip install 'hpsearch[ase]'"
            ) from None
        return ModelCalculator(self, energy)

    def select(self, names: Iterable[str]) -> Model:
        """Return the model for some of its targets, with the networks that they need.

        Raises:
            InputError: the model does not predict one of them.
        """
        wanted = Targets(self.targets).canonical(names)
        chosen = [
            place
            for place, member in enumerate(self.members)
            if set(member.statistics.targets) & set(wanted)
        ]
        networks = tuple(self.description.networks[place] for place in chosen)
        description = self.description.model_copy(update={"networks": networks})
        return Model(
            description, tuple(self.members[place] for place in chosen), self.digest, wanted
        )

    def predict(
        self,
        molecules: Any,
        *,
        levels: Sequence[float] = (68, 95),
        units: Mapping[str, str] = MappingProxyType({}),
    ) -> pd.DataFrame:
        """Predict molecules.

        Args:
            molecules: a file or a declaration (a path); an ``ase.Atoms``; a pair of atomic numbers
                [N] and positions [N, 3] in Å; several Atoms or pairs; or a table of
                `hpsearch.load_molecules`.
            levels: of the intervals, in percent: 50, 68, 80, 90, 95 or 99.
            units: other units of targets, such as ``{"U0": "kcal/mol"}``.

        Returns:
            One row per molecule. Columns: ``molecule`` (its name or number), ``atoms``, for each
            target ``NAME [UNIT]`` and for each level half of the interval's width
            ``NAME ±95% [UNIT]``, ``flags`` (what lies outside the training molecules), ``status``
            (``predicted``, or why there is no value).

        Raises:
            InputError: the molecules cannot be read, a unit does not fit, or the model has no
                intervals at a level.
        """
        from hpsearch.models.predict import predict_molecules

        return predict_molecules(self, molecules, [level / 100 for level in levels], units)

    def predict_geometries(
        self,
        geometries: Geometries,
        levels: Sequence[float] = DEFAULT_LEVELS,
        among: NDArray[np.bool_] | None = None,
    ) -> Predictions:
        """Predict molecules as arrays, in batches of similar size.

        Args:
            geometries: the molecules.
            levels: of the intervals, some of :data:`hpsearch.models.intervals.LEVELS`.
            among: [n] whether to predict the molecule; ``None`` predicts all.

        Raises:
            InputError: the model has no intervals at a level.
        """
        quantiles = {level: self.quantiles(level) for level in levels}
        known = self._known(geometries)
        if among is not None:
            known &= among
        rows = np.flatnonzero(known)
        flags = self.description.ranges.flags(geometries)
        shape = (len(known), len(self.targets))
        values, spreads = np.full(shape, np.nan), np.full(shape, np.nan)
        halves = {level: np.full(shape, np.nan) for level in levels}
        if len(rows):
            chosen = geometries.select(rows) if len(rows) < len(known) else geometries
            molecules = self._table(chosen)
            values[rows], spreads[rows] = evaluate(
                self.members, self.targets, molecules, chosen.positions
            )
            for level, factors in quantiles.items():
                halves[level][rows] = factors * self.widths(spreads[rows], chosen.counts)
            self._flag_values(molecules, rows, values, flags)
        return Predictions(self.targets, values, spreads, halves, flags, known)

    def quantiles(self, level: float) -> Floats:
        """[T] factor of the interval at a level.

        Raises:
            InputError: the level is not offered, or too few molecules have calibrated it.
        """
        calibrated = self.description.calibration.targets
        name = level_name(level)
        if level not in LEVELS:
            offered = ", ".join(map(level_name, LEVELS))
            raise InputError(f"the level of an interval must be one of {offered} %, got {name}")
        for target in self.targets:
            if name not in calibrated[target.name].quantiles:
                least = int(np.ceil(round(level / (1 - level), 9)))
                raise InputError(
                    f"intervals at {name} % need at least {least} calibration molecules, the model "
                    f"{self.name} has {calibrated[target.name].molecules} for {target.name}; ask "
                    "for a lower level"
                )
        return np.array([calibrated[target.name].quantiles[name] for target in self.targets])

    def widths(self, spreads: Floats, atoms: Integers) -> Floats:
        """[n, T] spread + floor in the reporting units."""
        calibrated = self.description.calibration.targets
        columns = [
            calibrated[target.name].spread.of(spreads[:, place], atoms)
            for place, target in enumerate(self.targets)
        ]
        return np.stack(columns, axis=1)

    def _known(self, geometries: Geometries) -> NDArray[np.bool_]:
        """[n] whether the model knows all elements of the molecule."""
        owner = np.repeat(np.arange(len(geometries.counts)), geometries.counts)
        unknown = ~np.isin(geometries.numbers, self.description.atomic_numbers)
        strange = np.bincount(owner[unknown], minlength=len(geometries.counts))
        return np.asarray(strange == 0)

    def _table(self, geometries: Geometries) -> Molecules:
        """The molecules without labels, as the networks take them."""
        n = len(geometries.counts)
        table = self.members[0].statistics.target_table
        return Molecules.assemble(
            identifiers=np.arange(n),
            atom_counts=geometries.counts,
            atomic_numbers=geometries.numbers,
            positions=geometries.positions,
            targets=np.full((n, len(table)), np.nan),
            elements=self.description.atomic_numbers,
            target_table=table,
        )

    def _flag_values(
        self, molecules: Molecules, rows: Integers, values: Floats, flags: list[list[str]]
    ) -> None:
        for place, target in enumerate(self.targets):
            native = values[rows, place] / target.reporting_factor
            statistics = statistics_of(self.members, target.name)
            unit = f"{target.native_unit}/atom" if target.extensive else target.native_unit
            whole = np.full(len(values), np.nan)
            whole[rows] = statistics.per_atom(
                target.name, native, molecules, np.arange(len(molecules))
            )
            self.description.ranges.flag_values(target.name, whole, unit, flags)


def in_units(targets: Sequence[Target], units: Mapping[str, str]) -> tuple[Target, ...]:
    """Return the targets, some of them in other units.

    Raises:
        InputError: there is no such target, or the unit measures something else.
    """
    known = Targets(targets)
    changed = {}
    for name, unit in units.items():
        target = known[name]
        factor = target.reporting_factor * conversion(target.unit, unit)
        changed[name] = replace(target, unit=unit, reporting_factor=factor)
    return tuple(changed.get(target.name, target) for target in targets)


def statistics_of(members: Iterable[Member], name: str) -> TargetStatistics:
    """Return the statistics of the first network that predicts a target."""
    return next(m.statistics for m in members if name in m.statistics.targets)


def residuals(
    members: Sequence[Member], targets: Sequence[Target], molecules: Molecules
) -> tuple[Floats, Floats]:
    """Prediction minus known value, and the spread [n, T], in the targets' reporting units.

    Args:
        members: the networks; each target has at least one.
        targets: the T targets.
        molecules: the n molecules; an unknown value gives NaN.
    """
    values, spreads = evaluate(members, targets, molecules)
    names = [target.name for target in targets]
    factors = np.array([target.reporting_factor for target in targets])
    return values - target_values(molecules, np.arange(len(molecules)), names) * factors, spreads


def batches_by_size(counts: Integers) -> Iterator[Integers]:
    """Yield the rows of batches of molecules of similar size, the small ones first."""
    order = np.argsort(counts, kind="stable")
    ends = np.cumsum(counts[order])
    start = 0
    while start < len(order):
        before = ends[start - 1] if start else 0
        fitting = int(np.searchsorted(ends, before + EVALUATION_ATOMS, side="right"))
        end = max(start + 1, min(start + EVALUATION_BATCH, fitting))
        yield order[start:end]
        start = end


def evaluate(
    members: Sequence[Member],
    targets: Sequence[Target],
    molecules: Molecules,
    positions: NDArray[Any] | None = None,
) -> tuple[Floats, Floats]:
    """Mean and standard deviation [n, T] over the networks, in the targets' reporting units.

    Args:
        members: the networks; each target has at least one.
        targets: the T targets.
        molecules: the n molecules.
        positions: [A, 3] their positions in Å; by default those of the table, which are float32.
    """
    positions = molecules.positions if positions is None else positions
    outputs: dict[str, list[Floats]] = {target.name: [] for target in targets}
    batches = list(batches_by_size(molecules.atom_counts))
    for member in members:
        normalised = forward(member.network, molecules, positions, batches)
        native = member.statistics.restore(normalised, molecules, np.arange(len(molecules)))
        for place, name in enumerate(member.statistics.targets):
            if name in outputs:
                factor = member.statistics.target_table[name].reporting_factor
                outputs[name].append(native[:, place] * factor)
    stacked = [np.stack(values, axis=1) for values in outputs.values()]
    spreads = [values.std(axis=1) for values in stacked]
    means = [values.mean(axis=1) for values in stacked]
    return np.stack(means, axis=1), np.stack(spreads, axis=1)


@torch.no_grad()
def forward(
    network: MultiTargetNetwork,
    molecules: Molecules,
    positions: NDArray[Any],
    batches: Iterable[Integers],
) -> Floats:
    """[n, T] normalised outputs of a network, float64.

    Args:
        network: in evaluation mode.
        molecules: the table.
        positions: [A, 3] of its atoms in Å.
        batches: rows, which together are all rows.
    """
    weight = next(network.parameters())
    outputs: Floats | None = None
    for rows in batches:
        atoms, counts = molecules.atoms(rows)
        elements = torch.from_numpy(molecules.element_indices[atoms].astype(np.int64))
        found = network(
            elements.to(weight.device),
            torch.from_numpy(positions[atoms]).to(weight),
            torch.from_numpy(counts).to(weight.device),
        )
        if outputs is None:
            outputs = np.empty((len(molecules), found.shape[1]))
        outputs[rows] = found.double().cpu().numpy()
    assert outputs is not None
    return outputs
