"""The check of the molecules as sentences and tables, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite

from hpsearch.data.check import FAR_ANGSTROM, DataCheck
from hpsearch.data.duplicates import SplitCheck
from hpsearch.report.render import Section

_MOST_ELEMENTS = 12


def facts(check: DataCheck) -> Iterator[tuple[str, str]]:
    """Yield what is known about the molecules: a few words, and a sentence about them."""
    least, most = check.sizes[0][0], check.sizes[-1][0]
    yield (
        "molecules",
        f"{check.molecules:,} of {check.source}; {least:,} to {most:,} atoms, median "
        f"{check.median_atoms:g}, {check.atoms:,} in all",
    )
    shown = [f"{e.symbol} {e.atoms:,} in {e.molecules:,}" for e in check.elements[:_MOST_ELEMENTS]]
    more = len(check.elements) - len(shown)
    yield (
        "elements",
        f"{', '.join(shown)} molecules" + (f", and {more} more elements" if more else ""),
    )
    yield "distances", _distances(check)
    if check.pairs.number:
        sample = check.pairs.sampled
        yield (
            "neighbours",
            "; ".join(
                f"{n.mean:.1f} of an atom within {n.angstrom:g} Å, at most {n.most}"
                for n in check.pairs.neighbours
            )
            + (f" (of a sample of {sample:,} molecules)" if sample else ""),
        )
    yield "duplicates", _duplicates(check)
    yield "split", _split(check.split)
    yield "leaks", _leaks(check.split)
    yield (
        "cache",
        f"{_size(check.disk_bytes)} on disk, {_size(check.memory_bytes)} in memory; {check.cache}",
    )
    yield "content", check.content_hash


def _distances(check: DataCheck) -> str:
    pairs = check.pairs
    if pairs.shortest is None or pairs.longest is None:
        return "none; every molecule is a single atom"
    far = f"{pairs.far:,}" if pairs.far else "none"
    return (
        f"{pairs.number:,} pairs of atoms; shortest {pairs.shortest.angstrom:.3f} Å "
        f"({pairs.shortest.molecule}), longest {pairs.longest.angstrom:.2f} Å "
        f"({pairs.longest.molecule}); {far} beyond {FAR_ANGSTROM} Å"
    )


def _duplicates(check: DataCheck) -> str:
    found = check.duplicates
    if found.example is None:
        same = "no geometry twice"
    else:
        labels = f"{found.different_labels:,} with other labels" if found.different_labels else ""
        have = "1 molecule has" if found.geometries == 1 else f"{found.geometries:,} molecules have"
        same = (
            f"{have} the geometry of an earlier one or its mirror "
            f"image, {labels or 'with the same labels'} ({found.example[1]} is {found.example[0]})"
        )
    if not found.all_compared:
        same += ", of those that were compared"
    several = (
        f"{found.in_several:,} of them in several geometries (at most {found.most_geometries:,})"
        if found.in_several
        else "each in one geometry"
    )
    return f"{same}; {found.graphs:,} different molecules by their bonds, {several}"


def _split(split: SplitCheck) -> str:
    groups = ""
    if split.groups is not None:
        kept = "kept together" if split.by_group else "not kept together"
        groups = f"; {split.groups:,} groups, {kept}"
    return (
        f"{split.train:,} training, {split.validation:,} validation, {split.test:,} test "
        f"molecules{groups}; hash {split.hash[:12]}"
    )


def _leaks(split: SplitCheck) -> str:
    leaks = split.leaks

    def counted(test: int, validation: int, kind: str) -> str:
        return (
            f"{test:,} of {split.test:,} test and {validation:,} of {split.validation:,} "
            f"validation molecules have the {kind} of a training molecule"
        )

    text = counted(leaks.test, leaks.validation, "bonds")
    if leaks.test_groups is not None and leaks.validation_groups is not None:
        text += f"; {counted(leaks.test_groups, leaks.validation_groups, 'group')}"
    return text


def _size(size: int) -> str:
    return f"{size / 1e9:.2g} GB" if size >= 1e9 else f"{size / 1e6:.2g} MB"


def target_section(check: DataCheck) -> Section:
    """The labels of each target, in the declared unit."""
    return Section(
        "Targets",
        ("Values are in the unit of the file.",),
        (
            *("Target", "labels", "missing", "least", "mean", "most", "deviation", "kind"),
            *("reported in", "Unit"),
        ),
        tuple(
            (
                target.name,
                f"{target.found:,}",
                f"{target.missing:,}",
                *map(number, (target.least, target.mean, target.most, target.deviation)),
                "extensive" if target.extensive else "intensive",
                target.report_unit,
                target.unit,
            )
            for target in check.targets
        ),
    )


def reference_sections(check: DataCheck) -> list[Section]:
    """How well the references describe the training molecules, and the references themselves."""
    having = [(t, t.references) for t in check.targets if t.references is not None]
    if not having:
        return []
    elements = [element.symbol for element in check.elements]
    quality = Section(
        "References",
        (
            "On the training molecules: what is left of a target when the references of its atoms "
            "are subtracted. The error is that of a molecule around the mean per atom.",
        ),
        ("Target", "references", "R²", "error", "per atom", "without", "Unit"),
        tuple(
            (
                target.name,
                references.kind,
                _r2(references.r2),
                *map(number, (references.error, references.with_them, references.without)),
                target.report_unit,
            )
            for target, references in having
        ),
    )
    values = Section(
        "References of an atom",
        (),
        ("Target", *elements, "Unit"),
        tuple(
            (target.name, *(number(references.coefficients[e]) for e in elements), target.unit)
            for target, references in having
        ),
    )
    return [quality, values]


def naive_section(check: DataCheck) -> Section:
    """The errors that a network must beat."""
    return Section(
        "Errors to beat on the test molecules",
        (
            "Mean absolute errors of predictions without geometry: the mean of the training "
            "molecules, and a linear fit on the counts of each element.",
        ),
        ("Target", "mean", "composition", "Unit"),
        tuple(
            (
                target.name,
                number(target.mae_of_mean),
                number(target.mae_of_composition),
                target.report_unit,
            )
            for target in check.targets
        ),
    )


def tables(check: DataCheck) -> list[Section]:
    """All tables, in the order in which they are shown."""
    return [target_section(check), *reference_sections(check), naive_section(check)]


def sections(check: DataCheck) -> list[Section]:
    """Everything, for a page."""
    remarks = check.warnings or ("Nothing.",)
    return [
        Section("To look at before a search", remarks),
        Section("Molecules", header=("", ""), rows=tuple(facts(check))),
        *tables(check),
    ]


def number(value: float) -> str:
    """Return four significant digits; nothing if the number is unknown."""
    if not isfinite(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _r2(value: float) -> str:
    """Return R², with the nines that matter: 0.9999995 and not 1."""
    if not isfinite(value):
        return ""
    for digits in range(3, 9):
        if abs(round(value, digits) - 1) > 0.5 * 10.0**-digits:
            return f"{value:.{digits}f}"
    return f"{value:.8f}"
