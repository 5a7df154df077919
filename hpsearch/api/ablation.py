"""`ablate`: run an ablation, from its checked arguments to its last cell."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hpsearch.api.drive import Voice, drive
from hpsearch.api.inputs import (
    again_command,
    check_before_writing,
    load_molecules,
    url_of,
)
from hpsearch.system.errors import HpsearchError

if TYPE_CHECKING:
    from hpsearch.ablation.molecules import DataSummary
    from hpsearch.ablation.plan import AblationPlan
    from hpsearch.ablation.work import Ablation
    from hpsearch.api.callbacks import Callback
    from hpsearch.config.export import Winner
    from hpsearch.config.run import DataConfig
    from hpsearch.executor import Placement
    from hpsearch.store import Store

Say = Callable[[str], None]


@dataclass(frozen=True)
class AblationRequest:
    """The checked arguments of an ablation.

    Attributes:
        winner: the configuration.
        plan: the arms, the cells and their training.
        data: the summary of the molecules.
        storage: the store's URL as the user gave it.
        folder: the folder of the checkpoints; ``None`` for a launch that writes nothing.
        placement: where runs are placed.
        places: number of runs that train at the same time.
    """

    winner: Winner
    plan: AblationPlan
    data: DataSummary
    storage: str | None
    folder: Path | None
    placement: Placement
    places: int

    @classmethod
    def check(
        cls,
        winner: Winner,
        *,
        name: str | None,
        stem: str | None,
        storage: str | None,
        runs: Path | None,
        targets: Sequence[str],
        variants: Sequence[str],
        variants_file: Path | None,
        match: Literal["dims", "params"],
        repeats: int,
        vary_split: bool,
        data: DataConfig | Path | None,
        placement: Placement,
        overrides: dict[str, Any],
        writes: bool,
        say: Say,
    ) -> AblationRequest:
        """Check the arguments of an ablation; nothing is written.

        Args:
            winner: the configuration.
            name: of the ablation; ``None`` makes one of ``stem`` and a hash.
            stem: name of the configuration's file without its ending; ``None`` if there is none.
            storage: the store's URL; ``None`` for the default.
            runs: the folder of the checkpoints; ``None`` for the one next to the store.
            targets: names; without names, those of the configuration.
            variants: names of the arms; without names, all.
            variants_file: declares more variants.
            match: what the arms without vectors have in common with the winner.
            repeats: number of runs of each arm and target.
            vary_split: whether repeats also have other training and validation molecules.
            data: a declaration of molecules, or its file; ``None`` for those of the configuration.
            placement: where runs are placed.
            overrides: fields of `hpsearch.config.run.Overrides`.
            writes: whether the launch writes, so that its folder must be writable.
            say: called with lines about the molecules.

        Raises:
            InputError: an argument is wrong.
        """
        from hpsearch import executor
        from hpsearch.ablation.declared import declared_variants
        from hpsearch.ablation.plan import AblationPlan
        from hpsearch.config.run import DataConfig, Overrides

        if data is not None:
            winner = winner.with_data(DataConfig.read(data) if isinstance(data, Path) else data)
        molecules = None
        if winner.config.data.is_own:
            # The elements and sizes come from the molecules.
            molecules = load_molecules(winner.config.data, say)
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
            stem=stem,
        )
        folder = None
        if writes:
            named = plan.name if name is None else name
            folder = check_before_writing(storage, runs, named, "ablation")
        from hpsearch.ablation.molecules import DataSummary

        if molecules is None:
            molecules = load_molecules(plan.data, say)
        # A dry run also needs it, because it refuses a split that leaks test molecules.
        summary = DataSummary.of(molecules, winner, plan)
        # The first heavy import: this needs only Ray, and refuses a placement that does not fit.
        places = executor.count_places(placement)
        return cls(winner, plan, summary, storage, folder, placement, places)


def train_ablation(
    request: AblationRequest,
    voice: Voice,
    *,
    wait: bool = False,
    callbacks: Iterable[Callback] = (),
) -> str:
    """Create or continue the ablation, and train its missing runs.

    Args:
        request: the arguments, with a folder.
        voice: tells the user what happens.
        wait: whether to wait for another launch that drives the ablation.
        callbacks: told every event.

    Returns:
        The name of the ablation.

    Raises:
        HpsearchError: some runs failed; a note of the error has the first traceback.
    """
    from hpsearch.ablation.launch import launch_ablation
    from hpsearch.store import Store

    plan, folder, say = request.plan, request.folder, voice.say
    assert folder is not None
    with Store.create(url_of(request.storage), say=say) as store:
        ablation = launch_ablation(
            store, request.winner, plan, folder, request.data, wait=wait, say=say
        )
        _say_beginning(ablation, store, request.data, say)
        _drive(ablation, store, request, voice, callbacks)
        counts = ablation.counts()
        say(f"{counts['complete']} complete, {counts['failed']} failed")
        say(f"next: {again_command('report', request.storage)} -o report/")
        if counts["failed"]:
            error = HpsearchError(
                f"{counts['failed']} of {len(plan.cells)} runs failed, for the reasons above; to "
                "try them again, type the same command"
            )
            if ablation.first_failure is not None:
                key, failure = ablation.first_failure
                error.add_note(f"run {key}: {failure.traceback.rstrip()}")
            raise error
        return ablation.experiment.name


def _say_beginning(ablation: Ablation, store: Store, data: DataSummary, say: Say) -> None:
    from hpsearch.report.text import ZERO_OUTPUT_LEGEND
    from hpsearch.terminal.lines import plan_lines

    plan, counts = ablation.plan, ablation.counts()
    say(f"ablation {plan.name} in {store.label}")
    for line in plan_lines(plan):
        say(line)
    say(f"so far: {counts['complete']} complete, {counts['waiting']} to run")
    say(plan.training_note)
    say(f"{data.train:,} training, {data.validation:,} validation, {data.test:,} test molecules")
    if counts["waiting"]:
        say(ZERO_OUTPUT_LEGEND)


def _drive(
    ablation: Ablation,
    store: Store,
    request: AblationRequest,
    voice: Voice,
    callbacks: Iterable[Callback],
) -> None:
    from hpsearch.api.callbacks import Callbacks, Launch
    from hpsearch.config.architecture import relative_work
    from hpsearch.config.run import TrialConfig
    from hpsearch.cost.estimate import TimeLeft

    plan = ablation.plan
    cells = [
        (str(cell.key), cell.config.training.epochs, relative_work(cell.config))
        for cell in ablation.waiting
    ]
    progress = voice.make_progress(
        "run",
        TimeLeft(cells),
        total=len(plan.cells),
        done=ablation.counts()["complete"],
        compares=False,
        targets=plan.data.all_targets,
    )

    configs: dict[str, TrialConfig] = {str(cell.key): cell.config for cell in plan.cells}
    units = {target.name: target.unit for target in plan.data.all_targets}
    launch = Launch("ablation", plan.name, store.label, len(plan.cells), units)
    status = again_command(f"status {shlex.quote(plan.name)}", request.storage)
    with Callbacks(callbacks, launch, configs.get, voice.say) as told:
        drive(ablation, progress, request.placement, status, told)
