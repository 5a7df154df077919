"""The twelve targets of QM9: names, symbols, units and Table 2's atomic references."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from hpsearch.errors import InputError

ELEMENTS = (1, 6, 7, 8, 9)
"""Atomic numbers of QM9's elements, in the order of the one-hot input: H, C, N, O, F."""

MEV_PER_HARTREE = 27_211.386245988
"""1 Hartree in meV (CODATA 2018)."""

# (native unit, reporting unit) -> factor; no other conversion is possible.
_FACTORS = {
    ("D", "D"): 1.0,
    ("a0^3", "a0^3"): 1.0,
    ("a0^2", "a0^2"): 1.0,
    ("Hartree", "meV"): MEV_PER_HARTREE,
    ("cal/(mol K)", "cal/(mol K)"): 1.0,
}


def factor(native: str, reporting: str) -> float:
    """The factor from ``native`` to ``reporting`` units.

    Raises:
        KeyError: no target uses this pair of units.
    """
    return _FACTORS[native, reporting]


@dataclass(frozen=True)
class Target:
    """One property of a molecule.

    Attributes:
        name: short name, used in commands, columns and file names.
        symbol: the paper's notation in Table 1.
        unit: unit of reported errors, as in Table 1.
        native_unit: unit in which QM9 stores the property and references are subtracted.
        column: column of the packaged QM9 tables.
        references: Table 2's reference of every element in ``native_unit``, ordered as
            ``ELEMENTS``; zero if Table 2 has none.
    """

    name: str
    symbol: str
    unit: str
    native_unit: str
    column: str
    references: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)

    @property
    def reporting_factor(self) -> float:
        """Factor from ``native_unit`` to ``unit``."""
        return factor(self.native_unit, self.unit)


_U0 = (-0.500273, -37.846772, -54.583861, -75.064579, -99.718730)
_U = (-0.498857, -37.845355, -54.582445, -75.063163, -99.717314)
_H = (-0.497912, -37.844411, -54.581501, -75.062219, -99.716370)
_G = (-0.510927, -37.861317, -54.598897, -75.079532, -99.733544)
_CV = (2.981, 2.981, 2.981, 2.981, 2.981)

TARGETS: tuple[Target, ...] = (
    Target("mu", "μ", "D", "D", "Dipole_debye"),
    Target("alpha", "α", "a0^3", "a0^3", "Polarizability_bohr3"),
    Target("homo", "ε_HOMO", "meV", "Hartree", "HOMO_au"),
    Target("lumo", "ε_LUMO", "meV", "Hartree", "LUMO_au"),
    Target("gap", "ε_gap", "meV", "Hartree", "HOMO_LUMO_gap_au"),
    Target("r2", "⟨R²⟩", "a0^2", "a0^2", "R2_bohr2"),
    Target("zpve", "zpve", "meV", "Hartree", "ZPVE_au"),
    Target("U0", "U₀", "meV", "Hartree", "InternalEnergy_0K_au", _U0),
    Target("U", "U", "meV", "Hartree", "InternalEnergy_298K_au", _U),
    Target("H", "H", "meV", "Hartree", "Enthalphy_298K_au", _H),
    Target("G", "G", "meV", "Hartree", "GibbsFreeEnergy_298K_au", _G),
    Target("Cv", "C_v", "cal/(mol K)", "cal/(mol K)", "Heatcapacity_Cv_cal_mol_K", _CV),
)
"""All targets in Table 1's order; arrays over targets follow it."""

TARGET_NAMES: tuple[str, ...] = tuple(target.name for target in TARGETS)

_BY_NAME = {target.name: target for target in TARGETS}


def target(name: str) -> Target:
    """The target called ``name``.

    Raises:
        InputError: no target has that name.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        raise InputError(
            f"a target must be one of {', '.join(TARGET_NAMES)}; got {name[:60]!r}{_offer(name)}"
        ) from None


def _offer(name: str) -> str:
    folded = {known.casefold(): known for known in TARGET_NAMES}
    close = difflib.get_close_matches(name[:80].casefold(), folded, n=1)
    return f"; did you mean {folded[close[0]]}?" if close else ""


def canonical_targets(names: Iterable[str]) -> tuple[str, ...]:
    """``names`` without repeats, in Table 1's order; ``all`` means every target.

    Raises:
        InputError: a name is unknown, or ``names`` is empty.
    """
    wanted: set[str] = set()
    for name in names:
        wanted |= set(TARGET_NAMES) if name == "all" else {target(name).name}
    if not wanted:
        raise InputError(f"at least one target is needed; choose from {', '.join(TARGET_NAMES)}")
    return tuple(name for name in TARGET_NAMES if name in wanted)
