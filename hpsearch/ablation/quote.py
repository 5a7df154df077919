"""What an ablation will cost, by a few measured steps of every arm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self, final

from hpsearch.ablation.plan import AblationPlan
from hpsearch.cost import measure
from hpsearch.cost.estimate import makespan
from hpsearch.cost.timings import Timing
from hpsearch.executor import Placement
from hpsearch.system.gpus import gpus


@final
@dataclass(frozen=True)
class PlanQuote:
    """What an ablation will cost at most; early stopping may shorten it.

    Attributes:
        plan: the cells.
        timings: of every variant, by its name.
        epochs: of a run of every variant, at most.
        run_seconds: of a run of every variant.
        places: runs that go on side by side.
        seconds: until the last run ends.
        total_seconds: of all runs, one after the other.
    """

    plan: AblationPlan
    timings: Mapping[str, Timing]
    epochs: Mapping[str, int]
    run_seconds: Mapping[str, float]
    places: int
    seconds: float
    total_seconds: float

    @classmethod
    def of(cls, plan: AblationPlan, timings: Mapping[str, Timing], places: int) -> Self:
        """The quote of ``plan``, whose variants were timed."""
        epochs = {v.name: v.training_of(plan.training).epochs for v in plan.variants}
        run = {name: timings[name].run_seconds(count) for name, count in epochs.items()}
        runs = sorted((run[cell.key.variant] for cell in plan.cells), reverse=True)
        return cls(plan, timings, epochs, run, places, makespan([0.0] * places, runs), sum(runs))

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form."""
        plan = self.plan
        return {
            "ablation": plan.name,
            "runs": len(plan.cells),
            "targets": list(plan.targets),
            "repeats": plan.repeats,
            "match": plan.match,
            "arms": [
                {
                    "variant": variant.name,
                    "description": variant.description,
                    "weights": plan.weights[variant.name],
                    "epochs": self.epochs[variant.name],
                    "epoch_seconds": self.timings[variant.name].epoch_seconds,
                    "run_seconds": self.run_seconds[variant.name],
                    **asdict(self.timings[variant.name]),
                }
                for variant in plan.variants
            ],
            "places": self.places,
            "seconds": self.seconds,
            "total_seconds": self.total_seconds,
        }


def quote_plan(plan: AblationPlan, placement: Placement, places: int) -> PlanQuote:
    """The quote of ``plan``, after a few steps of every arm were timed on this machine.

    Args:
        plan: the cells.
        placement: where runs are placed.
        places: runs that go on side by side.

    Raises:
        HpsearchError: an arm could not be timed.
    """
    device = placement.torch_device
    found = gpus() if device.startswith("cuda") else []
    gpu = found[0].identifier if found else None
    first = {cell.key.variant: cell.config for cell in reversed(plan.cells)}
    timings = {
        variant.name: measure.measure(first[variant.name], placement.cpus_per_run, device, gpu)
        for variant in plan.variants
    }
    return PlanQuote.of(plan, timings, places)
