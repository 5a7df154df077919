"""``hpsearch launch``: run the study of a search space, or estimate its cost."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpsearch.api.inputs import again_command, url_of
from hpsearch.cli.options import (
    at_least,
    complete_choice,
    complete_experiment,
    complete_export,
    complete_space,
    data_option,
    epochs_option,
    example,
    log_option,
    placement_options,
    require_dry_run,
    size_options,
    storage_option,
    targets_option,
)
from hpsearch.cli.output import Output, make_voice, print_json

if TYPE_CHECKING:
    from hpsearch.api.callbacks import Callback
    from hpsearch.api.search import SearchRequest
    from hpsearch.executor import Placement
    from hpsearch.search.study import Study


@click.command(
    epilog=example("hpsearch launch search_spaces/quick.yaml --study small --trials 2 --epochs 1")
)
@click.argument("space", shell_complete=complete_space)
@click.option(
    "--study",
    metavar="NAME",
    shell_complete=complete_experiment("study"),
    help="Name of the study; default: the space's name.",
)
@storage_option
@click.option(
    "--trials", type=int, callback=at_least(1), metavar="N", help="Number of trials to finish."
)
@epochs_option
@data_option
@size_options
@targets_option
@click.option(
    "--seed",
    type=int,
    callback=at_least(0),
    metavar="N",
    help="Seed of the sampler and the trials.",
)
@click.option(
    "--sampler",
    metavar="NAME",
    shell_complete=complete_choice("SAMPLERS"),
    help="random, tpe, gp or qmc.",
)
@click.option(
    "--enqueue",
    multiple=True,
    metavar="FILE",
    shell_complete=complete_export,
    help="Start with this known configuration: an export, or the shipped paper_l1net. Or a file "
    "with start_with, as a space has. May be given several times.",
)
@click.option(
    "--open-test-set",
    is_flag=True,
    help="Also record every trial's test loss, as the paper did. Then the test set is no longer "
    "independent.",
)
@log_option
@click.option(
    "--force",
    is_flag=True,
    help="Continue although the space, the molecules or the split have changed. The change is "
    "recorded.",
)
@placement_options("trial")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print an estimate of the search's cost, from a few timed steps of configurations of the "
    "space. Train and write nothing.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="With --dry-run: print the estimate as a JSON object."
)
def launch(
    space: str,
    study: str | None,
    storage: str | None,
    runs: Path | None,
    enqueue: tuple[str, ...],
    open_test_set: bool,
    log_to: tuple[Callback, ...],
    force: bool,
    data: Path | None,
    targets: tuple[str, ...],
    placement: Placement,
    if_held: str,
    dry_run: bool,
    as_json: bool,
    **overrides: Any,
) -> None:
    """Run or resume the search of the search space SPACE.

    SPACE is a YAML file in the working folder, or one of the shipped files: quick, table3,
    table3_log. Options replace the values of the file. The same command again resumes the study. A
    larger --trials extends it; without --trials, a study keeps its larger number.
    """
    from hpsearch.api.search import SearchRequest

    require_dry_run(dry_run, as_json)
    out = Output.beside_json(as_json)
    request = SearchRequest.check(
        space,
        study=study,
        storage=storage,
        runs=runs,
        enqueue=enqueue,
        data=data,
        targets=targets,
        force=force,
        placement=placement,
        overrides=overrides,
        writes=not dry_run,
        say=out.say_folded,
    )
    if dry_run:
        _quote(request, out, as_json)
    else:
        _run(request, log_to, evaluate_test=open_test_set, wait=if_held == "wait")


def _run(
    request: SearchRequest, callbacks: Sequence[Callback], *, evaluate_test: bool, wait: bool
) -> None:
    """Create or continue the study, and train its missing trials."""
    from hpsearch.api.search import train_search

    out = Output.with_table()
    train_search(
        request,
        make_voice(out),
        evaluate_test=evaluate_test,
        wait=wait,
        callbacks=callbacks,
        on_end=lambda study: _say_winner(study, request, out),
    )


def _say_winner(study: Study, request: SearchRequest, out: Output) -> None:
    from hpsearch.store import ORIGIN
    from hpsearch.terminal.lines import winner_lines

    winner = study.winner()
    assert winner.provenance is not None
    facts = study.records(numbers=[winner.provenance.trial], parameters=False)[0].facts
    out.say(f"{study.counts()}")
    if any(trial for trial in study.trials()["failure_traceback"].dropna()):
        again = again_command(f"status {shlex.quote(study.name)}", request.storage)
        out.say(f"the traceback of the first failure:\n  {again} --traceback")
    for line in winner_lines(winner, request.molecules, facts.get(ORIGIN)):
        out.say_folded(line)
    out.say(f"\nnext: {again_command('export-best', request.storage)} -o best.yaml")


def _quote(request: SearchRequest, out: Output, as_json: bool) -> None:
    """Estimate the cost of a launch."""
    from hpsearch.api.search import measured
    from hpsearch.search.costs import trials_done
    from hpsearch.search.start import missing_trials, start_lines
    from hpsearch.search.terms import with_trials
    from hpsearch.terminal.progress import A_DAY
    from hpsearch.terminal.quotes import search_quote_lines, shorter_line

    space, url = request.space, url_of(request.storage)
    stored = trials_done(url, space, request.study, request.hashes, out.say, force=request.force)
    done, wanted = stored or (0, 0)
    if request.keep_trials:
        space = with_trials(space, wanted)
        request = replace(request, space=space)
    costs = request.costs()
    missing = max(space.trials - done, 0)
    if as_json:
        print_json(costs.measured().quote(missing).to_dict())
        return
    if missing == 0:
        out.say(
            f"{done} of {space.trials} trials are done, so a launch has nothing to train; a larger "
            "--trials extends the study"
        )
        return
    for line in start_lines(space, missing_trials(request.known, ())):
        out.say(line)
    out.say("timing configurations, from small to large (62x0+0x1 = 62 scalars, 0 vectors):")
    costs = measured(costs, out.say)
    quote = costs.quote(missing)
    for line in search_quote_lines(quote):
        out.say_folded(line)
    if quote.seconds[1] > A_DAY:
        out.say(shorter_line(costs.shorter_searches(missing, launched=stored is not None)))
    out.say("nothing was trained or written; leave out --dry-run to start")
