"""`launch`: run a search, from its checked arguments to its last trial."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpsearch.api.drive import Voice, drive
from hpsearch.api.inputs import (
    again_command,
    check_before_writing,
    check_molecules,
    load_molecules,
    require_store,
    url_of,
)
from hpsearch.system.errors import HpsearchError, InputError

if TYPE_CHECKING:
    from hpsearch.api.callbacks import Callback
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

Say = Callable[[str], None]


@dataclass(frozen=True)
class SearchRequest:
    """The checked arguments of a launch.

    Attributes:
        space: the search space.
        study: the study's name; ``None`` for the space's name.
        storage: the store's URL as the user gave it.
        folder: the folder of the checkpoints; ``None`` for a launch that writes nothing.
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
    folder: Path | None
    force: bool
    keep_trials: bool
    placement: Placement
    places: int
    molecules: Molecules
    hashes: dict[str, Any]
    known: list[KnownTrial]

    @classmethod
    def check(
        cls,
        space: str | SearchSpace,
        *,
        study: str | None,
        storage: str | None,
        runs: Path | None,
        enqueue: Sequence[str],
        data: DataConfig | Path | None,
        targets: Sequence[str],
        force: bool,
        placement: Placement,
        overrides: dict[str, Any],
        writes: bool,
        say: Say,
    ) -> SearchRequest:
        """Check the arguments of a launch; nothing is written.

        Args:
            space: a search space, its file, or the name of a shipped one.
            study: the study's name; ``None`` for the space's name.
            storage: the store's URL; ``None`` for the default.
            runs: the folder of the checkpoints; ``None`` for the one next to the store.
            enqueue: files and names of known configurations.
            data: a declaration of molecules, or its file; ``None`` for those of the space.
            targets: names; without names, those of the space.
            force: whether changes of the space, the molecules or the split are accepted.
            placement: where trials are placed.
            overrides: fields of `hpsearch.config.run.Overrides`.
            writes: whether the launch writes, so that its folder must be writable.
            say: called with lines about the molecules.

        Raises:
            InputError: an argument is wrong.
        """
        from hpsearch import executor
        from hpsearch.config.run import DataConfig
        from hpsearch.config.space import SearchSpace
        from hpsearch.system.installation import find_space

        file = None if isinstance(space, SearchSpace) else find_space(space)
        as_written = space if isinstance(space, SearchSpace) else SearchSpace.load(file or "")
        declared = DataConfig.read(data) if isinstance(data, Path) else data
        given = as_written if declared is None else as_written.with_data(declared)
        chosen = given.with_overrides(**overrides, targets=targets or None)
        known = _known_trials(chosen, enqueue, storage)
        given_file = file if chosen.data == as_written.data else None
        folder = check_before_writing(storage, runs, study, "study") if writes else None
        molecules = load_molecules(chosen.data, say)
        chosen = chosen.resolved(len(molecules), molecules.elements)
        hashes = check_molecules(molecules, chosen.data, given_file)
        if chosen.data.is_own:
            _say_leak(molecules, chosen.data, say)
        # The first heavy import: this needs only Ray, and refuses a placement that does not fit.
        places = executor.count_places(placement)
        keep_trials = overrides.get("trials") is None
        return cls(
            chosen, study, storage, folder, force, keep_trials, placement, places, molecules,
            hashes, known,
        )  # fmt: skip

    def costs(self) -> SearchCosts:
        """Return the cost of the search, from the timings of this machine."""
        from hpsearch.search.costs import SearchCosts

        return SearchCosts.of(self.space, self.molecules, self.placement, self.places)


def _say_leak(molecules: Molecules, data: DataConfig, say: Say) -> None:
    from hpsearch.data.check import leak_line
    from hpsearch.data.split import make_split

    line = leak_line(molecules, make_split(molecules, data), data)
    if line is not None:
        say(line)


def _known_trials(
    space: SearchSpace, enqueue: Sequence[str], storage: str | None
) -> list[KnownTrial]:
    """Return the trials with known configurations, of the space and of ``enqueue``."""
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


# --- The training --------------------------------------------------------------------------------


