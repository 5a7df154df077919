"""Measure the time of a decision of early stopping in a study with many trials.

    python benchmarks/decisions.py --json FILE

A study of Table 3's space with the rungs 1 and 3 is filled to two thirds. Its trials are paused,
pruned or complete, as the rule decides for made-up losses. Then a launch continues it. Each new
trial has the lowest loss so far, pauses, and goes on.

- choice: from the call of `Search.next` to the choice of the trial that goes on
- promotion: the whole call, with the stored decision and the trial's assignment
- pause: the stored pause

The exit code is 1 if a goal is missed: of the choice, 5 ms at 1,000 trials and 20 ms at 10,000.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import optuna
from machine import conclude, machine
from optuna.trial import FrozenTrial
from service import FACTS, Stores, about_the_store, fill, made_up_trials, table3
from sqlalchemy import insert, text

from hpsearch.config.rungs import Rungs
from hpsearch.config.space import SearchSpace
from hpsearch.config.targets import TARGET_NAMES
from hpsearch.runs.messages import Completion, EpochMetrics
from hpsearch.search.launch import launch_study
from hpsearch.search.rungs import Ladder
from hpsearch.search.work import Search
from hpsearch.store import PAUSED, Decision, DecisionKind, Store
from hpsearch.store.tables import decisions

RUNGS = Rungs(epochs=(1, 3))
EPOCHS = 10
ROUNDS = 40
GOALS = {1_000: 0.005, 10_000: 0.020}
"""Most seconds of a choice, by the number of trials."""

Times = dict[str, list[float]]


def space(trials: int) -> SearchSpace:
    """Table 3's space with rungs; two thirds of its trials are in the store already."""
    plain = table3("random").with_overrides(trials=trials * 3 // 2)
    return plain.model_copy(update={"rungs": RUNGS})


def decided(trials: list[FrozenTrial], wanted: int) -> Iterator[Decision]:
    """Yield the decisions on ``trials``, which arrive one after the other, by the rule."""
    ladder, number = Ladder(RUNGS), 0
    assert RUNGS.epochs is not None
    ends = (*RUNGS.epochs, EPOCHS)

    def decide(key: str, kind: DecisionKind, rung: int, epoch: int) -> Decision:
        nonlocal number
        number += 1
        loss = trials[int(key)].intermediate_values[epoch]
        decision = Decision(number, key, kind, rung, epoch, loss)
        ladder.apply(decision)
        return decision

    for trial in trials:
        yield decide(str(trial.number), "pause", 0, ends[0])
        while (key := ladder.next(last=False)) is not None:
            reached = ladder.reached(key)
            yield decide(key, "promotion", reached - 1, ends[reached - 1])
            last = reached == RUNGS.count
            yield decide(key, "complete" if last else "pause", reached, ends[reached])
        for key in list(ladder.hopeless(wanted)):
            reached = ladder.reached(key)
            yield decide(key, "pruned", reached, ends[reached - 1])


def record(store: Store, trials: list[FrozenTrial], made: list[Decision]) -> None:
    """Write the decisions, and set the trials to where they stand."""
    stands = {decision.key: decision for decision in made}
    experiment = store.find("measured", "study").id
    pruned = [d for d in stands.values() if d.kind == "pruned"]
    paused = [d for d in stands.values() if d.kind == "pause"]
    now = datetime.now(UTC).replace(tzinfo=None)
    rows = [
        {
            "experiment_id": experiment,
            "sequence": decision.sequence,
            "run_id": int(decision.key) + 1,
            "kind": decision.kind,
            "rung": decision.rung,
            "epoch": decision.epoch,
            "loss": decision.loss,
            "created_at": now,
        }
        for decision in made
    ]
    ids = [{"id": int(d.key) + 1, "epoch": d.epoch} for d in (*pruned, *paused)]
    with store.optuna_storage.engine.begin() as connection:
        connection.execute(insert(decisions), rows)
        connection.execute(
            text("UPDATE hpsearch_experiments SET last_sequence = :last"), {"last": len(made)}
        )
        for statement in (
            "DELETE FROM trial_intermediate_values WHERE trial_id = :id AND step > :epoch",
            "DELETE FROM hpsearch_target_errors WHERE run_id = :id AND epoch > :epoch",
            "DELETE FROM hpsearch_epochs WHERE run_id = :id AND epoch > :epoch",
        ):
            connection.execute(text(statement), ids)
        for state, those in (("PRUNED", pruned), ("RUNNING", paused)):
            statement = f"UPDATE trials SET state = '{state}' WHERE trial_id = :id"
            connection.execute(text(statement), [{"id": int(d.key) + 1} for d in those])
        statement = "DELETE FROM trial_values WHERE trial_id = :id"
        connection.execute(text(statement), [{"id": int(d.key) + 1} for d in paused])
        connection.execute(
            text(
                "INSERT INTO trial_user_attributes (trial_id, key, value_json) "
                f"VALUES (:id, '{PAUSED}', :epoch)"
            ),
            [{"id": int(d.key) + 1, "epoch": json.dumps(d.epoch)} for d in paused],
        )
        connection.execute(
            text(
                "INSERT INTO trial_user_attributes (trial_id, key, value_json) "
                "VALUES (:id, 'rungs', '[1, 3]')"
            ),
            [{"id": trial.number + 1} for trial in trials],
        )


def drive(search: Search, rounds: int) -> Times:
    """Make the driver's calls for new trials that are the best; return the seconds of each call."""
    times: Times = defaultdict(list)
    began = 0.0
    promote = search._promote

    def promoted(*given: Any) -> Any:
        times["choice"].append(time.perf_counter() - began)
        return promote(*given)

    search._promote = promoted  # type: ignore[method-assign]

    def timed(name: str, action: Callable[[], Any]) -> Any:
        nonlocal began
        began = time.perf_counter()
        result = action()
        times[name].append(time.perf_counter() - began)
        return result

    targets = dict.fromkeys(TARGET_NAMES, 1.0)
    for number in range(rounds):
        assignment, done = search.next(), 0
        assert assignment is not None
        key = assignment.key
        search.started(key, FACTS)
        while True:
            last = assignment.until or EPOCHS
            for epoch in range(done + 1, last + 1):
                loss = 1.0 / (number + 1) / epoch
                search.epoch(key, EpochMetrics(epoch, 1e-3, 60.0, loss, loss, targets, targets))
            if assignment.until is None:
                break
            done = last
            timed("pause", functools.partial(search.paused, key, done))
            assignment = timed("promotion", search.next)
            assert assignment is not None
            assert assignment.key == key
        search.finish(key, Completion(EPOCHS, EPOCHS, loss))
    return times


def measure(url: str, folder: Path, trials: list[FrozenTrial]) -> tuple[Times, int]:
    """Return the seconds of each call, and the number of paused trials at the beginning."""
    searched = space(len(trials))
    with Store.create(url) as store:
        launch_study(store, searched, "measured", folder)
        fill(store, "measured", trials)
        record(store, trials, list(decided(trials, searched.trials)))
    with Store.create(url) as store:
        began = time.perf_counter()
        search = launch_study(store, searched, "measured", folder)
        launched = time.perf_counter() - began
        paused = len(search.paused_keys)
        return {"launch": [launched], **drive(search, ROUNDS)}, paused


def main() -> int:
    """Measure and print; return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stores", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--trials", nargs="+", type=int, default=list(GOALS))
    parser.add_argument("--folder", type=Path, help="for the stores; the system's temporary one")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    arguments = parser.parse_args()
    results, missed = [], []
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="hpsearch-bench-", dir=arguments.folder) as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL may run as another user
        about = {**machine(), **about_the_store(folder)}
        print(f"{about['cpu']}, {about['cores']} cores, load {about['load']:.1f}")
        trials = made_up_trials(space(max(arguments.trials)), max(arguments.trials))
        stores = Stores(folder)
        try:
            for kind in arguments.stores:
                for count in arguments.trials:
                    times, paused = measure(stores.new(kind), folder / "runs", trials[:count])
                    middle = {what: median(values) for what, values in times.items()}
                    most = {what: max(values) for what, values in times.items()}
                    goal = GOALS.get(count)
                    print(
                        f"{kind:11} {count:6,} trials, {paused:5,} paused: "
                        + ", ".join(f"{what} {1e3 * middle[what]:.1f} ms" for what in middle)
                        + (f"; goal of a choice {1e3 * goal:.0f} ms" if goal else ""),
                        flush=True,
                    )
                    results.append(
                        {
                            "store": kind,
                            "trials": count,
                            "paused": paused,
                            "median_seconds": middle,
                            "most_seconds": most,
                        }
                    )
                    if goal is not None and middle["choice"] > goal:
                        missed.append(f"{kind}, {count:,}: {1e3 * middle['choice']:.1f} ms")
        finally:
            stores.close()
    return conclude(arguments.json, about, results, missed)


if __name__ == "__main__":
    sys.exit(main())
