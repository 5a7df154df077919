"""The stored record of a run: the digests that chain its rows, and the rules that it must obey.

A worker signs its epochs: the digest of an epoch is computed from the epoch's numbers and the
digest of the epoch before. A row that was changed, deleted, added or moved later does not have the
digest of its numbers. A digest is no secret: whoever changes all rows, all digests and the kept
weights consistently is not detected.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hpsearch.runs import checkpoint
from hpsearch.runs.messages import EpochMetrics, RunFacts

SAME = 1e-12
"""Relative difference up to which two records of the same number count as equal."""

SAME_SUM = 1e-6
"""The same for a sum that was added up in another order."""

_SHOWN = 5

_SIGNED = (
    *("state", "epochs", "best_epoch", "best_validation_loss", "test_loss"),
    *("failure_kind", "failure_message", "failure_epoch", "failure_step"),
)
"""The entries of a verdict that its digest covers."""


@dataclass(frozen=True)
class EpochRecord:
    """The stored rows of an epoch. A number is ``None`` if it is missing or was not finite.

    Attributes:
        learning_rate: learning rate of the epoch's last step.
        training_loss: Eq. 18 on the training molecules.
        validation_loss: Eq. 18 on the validation molecules.
        losses: Eq. 17 on the validation molecules, by target.
        maes: mean absolute errors on them in reporting units, by target.
        digest: of this and all earlier epochs; ``None`` in rows from before digests.
    """

    learning_rate: float | None
    training_loss: float | None
    validation_loss: float | None
    losses: Mapping[str, float | None]
    maes: Mapping[str, float | None]
    digest: str | None = None


@dataclass(frozen=True)
class RunRecord:
    """The stored rows of a run.

    Attributes:
        key: the trial's number, or ``variant/target/repeat``.
        configuration: the stored configuration, which older code may have written; empty if it
            cannot be read.
        fingerprint: recorded fingerprint of the configuration.
        directory: folder of the run's files on the machine that trained it.
        weights: ``None`` until a worker has started the run; the next three are too.
        data_hash: hash of the molecules.
        split_hash: hash of the split.
        zero_output_loss: validation loss of a network that outputs zero.
        digest: of the facts above; ``None`` in rows from before digests.
        epochs: the recorded epochs by number.
        damage: what cannot be read, in words.
    """

    key: str
    configuration: Mapping[str, Any]
    fingerprint: str
    directory: str
    weights: int | None
    data_hash: str | None
    split_hash: str | None
    zero_output_loss: float | None
    digest: str | None = None
    epochs: Mapping[int, EpochRecord] = field(default_factory=dict)
    damage: tuple[str, ...] = ()

    @property
    def last_epoch(self) -> int:
        """The number of the last recorded epoch; 0 without epochs."""
        return max(self.epochs, default=0)

    @property
    def lowest_loss(self) -> float | None:
        """The lowest recorded validation loss."""
        return min(self._losses.values(), default=None)

    def lowest_loss_until(self, epoch: int) -> float | None:
        """Return the lowest recorded validation loss of the epochs up to ``epoch``."""
        return min((loss for e, loss in self._losses.items() if e <= epoch), default=None)

    @property
    def best_epoch(self) -> int | None:
        """The first epoch with the lowest validation loss."""
        losses = self._losses
        return min(losses, key=lambda epoch: (losses[epoch], epoch), default=None)

    @property
    def ended(self) -> bool:
        """Whether the last epoch is the last wanted one, or the one that early stopping chose."""
        training = self.training
        if self.last_epoch == training.get("epochs"):
            return True
        best, patience = self.best_epoch, training.get("early_stopping_patience")
        if best is None or patience is None or self.last_epoch > training.get("epochs", math.inf):
            return False
        return bool(best + patience == self.last_epoch)

    @property
    def training(self) -> Mapping[str, Any]:
        """The configuration's part on training; empty if it is damaged."""
        part = self.configuration.get("training")
        return part if isinstance(part, Mapping) else {}

    @property
    def targets(self) -> frozenset[str]:
        """The configuration's targets."""
        names = self.configuration.get("targets")
        return frozenset(map(str, names)) if isinstance(names, Sequence) else frozenset()

    @property
    def _losses(self) -> dict[int, float]:
        return {
            epoch: row.validation_loss
            for epoch, row in self.epochs.items()
            if row.validation_loss is not None
        }


@dataclass(frozen=True)
class Breach:
    """A broken rule.

    Attributes:
        rule: the name of the rule.
        trial: number of the trial; ``None`` for a cell and for a whole experiment.
        text: the error, on one line.
        cell: key of the ablation's cell.
        kind: of the experiment.
    """

    rule: str
    trial: int | None
    text: str
    cell: str | None = None
    kind: str = "study"

    def __str__(self) -> str:
        where = f"the {self.kind}"
        if self.cell is not None:
            where = f"cell {self.cell}"
        elif self.trial is not None:
            where = f"trial {self.trial}"
        return f"{self.rule}: {where} {self.text}"


