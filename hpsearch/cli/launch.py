"""``hpsearch launch``: run the study of a search space, or estimate its cost."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpsearch.cli.drive import drive, make_progress
from hpsearch.cli.inputs import (
    check_before_writing,
    check_molecules,
    load_molecules,
    read_data,
    require_store,
    url_of,
)
from hpsearch.cli.options import (
    at_least,
    complete_choice,
    complete_experiment,
    complete_export,
    complete_space,
    data_option,
    epochs_option,
    example,
    placement_options,
    require_dry_run,
    size_options,
    storage_option,
    targets_option,
)
from hpsearch.cli.output import Output, again_command, print_json
from hpsearch.system.errors import HpsearchError, InputError

if TYPE_CHECKING:
    from hpsearch.config.run import DataConfig
    from hpsearch.config.space import SearchSpace
    from hpsearch.cost.estimate import TimeLeft
    from hpsearch.data.molecule import Molecules
    from hpsearch.executor import Placement
    from hpsearch.search.costs import SearchCosts
    from hpsearch.search.quote import Quote
    from hpsearch.search.start import KnownTrial
    from hpsearch.search.study import Study
    from hpsearch.search.work import Search
    from hpsearch.store import Store


@dataclass(frozen=True)
class _Request:
    """The checked arguments of a launch.

    Attributes:
        space: the search space.
        study: the study's name; ``None`` for the space's name.
        storage: the store's URL as the user gave it.
        force: whether to accept a space, molecules or a split that differ from the study's.
        keep_trials: whether the study keeps its number of trials if that is larger: the user named
            no number.
        placement: where trials are placed.
        places: number of trials that run at the same time.
        molecules: the whole data set.
        hashes: of the data and the split.
        known: trials with known configurations, which come first.
    """

    space: SearchSpace
    study: str | None
    storage: str | None
    force: bool
    keep_trials: bool
    placement: Placement
    places: int
    molecules: Molecules
    hashes: dict[str, Any]
    known: list[KnownTrial]

    def costs(self) -> SearchCosts:
        """Return the cost of the search, from the timings of this machine."""
        from hpsearch.search.costs import SearchCosts

        return SearchCosts.of(self.space, self.molecules, self.placement, self.places)


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
    from hpsearch import executor
    from hpsearch.config.space import SearchSpace
    from hpsearch.system.installation import find_space

    require_dry_run(dry_run, as_json)
    file = find_space(space)
    as_written = SearchSpace.load(file)
    given = as_written if data is None else as_written.with_data(read_data(data))
    chosen = given.with_overrides(**overrides, targets=targets or None)
    known = _known_trials(chosen, enqueue, storage)
    given_file = file if chosen.data == as_written.data else None
    folder = None if dry_run else check_before_writing(storage, runs, study, "study")
    out = Output.beside_json(as_json)
    molecules = load_molecules(chosen.data, out.say)
    chosen = chosen.resolved(len(molecules), molecules.elements)
    hashes = check_molecules(molecules, chosen.data, given_file)
    if chosen.data.is_own:
        _say_leak(molecules, chosen.data, out)
    # The first heavy import: this needs only Ray, and refuses a placement that does not fit.
    places = executor.count_places(placement)
    keep_trials = overrides["trials"] is None
    request = _Request(
        chosen, study, storage, force, keep_trials, placement, places, molecules, hashes, known
    )
    if folder is None:
        _quote(request, out, as_json)
    else:
        _run(request, folder, evaluate_test=open_test_set, wait=if_held == "wait")


def _say_leak(molecules: Molecules, data: DataConfig, out: Output) -> None:
    from hpsearch.data.check import leak_line
    from hpsearch.data.split import make_split

    line = leak_line(molecules, make_split(molecules, data), data)
    if line is not None:
        out.say_folded(line)


def _known_trials(
    space: SearchSpace, enqueue: Sequence[str], storage: str | None
) -> list[KnownTrial]:
    """Return the trials with known configurations, of the space and of ``--enqueue``."""
    if not space.start_with and not enqueue:
        return []
    from hpsearch.config.start import read_starts
    from hpsearch.search.start import known_trials

    starts = [*space.start_with, *(start for text in enqueue for start in read_starts(text))]
    if all(start.study is None for start in starts):
        return known_trials(space, starts, None)
    try:
        url = require_store(storage)
    except InputError as error:
        raise InputError(
            f"start_with: a study to start from must be in the store: {error}"
        ) from None
    # Imported only if there may be a store, because it loads SQLAlchemy.
    from hpsearch.store import StoreReader

    with StoreReader.open(url) as store:
        return known_trials(space, starts, store)


def _run(request: _Request, folder: Path, *, evaluate_test: bool, wait: bool) -> None:
    """Create or continue the study, and train its missing trials."""
    from hpsearch.search.launch import check_budget, check_rung_seconds, launch_study
    from hpsearch.search.study import Study
    from hpsearch.store import Store
    from hpsearch.terminal.quotes import accuracy_lines

    out = Output.with_table()
    space, storage = request.space, request.storage
    costs = request.costs()
    if space.budget is not None and space.budget.is_measured and not costs.is_known:
        out.say("the budget needs timings of this space on this machine, which are measured once:")
        costs = _measured(costs, out)
    # Before the store is created: a search that cannot have a trial leaves nothing behind.
    check_budget(space, costs.model)
    check_rung_seconds(space, costs.model)
    with Store.create(url_of(storage), say=out.say) as store:
        search = launch_study(
            store,
            space,
            request.study,
            folder,
            evaluate_test=evaluate_test,
            force=request.force,
            keep_trials=request.keep_trials,
            wait=wait,
            say=out.say,
            molecules=request.hashes,
            model=costs.model,
            known=request.known,
        )
        request = replace(request, space=search.space)
        costs = replace(costs, space=search.space)
        missing = search.at_start.left + search.at_start.resumed
        _say_beginning(search, store, request, out)
        quote = costs.quote(missing) if missing and costs.is_known else None
        for line in _short_quote_lines(costs, quote, missing) if missing else ():
            out.say(line)
        if quote is not None and quote.timings:
            search.keep_quote(quote.to_dict())
        _drive(search, store, request, out, missing)
        study = Study.open(store, search.name)
        for line in accuracy_lines(study.quote_accuracy()) if missing else ():
            out.say(line)
        if search.breakdown is not None:
            if search.breakdown.traceback:
                click.echo(search.breakdown.traceback.rstrip(), err=True)
            raise HpsearchError(search.breakdown.reason)
        _say_winner(study, request, out)


def _measured(costs: SearchCosts, out: Output) -> SearchCosts:
    """Time a few configurations, print a line for each of them, and return the updated costs."""
    from hpsearch.terminal.quotes import timed_line, untimed_line

    return costs.measured(
        lambda timed: out.say(timed_line(timed)),
        lambda config, error: out.say(untimed_line(config, error)),
    )


def _say_beginning(search: Search, store: Store, request: _Request, out: Output) -> None:
    from hpsearch.report.text import ZERO_OUTPUT_LEGEND
    from hpsearch.terminal.lines import idle_line, no_rungs_line

    out.say(f"study {search.name} in {store.label}")
    for change in search.forced:
        out.say(f"forced: {change}")
    out.say(f"so far: {search.at_start}")
    is_left = search.at_start.left + search.at_start.resumed > 0
    for line in (idle_line(request.space), no_rungs_line(request.space) if is_left else None):
        if line is not None:
            out.say(line)
    out.say(f"watch it with: {again_command('dashboard', request.storage)}")
    if is_left:
        out.say(ZERO_OUTPUT_LEGEND)


def _short_quote_lines(costs: SearchCosts, quote: Quote | None, missing: int) -> Iterator[str]:
    """Yield the estimate in one or two lines, or the reason why there is none."""
    from hpsearch.terminal.progress import A_DAY
    from hpsearch.terminal.quotes import short_quote_line, shorter_line

    if costs.model is None:
        yield (
            "estimate: none yet, because nothing was timed on this machine; --dry-run times a few "
            "steps in about a minute"
        )
    elif quote is None:
        yield (
            "estimate: none yet, because only smaller networks were timed on this machine; "
            "--dry-run times networks of this space in about a minute"
        )
    else:
        yield short_quote_line(quote)
        if quote.seconds[1] > A_DAY:
            # The study is already in the store.
            yield shorter_line(costs.shorter_searches(missing, launched=True))


def _drive(search: Search, store: Store, request: _Request, out: Output, missing: int) -> None:
    from hpsearch.search.study import Study
    from hpsearch.store import ORIGIN

    progress = make_progress(
        out,
        "trial",
        _time_left(request.space, missing),
        total=request.space.trials,
        done=search.at_start.complete + search.at_start.pruned,
        best=Study.open(store, search.name).best(),
        paused=search.paused_keys,
        targets=request.space.data.all_targets,
        origins={str(n): text for n, text in store.attribute_values(search.name, ORIGIN).items()},
    )
    search.on_promoted, search.on_stopped = progress.promoted, progress.stopped
    status = again_command(f"status {shlex.quote(search.name)}", request.storage)
    drive(search, progress, request.placement, status)


def _time_left(space: SearchSpace, missing: int) -> TimeLeft:
    """Return the estimate of the time left for ``missing`` trials."""
    from hpsearch.cost.estimate import TimeLeft, promotion
    from hpsearch.search.quote import planned_parts, usual_epochs

    parts = planned_parts(space, missing, None)
    if not parts:
        return TimeLeft([(None, usual_epochs(space), 1.0)] * missing)
    first, *others = parts
    runs: list[tuple[str | None, float, float]] = [(None, first.end, 1.0)] * first.trials
    for part in others:
        runs += [(promotion(part.start), part.end - part.start, 1.0)] * part.trials
    return TimeLeft(runs, [part.start for part in others])


def _say_winner(study: Study, request: _Request, out: Output) -> None:
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


def _quote(request: _Request, out: Output, as_json: bool) -> None:
    """Estimate the cost of a launch."""
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
    costs = _measured(costs, out)
    quote = costs.quote(missing)
    for line in search_quote_lines(quote):
        out.say_folded(line)
    if quote.seconds[1] > A_DAY:
        out.say(shorter_line(costs.shorter_searches(missing, launched=stored is not None)))
    out.say("nothing was trained or written; leave out --dry-run to start")
