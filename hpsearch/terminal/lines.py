"""Lines for a terminal: of a space, a plan, a winner and the molecules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from hpsearch.ablation.plan import AblationPlan
from hpsearch.config.architecture import count_weights
from hpsearch.config.export import Winner
from hpsearch.config.run import DataConfig
from hpsearch.config.space import SearchSpace
from hpsearch.config.targets import TARGET_NAMES, target
from hpsearch.data.baselines import baselines
from hpsearch.data.molecule import Molecules
from hpsearch.data.split import make_split
from hpsearch.data.statistics import TargetStatistics
from hpsearch.report.render import Section, plain
from hpsearch.report.text import relative
from hpsearch.terminal.columns import cut

WIDEST_MOLECULE_ANGSTROM = 12.04
"""Largest distance between two atoms of one molecule in QM9."""


def idle_line(space: SearchSpace) -> str | None:
    """One line if the space allows cutoffs that no two atoms are apart; else ``None``.

    The centres of a ``cosine`` or ``gaussian`` basis are equally spaced up to the cutoff, so those
    beyond the widest molecule never see a pair. A ``bessel`` basis has no such functions.
    """
    bases = _possible(space, "radial_basis")
    widest = max(float(radius) for radius in _possible(space, "radial_maximum_angstrom"))
    if widest <= WIDEST_MOLECULE_ANGSTROM or bases == {"bessel"}:
        return None
    return (
        f"no two atoms of a molecule are {WIDEST_MOLECULE_ANGSTROM:g} Å apart or more, and the "
        f"space allows cutoffs up to {widest:g} Å: up to "
        f"{1 - WIDEST_MOLECULE_ANGSTROM / widest:.0%} of a trial's radial functions are idle"
    )


def _possible(space: SearchSpace, name: str) -> set[Any]:
    """The field's fixed value, or the ends or choices of its range."""
    if name not in space.parameters:
        return {space.network[name]}
    parameter = space.parameters[name]
    return {*parameter.ends.values(), parameter.otherwise} - {None}


UNEQUAL = 0.05
"""Difference of weight counts, as a part of the winner's, that is pointed out."""


def plan_lines(plan: AblationPlan) -> Iterator[str]:
    """The arms with their weight counts, before anything runs."""
    reference = count_weights(plan.network)
    cells = f"{len(plan.variants)} × {len(plan.targets)} × {plan.repeats}"
    yield (
        f"{len(plan.cells)} runs: {cells} variants, targets ({', '.join(plan.targets)}), repeats; "
        f"arms matched by {'weights' if plan.match == 'params' else 'feature components'}"
    )
    width = max(len(variant.name) for variant in plan.variants)
    for variant in plan.variants:
        network, weights = plan.networks[variant.name], plan.weights[variant.name]
        features = f"{network.featurization_scalars}x0+{network.featurization_vectors}x1"
        yield (
            f"  {variant.name:{width}}  {weights:>11,} weights, {features}, {variant.description}"
        )
    unequal = [
        f"{name} {weights / reference - 1:+.0%}"
        for name, weights in plan.weights.items()
        if abs(weights / reference - 1) > UNEQUAL
    ]
    if unequal:
        mend = "; --match params brings them near" if plan.match == "dims" else ""
        yield (
            f"the arms' weights differ by more than {UNEQUAL:.0%} from the exported network's "
            f"{reference:,}: {', '.join(unequal)}{mend}"
        )


def winner_lines(winner: Winner, molecules: Molecules) -> Iterator[str]:
    """A search's winner beside predictions without a geometry, on its validation molecules."""
    origin = winner.provenance
    assert origin is not None
    yield (
        f"winner: trial {origin.trial}, validation loss {origin.validation_loss:,.4g} "
        f"({relative(origin.validation_loss, origin.zero_output_loss)})"
    )
    split = make_split(molecules, winner.config.data)
    naive = baselines(molecules, split.train, split.validation, winner.config.targets)
    yield ""
    yield f"{'target':8}{'winner':>12}{'composition':>13}{'mean':>12}  unit (validation MAE)"
    for name, error in origin.validation_maes.items():
        yield (
            f"{name:8}{error.mae:12.4g}{naive['composition'][name]:13.4g}"
            f"{naive['mean'][name]:12.4g}  {error.unit}"
        )
    beaten = sum(e.mae < naive["composition"][n] for n, e in origin.validation_maes.items())
    yield f"the winner beats the composition fit on {beaten} of {len(origin.validation_maes)}"


