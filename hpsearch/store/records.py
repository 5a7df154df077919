"""Frozen values that the store returns, and the rules for the names of experiments."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from hpsearch.errors import InputError, close_to

if TYPE_CHECKING:
    from hpsearch.config.run import TrialConfig

Kind = Literal["study", "ablation"]
KINDS: tuple[Kind, ...] = ("study", "ablation")


@dataclass(frozen=True)
class Experiment:
    """A study or an ablation.

    Attributes:
        id: primary key; what runs are recorded under.
        kind: ``study`` or ``ablation``.
        name: unique within its kind.
        identity: random, made with the experiment; names its folder.
        provenance: what it was made from: space or export, hashes, versions.
        created_at: when it was first launched (UTC).
        launched_at: when it was last launched (UTC).
    """

    id: int
    kind: Kind
    name: str
    identity: str
    provenance: dict[str, Any]
    created_at: datetime
    launched_at: datetime


@dataclass(frozen=True)
class StoredRun:
    """One network as recorded.

    Attributes:
        id: primary key; what epochs and results are recorded under.
        key: unique within its experiment.
        config: the run's configuration.
    """

    id: int
    key: str
    config: TrialConfig


@dataclass(frozen=True)
class Curve:
    """What a run's recorded epochs say.

    Attributes:
        epochs: number of epochs recorded.
        best_epoch: the first epoch of the lowest validation loss; ``None`` if none is finite.
        best_validation_loss: that loss.
        seconds_per_epoch: mean over the recorded epochs.
    """

    epochs: int
    best_epoch: int | None
    best_validation_loss: float | None
    seconds_per_epoch: float | None


@dataclass(frozen=True)
class TrialState:
    """One row of a study in Optuna's table, as it stands now.

    Attributes:
        number: of the trial, from 0.
        trial_id: Optuna's key.
        state: RUNNING, COMPLETE, PRUNED, FAIL or WAITING.
    """

    number: int
    trial_id: int
    state: str


@dataclass(frozen=True)
class LedgerEpoch:
    """A recorded epoch.

    Attributes:
        validation_loss: ``None`` where it was not finite.
        targets: names of the targets that have errors.
        losses: how many of these have a loss.
        loss_sum: sum of these losses; ``None`` without any.
    """

    validation_loss: float | None
    targets: frozenset[str]
    losses: int
    loss_sum: float | None


@dataclass(frozen=True)
class LedgerRun:
    """A recorded run.

    Attributes:
        key: unique within the study, as far as the database's constraint held.
        configuration: as stored, of whatever age.
        weights: ``None`` until the run's worker has started.
        data_hash: likewise.
        split_hash: likewise.
        epochs: by number.
    """

    key: str
    configuration: dict[str, Any]
    weights: int | None
    data_hash: str | None
    split_hash: str | None
    epochs: dict[int, LedgerEpoch]


@dataclass(frozen=True)
class LedgerTrial:
    """One of Optuna's rows.

    Attributes:
        number: of the trial, from 0.
        state: RUNNING, COMPLETE, PRUNED, FAIL or WAITING.
        value: ``None`` without one that is finite.
        reported: the finite intermediate values, by epoch.
        failure_reason: ``None`` without one.
    """

    number: int
    state: str
    value: float | None
    reported: dict[int, float]
    failure_reason: str | None


@dataclass(frozen=True)
class Ledger:
    """A study's rows.

    Attributes:
        trials: by number; ``None`` if Optuna has no study of that name.
        runs: in the order they were made.
    """

    trials: tuple[LedgerTrial, ...] | None
    runs: tuple[LedgerRun, ...]


# --- Names ----------------------------------------------------------------------------------------

LONGEST_NAME = 200


def check_name(name: str, what: str = "study") -> str:
    """``name``, if it can be stored.

    Any text a person would type is fine, SQL and other scripts included: it is only ever a bound
    parameter. What is refused cannot be typed again, shown on a line or kept by PostgreSQL.

    Raises:
        InputError: the name is blank, too long, or has characters that cannot be shown.
    """
    a_what = f"an {what}" if what[:1] in "aeiou" else f"a {what}"
    if not name.strip():
        raise InputError(f"the name of {a_what} must not be empty")
    if len(name) > LONGEST_NAME:
        raise InputError(
            f"the name of {a_what} must have at most {LONGEST_NAME} characters; got {len(name)}"
        )
    for character in name:
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            raise InputError(
                f"the name of {a_what} must not contain control characters; "
                f"got U+{ord(character):04X}"
            )
    return name


_MADE_BY = {"study": "launch", "ablation": "ablate"}


def unknown_experiment(
    label: str, kinds: Sequence[Kind], name: str | None, names: Sequence[str]
) -> InputError:
    """The error for an experiment that a store does not have.

    Args:
        label: the store's.
        kinds: that were looked for.
        name: that was given; ``None`` for the experiment launched last.
        names: of the experiments of these kinds that the store has.
    """
    if name is None or not names:
        made = f"`hpsearch {_MADE_BY[kinds[0]]}` makes one"
        return InputError(f"the store {label} holds no {kinds[0]}; {made}")
    a_what = " or ".join({"study": "a study", "ablation": "an ablation"}[kind] for kind in kinds)
    close = close_to(name, names)
    return InputError(
        f"{a_what} must be one of those in the store {label}: {', '.join(names)}; got '{name}'"
        + (f"; did you mean '{close}'?" if close else "")
    )


def experiment_folder(name: str, identity: str) -> str:
    """A folder name for the experiment's runs: readable, unique and never a path.

    Args:
        name: the experiment's name, any text.
        identity: the experiment's own random text, so that namesakes in two stores that share a
            folder for runs do not continue each other's checkpoints.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].rstrip("-") or "study"
    digest = hashlib.sha256(f"{name}\n{identity}".encode()).hexdigest()
    return f"{slug}-{digest[:10]}"
