"""Check that an ablation's stored rows are complete and consistent; it only reads.

The rules, beside those of one run (`hpsearch.runs.record.broken_rules`):

- provenance: the ablation's recorded facts (export, molecules, arms) have their digest;
- twice: no two runs have the same key;
- terminal: every cell has a verdict;
- readable: all rows of a cell can be read;
- facts: the cell's molecules and split are the ablation's;
- length: a complete cell was trained to its last epoch, or until early stopping ended it;
- verdict: a complete cell's verdict has the number of epochs, the best epoch and the lowest
  validation loss of its recorded epochs, and its digest;
- test: a complete cell has a test error of each target, which is the mean of its residuals;
- reason: a failed cell has a reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from hpsearch.ablation.plan import CellKey, split_name
from hpsearch.runs import record
from hpsearch.runs.record import Breach, RunRecord, result_digest, same
from hpsearch.store import Ledger, LedgerVerdict, StoreReader

RULES = (
    *("provenance", "twice", "terminal", "readable", "fingerprint", "facts", "epochs", "targets"),
    *("digest", "length", "verdict", "test", "reason"),
)
"""The names of all rules."""

_SINGLE = 1e-5
"""Relative difference of a mean over residuals, which are stored in single precision."""


@dataclass(frozen=True)
class AblationVerification:
    """The result of checking an ablation.

    Attributes:
        ablation: name of the ablation.
        cells: number of checked cells.
        complete: number of complete cells.
        failed: number of failed cells.
        epochs: number of checked epochs.
        breaches: the broken rules; those of the whole ablation come first.
        in_progress: the remaining work of a launch that is running; not breaches.
    """

    ablation: str
    cells: int
    complete: int
    failed: int
    epochs: int
    breaches: tuple[Breach, ...]
    in_progress: tuple[Breach, ...]

    def __str__(self) -> str:
        return (
            f"{self.cells} cells checked, {self.complete} complete, {self.failed} failed, "
            f"{self.epochs} epochs: {record.counted(self.breaches)}"
        )


def verify_ablation(store: StoreReader, name: str | None = None) -> AblationVerification:
    """Check the ablation called ``name``, or the one launched last, against every rule.

    While a launch drives the ablation, cells without a verdict are in progress, not breaches.

    Args:
        store: the store of the ablation; older schemas are allowed.
        name: of the ablation.

    Raises:
        InputError: there is no such ablation.
    """
    experiment = store.find(name, "ablation")
    # Read before the rows: a launch that ends between the two reads has ended its cells.
    holder = store.holder(experiment.id)
    driven = holder is not None and holder.drives
    ledger = store.ledger(experiment)
    check = _Check(ledger, experiment.provenance)
    unfinished = list(check.unfinished("" if driven else ": launch it again"))
    found = [*check.breaches(), *([] if driven else unfinished)]
    states = Counter(str(verdict.row.get("state")) for verdict in ledger.verdicts.values())
    return AblationVerification(
        ablation=experiment.name,
        cells=len(ledger.runs),
        complete=states["complete"],
        failed=states["failed"],
        epochs=sum(len(run.epochs) for run in ledger.runs),
        breaches=tuple(sorted(found, key=lambda breach: breach.cell is not None)),
        in_progress=tuple(unfinished if driven else ()),
    )


@final
class _Check:
    """Checks the rules; each one has its method."""

    def __init__(self, ledger: Ledger, provenance: dict[str, Any]) -> None:
        self._ledger = ledger
        self._provenance = provenance

    def unfinished(self, advice: str) -> Iterator[Breach]:
        """Yield the cells without a verdict, which another launch would train."""
        for run in self._ledger.runs:
            if run.key not in self._ledger.verdicts:
                yield _breach("terminal", f"has no verdict{advice}", run.key)

    def breaches(self) -> Iterator[Breach]:
        """Yield the broken rules that no launch can repair."""
        ledger, terms = self._ledger, "export, molecules, arms"
        why = record.changed_terms(ledger.provenance, ledger.digest, ledger.runs, terms)
        if why is not None:
            yield _breach("provenance", why)
        for key, times in Counter(run.key for run in self._ledger.runs).items():
            if times > 1:
                yield _breach("twice", f"has {times} runs", key)
        for run in self._ledger.runs:
            verdict = self._ledger.verdicts.get(run.key)
            if verdict is None:
                continue
            for rule, what in self._judged(run, verdict):
                yield _breach(rule, what, run.key)

    def _judged(self, run: RunRecord, verdict: LedgerVerdict) -> Iterator[tuple[str, str]]:
        if verdict.row.get("state") != "complete":
            if not verdict.row.get("failure_message"):
                yield "reason", "failed without a reason"
            return
        yield from record.broken_rules(run)
        yield from self._facts(run)
        yield from record.early_end(run)
        yield from _verdict(run, verdict)
        yield from _tests(run, verdict)

    def _facts(self, run: RunRecord) -> Iterator[tuple[str, str]]:
        try:
            repeat = CellKey.parse(run.key).repeat
        except ValueError:
            yield "facts", "has a key that must be variant/target/repeat"
            return
        split = split_name(bool(self._provenance.get("vary_split")), repeat)
        for name, seen in (("data_hash", run.data_hash), (split, run.split_hash)):
            wanted = self._provenance.get(name)
            if seen is None or (wanted is not None and seen != wanted):
                what = "molecules" if name == "data_hash" else "split"
                yield "facts", f"has another hash of its {what} than the ablation"


def _verdict(run: RunRecord, verdict: LedgerVerdict) -> Iterator[tuple[str, str]]:
    row = verdict.row
    wanted = {
        "epochs": run.last_epoch,
        "best_epoch": run.best_epoch,
        "best_validation_loss": run.lowest_loss,
    }
    for name, value in wanted.items():
        stored = row.get(name)
        if stored is not None and not isinstance(stored, int | float):
            yield "readable", f"has {name} that is no number"
        elif not same(stored, value):
            yield "verdict", f"has {name} {stored!r}; by its epochs it is {value!r}"
    if row.get("digest") is None:
        if run.digest is not None:
            yield "digest", "has no digest of its verdict, which was deleted"
    elif row["digest"] != _expected(run, verdict):
        yield "digest", "has another verdict or other test errors than recorded"


def _expected(run: RunRecord, verdict: LedgerVerdict) -> str:
    last = run.epochs.get(run.last_epoch)
    try:
        return result_digest(last.digest if last else None, verdict.row, verdict.errors)
    except (TypeError, ValueError):
        return ""  # a value of another type


def _tests(run: RunRecord, verdict: LedgerVerdict) -> Iterator[tuple[str, str]]:
    errors = {error["target"]: error for error in verdict.errors}
    if errors.keys() != run.targets:
        yield "test", f"has test errors of {', '.join(sorted(errors)) or 'no target'}"
        return
    for target, error in errors.items():
        mae, residuals = error["mae"], error["residuals"]
        if not isinstance(mae, int | float):
            yield "test", f"has no test error of {target}"
        elif isinstance(residuals, bytes) and len(residuals) % 4 == 0 and residuals:
            values = np.abs(np.frombuffer(residuals, dtype="<f4").astype(np.float64))
            # A molecule whose target is unknown has no residual.
            known = values[~np.isnan(values)]
            mean = float(known.mean()) if len(known) else None
            if not same(mae, mean, _SINGLE):
                yield "test", f"has the test error {mae!r} of {target}; its residuals give {mean!r}"
        elif residuals:
            yield "readable", f"has residuals of {target} that cannot be read"


def _breach(rule: str, text: str, cell: str | None = None) -> Breach:
    return Breach(rule, None, text, cell=cell, kind="ablation")