def molecule_facts(molecules: Molecules, data: DataConfig) -> dict[str, Any]:
    """The molecules, their split, the targets' statistics and naive errors, for scripts.

    Statistics are per atom (Eq. 15), of the training molecules; errors on the test molecules; both
    in each target's reporting unit.

    Raises:
        InputError: the sizes do not fit.
    """
    split = make_split(molecules, data)
    statistics = TargetStatistics.fit(molecules, split.train, TARGET_NAMES)
    naive = baselines(molecules, split.train, split.test, TARGET_NAMES)
    counts = molecules.atom_counts
    factors = [target(name).reporting_factor for name in TARGET_NAMES]
    return {
        "molecules": len(molecules),
        "atoms": {
            "least": int(counts.min()),
            "mean": float(counts.mean()),
            "most": int(counts.max()),
        },
        "content": molecules.content_hash,
        "split": split.hash,
        "train": len(split.train),
        "validation": len(split.validation),
        "test": len(split.test),
        "targets": [
            {
                "target": name,
                "unit": target(name).unit,
                "mean": float(statistics.mean[t] * factor),
                "deviation": float(statistics.deviation[t] * factor),
                "mae_of_mean": float(naive["mean"][name]),
                "mae_of_composition": float(naive["composition"][name]),
            }
            for t, (name, factor) in enumerate(zip(TARGET_NAMES, factors, strict=True))
        ],
    }


def molecule_lines(molecules: Molecules, data: DataConfig) -> Iterator[str]:
    """What :func:`molecule_facts` finds, for a person.

    Raises:
        InputError: the sizes do not fit.
    """
    found = molecule_facts(molecules, data)
    atoms = found["atoms"]
    yield (
        f"{found['molecules']:,} molecules of {atoms['least']}-{atoms['most']} atoms, "
        f"mean {atoms['mean']:.2f}"
    )
    yield f"content {found['content']}"
    yield (
        f"split {found['split']}: {found['train']:,} training, {found['validation']:,} validation, "
        f"{found['test']:,} test molecules"
    )
    yield ""
    yield "per-atom statistics of the training molecules (Eq. 15) and naive errors on the test set"
    yield f"{'target':8}{'mean':>12}{'deviation':>12}{'MAE of mean':>14}{'composition':>13}  unit"
    for row in found["targets"]:
        yield (
            f"{row['target']:8}{row['mean']:12.5g}{row['deviation']:12.5g}"
            f"{row['mae_of_mean']:14.4g}{row['mae_of_composition']:13.4g}  {row['unit']}"
        )


def section_lines(section: Section, width: int | None) -> Iterator[str]:
    """The section's title and table; where it is too wide, its columns in several blocks.

    Each block begins with the first column, and with the unit where there is one.

    Args:
        section: whose remarks are left out.
        width: columns of the terminal; ``None`` where nothing has to fit.
    """
    text = plain(section)
    if not section.header or width is None or _widest(text) <= width:
        yield from text.splitlines()
        return
    kept = [n for n, name in enumerate(section.header) if n == 0 or name.startswith("Unit")]
    blocks: list[list[int]] = [[]]
    for column in (n for n in range(len(section.header)) if n not in kept):
        longer = _with_columns(section, [*kept, *blocks[-1], column])
        if blocks[-1] and _widest(plain(longer)) > width:
            blocks.append([])
        blocks[-1].append(column)
    for number, block in enumerate(blocks):
        lines = plain(_with_columns(section, [*kept, *block])).splitlines()
        # The title stands once, over all blocks.
        for line in lines if number == 0 else ["", *lines[1:]]:
            yield cut(line, width)


def _with_columns(section: Section, columns: Sequence[int]) -> Section:
    def of(cells: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(cells[column] for column in columns) if cells else ()

    rows = tuple(of(row) for row in section.rows)
    return replace(section, header=of(section.header), rows=rows, groups=of(section.groups))


def _widest(text: str) -> int:
    # The title is no part of the table, and may be broken anywhere.
    return max(map(len, text.splitlines()[1:]), default=0)
