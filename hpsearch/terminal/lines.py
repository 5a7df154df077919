"""Lines for a terminal: on a search space, an ablation's plan, a winner and the molecules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from hpsearch.ablation.plan import AblationPlan
from hpsearch.config.architecture import count_weights
from hpsearch.config.export import Winner
from hpsearch.config.run import DataConfig
from hpsearch.config.space import SearchSpace
from hpsearch.data.baselines import baselines
from hpsearch.data.molecule import Molecules
from hpsearch.data.split import make_split
from hpsearch.data.statistics import TargetStatistics
from hpsearch.report.render import Section, plain
from hpsearch.report.text import compared_loss
from hpsearch.terminal.columns import cut
from hpsearch.terminal.progress import named

WIDEST_MOLECULE_ANGSTROM = 12.04
"""Largest distance between two atoms of one molecule in QM9."""


def idle_line(space: SearchSpace) -> str | None:
    """Return a warning if the space allows cutoffs above the widest molecule; else ``None``.

    The centres of a ``cosine`` or ``gaussian`` basis are equally spaced up to the cutoff. Those
    outside the widest molecule never see a pair of atoms. A ``bessel`` basis has no such functions.
    """
    bases = _possible(space, "radial_basis")
    widest = max(float(radius) for radius in _possible(space, "radial_maximum_angstrom"))
    if widest <= WIDEST_MOLECULE_ANGSTROM or bases == {"bessel"}:
        return None
    idle = 100 * (1 - WIDEST_MOLECULE_ANGSTROM / widest)
    return (
        f"the space allows cutoffs up to {widest:g} Å, but no molecule is wider than "
        f"{WIDEST_MOLECULE_ANGSTROM:g} Å: up to {idle:.0f} % of a trial's radial functions are idle"
    )


def no_rungs_line(space: SearchSpace) -> str | None:
    """Return a line if the space asks for the default rungs, but its trials are too short."""
    if space.rungs is None or space.early_stopping is not None:
        return None
    epochs = space.training["epochs"]
    return (
        f"trials of {epochs} epoch{'s' if epochs > 1 else ''} are too short for the default rungs: "
        "every trial is trained to its end"
    )


def _possible(space: SearchSpace, name: str) -> set[Any]:
    """Return the field's fixed value, or the ends or choices of its range."""
    if name not in space.parameters:
        return {space.network[name]}
    parameter = space.parameters[name]
    return {*parameter.ends.values(), parameter.otherwise} - {None}


UNEQUAL = 0.05
"""Relative difference to the winner's number of weights above which the plan warns."""


def plan_lines(plan: AblationPlan) -> Iterator[str]:
    """Yield the lines of the plan: its runs, and the arms with their numbers of weights."""
    reference = count_weights(plan.network, 1, plan.data.element_count)
    equal = "nearly equal numbers of weights" if plan.match == "params" else "equal feature size"
    yield (
        f"{_counted(len(plan.cells), 'run')} = {_counted(len(plan.variants), 'variant')} × "
        f"{_counted(len(plan.targets), 'target')} ({_names(plan.targets)}) × "
        f"{_counted(plan.repeats, 'repeat')}; variants have {equal}"
    )
    width = max(len(variant.name) for variant in plan.variants)
    for variant in plan.variants:
        network, weights = plan.networks[variant.name], plan.weights[variant.name]
        yield (
            f"  {variant.name:{width}}  {weights:>11,} weights, "
            f"{network.featurization_scalars} scalars, {network.featurization_vectors} vectors: "
            f"{variant.description}"
        )
    unequal = [
        f"{name} {100 * (weights / reference - 1):+.0f} %"
        for name, weights in plan.weights.items()
        if abs(weights / reference - 1) > UNEQUAL
    ]
    if unequal:
        fix = "; --match params makes them nearly equal" if plan.match == "dims" else ""
        yield (
            f"the number of weights differs from the exported network's {reference:,} by more than "
            f"{100 * UNEQUAL:.0f} %: {', '.join(unequal)}{fix}"
        )


MOST_NAMES = 12
"""Most targets that are named in one line."""