# --- Digests --------------------------------------------------------------------------------------


def facts_digest(
    configuration: str,
    weights: int | None,
    data_hash: str | None,
    split_hash: str | None,
    zero_output_loss: float | None,
) -> str:
    """Return the digest of a run's facts.

    Args:
        configuration: fingerprint of the configuration.
        weights: number of weights.
        data_hash: hash of the molecules.
        split_hash: hash of the split.
        zero_output_loss: validation loss of a network that outputs zero.
    """
    return _digest([configuration, weights, data_hash, split_hash, _stored(zero_output_loss)])


def first_digest(configuration: str, data_hash: str | None, split_hash: str | None) -> str:
    """Return the digest that precedes the first epoch.

    Args:
        configuration: fingerprint of the configuration.
        data_hash: hash of the molecules.
        split_hash: hash of the split.
    """
    return _digest([configuration, data_hash, split_hash])


def epoch_digest(
    before: str,
    epoch: int,
    *,
    learning_rate: float | None,
    training_loss: float | None,
    validation_loss: float | None,
    losses: Mapping[str, float | None],
    maes: Mapping[str, float | None],
) -> str:
    """Return the digest of an epoch; its seconds are not part of it.

    So two trainings with the same numbers have the same digests.

    Args:
        before: digest of the epoch before, or :func:`first_digest`.
        epoch: number of the epoch.
        learning_rate: see :class:`EpochRecord`, as all that follow.
        training_loss: of the epoch.
        validation_loss: of the epoch.
        losses: by target.
        maes: by target.
    """
    numbers = [_stored(value) for value in (learning_rate, training_loss, validation_loss)]
    errors = [
        [name, _stored(losses.get(name)), _stored(maes.get(name))]
        for name in sorted({*losses, *maes})
    ]
    return _digest([before, epoch, *numbers, errors])


def result_digest(
    before: str | None, row: Mapping[str, Any], errors: Sequence[Mapping[str, Any]]
) -> str:
    """Return the digest of an ablation run's verdict.

    Args:
        before: digest of the run's last epoch, if it has one.
        row: the verdict, a row of the table of results.
        errors: the test errors: ``target``, ``mae`` and ``residuals`` of each.
    """
    numbers = [row[name] for name in _SIGNED]
    tested = sorted(
        [error["target"], error["mae"], hashlib.sha256(error["residuals"] or b"").hexdigest()]
        for error in errors
    )
    return _digest([before, *numbers, tested])


def _stored(value: float | None) -> float | None:
    """Return ``value`` as a database returns it."""
    return float(value) if value is not None and math.isfinite(value) else None


def _digest(values: list[Any]) -> str:
    return text_digest(_as_json(values))


# Made once, because `verify` computes a digest for each of many epochs.
_as_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def text_digest(text: str) -> str:
    """Return the SHA-256 (hex) of ``text``."""
    return hashlib.sha256(text.encode()).hexdigest()


def signed_facts(facts: RunFacts, configuration: str) -> RunFacts:
    """Return ``facts`` with their digest.

    Args:
        facts: of a run.
        configuration: fingerprint of the run's configuration.
    """
    digest = facts_digest(
        configuration, facts.weights, facts.data_hash, facts.split_hash, facts.zero_output_loss
    )
    return replace(facts, digest=digest)


def signed(metrics: EpochMetrics, before: Sequence[EpochMetrics], first: str) -> EpochMetrics:
    """Return ``metrics`` with their digest.

    Args:
        metrics: of an epoch.
        before: the signed metrics of all epochs before it.
        first: :func:`first_digest` of the run.
    """
    digest = epoch_digest(
        before[-1].digest if before else first,
        metrics.epoch,
        learning_rate=metrics.learning_rate,
        training_loss=metrics.training_loss,
        validation_loss=metrics.validation_loss,
        losses=metrics.target_losses,
        maes=metrics.target_maes,
    )
    return replace(metrics, digest=digest)


# --- Rules ----------------------------------------------------------------------------------------


def broken_rules(run: RunRecord) -> Iterator[tuple[str, str]]:
    """Yield the name and the error of each broken rule that concerns the run alone.

    - readable: all rows of the run can be read;
    - fingerprint: the stored configuration has the recorded fingerprint;
    - facts: the run has a number of weights;
    - epochs: the recorded epochs are 1 to k without a gap;
    - targets: each recorded epoch has the errors of all targets, whose losses sum to the validation
      loss;
    - digest: the facts and every epoch have the digest of their numbers, and the epochs are those
      in the run's kept files, if there are any.
    """
    # Imported here, because it loads pydantic, which a reader of a study's status does not need.
    from hpsearch.config.run import fingerprint

    for what in run.damage:
        yield "readable", what
    if run.configuration and fingerprint(run.configuration) != run.fingerprint:
        yield (
            "fingerprint",
            (
                f"has a configuration whose fingerprint is {fingerprint(run.configuration)[:12]}; "
                f"{run.fingerprint[:12]} was recorded"
            ),
        )
    if not run.weights:
        yield "facts", "has no number of weights"
    yield from _epochs(run)
    yield from _targets(run)
    yield from _digests(run)


