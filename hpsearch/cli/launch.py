"""``hpsearch launch``: a study of a search space, and its quote."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpsearch.cli.drive import drive, make_progress
from hpsearch.cli.inputs import (
    check_before_writing,
    check_molecules,
    create_store,
    load_molecules,
    open_store,
    url_of,
)
from hpsearch.cli.options import (
    at_least,
    complete_choice,
    complete_experiment,
    complete_space,
    epochs_option,
    example,
    placement_options,
    require_dry_run,
    size_options,
    storage_option,
    targets_option,
)
from hpsearch.cli.output import again_command, answering, say, say_folded
from hpsearch.errors import HpsearchError, InputError

if TYPE_CHECKING:
    from hpsearch.config.space import SearchSpace
    from hpsearch.executor import Placement
    from hpsearch.search.quote import Quote
    from hpsearch.store import StoreReader


@click.command(
    epilog=example("hpsearch launch search_spaces/quick.yaml --study small --trials 2 --epochs 1")
)
@click.argument("space", shell_complete=complete_space)
@click.option(
    "--study",
    metavar="NAME",
    shell_complete=complete_experiment("study"),
    help="The study; default the space's name.",
)
@storage_option
@click.option(
    "--trials", type=int, callback=at_least(1), metavar="N", help="Complete trials wanted."
)
@epochs_option
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
    "--open-test-set",
    is_flag=True,
    help="Also record every trial's test loss, as the paper did; then it is no test set any more.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Go on although the space, the molecules or the split have changed; that is recorded.",
)
@placement_options("trial")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Time a few steps of configurations of the space and print what the search will cost; "
    "run nothing.",
)
@click.option("--json", "as_json", is_flag=True, help="The quote of --dry-run as one JSON object.")
def launch(
    space: str,
    study: str | None,
    storage: str | None,
    runs: Path | None,
    open_test_set: bool,
    force: bool,
    targets: tuple[str, ...],
    placement: Placement,
    if_held: str,
    dry_run: bool,
    as_json: bool,
    **overrides: Any,
) -> None:
    """Run the study of the search space SPACE, or go on with it.

    SPACE is a YAML file, looked up in the working folder and then among the shipped ones: quick,
    table3, table3_log. Values that are not given here are the file's. The same command again
    continues what is missing; a larger --trials extends the study.
    """
    from hpsearch.config.space import SearchSpace
    from hpsearch.cost.estimate import Estimate
    from hpsearch.search.launch import launch_study
    from hpsearch.search.quote import usual_epochs
    from hpsearch.search.study import Study
    from hpsearch.system.installation import find_space
    from hpsearch.terminal.lines import idle_line
    from hpsearch.terminal.quotes import accuracy_lines

    require_dry_run(dry_run, as_json)
    file = find_space(space)
    as_written = SearchSpace.load(file)
    chosen = as_written.with_overrides(**overrides, targets=targets or None)
    given_file = file if chosen.data == as_written.data else None
    if dry_run:
        with answering(as_json) as answer:
            molecules = check_molecules(chosen.data, given_file)
            done = _trials_done(storage, chosen, study, molecules, force)
            _quote_search(chosen, placement, done, answer if as_json else None)
        return
    molecules = check_molecules(chosen.data, given_file)
    root, places = check_before_writing(storage, runs, study, "study", placement)
    costs = _Costs(chosen, placement, places)
    if chosen.budget is not None and chosen.budget.is_measured and not costs.known:
        say("the budget needs timings of such configurations here, which are taken once:")
        costs.measure(say)
    with create_store(storage) as store:
        search = launch_study(
            store,
            chosen,
            study,
            root,
            evaluate_test=open_test_set,
            force=force,
            wait=if_held == "wait",
            say=say,
            molecules=molecules,
            model=costs.model,
        )
        say(f"study {search.name} in {store.label}")
        for change in search.forced:
            say(f"forced: {change}")
        say(f"found: {search.at_start}")
        if (idle := idle_line(chosen)) is not None:
            say(idle)
        say(f"follow it with: {again_command('dashboard', storage)}")
        missing = search.at_start.left + search.at_start.reclaimed
        for line in costs.short(missing) if missing else ():
            say(line)
        if costs.quoted is not None and costs.quoted.timings:
            search.keep_quote(costs.quoted.to_dict())
        progress = make_progress(
            "trial",
            Estimate([(None, usual_epochs(chosen), 1.0)] * missing),
            total=chosen.trials,
            done=search.at_start.complete + search.at_start.pruned,
            best=Study.open(store, search.name).best(),
        )
        status = again_command(f"status {shlex.quote(search.name)}", storage)
        drive(search, progress, placement, status)
        if missing:
            for line in accuracy_lines(Study.open(store, search.name).quote_accuracy()):
                say(line)
        if search.breakdown is not None:
            if search.breakdown.traceback:
                click.echo(search.breakdown.traceback.rstrip(), err=True)
            raise HpsearchError(search.breakdown.reason)
        _print_winner(store, search.name, storage)


class _Costs:
    """What a search costs, by what was timed on this machine for such placements."""

    def __init__(self, space: SearchSpace, placement: Placement, places: int) -> None:
        from hpsearch.cost.model import CostModel
        from hpsearch.cost.timings import Surroundings
        from hpsearch.system.gpus import gpus
        from hpsearch.system.hardware import cores

        self._space = space
        self._places = places
        cpus = placement.cpus_per_run
        # Of a cluster this machine times what it has room for itself.
        room = max(1, int(cores() / cpus))
        share = self._gpus_per_trial = placement.gpus_per_run
        device = placement.torch_device
        self._gpus = gpus() if device.startswith("cuda") else []
        model = ""
        if self._gpus:
            room = max(1, min(room, int(len(self._gpus) / share + 1e-6)))
            model = self._gpus[0].name
        self._gpu_memory = int(self._gpus[0].memory_bytes * share) if self._gpus else None
        self._surroundings = Surroundings(cpus, device, min(self._places, room), model)
        self.model = CostModel.of_kept(self._surroundings, load_molecules())
        self.quoted: Quote | None = None

    @property
    def known(self) -> bool:
        """Whether the space's configurations, or their like, were timed."""
        from hpsearch.search.quote import within_reach

        return self.model is not None and within_reach(self._space, self.quote(), self.model)

    def measure(self, say: Callable[[str], None]) -> None:
        """Time a few configurations and keep that."""
        from hpsearch.cost import measure
        from hpsearch.cost.model import LEAST, CostModel, refusal
        from hpsearch.cost.timings import keep
        from hpsearch.search.quote import DRAWS, drawn, to_time
        from hpsearch.terminal.quotes import timed_line, untimed_line

        here = self._surroundings
        draws = drawn(self._space, DRAWS)
        # What is too large anyhow need not be tried; what takes long is only known afterwards.
        budget = self._space.budget
        if budget is not None:
            budget = budget.model_copy(update={"max_memory": None, "max_epoch_seconds": None})
        configs = to_time([config for config in draws if refusal(budget, config, None) is None])
        # Fewer make no model.
        timed = measure.measure_all(
            configs if len(configs) >= LEAST else to_time(draws),
            here.cpus,
            here.device,
            here.at_once,
            lambda each: say(timed_line(each)),
            lambda config, error: say(untimed_line(config, error)),
            [gpu.identifier for gpu in self._gpus],
        )
        if len(timed) < LEAST:
            raise HpsearchError(
                f"a quote needs {LEAST} timed configurations, got {len(timed)}; a budget "
                "(max_parameters) leaves out what is too large for this machine"
            )
        self.model = CostModel(timed, load_molecules())
        keep(here, timed)

    def quote(self, missing: int | None = None) -> Quote:
        """For ``missing`` trials; all of them where that is not given."""
        from hpsearch.search.quote import Quote
        from hpsearch.system.hardware import available_memory

        assert self.model is not None
        done = 0 if missing is None else self._space.trials - missing
        places, memory = self._places, available_memory()
        if self._gpu_memory is not None:
            memory = self._gpu_memory * places
        elif memory is not None:
            # This machine's, for as many of all places as it has; a cluster's others are taken for
            # its equals.
            memory = memory * places // self._surroundings.at_once
        return Quote.of(
            self._space,
            self.model,
            places,
            memory,
            done=done,
            cpus=self._surroundings.cpus,
            gpus=self._gpus_per_trial,
        )

    def short(self, missing: int) -> Iterator[str]:
        """The quote in a line or two."""
        from hpsearch.search.quote import ways_down
        from hpsearch.terminal.progress import A_DAY
        from hpsearch.terminal.quotes import short_quote_line, shorter_line

        if self.model is None:
            yield "quote: none yet, since nothing was timed here; --dry-run does, in about a minute"
            return
        if not self.known:
            yield (
                "quote: none yet, since only smaller networks were timed here; --dry-run times "
                "this space's, in about a minute"
            )
            return
        quote = self.quoted = self.quote(missing)
        yield short_quote_line(quote)
        if quote.seconds[1] > A_DAY:
            done = self._space.trials - missing
            # The study is in the store by now.
            ways = ways_down(self._space, self.model, self._places, done=done, launched=True)
            yield shorter_line(ways)