def _names(targets: Sequence[str]) -> str:
    more = len(targets) - MOST_NAMES
    return ", ".join(targets[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _wide(targets: Iterable[str]) -> int:
    """Return the width of a column of targets."""
    return max([8, *(len(name) + 2 for name in targets if len(name) > 7)])


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def winner_lines(
    winner: Winner, molecules: Molecules, started_from: str | None = None
) -> Iterator[str]:
    """Yield the winner's validation errors next to those of two naive predictions.

    Args:
        winner: of a study.
        molecules: the whole data set.
        started_from: where its configuration comes from, if the study started with it.
    """
    origin = winner.provenance
    assert origin is not None
    yield (
        f"winner: trial {named(str(origin.trial), started_from)}, validation loss "
        f"{compared_loss(origin.validation_loss, origin.zero_output_loss)}"
    )
    split = make_split(molecules, winner.config.data)
    naive = baselines(molecules, split.train, split.validation, winner.config.targets)
    yield ""
    width = _wide(origin.validation_maes)
    yield f"{'target':{width}}{'winner':>12}{'composition':>13}{'mean':>12}  unit (validation MAE)"
    for name, error in origin.validation_maes.items():
        yield (
            f"{name:{width}}{error.mae:12.4g}{naive['composition'][name]:13.4g}"
            f"{naive['mean'][name]:12.4g}  {error.unit}"
        )
    beaten = sum(e.mae < naive["composition"][n] for n, e in origin.validation_maes.items())
    yield ("composition: linear fit on the counts of each element; mean: of the training molecules")
    yield (
        f"the winner beats the composition fit on {beaten} of {len(origin.validation_maes)} targets"
    )


def molecule_facts(molecules: Molecules, data: DataConfig) -> dict[str, Any]:
    """Return the molecules, their split, the targets' statistics and naive errors, for scripts.

    The statistics are per atom (Eq. 15) and of the training molecules. The errors are of the test
    molecules. Both are in each target's reporting unit.

    Raises:
        InputError: the sizes do not fit.
    """
    split = make_split(molecules, data)
    targets = data.all_targets
    statistics = TargetStatistics.fit(
        molecules, split.train, targets.names, masked=data.missing == "mask"
    )
    naive = baselines(molecules, split.train, split.test, targets.names)
    counts = molecules.atom_counts
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
                "target": target.name,
                "unit": target.unit,
                "mean": float(statistics.mean[t] * target.reporting_factor),
                "deviation": float(statistics.deviation[t] * target.reporting_factor),
                "mae_of_mean": float(naive["mean"][target.name]),
                "mae_of_composition": float(naive["composition"][target.name]),
            }
            for t, target in enumerate(targets)
        ],
    }


def molecule_lines(molecules: Molecules, data: DataConfig) -> Iterator[str]:
    """Yield the values of :func:`molecule_facts` for a person.

    Raises:
        InputError: the sizes do not fit.
    """
    facts = molecule_facts(molecules, data)
    atoms = facts["atoms"]
    yield (
        f"{facts['molecules']:,} molecules of {atoms['least']}-{atoms['most']} atoms, "
        f"mean {atoms['mean']:.2f}"
    )
    yield f"content {facts['content']}"
    yield (
        f"split {facts['split']}: {facts['train']:,} training, {facts['validation']:,} validation, "
        f"{facts['test']:,} test molecules"
    )
    yield ""
    yield (
        "training molecules: mean and deviation per atom (Eq. 15); test molecules: MAE of two "
        "naive predictions"
    )
    width = _wide(row["target"] for row in facts["targets"])
    yield (
        f"{'target':{width}}{'mean':>12}{'deviation':>12}{'MAE of mean':>14}{'composition':>13}"
        "  unit"
    )
    for row in facts["targets"]:
        yield (
            f"{row['target']:{width}}{row['mean']:12.5g}{row['deviation']:12.5g}"
            f"{row['mae_of_mean']:14.4g}{row['mae_of_composition']:13.4g}  {row['unit']}"
        )


def section_lines(section: Section, width: int | None) -> Iterator[str]:
    """Yield the section's title and table; a table that is too wide is split into blocks.

    Each block repeats the first column, and the unit if there is one.

    Args:
        section: the section; its remarks are left out.
        width: columns of the terminal; ``None`` for no limit.
    """
    text = plain(section)
    if not section.header or width is None or _widest(text) <= width:
        yield from text.splitlines()
        return
    repeated = [n for n, name in enumerate(section.header) if n == 0 or name.startswith("Unit")]
    blocks: list[list[int]] = [[]]
    for column in (n for n in range(len(section.header)) if n not in repeated):
        longer = _with_columns(section, [*repeated, *blocks[-1], column])
        if blocks[-1] and _widest(plain(longer)) > width:
            blocks.append([])
        blocks[-1].append(column)
    for number, block in enumerate(blocks):
        lines = plain(_with_columns(section, [*repeated, *block])).splitlines()
        # Only the first block has the title.
        for line in lines if number == 0 else ["", *lines[1:]]:
            yield cut(line, width)


def _with_columns(section: Section, columns: Sequence[int]) -> Section:
    def of(cells: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(cells[column] for column in columns) if cells else ()

    rows = tuple(of(row) for row in section.rows)
    return replace(section, header=of(section.header), rows=rows, groups=of(section.groups))


def _widest(text: str) -> int:
    # The title may be wider than the table.
    return max(map(len, text.splitlines()[1:]), default=0)
