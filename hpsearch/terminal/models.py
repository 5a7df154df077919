"""Lines for a terminal about a model."""

from __future__ import annotations

from collections.abc import Iterator

from hpsearch.models.description import Description
from hpsearch.report.text import number
from hpsearch.terminal.columns import columns, hanging

MOST_BY_SIZE = 3
"""Most targets whose errors by size are printed."""


def model_lines(model: Description, width: int | None) -> Iterator[str]:
    """Yield what a model predicts, how well, and what it was trained on.

    Args:
        model: the description.
        width: columns of the terminal; ``None`` for no limit.
    """
    runs = ", ".join(network.origin.key for network in model.networks)
    first = model.networks[0].origin
    networks = len(model.networks)
    what = f"{networks} network{'s' if networks > 1 else ''}"
    yield from hanging(
        "model       ", f"{model.name}: {what} of {first.kind} {first.experiment} ({runs})", width
    )
    ranges = model.ranges
    elements = " ".join(model.elements)
    yield from hanging(
        "training    ",
        f"{ranges.molecules:,} molecules of {ranges.atoms.least:.0f} to {ranges.atoms.most:.0f} "
        f"atoms, elements {elements}",
        width,
    )
    used = "unused molecules" if not model.calibration.optimistic else (
        "validation molecules, which chose the epoch: the intervals are too narrow (the split has "
        "no unused molecules)"
    )  # fmt: skip
    count = max(target.molecules for target in model.calibration.targets.values())
    yield from hanging("intervals   ", f"calibrated on {count:,} {used}", width)
    rows: list[tuple[str, ...]] = [
        ("target", "unit", "test molecules", "MAE", "inside 68 %", "inside 95 %")
    ]
    for target in model.targets:
        tested = model.tested[target.name]
        rows.append(
            (
                target.name,
                target.unit,
                f"{tested.molecules:,}",
                number(tested.mae),
                *(_percent(tested.coverage.get(level)) for level in ("68", "95")),
            )
        )
    yield ""
    yield from columns(rows, width, left=(0, 1))
    if len(model.targets) > MOST_BY_SIZE:
        yield "errors by size of the molecule: see the model card"
        return
    by_size: list[tuple[str, ...]] = [("target", "atoms", "test molecules", "MAE", "inside 95 %")]
    for target in model.targets:
        for group in model.tested[target.name].by_size:
            by_size.append(
                (
                    target.name,
                    f"{group['least_atoms']:.0f}-{group['most_atoms']:.0f}",
                    f"{group['molecules']:,.0f}",
                    f"{number(group['mae'])} {target.unit}",
                    _percent(group.get("coverage")),
                )
            )
    if len(by_size) > 1:
        yield ""
        yield from columns(by_size, width, left=(0,))


def _percent(part: float | None) -> str:
    return "-" if part is None else f"{100 * part:.1f} %"
