"""Check that a study's stored rows are complete and consistent; it only reads."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, final

from hpsearch.search.terms import last_wanted, most_wanted
from hpsearch.store import Ledger, LedgerRun, LedgerTrial, StoreReader

Rule = Literal[
    "study",
    "count",
    "terminal",
    "numbers",
    "twice",
    "run",
    "facts",
    "epochs",
    "length",
    "reported",
    "targets",
    "value",
    "best",
    "reason",
]
"""The rules:

- study: Optuna has the study's trials;
- count: the number of finished trials (COMPLETE or PRUNED) is at least the number that the last
  launch wanted, and at most the largest number that any launch wanted;
- terminal: every trial has ended;
- numbers: trials are numbered from 0 without a gap, and every run belongs to a trial;
- twice: no two trials have the same number, and no two runs the same key;
- run: a finished trial has a run;
- facts: the run has a number of weights, and its molecules are the study's;
- epochs: the recorded epochs are 1 to k without a gap;
- length: a COMPLETE trial was trained to its last epoch, or until early stopping ended it;
- reported: Optuna's intermediate values are the recorded validation losses;
- targets: each recorded epoch has the errors of all targets, whose losses sum to the validation
  loss;
- value: a COMPLETE trial's value is its lowest recorded validation loss;
- best: the best trial by Optuna's values is also the best by the recorded epochs, and COMPLETE;
- reason: a failed trial has a reason.
"""

_FINISHED = ("COMPLETE", "PRUNED")
_SAME = 1e-12
"""Relative difference up to which two records of the same number count as equal."""

_SAME_SUM = 1e-6
"""The same for a sum that was added up in another order."""

_SHOWN = 5


@dataclass(frozen=True)
class Breach:
    """A broken rule.

    Attributes:
        rule: the rule.
        trial: number of the trial; ``None`` if the rule concerns the whole study.
        text: the error, on one line.
    """

    rule: Rule
    trial: int | None
    text: str

    def __str__(self) -> str:
        where = "the study" if self.trial is None else f"trial {self.trial}"
        return f"{self.rule}: {where} {self.text}"


@dataclass(frozen=True)
class Verification:
    """The result of checking a study.

    Attributes:
        study: name of the study.
        trials: number of checked trials.
        verdicts: number of COMPLETE and PRUNED trials.
        failed: number of FAIL trials.
        epochs: number of checked epochs.
        wanted: number of finished trials that the last launch wanted.
        breaches: the broken rules by trial; those of the whole study come first.
        in_progress: the remaining work of a launch that is running; not breaches.
    """

    study: str
    trials: int
    verdicts: int
    failed: int
    epochs: int
    wanted: int
    breaches: tuple[Breach, ...]
    in_progress: tuple[Breach, ...]

    def __str__(self) -> str:
        return (
            f"{self.trials} trials checked, {self.verdicts} of {self.wanted} finished, "
            f"{self.failed} failed, {self.epochs} epochs: {len(self.breaches) or 'no'} "
            f"breach{'' if len(self.breaches) == 1 else 'es'}"
        )


def verify(store: StoreReader, name: str | None = None) -> Verification:
    """Check the study called ``name``, or the one launched last, against every :data:`Rule`.

    While a launch drives the study, missing and running trials are in progress, not breaches.

    Args:
        store: the store of the study; older schemas are allowed.
        name: of the study.

    Raises:
        InputError: there is no such study.
    """
    experiment = store.find(name, "study")
    # Read before the rows: a launch that ends between the two reads has ended its rows.
    holder = store.holder(experiment.id)
    driven = holder is not None and holder.drives
    ledger = store.ledger(experiment.id, experiment.name)
    check = _Check(ledger, experiment.provenance)
    unfinished = list(check.unfinished("" if driven else ": launch it again"))
    found = [*check.breaches(), *([] if driven else unfinished)]
    found.sort(key=lambda breach: -1 if breach.trial is None else breach.trial)
    states = Counter(trial.state for trial in ledger.trials or ())
    return Verification(
        study=experiment.name,
        trials=states.total(),
        verdicts=sum(states[state] for state in _FINISHED),
        failed=states["FAIL"],
        epochs=sum(len(run.epochs) for run in ledger.runs),
        wanted=last_wanted(experiment.provenance),
        breaches=tuple(found),
        in_progress=tuple(unfinished if driven else ()),
    )


@final
class _Check:
    """Checks the rules; each one has its method."""

    def __init__(self, ledger: Ledger, provenance: dict[str, Any]) -> None:
        self._trials = ledger.trials or ()
        self._gone = ledger.trials is None
        self._runs = ledger.runs
        self._by_key = {run.key: run for run in ledger.runs}
        self._provenance = provenance
        self._finished = sum(trial.state in _FINISHED for trial in self._trials)

    def unfinished(self, advice: str) -> Iterator[Breach]:
        """Yield the broken rules that another launch would repair."""
        wanted = last_wanted(self._provenance)
        if self._finished < wanted and not self._gone:
            text = f"has {self._finished} finished trials of {wanted} wanted{advice}"
            yield Breach("count", None, text)
        for trial in self._trials:
            if trial.state == "RUNNING":
                yield Breach("terminal", trial.number, f"has not ended{advice}")
            elif trial.state == "WAITING":
                yield Breach("terminal", trial.number, "was enqueued by hand and is waiting")

    def breaches(self) -> Iterator[Breach]:
        """Yield the broken rules that no launch can repair."""
        if self._gone:
            yield Breach(
                "study", None, "has no trials: they were deleted or renamed outside hpsearch"
            )
            return
        most = most_wanted(self._provenance)
        if self._finished > most:
            text = f"has {self._finished} finished trials; no launch wanted more than {most}"
            yield Breach("count", None, text)
        yield from self._numbers()
        yield from self._twice()
        yield from self._best()
        for trial in self._trials:
            if trial.state == "FAIL" and not trial.failure_reason:
                yield Breach("reason", trial.number, "failed without a reason")
            elif trial.state in _FINISHED:
                yield from self._judged(trial)

    def _numbers(self) -> Iterator[Breach]:
        numbers = {trial.number for trial in self._trials}
        ghosts = {run.key for run in self._runs} - {str(number) for number in numbers}
        for number in range(max(numbers, default=-1)):
            if number not in numbers:
                left = "; its run still exists" if str(number) in ghosts else ""
                yield Breach("numbers", number, f"is missing: it was deleted{left}")
                ghosts.discard(str(number))
        for key in sorted(ghosts):
            trial = _number(key)
            text = "is missing" if trial is not None else f"has no trial '{key}'"
            yield Breach("numbers", trial, f"{text}, although its run exists: it was deleted")

    def _twice(self) -> Iterator[Breach]:
        for number, times in Counter(trial.number for trial in self._trials).items():
            if times > 1:
                yield Breach("twice", number, f"has {times} rows of that number")
        for key, times in Counter(run.key for run in self._runs).items():
            if times > 1:
                yield Breach("twice", _number(key), f"has {times} runs of the key '{key}'")

    def _best(self) -> Iterator[Breach]:
        by_value = min(
            (
                (trial.value, trial.number)
                for trial in self._trials
                if trial.state == "COMPLETE"
                and trial.value is not None
                and math.isfinite(trial.value)
            ),
            default=None,
        )
        by_epochs = min(
            (
                (lowest, trial.number)
                for trial in self._trials
                if (run := self._by_key.get(str(trial.number))) is not None
                # A trial that a scheduler stopped early may have a lower loss than the best one.
                and (trial.state == "COMPLETE" or (trial.state == "PRUNED" and _at_end(run)))
                and (lowest := _lowest(run)) is not None
            ),
            default=None,
        )
        if by_epochs is None or (by_value is not None and by_value[1] == by_epochs[1]):
            return
        best = "none" if by_value is None else f"trial {by_value[1]} ({by_value[0]!r})"
        yield Breach(
            "best",
            by_epochs[1],
            f"is the best by its epochs ({by_epochs[0]!r}); by Optuna's values it is {best}",
        )

    def _judged(self, trial: LedgerTrial) -> Iterator[Breach]:
        run = self._by_key.get(str(trial.number))
        if run is None:
            yield Breach("run", trial.number, f"is {trial.state} and has no run")
            return
        yield from self._facts(trial, run)
        yield from _epochs(trial, run)
        yield from _reported(trial, run)
        yield from _targets(trial, run)
        if trial.state == "COMPLETE":
            yield from _length(trial, run)
            yield from _value(trial, run)

    def _facts(self, trial: LedgerTrial, run: LedgerRun) -> Iterator[Breach]:
        if not run.weights:
            yield Breach("facts", trial.number, "has no number of weights")
        for what, seen in (("data_hash", run.data_hash), ("split_hash", run.split_hash)):
            present = self._provenance.get(what)
            # Trials from before a forced launch have the earlier hashes.
            accepted = {present, *(entry[what] for entry in self._provenance.get("forced", []))}
            if seen is None or seen not in accepted:
                yield Breach(
                    "facts",
                    trial.number,
                    f"has the {what.replace('_', ' ')} {_short(seen)}, the study {_short(present)}",
                )


def _epochs(trial: LedgerTrial, run: LedgerRun) -> Iterator[Breach]:
    last = max(run.epochs, default=0)
    missing = [epoch for epoch in range(1, last + 1) if epoch not in run.epochs]
    surplus = [epoch for epoch in run.epochs if epoch < 1]
    if not run.epochs:
        yield Breach("epochs", trial.number, "has no recorded epoch")
    if missing:
        yield Breach("epochs", trial.number, f"lacks the epochs {_listed(missing)} of {last}")
    if surplus:
        yield Breach("epochs", trial.number, f"has the epochs {_listed(surplus)}, before the first")


def _reported(trial: LedgerTrial, run: LedgerRun) -> Iterator[Breach]:
    recorded = {
        epoch: row.validation_loss
        for epoch, row in run.epochs.items()
        if row.validation_loss is not None
    }
    different = [
        epoch
        for epoch in sorted(recorded.keys() | trial.reported.keys())
        if not _equal(recorded.get(epoch), trial.reported.get(epoch))
    ]
    if different:
        yield Breach(
            "reported",
            trial.number,
            f"has other losses in Optuna than recorded, at the epochs {_listed(different)}",
        )


def _targets(trial: LedgerTrial, run: LedgerRun) -> Iterator[Breach]:
    wanted = frozenset(run.configuration.get("targets", ()))
    lacking, wrong = [], []
    for epoch, row in sorted(run.epochs.items()):
        if row.targets != wanted or (row.validation_loss is not None and row.losses < len(wanted)):
            lacking.append(epoch)
        elif row.validation_loss is not None and not _equal(
            row.loss_sum, row.validation_loss, _SAME_SUM
        ):
            wrong.append(epoch)
    if lacking:
        yield Breach(
            "targets", trial.number, f"lacks errors of targets at the epochs {_listed(lacking)}"
        )
    if wrong:
        yield Breach(
            "targets",
            trial.number,
            f"has target losses that do not sum to its loss at the epochs {_listed(wrong)}",
        )


def _length(trial: LedgerTrial, run: LedgerRun) -> Iterator[Breach]:
    if run.epochs and not _at_end(run):
        most = run.configuration.get("training", {}).get("epochs")
        yield Breach(
            "length",
            trial.number,
            f"is COMPLETE after {max(run.epochs)} of {most} epochs, and early stopping did "
            "not end it",
        )


def _value(trial: LedgerTrial, run: LedgerRun) -> Iterator[Breach]:
    lowest = _lowest(run)
    if trial.value is None or not math.isfinite(trial.value):
        yield Breach("value", trial.number, "is COMPLETE without a finite value")
    elif not _equal(trial.value, lowest):
        yield Breach(
            "value",
            trial.number,
            f"has the value {trial.value!r}; the lowest of its epochs is {lowest!r}",
        )


def _at_end(run: LedgerRun) -> bool:
    """Whether the run was trained to its last epoch, or until early stopping ended it."""
    training = run.configuration.get("training", {})
    last = max(run.epochs, default=0)
    if last == training.get("epochs"):
        return True
    lowest = _lowest(run)
    patience = training.get("early_stopping_patience")
    if lowest is None or patience is None or last > training.get("epochs", math.inf):
        return False
    best = min(epoch for epoch, row in run.epochs.items() if row.validation_loss == lowest)
    return bool(best + patience == last)


def _lowest(run: LedgerRun) -> float | None:
    losses = (row.validation_loss for row in run.epochs.values())
    return min((loss for loss in losses if loss is not None), default=None)


def _equal(one: float | None, other: float | None, tolerance: float = _SAME) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=tolerance)


def _number(key: str) -> int | None:
    return int(key) if key.isdecimal() else None


def _short(digest: str | None) -> str:
    return "(none)" if digest is None else digest[:12]


def _listed(epochs: list[int]) -> str:
    more = f" and {len(epochs) - _SHOWN} more" if len(epochs) > _SHOWN else ""
    return ", ".join(map(str, epochs[:_SHOWN])) + more
