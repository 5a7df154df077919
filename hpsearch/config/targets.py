"""Targets: properties of molecules, among them the twelve of QM9 with Table 2's references."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from hpsearch.config.units import conversion
from hpsearch.system.errors import InputError

ELEMENTS = (1, 6, 7, 8, 9)
"""Atomic numbers of QM9's elements, in the order of the one-hot input: H, C, N, O, F."""

_SYMBOLS = """
    H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br
    Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho
    Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es
    Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
"""
SYMBOLS: tuple[str, ...] = ("X", *_SYMBOLS.split())
"""The symbols of the elements; the index is the atomic number, and 0 is no element."""

_NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS) if number}


def atomic_number(symbol: str) -> int:
    """The atomic number of the element with this symbol.

    Raises:
        InputError: there is no such element.
    """
    number = _NUMBERS.get(symbol)
    if number is None:
        close = _NUMBERS.get(symbol.strip().capitalize())
        hint = f"; did you mean {SYMBOLS[close]}?" if close else ""
        raise InputError(f"an element must be a symbol such as H or Cl, got {symbol[:20]!r}{hint}")
    return number


@dataclass(frozen=True)
class Target:
    """One property of a molecule.

    Attributes:
        name: short name, used in commands, columns and file names.
        symbol: notation in tables; for QM9 the paper's in Table 1.
        unit: unit of reported errors.
        native_unit: unit of the stored values, in which references are subtracted.
        column: its name in the file of the molecules.
        references: reference of an atom by atomic number, in ``native_unit``; elements that are
            missing have none.
        fitted: whether the references are fitted to the training molecules instead.
        extensive: whether the property is a sum over atoms; otherwise it is an average.
        weight: factor of the target in the loss.
        reporting_factor: factor from ``native_unit`` to ``unit``.
    """

    name: str
    symbol: str
    unit: str
    native_unit: str
    column: str
    references: Mapping[int, float] = field(default_factory=dict, hash=False)
    fitted: bool = False
    extensive: bool = True
    weight: float = 1.0
    reporting_factor: float = 1.0


class Targets:
    """The targets that a data set has, in the order of tables and of columns."""

    def __init__(self, targets: Iterable[Target]) -> None:
        self._by_name = {target.name: target for target in targets}
        self.names: tuple[str, ...] = tuple(self._by_name)

    def __iter__(self) -> Iterator[Target]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Target:
        """The target called ``name``.

        Raises:
            InputError: no target has that name.
        """
        try:
            return self._by_name[name]
        except KeyError:
            raise InputError(
                f"a target must be one of {', '.join(self.names)}; got {name[:60]!r}"
                f"{self._offer(name)}"
            ) from None

    def _offer(self, name: str) -> str:
        folded = {known.casefold(): known for known in self.names}
        close = difflib.get_close_matches(name[:80].casefold(), folded, n=1)
        return f"; did you mean {folded[close[0]]}?" if close else ""

    def canonical(self, names: Iterable[str]) -> tuple[str, ...]:
        """``names`` without repeats, in this order; ``all`` means every target.

        Raises:
            InputError: a name is unknown, or ``names`` is empty.
        """
        wanted: set[str] = set()
        for name in names:
            wanted |= set(self.names) if name == "all" else {self[name].name}
        if not wanted:
            raise InputError(f"at least one target is needed; choose from {', '.join(self.names)}")
        return tuple(name for name in self.names if name in wanted)


def _qm9(
    name: str,
    symbol: str,
    unit: str,
    native_unit: str,
    column: str,
    references: tuple[float, ...] = (),
) -> Target:
    """A target of QM9; ``references`` are Table 2's, ordered as :data:`ELEMENTS`."""
    return Target(
        name,
        symbol,
        unit,
        native_unit,
        column,
        dict(zip(ELEMENTS, references, strict=False)),
        reporting_factor=conversion(native_unit, unit),
    )


_U0 = (-0.500273, -37.846772, -54.583861, -75.064579, -99.718730)
_U = (-0.498857, -37.845355, -54.582445, -75.063163, -99.717314)
_H = (-0.497912, -37.844411, -54.581501, -75.062219, -99.716370)
_G = (-0.510927, -37.861317, -54.598897, -75.079532, -99.733544)
_CV = (2.981, 2.981, 2.981, 2.981, 2.981)

TARGETS: tuple[Target, ...] = (
    _qm9("mu", "μ", "D", "D", "Dipole_debye"),
    _qm9("alpha", "α", "a0^3", "a0^3", "Polarizability_bohr3"),
    _qm9("homo", "ε_HOMO", "meV", "Hartree", "HOMO_au"),
    _qm9("lumo", "ε_LUMO", "meV", "Hartree", "LUMO_au"),
    _qm9("gap", "ε_gap", "meV", "Hartree", "HOMO_LUMO_gap_au"),
    _qm9("r2", "⟨R²⟩", "a0^2", "a0^2", "R2_bohr2"),
    _qm9("zpve", "zpve", "meV", "Hartree", "ZPVE_au"),
    _qm9("U0", "U₀", "meV", "Hartree", "InternalEnergy_0K_au", _U0),
    _qm9("U", "U", "meV", "Hartree", "InternalEnergy_298K_au", _U),
    _qm9("H", "H", "meV", "Hartree", "Enthalphy_298K_au", _H),
    _qm9("G", "G", "meV", "Hartree", "GibbsFreeEnergy_298K_au", _G),
    _qm9("Cv", "C_v", "cal/(mol K)", "cal/(mol K)", "Heatcapacity_Cv_cal_mol_K", _CV),
)
"""All targets in Table 1's order; arrays over targets follow it."""

QM9_TARGETS = Targets(TARGETS)
"""The twelve targets of QM9."""

TARGET_NAMES: tuple[str, ...] = QM9_TARGETS.names


def target(name: str) -> Target:
    """The target of QM9 called ``name``."""
    return QM9_TARGETS[name]


def canonical_targets(names: Iterable[str]) -> tuple[str, ...]:
    """``names`` of QM9's targets without repeats, in Table 1's order; ``all`` means every one."""
    return QM9_TARGETS.canonical(names)