def changed_terms(
    text: str, digest: str | None, runs: Sequence[RunRecord], terms: str
) -> str | None:
    """Return how an experiment breaks the rule "provenance"; ``None`` if it does not.

    Args:
        text: its recorded facts.
        digest: of that text; ``None`` if it has none.
        runs: its runs.
        terms: what the text records, in words.
    """
    if digest is None:
        deleted = any(run.digest for run in runs)
        return "has no digest of its recorded facts, which was deleted" if deleted else None
    return None if text_digest(text) == digest else f"has other facts ({terms}) than were recorded"


def counted(breaches: Sequence[Breach]) -> str:
    """Return the number of breaches in words."""
    return f"{len(breaches) or 'no'} breach{'' if len(breaches) == 1 else 'es'}"


def early_end(run: RunRecord) -> Iterator[tuple[str, str]]:
    """Yield the rule "length" if a complete run ended too early or too late."""
    if run.epochs and not run.ended:
        most = run.training.get("epochs")
        yield (
            "length",
            (
                f"is COMPLETE after {run.last_epoch} of {most} epochs, and early stopping did not "
                "end it"
            ),
        )


def _epochs(run: RunRecord) -> Iterator[tuple[str, str]]:
    missing = [epoch for epoch in range(1, run.last_epoch + 1) if epoch not in run.epochs]
    surplus = [epoch for epoch in run.epochs if epoch < 1]
    if not run.epochs:
        yield "epochs", "has no recorded epoch"
    if missing:
        yield "epochs", f"lacks the epochs {listed(missing)} of {run.last_epoch}"
    if surplus:
        yield "epochs", f"has the epochs {listed(surplus)}, before the first"


def _targets(run: RunRecord) -> Iterator[tuple[str, str]]:
    lacking, wrong = [], []
    for epoch, row in sorted(run.epochs.items()):
        known = [loss for loss in row.losses.values() if loss is not None]
        errors = [mae for mae in row.maes.values() if mae is not None]
        if row.losses.keys() != run.targets or (
            row.validation_loss is not None and min(len(known), len(errors)) < len(run.targets)
        ):
            lacking.append(epoch)
        elif row.validation_loss is not None and not same(
            math.fsum(known), row.validation_loss, SAME_SUM
        ):
            wrong.append(epoch)
    if lacking:
        yield "targets", f"lacks errors of targets at the epochs {listed(lacking)}"
    if wrong:
        yield (
            "targets",
            f"has target losses that do not sum to its loss at the epochs {listed(wrong)}",
        )


def _digests(run: RunRecord) -> Iterator[tuple[str, str]]:
    kept = checkpoint.recorded_digests(run.directory)
    stored = {epoch: row.digest for epoch, row in run.epochs.items()}
    if run.digest is None:
        if any(stored.values()) or (kept and run.epochs):
            yield "digest", "has no digest of its facts, which was deleted"
        return
    if run.digest != facts_digest(
        run.fingerprint, run.weights, run.data_hash, run.split_hash, run.zero_output_loss
    ):
        yield (
            "digest",
            "has other facts (fingerprint, weights, hashes, loss of predicting zero) than recorded",
        )
    unsigned = [epoch for epoch, digest in sorted(stored.items()) if digest is None]
    if unsigned:
        yield "digest", f"has no digest at the epochs {listed(unsigned)}: it was deleted"
        return
    before = first_digest(run.fingerprint, run.data_hash, run.split_hash)
    for epoch, row in sorted(run.epochs.items()):
        digest = epoch_digest(
            before,
            epoch,
            learning_rate=row.learning_rate,
            training_loss=row.training_loss,
            validation_loss=row.validation_loss,
            losses=row.losses,
            maes=row.maes,
        )
        if digest != row.digest:
            yield "digest", f"has other numbers than were recorded, from epoch {epoch} on"
            return
        before = digest
    different = [epoch for epoch, digest in enumerate(kept, 1) if stored.get(epoch) != digest]
    if different:
        yield "digest", f"has other epochs than its kept weights, from epoch {different[0]} on"


def same(one: float | None, other: float | None, tolerance: float = SAME) -> bool:
    """Return whether two records of a number are equal up to rounding."""
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=tolerance)


def listed(epochs: Sequence[int]) -> str:
    """Return the first few of ``epochs`` and how many more there are."""
    more = f" and {len(epochs) - _SHOWN} more" if len(epochs) > _SHOWN else ""
    return ", ".join(map(str, epochs[:_SHOWN])) + more
