"""What is checked about each target: its labels, its references and the naive errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from hpsearch.config.targets import SYMBOLS, Target
from hpsearch.config.units import parse_unit
from hpsearch.data.baselines import baselines
from hpsearch.data.molecule import Floats, Integers, Molecules
from hpsearch.data.plausible import implausible, other_kind
from hpsearch.data.split import Split
from hpsearch.data.statistics import composition_fit, fixed_references
from hpsearch.system.errors import InputError

_BINS = 60

# References of other labels leave several times what there is without them. Sound ones that only
# shift the zero may leave a little more.
_WORSE = 1.5
# A fit describes QM9's energies three times as well as Table 2's references do.
_FIT_BETTER = 50.0


@dataclass(frozen=True)
class Histogram:
    """Numbers of values in bins of equal width.

    Attributes:
        start: lower end of the first bin.
        width: of a bin.
        counts: number of values in each bin.
    """

    start: float
    width: float
    counts: tuple[int, ...]

    @classmethod
    def of(cls, values: Floats) -> Self | None:
        """The histogram of the known values; ``None`` if there are none."""
        known = values[~np.isnan(values)]
        if not len(known):
            return None
        counts, edges = np.histogram(known, _BINS)
        return cls(float(edges[0]), float(edges[1] - edges[0]), tuple(counts.tolist()))


@dataclass(frozen=True)
class References:
    """How well single-atom references describe an extensive target on the training molecules.

    Attributes:
        kind: ``fit`` or ``given``.
        coefficients: reference of each element in the declared unit.
        r2: part of the variance of the molecules' values that they explain.
        error: mean absolute rest of a molecule, in the reporting unit, up to its mean per atom.
        with_them: root mean square of what is left per atom, in the reporting unit.
        without: the same without references.
        of_fit: the same after a fit; both fits and spreads are around the mean per atom.
        spread: standard deviation of what is left per atom, in the reporting unit.
        spread_without: the same without references.
        problems: a line for everything that is wrong with them.
    """

    kind: str
    coefficients: dict[str, float]
    r2: float
    error: float
    with_them: float
    without: float
    of_fit: float
    spread: float
    spread_without: float
    problems: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether they describe the labels better than none, or at least not much worse."""
        worse = self.with_them > _WORSE * self.without
        return not (worse and self.spread >= 0.99 * self.spread_without)


@dataclass(frozen=True)
class TargetCheck:
    """One target; values are in the declared unit.

    Attributes:
        name: of the target.
        unit: the declared unit.
        report_unit: unit of ``mae_of_mean``, ``mae_of_composition``, ``references``.
        extensive: whether it is declared as a sum over atoms.
        found: number of labels.
        missing: number of molecules without a label.
        least: smallest value; NaN without labels, as are the next three.
        mean: of all values.
        most: largest value.
        deviation: standard deviation.
        remarks: what is odd about the values.
        references: of single atoms; ``None`` if there are none.
        mae_of_mean: mean absolute error on the test molecules of predicting the training mean.
        mae_of_composition: the same of the composition fit.
        values: histogram of the values.
        fitted: histogram of the values per atom above a composition fit; ``None`` if intensive.
    """

    name: str
    unit: str
    report_unit: str
    extensive: bool
    found: int
    missing: int
    least: float
    mean: float
    most: float
    deviation: float
    remarks: tuple[str, ...]
    references: References | None
    mae_of_mean: float
    mae_of_composition: float
    values: Histogram | None
    fitted: Histogram | None


@dataclass(frozen=True, eq=False)
class Fit:
    """A fit to the counts of each element, in the declared unit of a target.

    Attributes:
        coefficients: [E] of each element.
        left: [n] what it leaves of every molecule's value; NaN if unknown.
    """

    coefficients: Floats
    left: Floats


def fit_compositions(molecules: Molecules, split: Split) -> list[Fit]:
    """The fit of every target on the training molecules that have it."""
    counts = molecules.element_counts(np.arange(len(molecules))).astype(np.float64)
    coefficients = composition_fit(counts[split.train], molecules.targets[split.train])
    left = molecules.targets - counts @ coefficients
    return [Fit(*columns) for columns in zip(coefficients.T, left.T, strict=True)]


def check_targets(
    molecules: Molecules, split: Split, fits: Sequence[Fit], *, own: bool
) -> Iterator[TargetCheck]:
    """Yield the check of every target.

    Args:
        molecules: the table.
        split: its split.
        fits: of every target.
        own: whether the user can declare targets as intensive.
    """
    table = molecules.target_table
    naive = baselines(molecules, split.train, split.test, table.names)
    for column, (target, fit) in enumerate(zip(table, fits, strict=True)):
        values = molecules.targets[:, column]
        known = values[~np.isnan(values)]
        fitted = fit.left / molecules.atom_counts if target.extensive else None
        remarks = list(implausible(target, values, fitted, molecules))
        if own:
            remarks += other_kind(target, values, molecules)
        if len(known) and (other := _equal_target(molecules, column)):
            remarks.append(f"has the same values as {other}")
        yield TargetCheck(
            name=target.name,
            unit=target.native_unit,
            report_unit=target.unit,
            extensive=target.extensive,
            found=len(known),
            missing=len(values) - len(known),
            least=float(known.min()) if len(known) else np.nan,
            mean=float(known.mean()) if len(known) else np.nan,
            most=float(known.max()) if len(known) else np.nan,
            deviation=float(known.std()) if len(known) else np.nan,
            remarks=tuple(remarks),
            references=_references(molecules, split, column, target, fit),
            mae_of_mean=naive["mean"][target.name],
            mae_of_composition=naive["composition"][target.name],
            values=Histogram.of(values),
            fitted=None if fitted is None else Histogram.of(fitted),
        )


