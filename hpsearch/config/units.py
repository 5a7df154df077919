"""Units of properties: a small grammar, conversion, and the nearest known unit for a mistake.

A unit is a product of symbols such as ``kcal/mol``, ``e*Å^2``, ``meV`` or ``cal/(mol K)``. Two
units convert into each other if their dimensions agree.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import lru_cache

from hpsearch.system.errors import InputError, one_line

_JOULE_PER_EV = 1.602176634e-19
_JOULE_PER_HARTREE = 4.3597447222060e-18
_METRE_PER_BOHR = 5.29177210544e-11
_COULOMB_METRE_PER_DEBYE = 1e-21 / 299_792_458
_AVOGADRO = 6.02214076e23

MEV_PER_HARTREE = 27_211.386245988
"""1 Hartree in meV (CODATA 2018)."""

Dimension = tuple[int, int, int, int, int]
"""Powers of mass, length, time, charge and temperature."""

_NONE: Dimension = (0, 0, 0, 0, 0)
_LENGTH: Dimension = (0, 1, 0, 0, 0)
_TIME: Dimension = (0, 0, 1, 0, 0)
_MASS: Dimension = (1, 0, 0, 0, 0)
_CHARGE: Dimension = (0, 0, 0, 1, 0)
_ENERGY: Dimension = (1, 2, -2, 0, 0)

# Symbol -> (factor to SI, dimension). The first symbol of a quantity is the one that is offered.
_SYMBOLS: dict[str, tuple[float, Dimension]] = {
    "eV": (_JOULE_PER_EV, _ENERGY),
    "Hartree": (_JOULE_PER_HARTREE, _ENERGY),
    "Ha": (_JOULE_PER_HARTREE, _ENERGY),
    "Eh": (_JOULE_PER_HARTREE, _ENERGY),
    "hartree": (_JOULE_PER_HARTREE, _ENERGY),
    "Ry": (_JOULE_PER_HARTREE / 2, _ENERGY),
    "J": (1.0, _ENERGY),
    "cal": (4.184, _ENERGY),
    "D": (_COULOMB_METRE_PER_DEBYE, (0, 1, 0, 1, 0)),
    "Debye": (_COULOMB_METRE_PER_DEBYE, (0, 1, 0, 1, 0)),
    "debye": (_COULOMB_METRE_PER_DEBYE, (0, 1, 0, 1, 0)),
    "Å": (1e-10, _LENGTH),
    "Angstrom": (1e-10, _LENGTH),
    "angstrom": (1e-10, _LENGTH),
    "Ang": (1e-10, _LENGTH),
    "a0": (_METRE_PER_BOHR, _LENGTH),
    "Bohr": (_METRE_PER_BOHR, _LENGTH),
    "bohr": (_METRE_PER_BOHR, _LENGTH),
    "m": (1.0, _LENGTH),
    "cm": (1e-2, _LENGTH),
    "L": (1e-3, (0, 3, 0, 0, 0)),
    "e": (_JOULE_PER_EV, _CHARGE),
    "C": (1.0, _CHARGE),
    "V": (1.0, (1, 2, -2, -1, 0)),
    "K": (1.0, (0, 0, 0, 0, 1)),
    "s": (1.0, _TIME),
    "Hz": (1.0, (0, 0, -1, 0, 0)),
    "g": (1e-3, _MASS),
    "u": (1e-3 / _AVOGADRO, _MASS),
    "Da": (1e-3 / _AVOGADRO, _MASS),
    "Pa": (1.0, (1, -1, -2, 0, 0)),
    "bar": (1e5, (1, -1, -2, 0, 0)),
    "N": (1.0, (1, 1, -2, 0, 0)),
    "mol": (_AVOGADRO, _NONE),
    "atom": (1.0, _NONE),
    "%": (1e-2, _NONE),
    "1": (1.0, _NONE),
}
_PREFIXES = {
    **{"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "m": 1e-3},
    **{"u": 1e-6, "μ": 1e-6, "µ": 1e-6, "n": 1e-9, "p": 1e-12, "f": 1e-15},
}
_PREFIXED = ("eV", "Ha", "Hartree", "J", "cal", "m", "V", "s", "Hz", "g", "Pa", "mol", "D", "e")
_DIMENSIONLESS = ("", "1", "none", "dimensionless", "unitless")

_TOKEN = re.compile(r"\s*(\*\*|[*·/()^]|[+-]?\d+(?:\.\d+)?|%|[A-Za-zÅμµ°][A-Za-z0-9]*|[²³⁻¹]+)")
_SUPERSCRIPTS = str.maketrans("⁻¹²³", "-123")
_COMMON = (
    *("eV", "meV", "Hartree", "mHartree", "kcal/mol", "kJ/mol", "cal/(mol K)", "J/(mol K)", "K"),
    *("D", "e*Å", "e*a0", "a0^2", "a0^3", "Å^2", "Å^3", "Å", "a0", "eV/Å", "g/mol", "eV/atom"),
    *("Ry", "cm^-1", "e", "V", "mol/L", "1"),
)
_AMBIGUOUS = {
    "au": "name the unit, such as Hartree, a0, a0^3 or e*a0: 'au' stands for all of them",
    "a.u.": "name the unit, such as Hartree, a0, a0^3 or e*a0: 'a.u.' stands for all of them",
    "A": "write Å or Angstrom",
    "kcal": "write kcal/mol",
    "kJ": "write kJ/mol",
    "°C": "write K, and convert the values",
}
_LONGEST = 60


@dataclass(frozen=True)
class Unit:
    """A unit.

    Attributes:
        text: as it was written.
        factor: the unit in SI units; ``mol`` counts as a number.
        dimension: powers of mass, length, time, charge and temperature.
        per_atom: whether it is a quantity per atom.
    """

    text: str
    factor: float
    dimension: Dimension
    per_atom: bool = False


@lru_cache(maxsize=256)
def parse_unit(text: str) -> Unit:
    """The unit in ``text``.

    Raises:
        InputError: it is no known unit; the error offers the nearest one.
    """
    written = text.strip()
    if written.casefold() in _DIMENSIONLESS:
        return Unit(written or "1", 1.0, _NONE)
    try:
        if written in _AMBIGUOUS:
            raise ValueError(_AMBIGUOUS[written])
        if len(written) > _LONGEST:
            raise ValueError(f"it is longer than {_LONGEST} characters")
        factor, dimension, atoms = _Parser(written).parse()
    except (ValueError, OverflowError) as error:
        hint = str(error) or _nearest(written)
        raise InputError(
            f"a unit must be one such as eV, kcal/mol, D or a0^3, got {one_line(text)!r}; {hint}"
        ) from None
    return Unit(written, factor, dimension, atoms < 0)


def conversion(given: str, wanted: str) -> float:
    """The factor from values in the unit ``given`` to values in the unit ``wanted``.

    Raises:
        InputError: a unit is unknown, or they measure different quantities.
    """
    if given == wanted:
        return 1.0
    if (given, wanted) == ("Hartree", "meV"):
        # To the last bit what the errors of QM9 were multiplied by before there were other units.
        return MEV_PER_HARTREE
    a, b = parse_unit(given), parse_unit(wanted)
    if a.dimension != b.dimension or a.per_atom != b.per_atom:
        convertible = [text for text in _COMMON if _same(parse_unit(text), a)]
        offered = ", ".join(convertible[:5]) or given
        raise InputError(
            f"the unit {one_line(given)} cannot be converted into {one_line(wanted)}; it can be "
            f"reported in {offered}"
        )
    return a.factor / b.factor


def _same(a: Unit, b: Unit) -> bool:
    return a.dimension == b.dimension and a.per_atom == b.per_atom


class _Parser:
    """Reads products, quotients and powers; ``a/b c`` is a/(b) times c as ASE and pint read it."""

    def __init__(self, text: str) -> None:
        self._tokens: list[str] = []
        position = 0
        while position < len(text.rstrip()):
            match = _TOKEN.match(text, position)
            if match is None:
                raise ValueError
            self._tokens.append(match[1])
            position = match.end()

    def parse(self) -> tuple[float, Dimension, int]:
        value = self._product()
        if self._tokens:
            raise ValueError
        return value

    def _product(self) -> tuple[float, Dimension, int]:
        result = self._power()
        while self._tokens and self._tokens[0] != ")":
            sign = 1
            if self._tokens[0] in "*·/":
                sign = -1 if self._tokens.pop(0) == "/" else 1
            result = _times(result, self._power(), sign)
        return result

    def _power(self) -> tuple[float, Dimension, int]:
        base = self._base()
        if not self._tokens:
            return base
        if self._tokens[0] in ("^", "**"):
            self._tokens.pop(0)
            exponent = self._tokens.pop(0) if self._tokens else ""
        elif set(self._tokens[0]) <= set("²³⁻¹"):
            exponent = self._tokens.pop(0).translate(_SUPERSCRIPTS)
        else:
            return base
        if not re.fullmatch(r"[+-]?[1-9]", exponent):
            raise ValueError("a power must be a whole number from 1 to 9, such as a0^3")
        return _times((1.0, _NONE, 0), base, int(exponent))

    def _base(self) -> tuple[float, Dimension, int]:
        if not self._tokens:
            raise ValueError
        token = self._tokens.pop(0)
        if token == "(":
            inner = self._product()
            if not self._tokens or self._tokens.pop(0) != ")":
                raise ValueError("a bracket is not closed")
            return inner
        if token in _AMBIGUOUS and token not in ("kcal", "kJ"):
            raise ValueError(_AMBIGUOUS[token])
        if token in _SYMBOLS:
            return (*_SYMBOLS[token], int(token == "atom"))
        rest = token[1:]
        if token[0] in _PREFIXES and rest in _PREFIXED:
            factor, dimension = _SYMBOLS[rest]
            return _PREFIXES[token[0]] * factor, dimension, 0
        raise ValueError


def _times(
    left: tuple[float, Dimension, int], right: tuple[float, Dimension, int], power: int
) -> tuple[float, Dimension, int]:
    a, b, c, d, e = (x + power * y for x, y in zip(left[1], right[1], strict=True))
    return left[0] * right[0] ** power, (a, b, c, d, e), left[2] + power * right[2]


def _nearest(text: str) -> str:
    folded = {known.casefold(): known for known in (*_COMMON, *_SYMBOLS) if known != "1"}
    close = difflib.get_close_matches(text[:_LONGEST].casefold(), folded, n=1)
    return f"did you mean {folded[close[0]]}?" if close else f"common ones: {', '.join(_COMMON)}"
