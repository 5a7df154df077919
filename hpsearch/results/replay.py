"""Plays plans of early stopping on the recorded curves of a study that was trained to its end.

A replay asks: had this plan been used, how many epochs would have been trained, and which trial
would have won? The curves are those of the study, so nothing is trained. Trials arrive in a random
order, and each replay draws the trials again from the study with replacement (a bootstrap). So the
answers hold for searches like this one, not only for the trials that happened to be drawn.

A sampler that learns, such as TPE, would have drawn other trials after other losses. A replay
cannot show that.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from pydantic import ValidationError

from hpsearch.config.run import ScheduleName
from hpsearch.config.rungs import Rungs, default_rungs, least_epoch
from hpsearch.results.curves import Curves, Noise, RecordedCurve
from hpsearch.search.rungs import Ladder
from hpsearch.system.errors import InputError

Rule = Literal["promotion", "stopping"]


@dataclass(frozen=True)
class Plan:
    """A plan to play.

    Attributes:
        name: in words.
        rungs: when trials pause; ``None`` trains every trial to its end.
        rule: ``promotion`` lets paused trials go on later. ``stopping`` decides at once, when a
            trial reaches a rung, and for good; then the order of arrival matters.
    """

    name: str
    rungs: Rungs | None
    rule: Rule = "promotion"


@dataclass(frozen=True)
class Replayed:
    """The result of one replay.

    Attributes:
        trained: number of trained epochs of each of the given curves.
        seconds: until the last trial ends.
        winner: place of the winner in the given curves.
        complete: number of complete trials.
    """

    trained: tuple[int, ...]
    seconds: float
    winner: int
    complete: int

    @property
    def epochs(self) -> int:
        """The trained epochs of all trials."""
        return sum(self.trained)


def play(curves: Sequence[RecordedCurve], plan: Plan, workers: int) -> Replayed:
    """Play a plan on ``curves``, which arrive in this order.

    Args:
        curves: of the trials, at least one.
        plan: the plan.
        workers: number of trials that are trained at a time.
    """
    game = _Game(curves, plan)
    free, now = workers, 0.0
    running: list[tuple[float, int, int]] = []  # end, order of starts, trial
    starts = 0
    while True:
        while free and (trial := game.next()) is not None:
            starts += 1
            heapq.heappush(running, (now + game.start(trial), starts, trial))
            free -= 1
        if not running:
            return Replayed(tuple(game.trained), now, game.winner, game.complete)
        now, _, trial = heapq.heappop(running)
        free += 1
        game.reached(trial)


class _Game:
    """A search that trains nothing: the decisions of a plan on known curves."""

    def __init__(self, curves: Sequence[RecordedCurve], plan: Plan) -> None:
        self._curves = curves
        self._plan = plan
        self._rungs = () if plan.rungs is None else plan.rungs.epochs or ()
        self._ladder = None if plan.rungs is None else Ladder(plan.rungs)
        self._drawn = 0
        self.trained = [0] * len(curves)
        self._going_on: list[int] = []
        self.complete = 0
        self._best = (math.inf, 0)

    @property
    def winner(self) -> int:
        """The complete trial with the lowest loss."""
        return self._best[1]

    def next(self) -> int | None:
        """Return the trial to train next; ``None`` if there is none now."""
        if self._going_on:
            return self._going_on.pop()
        last = self._drawn == len(self._curves)
        if self._ladder is not None and self._plan.rule == "promotion":
            key = self._ladder.next(last=last)
            if key is not None:
                self._ladder.promote(key)
                return int(key)
        if last:
            return None
        self._drawn += 1
        return self._drawn - 1

    def start(self, trial: int) -> float:
        """Train a trial to its next rung, or to its end; return the seconds."""
        curve, done = self._curves[trial], self.trained[trial]
        end = next((rung for rung in self._rungs if rung > done), len(curve.losses))
        end = min(end, len(curve.losses))
        self.trained[trial] = end
        return (end - done) * curve.seconds

    def reached(self, trial: int) -> None:
        """Pause a trial, or end it."""
        curve, done = self._curves[trial], self.trained[trial]
        loss = curve.lowest(done)
        if done == len(curve.losses):
            self.complete += 1
            self._best = min(self._best, (loss, trial))
            if self._ladder is not None:
                self._ladder.complete(str(trial), loss)
            return
        assert self._ladder is not None
        self._ladder.pause(str(trial), loss)
        if self._plan.rule == "stopping":
            self._stop_or_go_on(trial)

    def _stop_or_go_on(self, trial: int) -> None:
        """Decide at once: a trial that is among the best so far is trained on, the others stop."""
        assert self._ladder is not None
        place = self._ladder.place(str(trial), last=True)
        if not place.goes_on:
            self._ladder.prune(str(trial))
            return
        self._ladder.promote(str(trial))
        self._going_on.append(trial)


@dataclass(frozen=True)
class Summary:
    """What many replays of a plan say.

    Attributes:
        plan: the plan.
        workers: number of trials that are trained at a time.
        epochs: mean number of trained epochs.
        share: the same, as a fraction of the epochs of full training.
        hours: mean hours of the search.
        regret: median of the relative difference between the winner's loss and the best one's.
        regret_ends: the quantiles 5 % and 95 % of the same.
        lost: fraction of the replays in which the best trial did not win.
        lost_at_most: upper end of the 95 % interval of the chance of that (Clopper-Pearson).
        rank: mean rank of the winner among the trials, from 1.
    """

    plan: Plan
    workers: int
    epochs: float
    share: float
    hours: float
    regret: float
    regret_ends: tuple[float, float]
    lost: float
    lost_at_most: float
    rank: float

    def to_dict(self) -> dict[str, Any]:
        """Return the form for JSON."""
        rungs = self.plan.rungs
        values = {name: value for name, value in vars(self).items() if name != "plan"}
        return {
            "plan": self.plan.name,
            "rule": self.plan.rule,
            "rungs": None if rungs is None else rungs.model_dump(mode="json"),
            **values,
        }


def summarise(
    curves: Sequence[RecordedCurve], plan: Plan, workers: int, replays: int, seed: int = 0
) -> Summary:
    """Play a plan many times, each time on trials drawn from ``curves`` with replacement.

    Args:
        curves: of the trials.
        plan: the plan.
        workers: number of trials that are trained at a time.
        replays: number of replays.
        seed: of the draws. Two plans with one seed play on the same trials.
    """
    random = np.random.default_rng(seed)
    epochs, seconds, regrets, ranks, shares = [], [], [], [], []
    for _ in range(replays):
        drawn = [curves[place] for place in random.integers(len(curves), size=len(curves))]
        result = play(drawn, plan, workers)
        finals = sorted(min(curve.losses) for curve in drawn)
        won = min(drawn[result.winner].losses)
        regrets.append(won / finals[0] - 1.0)
        ranks.append(1 + finals.index(won))
        epochs.append(result.epochs)
        seconds.append(result.seconds)
        shares.append(result.epochs / sum(len(curve.losses) for curve in drawn))
    lost = sum(regret > 0 for regret in regrets)
    low, middle, high = np.quantile(regrets, [0.05, 0.5, 0.95])
    return Summary(
        plan=plan,
        workers=workers,
        epochs=float(np.mean(epochs)),
        share=float(np.mean(shares)),
        hours=float(np.mean(seconds)) / 3600,
        regret=float(middle),
        regret_ends=(float(low), float(high)),
        lost=lost / replays,
        lost_at_most=upper_bound(lost, replays),
        rank=float(np.mean(ranks)),
    )


def upper_bound(events: int, trials: int, level: float = 0.95) -> float:
    """Return the upper end of the one-sided interval of a chance (Clopper and Pearson, 1934).

    Args:
        events: how often it happened.
        trials: out of how many times.
        level: of the interval.
    """
    from scipy.stats import beta  # takes long to load

    return 1.0 if events == trials else float(beta.ppf(level, events + 1, trials - events))


@dataclass(frozen=True)
class Replay:
    """What several plans would have done on the curves of a study.

    Attributes:
        curves: of the study.
        noise: how much a loss differs between seeds; ``None`` if no configuration was repeated.
        replays: number of replays of each plan.
        found: a summary for each number of workers and plan.
    """

    curves: Curves
    noise: Noise | None
    replays: int
    found: tuple[Summary, ...]

    @classmethod
    def of(
        cls,
        curves: Curves,
        own: Sequence[Plan] = (),
        workers: Sequence[int] = (1,),
        replays: int = 200,
    ) -> Self:
        """Play the usual plans and ``own`` ones.

        Args:
            curves: of the study.
            own: more plans.
            workers: numbers of trials at a time.
            replays: number of replays of each plan.

        Raises:
            InputError: a plan pauses after the last epoch.
        """
        longest, draws = curves.epochs, curves.draws
        for plan in own:
            if plan.rungs is not None and max(plan.rungs.epochs or ()) >= longest:
                raise InputError(
                    f"a plan must pause before the last epoch ({longest}), got '{plan.name}'"
                )
        plans = [*usual_plans(longest, len(draws), curves.schedules), *own]
        found = tuple(summarise(draws, plan, n, replays) for n in workers for plan in plans)
        return cls(curves, Noise.of(curves.repeated), replays, found)

    def to_dict(self) -> dict[str, Any]:
        """Return the form for JSON."""
        return {
            "study": self.curves.recorded.study,
            "trials": len(self.curves.draws),
            "epochs": self.curves.epochs,
            "replays": self.replays,
            "noise": None if self.noise is None else self.noise.model_dump(mode="json"),
            "plans": [summary.to_dict() for summary in self.found],
        }


def usual_plans(epochs: int, trials: int, names: Sequence[ScheduleName]) -> list[Plan]:
    """Return the plans that a replay compares.

    Args:
        epochs: of a trial that is trained to its end.
        trials: number of trials.
        names: the schedules of the trials.
    """
    plans = [Plan("full training", None)]
    rungs = default_rungs(epochs, names)
    if rungs is not None:
        plans.append(Plan("default", rungs))
        plans.append(Plan("default, decided at once", rungs, "stopping"))
    least = least_epoch(epochs, names)
    halves = sorted({part for part in (epochs // 4, epochs // 2) if least <= part < epochs})
    if halves:
        plans.append(Plan("half of them", Rungs(epochs=tuple(halves), reduction=2)))
    first = max(least, epochs // 10)
    if first < epochs:
        best = max(1, trials // 10)
        # No trial goes on before all have reached the rung.
        rungs = Rungs(epochs=(first,), reduction=trials + 1, always_finish=best, tolerance=0.0)
        plans.append(Plan(f"the best {best} after all", rungs))
    return plans


def parse_plan(text: str) -> Plan:
    """Return the plan in ``EPOCHS/REDUCTION``, such as ``1,3/3``.

    Raises:
        InputError: the text is no plan.
    """
    epochs, _, reduction = text.partition("/")
    try:
        rungs = Rungs(epochs=tuple(map(int, epochs.split(","))), reduction=int(reduction or 3))
    except ValueError as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise InputError(
            f"a plan must be growing epochs and a reduction, such as 1,3/3, got '{text}' ({first})"
        ) from None
    return Plan(text, rungs)
