"""``hpsearch ablate``: train variants of a configuration, or estimate their cost."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from hpsearch.cli.drive import drive, make_progress
from hpsearch.cli.inputs import check_before_writing, load_molecules, read_data, url_of
from hpsearch.cli.options import (
    at_least,
    complete_choice,
    complete_experiment,
    complete_export,
    data_option,
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
from hpsearch.cli.output import Output, again_command, print_json
from hpsearch.system.errors import HpsearchError

if TYPE_CHECKING:
    from hpsearch.ablation.molecules import DataSummary
    from hpsearch.ablation.plan import AblationPlan
    from hpsearch.ablation.work import Ablation
    from hpsearch.config.export import Winner
    from hpsearch.executor import Placement
    from hpsearch.store import Store


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
    help="What arms without vectors have in common with the winner: dims, the number of feature "
    "components, as in the paper; params, nearly the number of weights.",
)
@click.option(
    "--repeats",
    type=int,
    callback=at_least(1),
    metavar="N",
    default=1,
    show_default=True,
    help="Runs per arm and target, with other initial weights and another order of batches.",
)
@click.option(
    "--vary-split",
    is_flag=True,
    help="Repeats also differ in the molecules for training and validation, not for testing.",
)
@epochs_option
@schedule_option
@click.option(
    "--plateau-patience",
    type=int,
    callback=at_least(0),
    metavar="N",
    help="Epochs without improvement before the learning rate is reduced.",
)
@click.option(
    "--early-stopping-patience",
    type=int,
    callback=at_least(1),
    metavar="N",
    help="Epochs without improvement before a run ends.",
)
@click.option(
    "--batch-size", type=int, callback=at_least(1), metavar="N", help="Molecules per step."
)
@click.option(
    "--learning-rate",
    type=float,
    callback=at_least(0, above=True),
    metavar="RATE",
    help="Adam's initial learning rate.",
)
@data_option
@size_options
@click.option(
    "--split-seed", type=int, callback=at_least(0), metavar="N", help="Seed of the random split."
)
@click.option(
    "--seed", type=int, callback=at_least(0), metavar="N", help="Seed that the repeats derive from."
)
@placement_options("run")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print the plan and an estimate of its cost, from a few timed steps of every arm. Train "
    "and write nothing.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="With --dry-run: print the estimate as a JSON object."
)
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
    data: Path | None,
    dry_run: bool,
    as_json: bool,
    placement: Placement,
    if_held: str,
    **overrides: Any,
) -> None:
    """Train variants without vectors, and compare their errors.

    Each variant of the configuration in FILE is trained for one target at a time, and tested. FILE
    comes from export-best, or is the shipped paper_l1net. The same command again trains only the
    missing runs; more targets, variants or repeats add new ones.

    An unchanged export is trained as in the paper, for at most 200 epochs. A file that was edited
    or written by hand keeps its own training settings.
    """
    from hpsearch import executor
    from hpsearch.ablation.declared import declared_variants
    from hpsearch.ablation.plan import AblationPlan
    from hpsearch.config.export import find_configuration
    from hpsearch.config.run import Overrides

    require_dry_run(dry_run, as_json)
    winner = find_configuration(str(file))
    out = Output.beside_json(as_json)
    if data is not None:
        winner = winner.with_data(read_data(data))
    molecules = None
    if winner.config.data.is_own:
        # The elements and sizes come from the molecules.
        molecules = load_molecules(winner.config.data, out.say)
        winner = winner.resolved(len(molecules), molecules.elements)
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
    folder = None
    if not dry_run:
        named = plan.name if name is None else name
        folder = check_before_writing(storage, runs, named, "ablation")
    from hpsearch.ablation.molecules import DataSummary

    if molecules is None:
        molecules = load_molecules(plan.data, out.say)
    # A dry run also needs it, because it refuses a split that leaks test molecules.
    summary = DataSummary.of(molecules, winner, plan)
    # The first heavy import: this needs only Ray, and refuses a placement that does not fit.
    places = executor.count_places(placement)
    if folder is None:
        _quote(plan, placement, places, out, as_json)
    else:
        _run(winner, plan, summary, storage, folder, placement, wait=if_held == "wait")


def _run(
    winner: Winner,
    plan: AblationPlan,
    data: DataSummary,
    storage: str | None,
    folder: Path,
    placement: Placement,
    *,
    wait: bool,
) -> None:
    """Create or continue the ablation, and train its missing runs."""
    from hpsearch.ablation.launch import launch_ablation
    from hpsearch.store import Store

    out = Output.with_table()
    with Store.create(url_of(storage), say=out.say) as store:
        ablation = launch_ablation(store, winner, plan, folder, data, wait=wait, say=out.say)
        _say_beginning(ablation, store, data, out)
        _drive(ablation, placement, out, storage)
        counts = ablation.counts()
        out.say(f"{counts['complete']} complete, {counts['failed']} failed")
        out.say(f"next: {again_command('report', storage)} -o report/")
        if counts["failed"]:
            if ablation.first_failure is not None:
                key, failure = ablation.first_failure
                click.echo(f"run {key}: {failure.traceback.rstrip()}", err=True)
            raise HpsearchError(
                f"{counts['failed']} of {len(plan.cells)} runs failed, for the reasons above; to "
                "try them again, type the same command"
            )


def _say_beginning(ablation: Ablation, store: Store, data: DataSummary, out: Output) -> None:
    from hpsearch.report.text import ZERO_OUTPUT_LEGEND
    from hpsearch.terminal.lines import plan_lines

    plan, counts = ablation.plan, ablation.counts()
    out.say(f"ablation {plan.name} in {store.label}")
    for line in plan_lines(plan):
        out.say(line)
    out.say(f"so far: {counts['complete']} complete, {counts['waiting']} to run")
    out.say(plan.training_note)
    out.say(
        f"{data.train:,} training, {data.validation:,} validation, {data.test:,} test molecules"
    )
    if counts["waiting"]:
        out.say(ZERO_OUTPUT_LEGEND)


def _drive(ablation: Ablation, placement: Placement, out: Output, storage: str | None) -> None:
    from hpsearch.config.architecture import relative_work
    from hpsearch.cost.estimate import TimeLeft

    plan = ablation.plan
    cells = [
        (str(cell.key), cell.config.training.epochs, relative_work(cell.config))
        for cell in ablation.waiting
    ]
    progress = make_progress(
        out,
        "run",
        TimeLeft(cells),
        total=len(plan.cells),
        done=ablation.counts()["complete"],
        compares=False,
        targets=plan.data.all_targets,
    )
    status = again_command(f"status {shlex.quote(plan.name)}", storage)
    drive(ablation, progress, placement, status)


def _quote(
    plan: AblationPlan, placement: Placement, places: int, out: Output, as_json: bool
) -> None:
    """Estimate the cost of an ablation."""
    from hpsearch.ablation.quote import quote_plan
    from hpsearch.terminal.lines import plan_lines
    from hpsearch.terminal.quotes import quote_lines

    if as_json:
        print_json(quote_plan(plan, placement, places).to_dict())
        return
    for line in plan_lines(plan):
        out.say_folded(line)
    for line in quote_lines(quote_plan(plan, placement, places)):
        out.say_folded(line)
    out.say("nothing was trained or written; leave out --dry-run to start")
