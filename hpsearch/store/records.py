"""The values that the store returns, and the rules for names of experiments."""

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
        id: primary key.
        kind: ``study`` or ``ablation``.
        name: unique within its kind.
        identity: a random text, part of the name of the experiment's folder.
        provenance: its origin: space or export, hashes, versions.
        created_at: time of the first launch (UTC).
        launched_at: time of the last launch (UTC).
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
    """A recorded run.

    Attributes:
        id: primary key.
        key: unique within its experiment.
        config: the run's configuration.
    """

    id: int
    key: str
    config: TrialConfig


@dataclass(frozen=True)
class Curve:
    """A summary of a run's recorded epochs.

    Attributes:
        epochs: number of recorded epochs.
        best_epoch: the first epoch with the lowest validation loss; ``None`` if none is finite.
        best_validation_loss: that loss.
        seconds_per_epoch: mean over the recorded epochs.
    """

    epochs: int
    best_epoch: int | None
    best_validation_loss: float | None
    seconds_per_epoch: float | None


@dataclass(frozen=True)
class TrialState:
    """The state of a trial in Optuna's table.

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
        validation_loss: ``None`` if it was not finite.
        targets: names of the targets with errors.
        losses: number of these targets that have a loss.
        loss_sum: sum of their losses; ``None`` if there is none.
    """

    validation_loss: float | None
    targets: frozenset[str]
    losses: int
    loss_sum: float | None


@dataclass(frozen=True)
class LedgerRun:
    """A recorded run.

    Attributes:
        key: unique within the study, unless the database lost its constraint.
        configuration: the stored text, which older code may have written.
        weights: ``None`` until a worker has started the run.
        data_hash: ``None`` until then too.
        split_hash: ``None`` until then too.
        epochs: the recorded epochs by number.
    """

    key: str
    configuration: dict[str, Any]
    weights: int | None
    data_hash: str | None
    split_hash: str | None
    epochs: dict[int, LedgerEpoch]


@dataclass(frozen=True)
class LedgerTrial:
    """A trial in Optuna's tables.

    Attributes:
        number: of the trial, from 0.
        state: RUNNING, COMPLETE, PRUNED, FAIL or WAITING.
        value: its value; ``None`` if it has none or is not finite.
        reported: the finite intermediate values by epoch.
        failure_reason: why it failed; ``None`` if that is not stored.
    """

    number: int
    state: str
    value: float | None
    reported: dict[int, float]
    failure_reason: str | None


@dataclass(frozen=True)
class Ledger:
    """All rows of a study.

    Attributes:
        trials: Optuna's trials by number; ``None`` if Optuna has no study of that name.
        runs: our runs in the order of their creation.
    """

    trials: tuple[LedgerTrial, ...] | None
    runs: tuple[LedgerRun, ...]


# --- Names ----------------------------------------------------------------------------------------

LONGEST_NAME = 200


def check_name(name: str, what: str = "study") -> str:
    """Return ``name`` if it can be stored.

    Any text that can be typed is accepted, SQL too: names are only used as bound parameters. Names
    that cannot be typed, shown on one line or stored by PostgreSQL are refused.

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
    """Return the error for an experiment that a store does not have.

    Args:
        label: the store's label.
        kinds: the kinds that were searched.
        name: the given name; ``None`` for the experiment launched last.
        names: names of the experiments of these kinds in the store.
    """
    if name is None or not names:
        made = f"`hpsearch {_MADE_BY[kinds[0]]}` makes one"
        return InputError(f"the store {label} has no {kinds[0]}; {made}")
    a_what = " or ".join({"study": "a study", "ablation": "an ablation"}[kind] for kind in kinds)
    close = close_to(name, names)
    return InputError(
        f"{a_what} must be one of those in the store {label}: {', '.join(names)}; got '{name}'"
        + (f"; did you mean '{close}'?" if close else "")
    )


def experiment_folder(name: str, identity: str) -> str:
    """Return a folder name for the experiment's runs: readable, unique and never a path.

    Args:
        name: the experiment's name, any text.
        identity: the experiment's random text. With it, two experiments of one name in different
            stores have different folders and never share checkpoints.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].rstrip("-") or "study"
    digest = hashlib.sha256(f"{name}\n{identity}".encode()).hexdigest()
    return f"{slug}-{digest[:10]}"
