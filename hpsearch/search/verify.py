"""Check that a study's stored rows are complete and consistent; it only reads.

The rules, beside those of one run (`hpsearch.runs.record.broken_rules`):

- study: Optuna has the study's trials, and minimises one value;
- provenance: the study's recorded facts (space, wanted numbers of trials, hashes, versions) have
  their digest, and the space has its hash;
- count: the number of finished trials (COMPLETE or PRUNED) is at least the number that the last
  launch wanted, and at most the largest number that any launch wanted;
- terminal: every trial has ended;
- numbers: trials are numbered from 0 without a gap, and every run belongs to a trial;
- twice: no two trials have the same number, and no two runs the same key;
- run: a finished trial has a run;
- readable: all rows of a trial can be read;
- facts: the run has a number of weights, its molecules are the study's, and Optuna's attributes
  repeat the run's facts;
- parameters: the run's configuration follows from Optuna's parameters and the study's space;
- length: a COMPLETE trial was trained to its last epoch, or until early stopping ended it;
- reported: Optuna's intermediate values are the recorded validation losses;
- value: a COMPLETE trial's value is its lowest recorded validation loss, at the recorded best
  epoch;
- best: the best trial by Optuna's values is also the best by the recorded epochs, and COMPLETE;
- reason: a failed trial has a reason;
- rungs: in a study with rungs, each decision follows from the epochs and decisions before it: a
  pause has the lowest loss so far, a promoted trial was among those that go on, a stopped trial was
  not, and every PRUNED trial was stopped by such a decision.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

import optuna
from optuna.trial import FixedTrial

from hpsearch.config.run import TrialConfig
from hpsearch.config.rungs import Rungs
from hpsearch.config.space import SearchSpace, content_hash
from hpsearch.runs import record
from hpsearch.runs.record import Breach, RunRecord, listed, same
from hpsearch.search.rungs import TRAINED_AGAIN, Ladder
from hpsearch.search.terms import last_wanted, most_wanted
from hpsearch.search.trials import RUNGS
from hpsearch.store import Decision, Ledger, LedgerTrial, StoreReader
from hpsearch.system.errors import HpsearchError, InputError

RULES = (
    *("study", "provenance", "count", "terminal", "numbers", "twice", "run", "readable"),
    *("fingerprint", "facts", "parameters", "epochs", "targets", "digest", "length", "reported"),
    *("value", "best", "reason", "rungs"),
)
"""The names of all rules."""

_FINISHED = ("COMPLETE", "PRUNED")


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
            f"{self.failed} failed, {self.epochs} epochs: {record.counted(self.breaches)}"
        )


def verify(store: StoreReader, name: str | None = None) -> Verification:
    """Check the study called ``name``, or the one launched last, against every rule of this module.

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
    ledger = store.ledger(experiment)
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
        wanted=check.wanted,
        breaches=tuple(found),
        in_progress=tuple(unfinished if driven else ()),
    )


def require_sound(store: StoreReader, name: str, number: int) -> None:
    """Raise an error if a rule is broken that concerns this trial alone.

    Args:
        store: the store of the study.
        name: of the study.
        number: of a finished trial.

    Raises:
        HpsearchError: it names the first broken rule.
    """
    experiment = store.find(name, "study")
    check = _Check(store.ledger(experiment, str(number)), experiment.provenance)
    found = next(check.of_export(), None)
    if found is not None:
        raise HpsearchError(
            f"the rows of trial {number} of the study '{name}' must be as they were recorded; "
            f"{found}; see all with: hpsearch verify {shlex.quote(name)}; restore a backup of the "
            "store"
        )