def _equal_target(molecules: Molecules, column: int) -> str | None:
    """The name of an earlier target with the same values, in the same or in its own unit."""
    units = [parse_unit(target.native_unit) for target in molecules.target_table]
    values = molecules.targets[:, column]
    for other in range(column):
        factors = {1.0}
        if units[other].dimension == units[column].dimension:
            factors.add(units[other].factor / units[column].factor)
        for factor in factors:
            earlier = molecules.targets[:, other] * factor
            # The first hundred tell almost all targets apart.
            if all(
                np.allclose(values[:end], earlier[:end], rtol=1e-7, atol=0, equal_nan=True)
                for end in (100, None)
            ):
                return molecules.target_table.names[other]
    return None


def _references(
    molecules: Molecules, split: Split, column: int, target: Target, fit: Fit
) -> References | None:
    """The references of a target on the training molecules; ``None`` if it has none."""
    given = fixed_references(molecules, [target.name])[0]
    if not target.fitted and not given.any():
        return None
    rows = split.train[~np.isnan(molecules.targets[split.train, column])]
    if not len(rows):
        return None
    values, atoms = molecules.targets[rows, column], molecules.atom_counts[rows]
    used = fit.coefficients if target.fitted else given
    left = values - molecules.element_counts(rows) @ used
    per_atom, without, of_fit = left / atoms, values / atoms, fit.left[rows] / atoms
    rest = left - atoms * per_atom.mean()
    variance, factor = values.var(), target.reporting_factor
    references = References(
        kind="fit" if target.fitted else "given",
        coefficients={SYMBOLS[z]: float(c) for z, c in zip(molecules.elements, used, strict=True)},
        r2=float(1 - rest.var() / variance) if variance > 0 else np.nan,
        error=float(np.abs(rest).mean() * factor),
        with_them=_root_mean_square(per_atom) * factor,
        without=_root_mean_square(without) * factor,
        of_fit=_root_mean_square(of_fit) * factor,
        spread=float(per_atom.std() * factor),
        spread_without=float(without.std() * factor),
    )
    counts = molecules.element_counts(rows)
    return replace(references, problems=tuple(_problems(target, references, molecules, counts)))


def _root_mean_square(values: Floats) -> float:
    return float(np.sqrt((values**2).mean()))


def _problems(
    target: Target, references: References, molecules: Molecules, counts: Integers
) -> Iterator[str]:
    present = counts.sum(axis=0) > 0
    symbols = [SYMBOLS[z] for z in np.array(molecules.elements)[present]]
    if references.kind == "fit":
        if np.linalg.matrix_rank(counts[:, present].T @ counts[:, present]) < len(symbols):
            yield (
                f"references of {target.name} cannot be told apart for {', '.join(symbols)}: the "
                "training molecules have too few compositions"
            )
        return
    if not references.sound:
        yield _unsound(target, references)
    elif references.spread > _FIT_BETTER * references.of_fit:
        yield (
            f"references of {target.name} leave {references.spread:,.4g} {target.unit} an atom, a "
            f"fit {references.of_fit:,.4g}: are they in {target.native_unit}, as the labels are?"
        )
    if absent := [symbol for symbol in symbols if not references.coefficients[symbol]]:
        yield f"references of {target.name} have no number for {', '.join(absent)}"


def _unsound(target: Target, references: References) -> str:
    return (
        f"references of {target.name} leave {references.with_them:,.4g} {target.unit} an atom, "
        f"without them {references.without:,.4g}: they belong to other labels"
    )


def require_sound_references(molecules: Molecules, split: Split, targets: Sequence[str]) -> None:
    """Refuse given references that describe the training labels worse than none.

    Args:
        molecules: the table.
        split: its split.
        targets: names of the targets.

    Raises:
        InputError: the references of a target belong to other labels.
    """
    table = molecules.target_table
    for name in targets:
        target = table[name]
        if target.fitted or not target.references:
            continue
        column = table.names.index(name)
        # A fit is not needed to refuse them.
        no_fit = Fit(np.zeros(len(molecules.elements)), molecules.targets[:, column])
        references = _references(molecules, split, column, target, no_fit)
        if references is not None and not references.sound:
            raise InputError(
                f"{_unsound(target, references)}; set references: fit or none, or give "
                f"those of the labels, in {target.native_unit}"
            )
