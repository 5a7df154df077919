"""``hpsearch ablate``: variants of a configuration, and their quote."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from hpsearch.cli.drive import drive, make_progress
from hpsearch.cli.inputs import (
    check_before_writing,
    create_store,
    load_molecules,
    read_winner,
)
from hpsearch.cli.options import (
    at_least,
    complete_choice,
    complete_experiment,
    complete_export,
    epochs_option,
    example,
    parse_names,
    placement_options,
    require_dry_run,
    schedule_option,
    size_options,
    storage_option,
    targets_option,
)
from hpsearch.cli.output import again_command, answering, say, say_folded
from hpsearch.errors import HpsearchError

if TYPE_CHECKING:
    from hpsearch.ablation.plan import AblationPlan
    from hpsearch.executor import Placement


@click.command(
    epilog=example("hpsearch ablate best.yaml --targets mu,U0 --variants L1Net,L0Net --repeats 3")
)
@click.argument("file", type=click.Path(path_type=Path), shell_complete=complete_export)
@click.option(
    "--name",
    metavar="NAME",
    shell_complete=complete_experiment("ablation"),
    help="The ablation; default the file's name and a hash.",
)
@storage_option
@targets_option
@click.option(
    "--variants",
    callback=parse_names,
    metavar="NAMES",
    shell_complete=complete_choice("VARIANTS", several=True),
    help="L1Net, L0Net, L0NetDeep, L0NetOutdeep, L0NetBothDeep, separated by commas; default all.",
)
@click.option(
    "--variants-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="YAML file that declares variants of your own, see docs/ablation.md.",
)
@click.option(
    "--match",
    type=click.Choice(["dims", "params"]),
    default="dims",
    show_default=True,
    help="What an arm without vectors keeps: the number of feature components, as in the paper, or "
    "as nearly as possible the number of weights.",
)
@click.option(
    "--repeats",
    type=int,
    callback=at_least(1),
    metavar="N",
    default=1,
    show_default=True,
    help="Runs of every cell, which differ in initialisation and order of batches.",
)
@click.option(
    "--vary-split",
    is_flag=True,
    help="Repeats also train and validate on other molecules; all test on the same ones.",
)
@epochs_option
@schedule_option
@click.option(
    "--plateau-patience",
    type=int,
    callback=at_least(0),
    metavar="N",
    help="Epochs without improvement before the rate falls.",
)
@click.option(
    "--early-stopping-patience",
    type=int,
    callback=at_least(1),
    metavar="N",
    help="Epochs without improvement after which a run ends.",
)
@click.option("--batch-size", type=int, callback=at_least(1), metavar="N", help="Molecules a step.")
@click.option(
    "--learning-rate",
    type=float,
    callback=at_least(0, above=True),
    metavar="RATE",
    help="Adam's initial rate.",
)
@size_options
@click.option(
    "--split-seed", type=int, callback=at_least(0), metavar="N", help="Seed of the random split."
)
@click.option(
    "--seed", type=int, callback=at_least(0), metavar="N", help="Seed of the repeats' seeds."
)
@placement_options("run")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print the plan and what it costs, measured by a few steps of every arm; run nothing.",
)
@click.option("--json", "as_json", is_flag=True, help="What --dry-run finds as one JSON object.")
def ablate(
    file: Path,
    name: str | None,
    storage: str | None,
    runs: Path | None,
    targets: tuple[str, ...],
    variants: tuple[str, ...],
    variants_file: Path | None,
    match: Literal["dims", "params"],
    repeats: int,
    vary_split: bool,
    dry_run: bool,
    as_json: bool,
    placement: Placement,
    if_held: str,
    **overrides: Any,
) -> None:
    """Train variants of a configuration, one target each, and test.

    FILE comes from export-best, or is the shipped paper_l1net. Runs that are in the store are not
    repeated: the same command again runs what is missing, and more targets, variants or repeats
    add to it. An export as it was written is trained as in the paper, for at most 200
    epochs; one that was edited, or written by hand, keeps its own training.
    """
    from hpsearch.ablation.declared import declared_variants
    from hpsearch.ablation.launch import launch_ablation
    from hpsearch.ablation.molecules import DataSummary
    from hpsearch.ablation.plan import AblationPlan
    from hpsearch.config.architecture import relative_work
    from hpsearch.config.run import Overrides
    from hpsearch.cost.estimate import Estimate
    from hpsearch.terminal.lines import plan_lines

    require_dry_run(dry_run, as_json)
    winner = read_winner(file)
    plan = AblationPlan.make(
        winner,
        targets=targets,
        variants=variants,
        declared=declared_variants(variants_file, winner) if variants_file else (),
        repeats=repeats,
        match=match,
        vary_split=vary_split,
        overrides=Overrides(**overrides),
        name=name,
        stem=file.stem,
    )
    if dry_run:
        with answering(as_json) as answer:
            # For what it refuses.
            DataSummary.of(load_molecules(), winner, plan)
            _quote(plan, placement, answer if as_json else None)
        return
    data = DataSummary.of(load_molecules(), winner, plan)
    root, _ = check_before_writing(storage, runs, name, "ablation", placement)
    with create_store(storage) as store:
        ablation = launch_ablation(store, winner, plan, root, data, wait=if_held == "wait", say=say)
        counts = ablation.counts()
        say(f"ablation {plan.name} in {store.label}")
        for line in plan_lines(plan):
            say(line)
        say(f"found: {counts['complete']} complete, {counts['waiting']} to run")
        say(plan.training_note)
        say(
            f"{data.train:,} training, {data.validation:,} validation, {data.test:,} test molecules"
        )
        cells = [
            (str(cell.key), cell.config.training.epochs, relative_work(cell.config))
            for cell in ablation.waiting
        ]
        progress = make_progress(
            "run",
            Estimate(cells),
            total=len(plan.cells),
            done=counts["complete"],
            compares=False,
        )
        drive(
            ablation,
            progress,
            placement,
            again_command(f"status {shlex.quote(plan.name)}", storage),
        )
        counts = ablation.counts()
        say(f"{counts['complete']} complete, {counts['failed']} failed")
        say(f"next: {again_command('report', storage)} -o report/")
        if counts["failed"]:
            if ablation.first_failure is not None:
                key, failure = ablation.first_failure
                click.echo(f"run {key}: {failure.traceback.rstrip()}", err=True)
            raise HpsearchError(
                f"{counts['failed']} of {len(plan.cells)} runs failed, for the reasons above; the "
                "same command tries them again"
            )


def _quote(plan: AblationPlan, placement: Placement, answer: Callable[[Any], None] | None) -> None:
    from hpsearch import executor
    from hpsearch.ablation.quote import PlanQuote
    from hpsearch.cost import measure
    from hpsearch.system.gpus import gpus
    from hpsearch.terminal.lines import plan_lines
    from hpsearch.terminal.quotes import quote_lines

    places = executor.count_places(placement)
    device = placement.torch_device
    found = gpus() if device.startswith("cuda") else []
    gpu = found[0].identifier if found else None
    for line in plan_lines(plan) if answer is None else ():
        say_folded(line)
    timings = {}
    for variant in plan.variants:
        [cell, *_] = [cell for cell in plan.cells if cell.key.variant == variant.name]
        timings[variant.name] = measure.measure(cell.config, placement.cpus_per_run, device, gpu)
    quote = PlanQuote.of(plan, timings, places)
    if answer is not None:
        answer(quote.to_dict())
        return
    for line in quote_lines(quote):
        say_folded(line)
    say("nothing has been run or written; leave out --dry-run to begin")