@final
class _Check:
    """Checks the rules; each one has its method."""

    def __init__(self, ledger: Ledger, provenance: dict[str, Any]) -> None:
        self._ledger = ledger
        self._trials = ledger.trials or ()
        self._gone = ledger.trials is None
        self._runs = ledger.runs
        self._by_key = {run.key: run for run in ledger.runs}
        self._provenance = provenance
        self._finished = sum(trial.state in _FINISHED for trial in self._trials)
        self._space = _space(provenance)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            self.wanted, self._most = last_wanted(provenance), most_wanted(provenance)
        except (LookupError, TypeError, ValueError):
            # The rule "provenance" names the damage.
            self.wanted, self._most = 0, len(self._trials)

    def unfinished(self, advice: str) -> Iterator[Breach]:
        """Yield the broken rules that another launch would repair."""
        if self._finished < self.wanted and not self._gone:
            text = f"has {self._finished} finished trials of {self.wanted} wanted{advice}"
            yield Breach("count", None, text)
        for trial in self._trials:
            if trial.state == "RUNNING":
                yield Breach("terminal", trial.number, f"has not ended{advice}")
            elif trial.state == "WAITING":
                yield Breach("terminal", trial.number, "was enqueued by hand and is waiting")

    def breaches(self) -> Iterator[Breach]:
        """Yield the broken rules that no launch can repair."""
        yield from self._recorded_terms()
        if self._gone:
            yield Breach(
                "study", None, "has no trials: they were deleted or renamed outside hpsearch"
            )
            return
        if self._ledger.directions != ("MINIMIZE",):
            found = ", ".join(self._ledger.directions) or "none"
            yield Breach("study", None, f"must minimise one value; its directions are: {found}")
        if self._finished > self._most:
            text = f"has {self._finished} finished trials; no launch wanted more than {self._most}"
            yield Breach("count", None, text)
        yield from self._numbers()
        yield from self._twice()
        yield from self._best()
        yield from self._rungs()
        yield from self.of_trials()

    def of_export(self) -> Iterator[Breach]:
        """Yield the broken rules that concern what an export writes of one trial."""
        yield from self._recorded_terms()
        yield from self.of_trials()

    def of_trials(self) -> Iterator[Breach]:
        """Yield the broken rules that concern one trial."""
        for trial in self._trials:
            for what in trial.damage:
                yield Breach("readable", trial.number, what)
            if trial.state == "FAIL" and not trial.attributes.get("failure_reason"):
                yield Breach("reason", trial.number, "failed without a reason")
            elif trial.state in _FINISHED:
                for rule, text in self._judged(trial):
                    yield Breach(rule, trial.number, text)

    def _recorded_terms(self) -> Iterator[Breach]:
        ledger, terms = self._ledger, "space, wanted trials, hashes or versions"
        why = record.changed_terms(ledger.provenance, ledger.digest, ledger.runs, terms)
        why = why or _damage_of_space(self._provenance)
        if why is not None:
            yield Breach("provenance", None, why)

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
                and (trial.state == "COMPLETE" or (trial.state == "PRUNED" and run.ended))
                and (lowest := run.lowest_loss) is not None
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

    def _rungs(self) -> Iterator[Breach]:
        """Follow the decisions of early stopping in their order."""
        recorded = self._provenance.get("rungs")
        if recorded is None:
            if self._ledger.decisions:
                yield Breach("rungs", None, "has decisions of early stopping, but no rungs")
            return
        try:
            ladder = Ladder(Rungs.model_validate(recorded))
        except ValueError:
            yield Breach("provenance", None, "has rungs that cannot be read")
            return
        by_number = {trial.number: trial for trial in self._trials}
        stopped: set[int | None] = set()
        for decision in self._ledger.decisions:
            number = _number(decision.key)
            trial = None if number is None else by_number.get(number)
            wrong = _not_admissible(ladder, decision, trial, self._by_key.get(decision.key))
            if wrong is not None:
                where = f"the {decision.kind} at rung {decision.rung + 1} (number "
                yield Breach("rungs", number, f"{where}{decision.sequence}) {wrong}")
                # What follows from a wrong decision would be wrong, too.
                return
            if decision.kind == "pruned":
                stopped.add(number)
        for trial in self._trials:
            if trial.state == "PRUNED" and trial.number not in stopped:
                yield Breach("rungs", trial.number, "is PRUNED without a decision to stop it")

    def _judged(self, trial: LedgerTrial) -> Iterator[tuple[str, str]]:
        run = self._by_key.get(str(trial.number))
        if run is None:
            yield "run", f"is {trial.state} and has no run"
            return
        yield from record.broken_rules(run)
        yield from self._facts(trial, run)
        yield from self._parameters(trial, run)
        yield from _reported(trial, run)
        yield from _signed_end(trial, run)
        if trial.state == "COMPLETE":
            yield from record.early_end(run)
            yield from _value(trial, run)

    def _facts(self, trial: LedgerTrial, run: RunRecord) -> Iterator[tuple[str, str]]:
        for what, seen in (("data_hash", run.data_hash), ("split_hash", run.split_hash)):
            present = self._provenance.get(what)
            # Trials from before a forced launch have the earlier hashes.
            accepted = {present, *(entry[what] for entry in self._provenance.get("forced", []))}
            if seen is None or seen not in accepted:
                name = what.replace("_", " ")
                yield "facts", f"has the {name} {_short(seen)}, the study {_short(present)}"
                return
        for name in ("weights", "data_hash", "split_hash", "zero_output_loss"):
            ours, in_optuna = getattr(run, name), trial.attributes.get(name)
            if None not in (ours, in_optuna) and ours != in_optuna:
                name = name.replace("_", " ")
                yield "facts", f"has the {name} {ours!r} in its run and {in_optuna!r} in Optuna"
                return

    def _parameters(self, trial: LedgerTrial, run: RunRecord) -> Iterator[tuple[str, str]]:
        described = trial.attributes.get("config")
        if described is not None and run.configuration and described != run.configuration:
            yield "parameters", "has another configuration in Optuna's attributes than in its run"
            return
        # A forced launch may have changed the space after this trial was drawn.
        if self._space is None or self._provenance.get("forced"):
            return
        try:
            stored = TrialConfig.from_dict(dict(run.configuration))
        except ValueError:
            return  # written by older code, or named by another rule
        try:
            drawn = _drawn(self._space, trial)
        except (ValueError, KeyError, TypeError) as error:
            line = next(iter(str(error).splitlines()), type(error).__name__)
            yield "parameters", f"has parameters that the space cannot have drawn: {line}"
            return
        if drawn != stored:
            yield "parameters", "has another configuration than its parameters give"


