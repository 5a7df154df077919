"""Physical constants and the conversion from QM9's native units to the units of Table 1."""

MEV_PER_HARTREE = 27_211.386245988
"""1 Hartree in meV (CODATA 2018)."""

# (native unit, reporting unit) -> factor; a pair that is not here cannot be converted.
_FACTORS = {
    ("D", "D"): 1.0,
    ("a0^3", "a0^3"): 1.0,
    ("a0^2", "a0^2"): 1.0,
    ("Hartree", "meV"): MEV_PER_HARTREE,
    ("cal/(mol K)", "cal/(mol K)"): 1.0,
}


def factor(native: str, reporting: str) -> float:
    """Number that takes a value in ``native`` units to ``reporting`` units.

    Raises:
        KeyError: the pair is not one that the targets use.
    """
    return _FACTORS[native, reporting]
