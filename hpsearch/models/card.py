"""The model card: what a model predicts, how well, and where not to trust it."""

from __future__ import annotations

from collections.abc import Iterator

from hpsearch.config.targets import Target
from hpsearch.models.description import Description
from hpsearch.report.render import Section, markdown, markdown_text
from hpsearch.report.text import number


def card(model: Description) -> str:
    """Return the card as Markdown."""
    body = markdown([*sections(model)])
    return f"# {markdown_text(model.name)}\n\n{body}\n{_USE}"


def sections(model: Description) -> Iterator[Section]:
    """Yield the sections of the card."""
    networks = len(model.networks)
    yield Section(
        "The model",
        (
            f"It predicts {', '.join(target.name for target in model.targets)} of a molecule from "
            "its elements and the positions of its atoms.",
            f"It has {networks} network{'s' if networks > 1 else ''}. "
            + ("Several networks for one target are averaged." if networks > 1 else ""),
        ),
        ("Run", "Epoch", "Targets", "Weights of"),
        tuple(
            (
                network.origin.key,
                str(network.origin.epoch),
                ", ".join(network.targets),
                f"{network.origin.kind} {network.origin.experiment}",
            )
            for network in model.networks
        ),
    )
    yield _errors(model)
    yield _sizes(model)
    yield _training(model)
    yield Section("Limits", tuple(_limits(model)))
    yield _origin(model)


def error_rows(model: Description, absent: str) -> Iterator[tuple[str, ...]]:
    """Yield for each target its name, unit, test molecules, error, and coverage at 68 and 95 %.

    Args:
        model: the description.
        absent: the text for a coverage that is not known.
    """
    for target in model.targets:
        tested = model.tested[target.name]
        coverage = (_percent(tested.coverage.get(level), absent) for level in ("68", "95"))
        molecules = f"{tested.molecules:,}"
        yield target.name, target.unit, molecules, number(tested.mae), *coverage


def size_rows(model: Description, between: str, absent: str) -> Iterator[tuple[str, ...]]:
    """Yield for each target and group of sizes: name, atoms, test molecules, error, coverage.

    Args:
        model: the description.
        between: the text between the least and the most atoms.
        absent: the text for a coverage that is not known.
    """
    for target in model.targets:
        for group in model.tested[target.name].by_size:
            yield (
                target.name,
                f"{group['least_atoms']:.0f}{between}{group['most_atoms']:.0f}",
                f"{group['molecules']:,.0f}",
                f"{number(group['mae'])} {target.unit}",
                _percent(group.get("coverage"), absent),
            )


def _errors(model: Description) -> Section:
    calibration = model.calibration
    source = (
        "The intervals were calibrated on molecules that were used for nothing else."
        if not calibration.optimistic
        else "The intervals are optimistic, that is too narrow: the split has no unused molecules, "
        "so they were calibrated on the validation molecules, which chose the epoch."
    )
    return Section(
        "Errors on the test molecules",
        (source, "Coverage is the part of the test molecules inside the interval."),
        ("Target", "Unit", "Molecules", "Mean absolute error", "Inside 68 %", "Inside 95 %"),
        tuple(error_rows(model, "–")),
    )


def _sizes(model: Description) -> Section:
    return Section(
        "The same by size",
        ("The coverage of a group of sizes is measured. It is not promised.",),
        ("Target", "Atoms", "Molecules", "Mean absolute error", "Inside 95 %"),
        tuple(size_rows(model, " to ", "–")),
    )


def _training(model: Description) -> Section:
    ranges = model.ranges
    elements = ", ".join(
        f"{symbol} {known.least:.0f} to {known.most:.0f}"
        for symbol, known in ranges.elements.items()
    )
    source = "QM9" if model.data.molecules is None else model.data.molecules.path.rpartition("/")[2]
    rows = (
        ("molecules from", source),
        (
            "method",
            model.data.method or ("B3LYP/6-31G(2df,p)" if source == "QM9" else "not stated"),
        ),
        ("training molecules", f"{ranges.molecules:,}"),
        ("atoms of a molecule", f"{ranges.atoms.least:.0f} to {ranges.atoms.most:.0f}"),
        ("atoms of each element", elements),
        *((f"{t.name}", _value_range(model, t)) for t in model.targets),
    )
    remark = (
        "A molecule outside these ranges gets a flag. A flag says that the model has seen nothing "
        "like it."
    )
    return Section("The training molecules", (remark,), ("What", "Range"), rows)


def _value_range(model: Description, target: Target) -> str:
    known = model.ranges.values[target.name]
    per_atom = " per atom, above the references" if target.extensive else ""
    return f"{known.least:.6g} to {known.most:.6g} {target.native_unit}{per_atom}"


def _limits(model: Description) -> Iterator[str]:
    yield (
        "The prediction does not change if the molecule is rotated or moved, or if its atoms are "
        "listed in another order."
    )
    cutoffs = sorted({network.config.radial_maximum_angstrom for network in model.networks})
    shown = " or ".join(f"{cutoff:.3g}" for cutoff in cutoffs)
    yield (
        f"Atoms farther apart than {shown} Å do not interact directly. The prediction is not "
        "smooth where a pair of atoms crosses this distance."
    )
    yield (
        "The model was trained on the geometries of its data, without forces. It is no potential "
        "for dynamics."
    )


def _origin(model: Description) -> Section:
    versions = model.code.get("versions") or {}
    rows = (
        ("made on", model.created),
        ("hash of the molecules", model.data_hash),
        ("hash of the three sets", model.split_hash),
        ("hash of the weights", model.weights_hash),
        ("commit", model.code.get("git_commit") or "not known"),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    )
    return Section("Origin", (), ("What", "Value"), rows)


def _percent(part: float | None, absent: str) -> str:
    return absent if part is None else f"{100 * part:.1f} %"


_USE = """\
## Use

```
hpsearch predict THIS_FOLDER molecules.xyz -o predictions.csv
```

The weights are in `weights.safetensors`. Everything else is in `model.json`.
"""
