"""The commands. Each reads what the user gave, calls the layers below and prints what they return.

Heavy imports stand inside the commands, so that ``hpsearch --help`` answers at once.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import click
from click.shell_completion import CompletionItem

from hpsearch import __version__
from hpsearch.errors import HpsearchError, InputError, unwritable
from hpsearch.system import credentials

if TYPE_CHECKING:
    from hpsearch.ablation import AblationPlan
    from hpsearch.config.export import Winner
    from hpsearch.config.run import DataConfig
    from hpsearch.config.space import SearchSpace
    from hpsearch.cost.estimate import Estimate
    from hpsearch.data.molecule import Molecules
    from hpsearch.executor import Event
    from hpsearch.runs.messages import Work
    from hpsearch.search import Quote
    from hpsearch.store import Store
    from hpsearch.terminal.progress import Progress

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Interrupted(HpsearchError):
    """Ctrl-C, or another signal that ends a command; the exit code is the one that shells give."""

    def __init__(self, number: int) -> None:
        command = shlex.join(["hpsearch", *sys.argv[1:]])
        super().__init__(f"interrupted; go on where it stopped with: {command}")
        self.exit_code = 128 + number


class _Commands(click.Group):
    """Ends interrupted commands itself: click would put an empty line before the message."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted(error.args[0] if error.args else signal.SIGINT) from None


def _example(text: str) -> str:
    return f"\b\nExample:\n  {text}"