def _not_admissible(
    ladder: Ladder, decision: Decision, trial: LedgerTrial | None, run: RunRecord | None
) -> str | None:
    """Return why a decision did not follow from the rows before it; apply it to ``ladder``."""
    if decision.kind == "pause":
        rungs = None if trial is None else trial.attributes.get(RUNGS)
        # A trial that was deleted may have left its number to another one.
        if rungs is not None and decision.epoch != dict(enumerate(rungs)).get(decision.rung):
            return f"is at epoch {decision.epoch}; the trial pauses after the epochs {rungs}"
        lowest = None if run is None else run.lowest_loss_until(decision.epoch)
        if run is not None and not same(decision.loss, lowest, TRAINED_AGAIN):
            return f"has the loss {decision.loss!r}; the lowest of its epochs was {lowest!r}"
    if decision.kind in ("promotion", "pruned") and ladder.is_paused(decision.key):
        place = ladder.place(decision.key, last=True)
        if place.goes_on != (decision.kind == "promotion"):
            return f"was not admissible: it had {place}"
    try:
        ladder.apply(decision)
    except (ValueError, LookupError):
        return "cannot follow the trial's decisions before it"
    return None


def _space(provenance: Mapping[str, Any]) -> SearchSpace | None:
    """Return the study's space; ``None`` if this version cannot read it."""
    try:
        return SearchSpace.from_provenance(provenance["space"])
    except (InputError, LookupError, TypeError, AttributeError):
        return None


def _damage_of_space(provenance: Mapping[str, Any]) -> str | None:
    """Return how the stored space breaks the rule "provenance"; ``None`` if it does not."""
    space = provenance.get("space")
    if not isinstance(space, Mapping) or not isinstance(space.get("content"), Mapping):
        return "has no space in its recorded facts"
    if content_hash(space["content"]) != space.get("hash"):
        return "has a space with another hash than recorded"
    return None


def _drawn(space: SearchSpace, trial: LedgerTrial) -> TrialConfig:
    """Return the configuration that the space makes of the trial's parameters."""
    return space.suggest(FixedTrial(trial.parameters, trial.number))


def _reported(trial: LedgerTrial, run: RunRecord) -> Iterator[tuple[str, str]]:
    recorded = {
        epoch: row.validation_loss
        for epoch, row in run.epochs.items()
        if row.validation_loss is not None
    }
    different = [
        epoch
        for epoch in sorted(recorded.keys() | trial.reported.keys())
        if not same(recorded.get(epoch), trial.reported.get(epoch))
    ]
    if different:
        text = f"has other losses in Optuna than recorded, at the epochs {listed(different)}"
        yield "reported", text


def _value(trial: LedgerTrial, run: RunRecord) -> Iterator[tuple[str, str]]:
    lowest, best = run.lowest_loss, trial.attributes.get("best_epoch")
    if trial.value is None or not math.isfinite(trial.value):
        yield "value", "is COMPLETE without a finite value"
    elif not same(trial.value, lowest):
        yield "value", f"has the value {trial.value!r}; the lowest of its epochs is {lowest!r}"
    elif best != run.best_epoch and (best is not None or run.digest is not None):
        text = f"has the best epoch {best} in Optuna; by its epochs it is {run.best_epoch}"
        yield "value", text


def _signed_end(trial: LedgerTrial, run: RunRecord) -> Iterator[tuple[str, str]]:
    """Compare the digest of the last epoch with the one that Optuna's attributes repeat."""
    repeated, last = trial.attributes.get("digest"), run.epochs.get(run.last_epoch)
    if repeated is None or last is None:
        return
    if run.digest is None and last.digest is None:
        yield "digest", "has no digests, which were deleted"
    elif last.digest is not None and last.digest != repeated:
        yield "digest", "has another digest of its last epoch than Optuna's attributes"


def _number(key: str) -> int | None:
    return int(key) if key.isdecimal() else None


def _short(digest: str | None) -> str:
    return "(none)" if digest is None else digest[:12]