def _trials_done(
    storage: str | None,
    space: SearchSpace,
    study: str | None,
    molecules: dict[str, str],
    force: bool,
) -> int | None:
    """Trials that a launch would find done; ``None`` where the store has no such study.

    Raises:
        InputError: as the launch would.
    """
    from hpsearch.search.terms import verdicts
    from hpsearch.store import check_name
    from hpsearch.store.address import Address

    name = check_name(space.name if study is None else study)
    path = Address(url_of(storage)).path
    if path is not None and not path.is_file():
        return None
    try:
        store = open_store(storage)
    except InputError as error:
        # A launch makes or upgrades it, or says what is wrong.
        say(f"all trials are quoted, for nothing is known of the study: {error}")
        return None
    with store:
        return verdicts(store, space, name, molecules, force=force)


def _quote_search(
    space: SearchSpace,
    placement: Placement,
    done: int | None,
    answer: Callable[[Any], None] | None,
) -> None:
    """Quote what a launch would train.

    Args:
        space: what is searched.
        placement: where runs are placed.
        done: trials that the study has already; ``None`` for a new study.
        answer: prints one JSON value; ``None`` where lines are printed.
    """
    from hpsearch import executor
    from hpsearch.search.quote import ways_down
    from hpsearch.terminal.progress import A_DAY
    from hpsearch.terminal.quotes import search_quote_lines, shorter_line

    costs = _Costs(space, placement, executor.count_places(placement))
    missing = max(space.trials - (done or 0), 0)
    if answer is not None:
        costs.measure(lambda line: None)
        answer(costs.quote(missing).to_dict())
        return
    if missing == 0:
        say(f"{done} of {space.trials} done: a launch has nothing to train; --trials extends it")
        return
    say("a few steps of configurations of the space, from light to heavy:")
    costs.measure(say)
    quote = costs.quote(missing)
    for line in search_quote_lines(quote):
        say_folded(line)
    if quote.seconds[1] > A_DAY:
        assert costs.model is not None
        launched = done is not None
        say(
            shorter_line(
                ways_down(space, costs.model, quote.places, done=done or 0, launched=launched)
            )
        )
    say("nothing has been run or written; leave out --dry-run to begin")


def _print_winner(store: StoreReader, name: str, storage: str | None) -> None:
    from hpsearch.search.study import Study
    from hpsearch.terminal.lines import winner_lines

    study = Study.open(store, name)
    winner = study.winner()
    say(f"{study.counts()}")
    if any(trial for trial in study.trials()["failure_traceback"].dropna()):
        again = again_command(f"status {shlex.quote(name)}", storage)
        say(f"the traceback of the first failure:\n  {again} --traceback")
    for line in winner_lines(winner, load_molecules()):
        say_folded(line)
    say(f"\nnext: {again_command('export-best', storage)} -o best.yaml")
