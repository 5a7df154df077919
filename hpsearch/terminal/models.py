"""Lines for a terminal about a model."""

from __future__ import annotations

from collections.abc import Iterator

from hpsearch.models.card import error_rows, size_rows
from hpsearch.models.description import Description
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
    header = ("target", "unit", "test molecules", "MAE", "inside 68 %", "inside 95 %")
    yield ""
    yield from columns([header, *error_rows(model, "-")], width, left=(0, 1))
    if len(model.targets) > MOST_BY_SIZE:
        yield "errors by size of the molecule: see the model card"
        return
    by_size = list(size_rows(model, "-", "-"))
    if by_size:
        yield ""
        header_by_size = ("target", "atoms", "test molecules", "MAE", "inside 95 %")
        yield from columns([header_by_size, *by_size], width, left=(0,))
