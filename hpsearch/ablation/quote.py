"""The estimate of an ablation's cost, from a few measured steps of every arm."""

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
    """The estimate of an ablation's cost without early stopping, which may shorten it.

    Attributes:
        plan: the plan, with its cells.
        timings: the timing of each variant, by its name.
        epochs: the most epochs of a run of each variant.
        run_seconds: the seconds of a run of each variant.
        places: number of runs at a time.
        seconds: seconds until the last run ends.
        total_seconds: seconds of all runs, one after the other.
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
        """Return the estimate for ``plan`` from the timings of its variants."""
        epochs = {v.name: v.training_of(plan.training).epochs for v in plan.variants}
        run = {name: timings[name].run_seconds(count) for name, count in epochs.items()}
        runs = sorted((run[cell.key.variant] for cell in plan.cells), reverse=True)
        return cls(plan, timings, epochs, run, places, makespan([0.0] * places, runs), sum(runs))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe form."""
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
    """Time a few steps of every arm on this machine and return the estimate for ``plan``.

    Args:
        plan: the plan, with its cells.
        placement: what each run is given.
        places: number of runs at a time.

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
