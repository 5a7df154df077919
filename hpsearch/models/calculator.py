"""An ASE calculator of a model."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np
import torch
from ase.calculators.calculator import Calculator, all_changes

from hpsearch.config.targets import Target
from hpsearch.config.units import conversion
from hpsearch.data.molecule import Floats
from hpsearch.models.model import Member, Model
from hpsearch.models.ranges import Geometries
from hpsearch.system.errors import InputError

WARNING = (
    "this model was trained on the geometries of its data, without forces, and its cut at the "
    "radial maximum is not smooth: it is no potential for dynamics"
)


class ModelCalculator(Calculator):  # type: ignore[misc]
    """Predicts the molecule of an ASE ``Atoms``.

    ``results`` has every target by its name in its reporting unit, the flags, and half of the
    width of the 95 % interval as ``NAME_95``. With an extensive target in a unit of energy it has
    ``energy`` in eV and ``forces`` in eV/Å. A warning says once that the model is no potential.

    Args:
        model: the model.
        energy: name of the target that is the energy; by default the only extensive one with a
            unit of energy.

    Raises:
        InputError: ``energy`` is no such target, or there are several and none is named.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(self, model: Model, energy: str | None = None) -> None:
        super().__init__()
        self.model = model
        self._energy = _energy_target(model, energy)
        self._warned = False
        names = [target.name for target in model.targets]
        energies = [] if self._energy is None else ["energy", "forces"]
        # Of this instance: another model has other targets.
        setattr(self, "implemented_properties", [*energies, *names])  # noqa: B010

    def calculate(
        self,
        atoms: Any = None,
        properties: Any = ("energy",),
        system_changes: Any = all_changes,
    ) -> None:
        """Fill ``results`` for ``atoms``."""
        super().calculate(atoms, properties, system_changes)
        if np.any(self.atoms.pbc):
            raise InputError(
                "a molecule must have no periodic cell, got pbc; set atoms.pbc = False"
            )
        if not self._warned:
            warnings.warn(WARNING, stacklevel=2)
            self._warned = True
        geometries = Geometries(
            np.asarray(self.atoms.numbers, np.int64),
            np.asarray(self.atoms.positions, np.float64),
            np.array([len(self.atoms)]),
        )
        found = self.model.predict_geometries(geometries, (0.95,) if self._has_intervals else ())
        if not found.known[0]:
            raise InputError(f"the model {self.model.name} cannot predict this molecule: "
                             f"{'; '.join(found.flags[0])}")  # fmt: skip
        results: dict[str, Any] = {"flags": found.flags[0]}
        for place, target in enumerate(found.targets):
            results[target.name] = float(found.values[0, place])
            for halves in found.halves.values():
                results[f"{target.name}_95"] = float(halves[0, place])
        if self._energy is not None:
            factor = conversion(self._energy.unit, "eV")
            results["energy"] = results[self._energy.name] * factor
            if "forces" in properties:
                results["forces"] = forces(self.model, geometries, self._energy) * factor
        self.results = results

    @property
    def _has_intervals(self) -> bool:
        calibrated = self.model.description.calibration.targets
        return all("95" in calibrated[target.name].quantiles for target in self.model.targets)


def forces(model: Model, geometry: Geometries, energy: Target) -> Floats:
    """-∂E/∂x [A, 3] of one molecule, in the reporting unit of ``energy`` per Å.

    Args:
        model: the model.
        geometry: one molecule, whose elements the model knows.
        energy: the target E.
    """
    members = [m for m in model.members if energy.name in m.statistics.targets]
    return np.asarray(sum(_forces(m, model, geometry, energy) for m in members) / len(members))


def _forces(member: Member, model: Model, geometry: Geometries, energy: Target) -> Floats:
    parameter = next(member.network.parameters())
    order = list(model.description.atomic_numbers)
    elements = torch.tensor([order.index(number) for number in geometry.numbers.tolist()])
    positions = torch.tensor(
        geometry.positions, dtype=parameter.dtype, device=parameter.device, requires_grad=True
    )
    counts = torch.tensor([len(elements)])
    outputs = member.network(elements.to(parameter.device), positions, counts.to(parameter.device))
    column = member.statistics.targets.index(energy.name)
    (gradient,) = torch.autograd.grad(outputs[0, column], positions)
    scale = member.statistics.deviation[column] * energy.reporting_factor
    return np.asarray(-gradient.double().cpu().numpy() * scale)


def _energy_target(model: Model, name: str | None) -> Target | None:
    energies = [target for target in model.targets if target.extensive and _is_energy(target)]
    if name is not None:
        for target in energies:
            if target.name == name:
                return target
        offered = ", ".join(target.name for target in energies) or "none"
        raise InputError(
            f"energy must be an extensive energy of the model ({offered}), got '{name}'"
        )
    if len(energies) > 1:
        raise InputError(
            "the calculator must know which target is the energy, got "
            f"{', '.join(target.name for target in energies)}; name one: calculator(energy='U0')"
        )
    return energies[0] if energies else None


def _is_energy(target: Target) -> bool:
    try:
        conversion(target.unit, "eV")
    except InputError:
        return False
    return True