def train_search(
    request: SearchRequest,
    voice: Voice,
    *,
    evaluate_test: bool = False,
    wait: bool = False,
    callbacks: Iterable[Callback] = (),
    on_end: Callable[[Study], None] = lambda study: None,
) -> str:
    """Create or continue the study, and train its missing trials.

    Args:
        request: the arguments, with a folder.
        voice: tells the user what happens.
        evaluate_test: whether complete trials record their test loss.
        wait: whether to wait for another launch that drives the study.
        callbacks: told every event.
        on_end: called with the study after its last trial.

    Returns:
        The name of the study.

    Raises:
        HpsearchError: the search cannot go on; a note of the error has the first traceback.
    """
    from hpsearch.search.launch import check_budget, check_rung_seconds, launch_study
    from hpsearch.search.study import Study
    from hpsearch.store import Store
    from hpsearch.terminal.quotes import accuracy_lines

    space, folder, say = request.space, request.folder, voice.say
    assert folder is not None
    costs = request.costs()
    if space.budget is not None and space.budget.is_measured and not costs.is_known:
        say("the budget needs timings of this space on this machine, which are measured once:")
        costs = measured(costs, say)
    # Before the store is created: a search that cannot have a trial leaves nothing behind.
    check_budget(space, costs.model)
    check_rung_seconds(space, costs.model)
    with Store.create(url_of(request.storage), say=say) as store:
        search = launch_study(
            store,
            space,
            request.study,
            folder,
            evaluate_test=evaluate_test,
            force=request.force,
            keep_trials=request.keep_trials,
            wait=wait,
            say=say,
            molecules=request.hashes,
            model=costs.model,
            known=request.known,
        )
        request = replace(request, space=search.space)
        costs = replace(costs, space=search.space)
        missing = search.at_start.left + search.at_start.resumed
        _say_beginning(search, store, request, say)
        quote = costs.quote(missing) if missing and costs.is_known else None
        for line in _short_quote_lines(costs, quote, missing) if missing else ():
            say(line)
        if quote is not None and quote.timings:
            search.keep_quote(quote.to_dict())
        _drive(search, store, request, voice, missing, callbacks)
        study = Study.open(store, search.name)
        for line in accuracy_lines(study.quote_accuracy()) if missing else ():
            say(line)
        if search.breakdown is not None:
            error = HpsearchError(search.breakdown.reason)
            if search.breakdown.traceback:
                error.add_note(search.breakdown.traceback.rstrip())
            raise error
        on_end(study)
        return search.name


def measured(costs: SearchCosts, say: Say) -> SearchCosts:
    """Time a few configurations, print a line for each of them, and return the updated costs."""
    from hpsearch.terminal.quotes import timed_line, untimed_line

    return costs.measured(
        lambda timed: say(timed_line(timed)),
        lambda config, error: say(untimed_line(config, error)),
    )


def _say_beginning(search: Search, store: Store, request: SearchRequest, say: Say) -> None:
    from hpsearch.report.text import ZERO_OUTPUT_LEGEND
    from hpsearch.terminal.lines import idle_line, no_rungs_line

    say(f"study {search.name} in {store.label}")
    for change in search.forced:
        say(f"forced: {change}")
    say(f"so far: {search.at_start}")
    is_left = search.at_start.left + search.at_start.resumed > 0
    for line in (idle_line(request.space), no_rungs_line(request.space) if is_left else None):
        if line is not None:
            say(line)
    say(f"watch it with: {again_command('dashboard', request.storage)}")
    if is_left:
        say(ZERO_OUTPUT_LEGEND)


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


def _drive(
    search: Search,
    store: Store,
    request: SearchRequest,
    voice: Voice,
    missing: int,
    callbacks: Iterable[Callback],
) -> None:
    from hpsearch.api.callbacks import Callbacks, Launch
    from hpsearch.search.study import Study
    from hpsearch.store import ORIGIN

    study, targets = Study.open(store, search.name), request.space.data.all_targets
    progress = voice.make_progress(
        "trial",
        _time_left(request.space, missing),
        total=request.space.trials,
        done=search.at_start.complete + search.at_start.pruned,
        best=study.best(),
        paused=search.paused_keys,
        targets=targets,
        origins={str(n): text for n, text in store.attribute_values(search.name, ORIGIN).items()},
    )
    units = {target.name: target.unit for target in targets}
    launch = Launch("study", search.name, store.label, request.space.trials, units)
    status = again_command(f"status {shlex.quote(search.name)}", request.storage)
    with Callbacks(callbacks, launch, lambda key: study.config(int(key)), voice.say) as told:

        def promoted(key: str, place: str) -> None:
            progress.promoted(key, place)
            told.promoted(key)

        def stopped(key: str, loss: float) -> None:
            progress.stopped(key, loss)
            told.stopped(key, loss)

        search.on_promoted, search.on_stopped = promoted, stopped
        drive(search, progress, request.placement, status, told)


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
