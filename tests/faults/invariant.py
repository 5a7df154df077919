"""The master invariant, checked on raw rows and on what the launches printed.

Shares nothing with the code under test: its SQL and its arithmetic are its own.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from faults.launch import Launch
from faults.stores import Store

VERDICTS = ("COMPLETE", "PRUNED")
TERMINAL = (*VERDICTS, "FAIL")


@dataclass(frozen=True)
class Expected:
    """What a scenario has left behind.

    Attributes:
        study: its name.
        trials: verdicts wanted.
        epochs: of every complete trial.
        faults: how often something was killed; each may cost a trial one epoch.
        by_hand: trials that a user told or deleted.
    """

    study: str
    trials: int
    epochs: int
    faults: int
    by_hand: frozenset[int] = frozenset()


def breaches(store: Store, launches: Sequence[Launch], expected: Expected) -> list[str]:
    """Each breach in words; none if the invariant holds."""
    output = launches[-1].output if launches else ""
    return [
        *_of_rows(store, expected),
        *_of_output(launches, expected),
        *_of_winner(store, output, expected.study),
    ]


def states(store: Store, study: str) -> dict[int, str]:
    """State of every trial, by number; empty without a study."""
    query = "SELECT t.number, t.state FROM trials t JOIN studies s USING (study_id)"
    return dict(store.rows(f"{query} WHERE s.study_name = ? ORDER BY t.number", study))


def _of_rows(store: Store, expected: Expected) -> Iterator[str]:
    rows = store.rows(
        "SELECT t.trial_id, t.number, t.state FROM trials t JOIN studies s USING (study_id) "
        "WHERE s.study_name = ? ORDER BY t.number",
        expected.study,
    )
    numbers = [number for _, number, _ in rows]
    kept = set(range(max(numbers, default=-1) + 1)) - expected.by_hand
    if len(set(numbers)) != len(numbers) or kept - set(numbers):
        yield f"the numbers of the trials must be 0, 1, 2 ... once each, are {numbers}"
    if unfinished := [number for _, number, state in rows if state not in TERMINAL]:
        yield f"every row must be terminal, these are not: {unfinished}"
    verdicts = sum(state in VERDICTS for _, _, state in rows)
    if verdicts != expected.trials:
        yield f"{expected.trials} trials must have a verdict, {verdicts} have"
    runs = _runs(store, expected.study)
    if extra := set(runs) - set(map(str, numbers)) - set(map(str, expected.by_hand)):
        yield f"there are runs without a trial: {sorted(extra)}"
    for trial_id, number, state in rows:
        if number in expected.by_hand:
            continue
        if state == "COMPLETE":
            yield from _of_complete(store, trial_id, number, runs.get(str(number)), expected)
        elif state == "FAIL" and not _attribute(store, trial_id, "failure_reason"):
            yield f"trial {number} failed and says no reason"


def _of_complete(
    store: Store, trial_id: int, number: int, run: int | None, expected: Expected
) -> Iterator[str]:
    stored = store.rows(
        "SELECT epoch, validation_loss FROM hpsearch_epochs WHERE run_id = ? ORDER BY epoch", run
    )
    if [epoch for epoch, _ in stored] != list(range(1, expected.epochs + 1)):
        yield f"trial {number} must have the epochs 1 to {expected.epochs}, has {stored}"
    values = store.rows("SELECT value FROM trial_values WHERE trial_id = ?", trial_id)
    losses = [loss for _, loss in stored if loss is not None]
    if not losses or values != [(min(losses),)]:
        yield f"trial {number} must have the lowest of {losses} as its value, has {values}"
    seen = store.rows(
        "SELECT step, intermediate_value FROM trial_intermediate_values WHERE trial_id = ? "
        "ORDER BY step",
        trial_id,
    )
    if seen != stored:
        yield f"trial {number}: Optuna's epochs {seen} are not ours {stored}"


def _runs(store: Store, study: str) -> dict[str, int]:
    query = (
        "SELECT r.key, r.id FROM hpsearch_runs r JOIN hpsearch_experiments e "
        "ON r.experiment_id = e.id WHERE e.kind = 'study' AND e.name = ?"
    )
    return dict(store.rows(query, study))


def _attribute(store: Store, trial_id: int, key: str) -> str:
    query = "SELECT value_json FROM trial_user_attributes WHERE trial_id = ? AND key = ?"
    found = store.rows(query, trial_id, key)
    return str(json.loads(found[0][0])) if found else ""


def _of_output(launches: Sequence[Launch], expected: Expected) -> Iterator[str]:
    trained: Counter[tuple[str, str]] = Counter()
    for launch in launches:
        text = launch.output
        trained.update(re.findall(r"^trial (\d+): epoch (\d+),", text, re.M))
        started = set(map(int, re.findall(r"^trial (\d+): started", text, re.M)))
        if again := started & launch.began:
            yield f"trials {sorted(again)} were trained after their verdict"
        if "Traceback" in launch.errors:
            yield f"a traceback was printed: {launch.said()}"
    repeated = Counter({key: times - 1 for key, times in trained.items() if times > 1})
    if repeated.total() > expected.faults:
        yield f"{expected.faults} faults may repeat as many epochs, repeated: {dict(repeated)}"


def _of_winner(store: Store, output: str, study: str) -> Iterator[str]:
    query = (
        "SELECT t.number, v.value FROM trials t JOIN studies s USING (study_id) "
        "JOIN trial_values v USING (trial_id) WHERE s.study_name = ? AND t.state = 'COMPLETE' "
        "ORDER BY v.value, t.number"
    )
    best = [number for number, _ in store.rows(query, study)[:1]]
    named = list(map(int, re.findall(r"^winner: trial (\d+)", output, re.M)))
    if named != best:
        yield f"the best by the rows is trial {best}, the last launch named {named}"
