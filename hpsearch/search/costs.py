"""`SearchCosts`: the cost of a search on this machine, from cached or new timings."""

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
from hpsearch.executor import Placement
from hpsearch.search.quote import (
    DRAWS,
    Quote,
    choose_to_time,
    draw_configs,
    is_covered,
    shorter_searches,
)
from hpsearch.search.terms import finished_trials
from hpsearch.store import StoreReader, check_name
from hpsearch.store.address import Address
from hpsearch.system.errors import HpsearchError, InputError
from hpsearch.system.gpus import Gpu, gpus
from hpsearch.system.hardware import available_memory, cores


@final
@dataclass(frozen=True)
class SearchCosts:
    """The cost of a search, predicted from timings on this machine.

    Attributes:
        space: the search space.
        molecules: the whole data set.
        conditions: the conditions of the timings.
        places: number of trials at a time.
        gpus_per_trial: GPUs of a trial.
        gpus: the machine's GPUs, if trials use GPUs.
        model: the model fitted to the timings; ``None`` if too little was timed.
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
        """Return the cost according to the timings cached on this machine.

        Args:
            space: the search space.
            molecules: the whole data set.
            placement: what each trial is given.
            places: number of trials at a time.
        """
        cpus, gpus_per_trial = placement.cpus_per_run, placement.gpus_per_run
        device = placement.torch_device
        # A cluster may have more places; this machine times only as many at once as fit into it.
        room = max(1, int(cores() / cpus))
        found = tuple(gpus()) if device.startswith("cuda") else ()
        if found:
            room = max(1, min(room, int(len(found) / gpus_per_trial + 1e-6)))
        name = found[0].name if found else ""
        own = molecules.content_hash if space.data.is_own else ""
        conditions = TimingConditions(cpus, device, min(places, room), name, own)
        model = CostModel.from_cache(conditions, molecules)
        return cls(space, molecules, conditions, places, gpus_per_trial, found, model)

    @property
    def is_known(self) -> bool:
        """Whether configurations like those of the space were timed."""
        return self.model is not None and is_covered(self.space, self.quote(), self.model)

    def measured(
        self,
        on_timed: Callable[[TimedConfig], None] = lambda timed: None,
        on_error: Callable[[TrialConfig, HpsearchError], None] = lambda config, error: None,
    ) -> Self:
        """Time a few configurations of the space, cache the timings, and return the cost.

        Args:
            on_timed: called with each timed configuration.
            on_error: called with each configuration that could not be timed.

        Raises:
            HpsearchError: too few configurations could be timed.
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
                f"an estimate needs {LEAST} timed configurations, got {len(timed)}; set a budget "
                "(max_parameters) that leaves out those too large for this machine"
            )
        costs = replace(self, model=CostModel(timed, self.molecules))
        cache_timings(here, timed)
        return costs

    def _to_time(self) -> list[TrialConfig]:
        draws = draw_configs(self.space, DRAWS)
        # A configuration with too many weights is not timed. Whether it is too slow, or needs too
        # much memory, is known only after the timing.
        budget = self.space.budget
        if budget is not None:
            budget = budget.model_copy(update={"max_memory": None, "max_epoch_seconds": None})
        configs = choose_to_time(
            [config for config in draws if refusal(budget, config, None) is None]
        )
        # Fewer timings are not enough for a model.
        return configs if len(configs) >= LEAST else choose_to_time(draws)

    def quote(self, missing: int | None = None) -> Quote:
        """Return the estimate for ``missing`` trials, or for all of them."""
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
        """Return the bytes that all trials at a time share."""
        if self.gpus:
            return int(self.gpus[0].memory_bytes * self.gpus_per_trial) * self.places
        memory = available_memory()
        if memory is None:
            return None
        # The other machines of a cluster are assumed to be like this one.
        return memory * self.places // self.conditions.at_once

    def shorter_searches(self, missing: int, *, launched: bool) -> list[tuple[str, float]]:
        """Return options that shorten the search, with the seconds that it would then take.

        Args:
            missing: number of trials still to train.
            launched: whether the study is in the store, with its space.
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
) -> tuple[int, int] | None:
    """Return how many trials of the study are finished, and how many it wants.

    Args:
        url: of the store.
        space: the search space of the launch.
        study: the study's name; ``None`` for the space's name.
        molecules: ``data_hash`` and ``split_hash`` of the space on this machine.
        say: called with the reason if the store cannot be read.
        force: whether another space, molecules or split are accepted.

    Returns:
        Both numbers; ``None`` if the store has no such study.

    Raises:
        InputError: the launch would raise it too.
    """
    name = space.name if study is None else study
    path = Address(url).path
    if path is not None and not path.is_file():
        check_name(name)
        return None
    try:
        store = StoreReader.open(url)
    except InputError as error:
        # A launch will create or upgrade the store, or report the error.
        say(f"the estimate is for all trials, because the study cannot be read: {error}")
        return None
    with store:
        name = store.launch_name("study", name)
        return finished_trials(store, space, name, molecules, force=force)