def _options(*decorators: Decorator) -> Decorator:
    def apply(command: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


def _least(least: float, *, above: bool = False) -> Callable[..., Any]:
    """Callback that refuses an option's number below ``least``, or equal to it."""

    def check(context: click.Context, option: click.Parameter, value: float | None) -> Any:
        if value is None or (value > least if above else value >= least):
            return value
        raise InputError(
            f"{option.opts[0]} must be {'above' if above else 'at least'} {least:g}, "
            f"got {value:g}; raise it"
        )

    return check


def _names(context: click.Context, option: click.Parameter, text: str | None) -> tuple[str, ...]:
    """Callback that takes a list apart; nothing when the option was not given."""
    names = tuple(name.strip() for name in (text or "").split(",") if name.strip())
    if text is not None and not names:
        raise InputError(
            f"{option.opts[0]} must be names, separated by commas, got '{text}'; leave it out for "
            "the default"
        )
    return names


Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _offer(choices: Sequence[str]) -> list[CompletionItem]:
    return [CompletionItem(choice) for choice in choices]


def _complete_experiment(*kinds: str) -> Completer:
    """Names in the store that ``--storage`` or the environment names."""

    def complete(
        context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from hpsearch.cli import completion

        names = completion.experiments(context.params.get("storage"), kinds)
        return _offer([name for name in names if name.startswith(incomplete)])

    return complete


def _complete_choice(name: str, *, several: bool = False) -> Completer:
    """The choices that `cli.completion` calls ``name``; ``several`` of them after commas."""

    def complete(
        context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from hpsearch.cli import completion

        choices = getattr(completion, name)
        if several:
            return _offer(completion.listed(choices, incomplete))
        return _offer([choice for choice in choices if choice.startswith(incomplete)])

    return complete


def _complete_export(
    context: click.Context, argument: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The shipped configuration, and files."""
    found = _complete_choice("EXPORTS")(context, argument, incomplete)
    return [*found, CompletionItem(incomplete, type="file")]


def _complete_space(
    context: click.Context, argument: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The shipped spaces, and files."""
    from hpsearch.system import installation

    names = sorted(path.stem for path in installation.folder("search_spaces").glob("*.yaml"))
    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return [*found, CompletionItem(incomplete, type="file")]


_storage = click.option(
    "--storage",
    metavar="URL",
    help="The store: sqlite:///FILE or postgresql://USER@HOST/DATABASE (password from the "
    "environment or .pgpass). Default: $HPSEARCH_STORAGE, else sqlite:///storage/hpsearch.db.",
)
_output_folder = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    required=True,
    help="The folder to write into.",
)
_pages = click.option(
    "--pages",
    "own_pages",
    type=click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True),
    metavar="FOLDER",
    help="Also show the pages in this folder; they are Python files, and are run.",
)
_sizes = _options(
    click.option(
        "--train-size", type=int, callback=_least(2), metavar="N", help="Training molecules."
    ),
    click.option(
        "--validation-size", type=int, callback=_least(1), metavar="N", help="Validation molecules."
    ),
    click.option("--test-size", type=int, callback=_least(1), metavar="N", help="Test molecules."),
)
_epochs = click.option(
    "--epochs", type=int, callback=_least(1), metavar="N", help="Most epochs of a run."
)
_targets = click.option(
    "--targets",
    callback=_names,
    metavar="NAMES",
    shell_complete=_complete_choice("TARGETS", several=True),
    help="Targets, separated by commas, e.g. mu,U0; or all.",
)
_schedule = click.option(
    "--schedule",
    metavar="NAME",
    shell_complete=_complete_choice("SCHEDULES"),
    help="plateau (the paper's) or cosine (short runs).",
)


_PLACEMENT = (
    *("max_concurrent", "cpus_per_run", "gpus_per_run"),
    *("device", "address", "deadline_seconds"),
)
"""What the executor is told of a run's place."""


def _gathered(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives ``command`` the options of :data:`_PLACEMENT` as one argument, ``placement``."""

    @functools.wraps(command)
    def gathering(**options: Any) -> Any:
        placement = {name: options.pop(name) for name in _PLACEMENT}
        return command(placement=placement, **options)

    return gathering


def _placement(noun: str) -> Decorator:
    """Options that say where runs are placed; ``noun`` is what a run is called."""
    return _options(
        click.option(
            "--max-concurrent",
            type=int,
            callback=_least(1),
            metavar="N",
            help=f"Most {noun}s at a time; default as many as there is room for.",
        ),
        click.option(
            f"--cpus-per-{noun}",
            "cpus_per_run",
            type=float,
            callback=_least(0, above=True),
            metavar="N",
            default=1.0,
            show_default=True,
            help=f"CPU cores of a {noun}.",
        ),
        click.option(
            f"--gpus-per-{noun}",
            "gpus_per_run",
            type=float,
            callback=_least(0),
            metavar="N",
            default=0.0,
            show_default=True,
            help=f"GPUs of a {noun}; a fraction shares one.",
        ),
        click.option(
            "--device",
            metavar="NAME",
            help=f"cpu or cuda; default cuda where a {noun} is given GPUs, else cpu.",
        ),
        click.option(
            "--address", metavar="ADDRESS", help="A running Ray cluster: auto, or host:port."
        ),
        click.option(
            "--runs",
            type=click.Path(path_type=Path, file_okay=False),
            metavar="FOLDER",
            help="Folder of the checkpoints, which a cluster's machines must share. Default: runs "
            "beside the SQLite file, else storage/runs.",
        ),
        click.option(
            "--deadline",
            "deadline_seconds",
            type=float,
            callback=_least(0, above=True),
            metavar="SECONDS",
            default=43_200.0,
            show_default=True,
            help=f"Longest epoch of a {noun}; a longer silence ends its worker.",
        ),
        click.option(
            "--if-held",
            type=click.Choice(["give-up", "wait"]),
            default="give-up",
            show_default=True,
            help="While another launch drives it: give up, or wait for its end. A dead one is "
            "replaced either way.",
        ),
        _gathered,
    )


_printers: list[Callable[[str], None]] = [click.echo]


def _say(line: str) -> None:
    """Print a line, by the table that is on the terminal where there is one."""
    _printers[-1](line)


def _say_folded(line: str) -> None:
    """Print a line, broken between words where it is wider than the terminal."""
    from hpsearch.terminal.columns import folded

    for each in folded(line, _columns()):
        _say(each)


@contextmanager
def _answering(as_json: bool) -> Iterator[Callable[[Any], None]]:
    """A function that prints one JSON value; what is said beside it goes to standard error.

    Args:
        as_json: whether there will be an answer; elsewhere what is said is the output.
    """
    import json
    import math

    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: finite(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [finite(each) for each in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    if as_json:
        _printers.append(functools.partial(click.echo, err=True))
    try:
        yield lambda value: click.echo(json.dumps(finite(value), allow_nan=False))
    finally:
        if as_json:
            _printers.pop()


def _columns() -> int | None:
    """Of the terminal; ``None`` where the output goes elsewhere, which has no width."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


@contextmanager
def _shown(progress: Progress) -> Iterator[None]:
    """Has ``progress`` draw, and print what is said meanwhile."""
    with progress:
        _printers.append(progress.print_line)
        try:
            yield
        finally:
            _printers.pop()


def _require_dry_run(dry_run: bool, as_json: bool) -> None:
    if as_json and not dry_run:
        raise InputError("--json must come with --dry-run, got it alone; add --dry-run")


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nA first search on real molecules, its winner, an ablation, a report:\n"
    "  hpsearch launch search_spaces/quick.yaml\n"
    "  hpsearch export-best -o best.yaml\n"
    "  hpsearch ablate best.yaml --targets mu,U0 --epochs 2 --train-size 200\n"
    "  hpsearch report -o report/",
)
@click.version_option(__version__, prog_name="hpsearch")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Search the architecture of equivariant molecular networks on QM9, then ablate the winner."""


@cli.command(
    epilog=_example("hpsearch launch search_spaces/quick.yaml --study small --trials 2 --epochs 1")
)
@click.argument("space", shell_complete=_complete_space)
@click.option(
    "--study",
    metavar="NAME",
    shell_complete=_complete_experiment("study"),
    help="The study; default the space's name.",
)
@_storage
@click.option("--trials", type=int, callback=_least(1), metavar="N", help="Complete trials wanted.")
@_epochs
@_sizes
@_targets
@click.option(
    "--seed", type=int, callback=_least(0), metavar="N", help="Seed of the sampler and the trials."
)
@click.option(
    "--sampler",
    metavar="NAME",
    shell_complete=_complete_choice("SAMPLERS"),
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
@_placement("trial")
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
    placement: dict[str, Any],
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
    from hpsearch.search import Study, usual_epochs
    from hpsearch.system.installation import find_space
    from hpsearch.terminal.lines import idle_line
    from hpsearch.terminal.quotes import held_lines

    _require_dry_run(dry_run, as_json)
    file = find_space(space)
    as_written = SearchSpace.load(file)
    chosen = as_written.with_overrides(**overrides, targets=targets or None)
    given_file = file if chosen.data == as_written.data else None
    if dry_run:
        with _answering(as_json) as answer:
            molecules = _check_molecules(chosen.data, given_file)
            done = _trials_done(storage, chosen, study, molecules, force)
            _quote_search(chosen, placement, done, answer if as_json else None)
        return
    molecules = _check_molecules(chosen.data, given_file)
    root, places = _check_before_writing(storage, runs, study, "study", placement)
    costs = _Costs(chosen, placement, places)
    if chosen.budget is not None and chosen.budget.is_measured and not costs.known:
        _say("the budget needs timings of such configurations here, which are taken once:")
        costs.measure(_say)
    with _create_store(storage) as store:
        search = Study.launch(
            store,
            chosen,
            study,
            root,
            evaluate_test=open_test_set,
            force=force,
            wait=if_held == "wait",
            say=_say,
            molecules=molecules,
            model=costs.model,
        )
        _say(f"study {search.name} in {store.label}")
        for change in search.forced:
            _say(f"forced: {change}")
        _say(f"found: {search.found}")
        if (idle := idle_line(chosen)) is not None:
            _say(idle)
        _say(f"follow it with: {_again('dashboard', storage)}")
        missing = search.found.left + search.found.reclaimed
        for line in costs.short(missing) if missing else ():
            _say(line)
        if costs.quoted is not None and costs.quoted.timings:
            search.keep_quote(costs.quoted.to_dict())
        progress = _progress(
            "trial",
            Estimate([(None, usual_epochs(chosen), 1.0)] * missing),
            total=chosen.trials,
            done=search.found.complete + search.found.pruned,
            best=Study.open(store, search.name).best(),
        )
        status = _again(f"status {shlex.quote(search.name)}", storage)
        _drive(search, progress, placement, status)
        for line in held_lines(Study.open(store, search.name).held()) if missing else ():
            _say(line)
        if search.breakdown is not None:
            if search.breakdown.traceback:
                click.echo(search.breakdown.traceback.rstrip(), err=True)
            raise HpsearchError(search.breakdown.reason)
        _print_winner(store, search.name, storage)


class _Costs:
    """What a search costs, by what was timed on this machine for such placements."""

    def __init__(self, space: SearchSpace, placement: dict[str, Any], places: int) -> None:
        from hpsearch import executor
        from hpsearch.cost.model import CostModel
        from hpsearch.cost.timings import Surroundings
        from hpsearch.system.gpus import gpus

        self._space = space
        self._places = places
        cpus = placement["cpus_per_run"]
        # Of a cluster this machine times what it has room for itself.
        room = max(1, int(_cores() / cpus))
        share = self._gpus_per_trial = placement["gpus_per_run"]
        device = executor.device_of(placement["device"], share)
        self._gpus = gpus() if device.startswith("cuda") else []
        model = ""
        if self._gpus:
            room = max(1, min(room, int(len(self._gpus) / share + 1e-6)))
            model = self._gpus[0].name
        # A network has one GPU, also where a run is given several.
        self._gpu_memory = int(self._gpus[0].memory_bytes * min(share, 1.0)) if self._gpus else None
        self._surroundings = Surroundings(cpus, device, min(self._places, room), model)
        self.model = CostModel.of_kept(self._surroundings, _molecules())
        self.quoted: Quote | None = None

    @property
    def known(self) -> bool:
        """Whether the space's configurations, or their like, were timed."""
        from hpsearch.search import within_reach

        return self.model is not None and within_reach(self._space, self.quote(), self.model)

    def measure(self, say: Callable[[str], None]) -> None:
        """Time a few configurations and keep that."""
        from hpsearch.cost import measure
        from hpsearch.cost.model import LEAST, CostModel, refusal
        from hpsearch.cost.timings import keep
        from hpsearch.search import drawn, to_time
        from hpsearch.search.quote import DRAWS
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
        self.model = CostModel(timed, _molecules())
        keep(here, timed)

    def quote(self, missing: int | None = None) -> Quote:
        """For ``missing`` trials; all of them where that is not given."""
        from hpsearch.doctor import available_memory
        from hpsearch.search import Quote

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
        from hpsearch.search import ways_down
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
    from hpsearch.search import verdicts
    from hpsearch.store import check_name
    from hpsearch.store.address import Address

    name = check_name(space.name if study is None else study)
    path = Address(_url(storage)).path
    if path is not None and not path.is_file():
        return None
    try:
        store = _open_store(storage)
    except InputError as error:
        # A launch makes or upgrades it, or says what is wrong.
        _say(f"all trials are quoted, for nothing is known of the study: {error}")
        return None
    with store:
        return verdicts(store, space, name, molecules, force=force)


def _quote_search(
    space: SearchSpace,
    placement: dict[str, Any],
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
    from hpsearch.search import ways_down
    from hpsearch.terminal.progress import A_DAY
    from hpsearch.terminal.quotes import search_quote_lines, shorter_line

    costs = _Costs(space, placement, executor.check_placement(**placement))
    missing = max(space.trials - (done or 0), 0)
    if answer is not None:
        costs.measure(lambda line: None)
        answer(costs.quote(missing).to_dict())
        return
    if missing == 0:
        _say(f"{done} of {space.trials} done: a launch has nothing to train; --trials extends it")
        return
    _say("a few steps of configurations of the space, from light to heavy:")
    costs.measure(_say)
    quote = costs.quote(missing)
    for line in search_quote_lines(quote):
        _say_folded(line)
    if quote.seconds[1] > A_DAY:
        assert costs.model is not None
        launched = done is not None
        _say(
            shorter_line(
                ways_down(space, costs.model, quote.places, done=done or 0, launched=launched)
            )
        )
    _say("nothing has been run or written; leave out --dry-run to begin")


def _print_winner(store: Store, name: str, storage: str | None) -> None:
    from hpsearch.search import Study
    from hpsearch.terminal.lines import winner_lines

    study = Study.open(store, name)
    winner = study.winner()
    _say(f"{study.counts()}")
    if any(trial for trial in study.trials()["failure_traceback"].dropna()):
        again = _again(f"status {shlex.quote(name)}", storage)
        _say(f"the traceback of the first failure:\n  {again} --traceback")
    for line in winner_lines(winner, _molecules()):
        _say_folded(line)
    _say(f"\nnext: {_again('export-best', storage)} -o best.yaml")


@cli.command(epilog=_example("hpsearch status --json"))
@click.argument("name", required=False, shell_complete=_complete_experiment("study", "ablation"))
@_storage
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
@click.option(
    "--traceback",
    "with_traceback",
    is_flag=True,
    help="Print the traceback of the first run that failed; --json has them all.",
)
def status(name: str | None, storage: str | None, as_json: bool, with_traceback: bool) -> None:
    """Say how a study or an ablation stands.

    It is of the study or ablation NAME; without it, of the one launched last. While a launch goes
    on it says what the launch shows: the runs under way with epoch, loss, seconds and device, the
    best so far, counts and the time left.
    """
    from hpsearch.results.standing import standing
    from hpsearch.terminal.status import status_lines, traceback_lines

    if as_json and with_traceback:
        raise InputError("--traceback must come without --json, which has the tracebacks anyway")
    with _open_store(storage) as store, _answering(as_json) as answer:
        found = standing(store, name)
        if as_json:
            answer(found.to_dict())
            return
        if with_traceback:
            lines = traceback_lines(found)
        else:
            again = _again(f"status {shlex.quote(found.name)}", storage)
            lines = status_lines(found, store.label, again, _columns())
        for line in lines:
            _say(line)


@cli.command(epilog=_example("hpsearch verify"))
@click.argument("study", required=False, shell_complete=_complete_experiment("study"))
@_storage
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
def verify(study: str | None, storage: str | None, as_json: bool) -> None:
    """Check that a study's rows keep what is promised.

    Exactly as many trials with a verdict as wanted, none lost, none counted twice, every row ended,
    and the best trial what the recorded epochs say. Each breach is a line; the exit code is then 1.
    Without STUDY it is the one launched last.
    """
    from dataclasses import asdict

    from hpsearch.search.verify import verify as check

    with _open_store(storage) as store, _answering(as_json) as answer:
        found = check(store, study)
        if as_json:
            answer(asdict(found))
        else:
            for breach in found.breaches:
                _say(str(breach))
            for breach in found.in_progress:
                _say(f"in progress: {breach}")
        if found.breaches:
            raise HpsearchError(f"study {found.study} in {store.label}: {found}")
        if not as_json:
            _say(f"study {found.study} in {store.label}: {found}")


@cli.command(epilog=_example("hpsearch doctor"))
@_storage
@click.option(
    "--runs",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Folder of the checkpoints; default as for launch.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON list, for scripts.")
def doctor(storage: str | None, runs: Path | None, as_json: bool) -> None:
    """Say what this machine can do and what is wrong.

    Each trouble comes with its mend. Looked at are cores, memory, GPUs, the molecules, the store,
    disks and versions. The exit code is 1 where something keeps a launch from working.
    """
    from dataclasses import asdict

    from hpsearch.doctor import examine
    from hpsearch.terminal.columns import hanging

    found = []
    for finding in examine(_url(storage), _runs_root(storage, runs)):
        found.append(finding)
        if not as_json:
            mark = {"good": "ok", "warning": "mind", "bad": "BAD"}[finding.state]
            said = [(f"{mark:5}{finding.what:13}", finding.said)]
            said += [(f"{'':18}-> ", finding.mend)] if finding.mend else []
            for start, text in said:
                for line in hanging(start, text, _columns()):
                    _say(line)
    if as_json:
        with _answering(as_json) as answer:
            answer([asdict(finding) for finding in found])
    wrong = [finding.what for finding in found if finding.state == "bad"]
    if wrong:
        raise HpsearchError(f"a launch would fail: {', '.join(wrong)}")


@cli.command(epilog=_example("hpsearch dashboard --port 8080"))
@_storage
@click.option(
    "--host", metavar="NAME", default="127.0.0.1", show_default=True, help="Address to listen on."
)
@click.option(
    "--port", type=int, metavar="N", default=8080, show_default=True, help="Port to listen on."
)
@click.option("--read-only", is_flag=True, help="Refuse every request that would change something.")
@_pages
def dashboard(
    storage: str | None, host: str, port: int, read_only: bool, own_pages: Path | None
) -> None:
    """Open the Optuna dashboard on the store, and our pages.

    The pages are under /pages. Whoever reaches the dashboard may create, rename and delete studies
    with their trials, end running trials with any value, write notes and attributes, unless it is
    started --read-only. So it listens on this machine alone, until the environment variable
    HPSEARCH_TOKEN holds a token of at least 16 characters: then any --host will do, and every
    browser has to open /?token=TOKEN once (or send the header Authorization: Bearer TOKEN). It
    does not encrypt: put a proxy with TLS before it, or use ssh -L.
    """
    from hpsearch.dashboard import serve
    from hpsearch.dashboard.access import check_host, token_from_environment

    token = token_from_environment()
    check_host(host, port, token)
    # Ctrl-C is how a person ends it.
    with _open_store(storage) as store, suppress(KeyboardInterrupt):
        serve(store, host, port, _say, token=token, read_only=read_only, own_pages=own_pages)


@cli.command("export-best", epilog=_example("hpsearch export-best -o best.yaml"))
@click.argument("study", required=False, shell_complete=_complete_experiment("study"))
@_storage
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The YAML file to write.",
)
@click.option(
    "--select-on",
    type=click.Choice(["validation", "test"]),
    default="validation",
    show_default=True,
    help="test repeats the paper's choice: then the reported test errors are no longer honest.",
)
def export_best(
    study: str | None,
    storage: str | None,
    output: Path,
    select_on: Literal["validation", "test"],
) -> None:
    """Write a study's best configuration to a YAML file.

    The file also says where it comes from: study, trial, errors, hashes of data and split. Without
    STUDY it is the one launched last.
    """
    from hpsearch.search import Study

    with _open_store(storage) as store:
        winner = Study.open(store, study).winner(select_on=select_on)
    winner.write(output)
    origin = winner.provenance
    assert origin is not None
    _say(f"trial {origin.trial} of {origin.study}, chosen on {select_on} molecules: {output}")
    file = shlex.quote(str(output))
    _say(f"next: {_again('ablate', storage)} {file}, or hpsearch train {file}")


@cli.command(
    epilog=_example("hpsearch ablate best.yaml --targets mu,U0 --variants L1Net,L0Net --repeats 3")
)
@click.argument("file", type=click.Path(path_type=Path), shell_complete=_complete_export)
@click.option(
    "--name",
    metavar="NAME",
    shell_complete=_complete_experiment("ablation"),
    help="The ablation; default the file's name and a hash.",
)
@_storage
@_targets
@click.option(
    "--variants",
    callback=_names,
    metavar="NAMES",
    shell_complete=_complete_choice("VARIANTS", several=True),
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
    callback=_least(1),
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
@_epochs
@_schedule
@click.option(
    "--plateau-patience",
    type=int,
    callback=_least(0),
    metavar="N",
    help="Epochs without improvement before the rate falls.",
)
@click.option(
    "--early-stopping-patience",
    type=int,
    callback=_least(1),
    metavar="N",
    help="Epochs without improvement after which a run ends.",
)
@click.option("--batch-size", type=int, callback=_least(1), metavar="N", help="Molecules a step.")
@click.option(
    "--learning-rate",
    type=float,
    callback=_least(0, above=True),
    metavar="RATE",
    help="Adam's initial rate.",
)
@_sizes
@click.option(
    "--split-seed", type=int, callback=_least(0), metavar="N", help="Seed of the random split."
)
@click.option(
    "--seed", type=int, callback=_least(0), metavar="N", help="Seed of the repeats' seeds."
)
@_placement("run")
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
    placement: dict[str, Any],
    if_held: str,
    **overrides: Any,
) -> None:
    """Train variants of a configuration, one target each, and test.

    FILE comes from export-best, or is the shipped paper_l1net. Runs that are in the store are not
    repeated: the same command again runs what is missing, and more targets, variants or repeats
    add to it. An export as it was written is trained as in the paper, for at most 200
    epochs; one that was edited, or written by hand, keeps its own training.
    """
    from hpsearch.ablation import (
        Ablation,
        AblationPlan,
        DataSummary,
        declared_variants,
        relative_cost,
    )
    from hpsearch.config.run import Overrides
    from hpsearch.cost.estimate import Estimate
    from hpsearch.terminal.lines import plan_lines

    _require_dry_run(dry_run, as_json)
    winner = _winner(file)
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
        with _answering(as_json) as answer:
            # For what it refuses.
            DataSummary.of(_molecules(), winner, plan)
            _quote(plan, placement, answer if as_json else None)
        return
    data = DataSummary.of(_molecules(), winner, plan)
    root, _ = _check_before_writing(storage, runs, name, "ablation", placement)
    with _create_store(storage) as store:
        ablation = Ablation.launch(
            store, winner, plan, root, data, wait=if_held == "wait", say=_say
        )
        counts = ablation.counts()
        _say(f"ablation {plan.name} in {store.label}")
        for line in plan_lines(plan):
            _say(line)
        _say(f"found: {counts['complete']} complete, {counts['waiting']} to run")
        _say(plan.training_note)
        _say(
            f"{data.train:,} training, {data.validation:,} validation, {data.test:,} test molecules"
        )
        cells = [
            (cell.key, cell.config.training.epochs, float(relative_cost(cell.config.network)))
            for cell in ablation.waiting
        ]
        progress = _progress(
            "run",
            Estimate(cells),
            total=len(plan.cells),
            done=counts["complete"],
            compares=False,
        )
        _drive(ablation, progress, placement, _again(f"status {shlex.quote(plan.name)}", storage))
        counts = ablation.counts()
        _say(f"{counts['complete']} complete, {counts['failed']} failed")
        _say(f"next: {_again('report', storage)} -o report/")
        if counts["failed"]:
            if ablation.first_failure is not None:
                key, failure = ablation.first_failure
                click.echo(f"run {key}: {failure.traceback.rstrip()}", err=True)
            raise HpsearchError(
                f"{counts['failed']} of {len(plan.cells)} runs failed, for the reasons above; the "
                "same command tries them again"
            )


def _quote(
    plan: AblationPlan, placement: dict[str, Any], answer: Callable[[Any], None] | None
) -> None:
    from hpsearch import executor
    from hpsearch.ablation import PlanQuote
    from hpsearch.cost import measure
    from hpsearch.system.gpus import gpus
    from hpsearch.terminal.lines import plan_lines
    from hpsearch.terminal.quotes import quote_lines

    places = executor.check_placement(**placement)
    device = executor.device_of(placement["device"], placement["gpus_per_run"])
    found = gpus() if device.startswith("cuda") else []
    gpu = found[0].identifier if found else None
    for line in plan_lines(plan) if answer is None else ():
        _say_folded(line)
    timings = {}
    for variant in plan.variants:
        [cell, *_] = [cell for cell in plan.cells if cell.variant == variant.name]
        timings[variant.name] = measure.measure(cell.config, placement["cpus_per_run"], device, gpu)
    quote = PlanQuote.of(plan, timings, places)
    if answer is not None:
        answer(quote.to_dict())
        return
    for line in quote_lines(quote):
        _say_folded(line)
    _say("nothing has been run or written; leave out --dry-run to begin")


@cli.command(epilog=_example("hpsearch report -o report/ --format html,csv"))
@click.argument("name", required=False, shell_complete=_complete_experiment("study", "ablation"))
@_storage
@_output_folder
@click.option(
    "--format",
    "formats",
    default="html,csv,md,latex",
    callback=_names,
    shell_complete=_complete_choice("FORMATS", several=True),
    show_default=True,
    metavar="NAMES",
    help="Formats, separated by commas.",
)
@click.option(
    "--distinct-targets",
    is_flag=True,
    help="Count U0, U, H and G once in tests over targets.",
)
@_pages
def report(
    name: str | None,
    storage: str | None,
    output: Path,
    formats: tuple[str, ...],
    distinct_targets: bool,
    own_pages: Path | None,
) -> None:
    """Write a report: Table 1, learning curves, the trials.

    It is of the study or ablation NAME; without it, of the one launched last.
    """
    from hpsearch.pages import draw_pages
    from hpsearch.report import subject, table1_sections, write_report
    from hpsearch.terminal.lines import section_lines

    pages = functools.partial(draw_pages, own=own_pages)
    with _open_store(storage) as store:
        written = write_report(store, output, name, formats, pages, distinct=distinct_targets)
        ablation = subject(store, name).ablation
        if ablation is not None:
            for section in table1_sections(store, ablation):
                for line in section_lines(section, _columns()):
                    _say(line)
                _say("")
    for path in written.paths:
        _say(str(path))
    for problem in written.problems:
        click.echo(f"page left out: {problem}", err=True)


@cli.command(epilog=_example("hpsearch train best.yaml --targets U0 -o u0/"))
@click.argument("file", type=click.Path(path_type=Path), shell_complete=_complete_export)
@_targets
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Folder of the weights and checkpoints; default FILE's name and -train.",
)
@_epochs
@_schedule
@_sizes
@click.option("--device", metavar="NAME", default="cpu", show_default=True, help="cpu or cuda.")
def train(
    file: Path, targets: tuple[str, ...], output: Path | None, device: str, **overrides: Any
) -> None:
    """Train the configuration in FILE as it is, and test it once.

    FILE comes from export-best, or is the shipped paper_l1net. Its epochs and all its targets are
    used unless an option says otherwise; an export's epochs are the search's. It is trained in
    this process, on all CPU cores. The same command again continues. The best epoch's weights lie
    in the folder as safetensors.
    """
    from hpsearch.ablation import checked_split
    from hpsearch.config.run import Overrides
    from hpsearch.runs.checkpoint import BEST
    from hpsearch.system.process import prepare_worker

    winner = _winner(file)
    config = Overrides(**overrides).apply_to_run(winner.config, targets)
    output = output or Path(f"{file.stem}-train")
    molecules = _molecules()
    split = checked_split(molecules, winner, config.data)
    prepare_worker(_cores())
    from hpsearch.runs.training import Training

    training = Training(config, molecules, output.absolute(), device)
    _require_writable(output)
    _say(
        f"{', '.join(config.targets)} for at most {config.training.epochs} epochs; "
        f"{len(split.train):,} training, {len(split.validation):,} validation, "
        f"{len(split.test):,} test molecules"
    )
    from hpsearch.cost.estimate import Estimate

    alone = Estimate([(output.name, config.training.epochs, 1.0)])
    progress = _progress("run", alone, compares=False)
    with _shown(progress):
        progress.started(output.name, training.facts)
        while not training.finished:
            progress.epoch(output.name, training.run_epoch())
        progress.finished(output.name, training.complete(evaluate_test=True))
    [weights] = output.glob(f"{BEST}-{training.best_epoch:05d}-*")
    _say(f"weights: {weights}")


@cli.command(epilog=_example("hpsearch dipoles -o dipoles/"))
@_output_folder
@click.option(
    "--steps",
    type=int,
    callback=_least(1),
    metavar="N",
    default=800,
    show_default=True,
    help="Training steps of every network.",
)
@click.option(
    "--seeds",
    type=int,
    callback=_least(1),
    metavar="N",
    default=3,
    show_default=True,
    help="Trainings of every network.",
)
def dipoles(output: Path, steps: int, seeds: int) -> None:
    """Show on two dipoles what a network without vectors misses.

    The paper's argument (Figure 2, Eq. 4) as an experiment: networks with and without rotating
    features estimate |p1 + p2|², first from two given vectors, then from four point charges. Their
    errors are printed in units of Eq. 4's bound and written as HTML, SVG, Markdown and CSV. It
    takes minutes, reads no molecules and opens no store.
    """
    from hpsearch.system.process import prepare_worker

    _require_writable(output)
    # The networks are too small for a second thread.
    prepare_worker(1)
    from hpsearch.dipoles import documents, run, table
    from hpsearch.report import plain, write_files

    _say("test MSE in units of the bound, after training:")
    experiment = run(steps, seeds, _say)
    _say(f"\n{plain(table(experiment))}")
    for path in write_files(output, documents(experiment)):
        _say(str(path))


@cli.group()
def data() -> None:
    """Prepare and describe the molecules."""


@data.command(epilog=_example("hpsearch data prepare"))
@click.option(
    "--archive",
    type=click.Path(path_type=Path),
    help="QM9's original archive (dsgdb9nsd.xyz.tar.bz2) or a folder of its files; default: the "
    "installed package.",
)
@click.option(
    "--uncharacterized",
    type=click.Path(path_type=Path),
    help="QM9's uncharacterized.txt; its molecules are left out.",
)
def prepare(archive: Path | None, uncharacterized: Path | None) -> None:
    """Make the cache of QM9 that all runs of this machine share."""
    from hpsearch.data import qm9

    if archive is None and uncharacterized is not None:
        raise InputError(
            "--uncharacterized must come with --archive, got it alone; the package's molecules are "
            "without them already"
        )
    if archive is None:
        qm9.load(say=_say)
        molecules = qm9.verify(say=_say)
    else:
        molecules = qm9.prepare(archive, uncharacterized, say=_say)
    _say(f"{len(molecules):,} molecules in {qm9.cache_directory()}, hash {molecules.content_hash}")


@data.command(epilog=_example("hpsearch data describe"))
@_sizes
@click.option(
    "--split-seed",
    type=int,
    callback=_least(0),
    metavar="N",
    default=0,
    show_default=True,
    help="Seed of the random split.",
)
@click.option(
    "-o",
    "--output",
    "split_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also write the split as JSON, for a space's split_file.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
def describe(split_seed: int, split_file: Path | None, as_json: bool, **sizes: Any) -> None:
    """Print the molecules' counts, split, statistics, naive errors."""
    from hpsearch.config.run import DataConfig
    from hpsearch.data.split import make_split, save_split
    from hpsearch.terminal.lines import molecule_facts, molecule_lines

    with _answering(as_json) as answer:
        molecules = _molecules()
        given = {name: size for name, size in sizes.items() if size is not None}
        data = DataConfig(split_seed=split_seed, **given)
        if split_file is not None:
            save_split(make_split(molecules, data), molecules, split_file)
        if as_json:
            answer(molecule_facts(molecules, data))
            return
        for line in molecule_lines(molecules, data):
            _say_folded(line)
    if split_file is not None:
        _say(f"\nwritten: {split_file}, for split_file: in the data of a space or a configuration")


# --- Shared by the commands -----------------------------------------------------------------------


def _create_store(url: str | None) -> Store:
    from hpsearch.store import Store

    return Store.create(_url(url))


def _open_store(url: str | None) -> Store:
    from hpsearch.store import Store

    return Store.open(_url(url))


def _url(given: str | None) -> str:
    from hpsearch.store import default_url

    return default_url() if given is None else given


def _check_before_writing(
    url: str | None, runs: Path | None, name: str | None, what: str, placement: dict[str, Any]
) -> tuple[Path, int]:
    """Refuse what would only be refused after the store was made.

    Returns:
        The folder of the runs, and how many of them go on side by side.
    """
    from hpsearch import executor
    from hpsearch.store import check_name

    if name is not None:
        check_name(name, what)
    root = _runs_root(url, runs)
    _require_writable(root)
    return root, executor.check_placement(**placement)


def _runs_root(url: str | None, given: Path | None) -> Path:
    from hpsearch.store.address import Address

    if given is not None:
        return given
    database = Address(_url(url)).path
    return Path("storage/runs") if database is None else database.parent / "runs"


def _require_writable(folder: Path) -> None:
    """Refuse a folder that could not be made or written into, by trying; nothing is left."""
    there = folder.absolute()
    try:
        while not there.exists():
            there = there.parent
        Path(tempfile.mkdtemp(prefix=".hpsearch-", dir=there)).rmdir()
    except OSError as error:
        raise unwritable(folder, error) from None


def _molecules() -> Molecules:
    from hpsearch.data import qm9

    return qm9.load(say=_say)


def _check_molecules(config: DataConfig, file: Path | None) -> dict[str, str]:
    """Refuse sizes and split files that do not fit, before anything is written or started.

    Args:
        config: what decides the molecules.
        file: the space that it stands in; ``None`` where options have changed it.

    Returns:
        The hashes of data and split.
    """
    from hpsearch.config.yaml_file import read_yaml
    from hpsearch.data.split import make_split

    molecules = _molecules()
    try:
        split = make_split(molecules, config)
    except InputError as error:
        if file is None:
            raise
        raise read_yaml(file).error(("data",), str(error), key=True) from None
    return {"data_hash": molecules.content_hash, "split_hash": split.hash}


def _winner(file: Path) -> Winner:
    from hpsearch.config.export import Winner
    from hpsearch.errors import one_line
    from hpsearch.system.installation import find_space

    try:
        path = find_space(str(file))
    except InputError:
        raise InputError(
            "a configuration must be a file that export-best wrote, or paper_l1net, got "
            f"'{one_line(str(file), longest=300)}', which is no file; write one with: "
            "hpsearch export-best -o best.yaml"
        ) from None
    return Winner.read(path)


def _progress(noun: str, estimate: Estimate, **known: Any) -> Progress:
    """Tells how a launch goes on: as a table on a terminal, as lines elsewhere."""
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        from hpsearch.terminal.board import Board

        return Board(noun, estimate, say=_say, follow=lambda line: None, **known)
    from hpsearch.terminal.progress import Progress

    return Progress(noun, estimate, say=click.echo, **known)


def _drive(work: Work, progress: Progress, placement: dict[str, Any], status: str) -> None:
    """Run what is missing and tell how it goes on.

    Args:
        work: the study's or the ablation's.
        progress: told of every event.
        placement: where runs are placed.
        status: the command that says how it stands.
    """
    from hpsearch import executor
    from hpsearch.runs.messages import Failure
    from hpsearch.system import failpoint

    if work.finished:
        return
    has_traceback = False

    def tell(event: Event) -> None:
        nonlocal has_traceback
        match event:
            case executor.Started(key, facts):
                progress.started(key, facts)
            case executor.EpochEnded(key, metrics):
                progress.epoch(key, metrics)
            case executor.Retried(key, failure, attempt):
                progress.retried(key, failure, str(attempt))
            case executor.Finished(key, outcome):
                progress.finished(key, outcome)
                # Only the first: the others are most often its like.
                if isinstance(outcome, Failure) and outcome.traceback and not has_traceback:
                    has_traceback = True
                    for line in (
                        f"the traceback of {progress.noun} {key}; all of them: {status} --json",
                        *outcome.traceback.rstrip().splitlines(),
                    ):
                        _say(line)

    with _shown(progress):
        executor.run(work, on_event=tell, **placement)
    progress.ended()
    failpoint.reach("exit")


def _again(command: str, storage: str | None) -> str:
    """The command on the same store, for messages; without a password, which a URL may hold."""
    if storage is None:
        return f"hpsearch {command}"
    from hpsearch.store.address import Address

    address = Address(storage)
    url = f"{'sqlite:///' if address.path else ''}{address.label}"
    return f"hpsearch {command} --storage {shlex.quote(url)}"


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def main() -> None:
    """Run a command; errors are one line on standard error and an exit code."""
    debug = "--debug" in sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # `nohup` has SIGHUP ignored, and it should stay so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        credentials.refuse_passwords(sys.argv[1:])
        code = cli.main(standalone_mode=False)
    except HpsearchError as error:
        if debug:
            traceback.print_exc()
        # A terminal has echoed ^C and stays on that line.
        start = "\n" if isinstance(error, Interrupted) and sys.stderr.isatty() else ""
        click.echo(f"{start}hpsearch: {_printable(str(error))}", err=True)
        code = error.exit_code
        if isinstance(error, Interrupted):
            _leave(code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        code = 2
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f"; see: {context.command_path} --help" if context else ""
        click.echo(f"hpsearch: {_printable(error.format_message().rstrip('.'))}{hint}", err=True)
        code = 2
    except OSError as error:  # of the output: a full disk, a pipe whose reader has gone
        if debug:
            traceback.print_exc()
        with suppress(OSError):
            click.echo(f"hpsearch: {error.strerror or error}; the same command goes on", err=True)
        code = 1
    except click.Abort:  # a signal before a command began
        code = 128 + signal.SIGINT
    sys.exit(code or 0)


def _leave(code: int) -> NoReturn:
    """Ends without the interpreter's teardown; what is ours has been closed by now.

    Ray's libraries, cut off while they start, may crash in it.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def _printable(message: str) -> str:
    """``message`` with control characters written out: a name may hold a terminal's commands."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: repr(found[0])[1:-1], message)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raises the interrupt, after the import that it came into.

    A module half imported, one in C above all, may swallow it or make another error of it.
    """
    if _importing(frame):
        again = threading.Timer(0.05, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()
        return
    raise KeyboardInterrupt(number)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


if __name__ == "__main__":
    main()
