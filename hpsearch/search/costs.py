"""`SearchCosts`: what a search costs on this machine, by timings that are kept or taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Self, final

from hpsearch.config.run import TrialConfig
from hpsearch.config.space import SearchSpace
from hpsearch.cost import measure
from hpsearch.cost.model import LEAST, CostModel, refusal
from hpsearch.cost.timings import TimedConfig, TimingConditions, cache_timings
from hpsearch.data.molecule import Molecules
from hpsearch.errors import HpsearchError, InputError
from hpsearch.executor import Placement
from hpsearch.search.quote import (
    DRAWS,
    Quote,
    choose_to_time,
    draw_configs,
    is_covered,
    shorter_searches,
)
from hpsearch.search.terms import verdicts
from hpsearch.store import StoreReader, check_name
from hpsearch.store.address import Address
from hpsearch.system.gpus import Gpu, gpus
from hpsearch.system.hardware import available_memory, cores


@final
@dataclass(frozen=True)
class SearchCosts:
    """A search's cost, predicted from what was timed on this machine for such placements.

    Attributes:
        space: what is searched.
        molecules: the whole data set.
        conditions: what the timings hold for.
        places: trials that go on side by side.
        gpus_per_trial: GPUs of a trial.
        gpus: of this machine, where a trial is given any.
        model: made from the timings; ``None`` where nothing was timed yet.
    """

    space: SearchSpace
    molecules: Molecules
    conditions: TimingConditions
    places: int
    gpus_per_trial: float
    gpus: tuple[Gpu, ...]
    model: CostModel | None

    @classmethod
    def of(
        cls, space: SearchSpace, molecules: Molecules, placement: Placement, places: int
    ) -> Self:
        """The cost by the timings that are kept on this machine.

        Args:
            space: what is searched.
            molecules: the whole data set.
            placement: where trials are placed.
            places: trials that go on side by side.
        """
        cpus, gpus_per_trial = placement.cpus_per_run, placement.gpus_per_run
        device = placement.torch_device
        # A cluster may have more places: this machine times what it has room for itself.
        room = max(1, int(cores() / cpus))
        found = tuple(gpus()) if device.startswith("cuda") else ()
        if found:
            room = max(1, min(room, int(len(found) / gpus_per_trial + 1e-6)))
        name = found[0].name if found else ""
        conditions = TimingConditions(cpus, device, min(places, room), name)
        model = CostModel.from_cache(conditions, molecules)
        return cls(space, molecules, conditions, places, gpus_per_trial, found, model)

    @property
    def is_known(self) -> bool:
        """Whether the space's configurations, or others like them, were timed."""
        return self.model is not None and is_covered(self.space, self.quote(), self.model)

    def measured(
        self,
        on_timed: Callable[[TimedConfig], None] = lambda timed: None,
        on_error: Callable[[TrialConfig, HpsearchError], None] = lambda config, error: None,
    ) -> Self:
        """The cost after a few configurations of the space were timed; the timings are kept.

        Args:
            on_timed: called after each that was timed.
            on_error: called after each that could not be timed.

        Raises:
            HpsearchError: too few of them could be timed.
        """
        here = self.conditions
        timed = measure.measure_all(
            self._to_time(),
            here.cpus,
            here.device,
            here.at_once,
            on_timed,
            on_error,
            [gpu.identifier for gpu in self.gpus],
        )
        if len(timed) < LEAST:
            raise HpsearchError(
                f"a quote needs {LEAST} timed configurations, got {len(timed)}; a budget "
                "(max_parameters) leaves out what is too large for this machine"
            )
        costs = replace(self, model=CostModel(timed, self.molecules))
        cache_timings(here, timed)
        return costs

    def _to_time(self) -> list[TrialConfig]:
        draws = draw_configs(self.space, DRAWS)
        # What is too large anyhow need not be tried; what takes long is only known afterwards.
        budget = self.space.budget
        if budget is not None:
            budget = budget.model_copy(update={"max_memory": None, "max_epoch_seconds": None})
        configs = choose_to_time(
            [config for config in draws if refusal(budget, config, None) is None]
        )
        # Fewer make no model.
        return configs if len(configs) >= LEAST else choose_to_time(draws)

    def quote(self, missing: int | None = None) -> Quote:
        """The quote for ``missing`` trials; for all of them where that is not given."""
        assert self.model is not None
        return Quote.of(
            self.space,
            self.model,
            self.places,
            self._memory(),
            done=0 if missing is None else self.space.trials - missing,
            cpus=self.conditions.cpus,
            gpus=self.gpus_per_trial,
        )

    def _memory(self) -> int | None:
        """Bytes that the trials which go on side by side share."""
        if self.gpus:
            return int(self.gpus[0].memory_bytes * self.gpus_per_trial) * self.places
        memory = available_memory()
        if memory is None:
            return None
        # This machine's, for as many of all places as it has; a cluster's others are taken for
        # its equals.
        return memory * self.places // self.conditions.at_once

    def shorter_searches(self, missing: int, *, launched: bool) -> list[tuple[str, float]]:
        """Options that make the search shorter, each with the seconds that it then takes.

        Args:
            missing: trials that are still to be trained.
            launched: whether the study is in the store, which has its space.
        """
        assert self.model is not None
        done = self.space.trials - missing
        return shorter_searches(self.space, self.model, self.places, done=done, launched=launched)


def trials_done(
    url: str,
    space: SearchSpace,
    study: str | None,
    molecules: Mapping[str, str],
    say: Callable[[str], None],
    *,
    force: bool = False,
) -> int | None:
    """Trials that a launch would find done; ``None`` where the store has no such study.

    Args:
        url: of the store.
        space: what the launch would search.
        study: the study's name; ``None`` for the space's.
        molecules: ``data_hash`` and ``split_hash`` that the space gives on this machine.
        say: called with why nothing is known of the study, where its store cannot be read.
        force: whether another space, molecules or split are accepted.

    Raises:
        InputError: as the launch would.
    """
    name = check_name(space.name if study is None else study)
    path = Address(url).path
    if path is not None and not path.is_file():
        return None
    try:
        store = StoreReader.open(url)
    except InputError as error:
        # A launch makes or upgrades it, or says what is wrong.
        say(f"all trials are quoted, for nothing is known of the study: {error}")
        return None
    with store:
        return verdicts(store, space, name, molecules, force=force)
