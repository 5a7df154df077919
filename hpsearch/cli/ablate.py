"""``hpsearch ablate``: train variants of a configuration, or estimate their cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from hpsearch.cli.options import (
    at_least,
    complete_choice,
    complete_experiment,
    complete_export,
    data_option,
    epochs_option,
    example,
    log_option,
    parse_names,
    placement_options,
    require_dry_run,
    schedule_option,
    size_options,
    storage_option,
    targets_option,
)
from hpsearch.cli.output import Output, make_voice, print_json

if TYPE_CHECKING:
    from hpsearch.ablation.plan import AblationPlan
    from hpsearch.api.callbacks import Callback
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
@log_option
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
    log_to: tuple[Callback, ...],
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
    from hpsearch.api.ablation import AblationRequest, train_ablation
    from hpsearch.config.export import find_configuration

    require_dry_run(dry_run, as_json)
    out = Output.beside_json(as_json)
    request = AblationRequest.check(
        find_configuration(str(file)),
        name=name,
        stem=file.stem,
        storage=storage,
        runs=runs,
        targets=targets,
        variants=variants,
        variants_file=variants_file,
        match=match,
        repeats=repeats,
        vary_split=vary_split,
        data=data,
        placement=placement,
        overrides=overrides,
        writes=not dry_run,
        say=out.say,
    )
    if dry_run:
        _quote(request.plan, placement, request.places, out, as_json)
    else:
        voice = make_voice(Output.with_table())
        train_ablation(request, voice, wait=if_held == "wait", callbacks=log_to)


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
