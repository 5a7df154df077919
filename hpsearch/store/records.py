"""The values that the store returns, and the rules for names of experiments."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from hpsearch.system.errors import HpsearchError, InputError, close_to, one_line

if TYPE_CHECKING:
    from hpsearch.config.run import DataConfig, TrialConfig
    from hpsearch.config.targets import Targets
    from hpsearch.runs.record import RunRecord

Kind = Literal["study", "ablation"]
KINDS: tuple[Kind, ...] = ("study", "ablation")

FORMER_NAMES = "former_names"
"""The entry of an experiment's provenance for its names before it was renamed."""


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

    @property
    def former_names(self) -> tuple[str, ...]:
        """The names that it had before it was renamed, the first one first."""
        return former_names(self.provenance)

    @property
    def folder_name(self) -> str:
        """Name of the folder of its runs; renaming the experiment does not change it."""
        return experiment_folder((*self.former_names, self.name)[0], self.identity)

    @cached_property
    def data(self) -> DataConfig:
        """Its molecules and all their targets.

        The sizes are those of an empty ``data`` section, because they may differ between the runs.

        Raises:
            InputError: the record is not valid for this version.
        """
        # Imported here, because the status of a study needs no pydantic.
        from pydantic import ValidationError

        from hpsearch.config.declaration import Declaration
        from hpsearch.config.run import DataConfig

        recorded = _recorded_data(self.kind, self.provenance)
        declared = {name: recorded[name] for name in Declaration.model_fields if name in recorded}
        try:
            return DataConfig.model_validate(declared)
        except ValidationError as error:
            raise InputError(
                f"the {self.kind} '{self.name}' must have recorded its molecules and targets as "
                f"this version reads them, got: {one_line(str(error.errors()[0]['msg']))}; use the "
                "version that launched it"
            ) from None

    @property
    def targets(self) -> Targets:
        """All targets that its molecules have, in the order of tables.

        Raises:
            InputError: the record is not valid for this version.
        """
        return self.data.all_targets


def _recorded_data(kind: Kind, provenance: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the recorded ``data`` section; empty, as for QM9, if there is none."""
    path = ("space", "content") if kind == "study" else ("winner", "config")
    record: Any = provenance
    for name in (*path, "data"):
        record = record.get(name) if isinstance(record, Mapping) else None
    return record if isinstance(record, Mapping) else {}


def former_names(provenance: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names that an experiment had before it was renamed."""
    names = provenance.get(FORMER_NAMES)
    return tuple(map(str, names)) if isinstance(names, list) else ()


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


class ChangedRun(HpsearchError):
    """The stored configuration of a run is not the one that was recorded."""


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run and a summary of its recorded epochs.

    Attributes:
        key: unique within its experiment.
        epochs: the most epochs that the run may train.
        weights: number of trainable weights; ``None`` until a worker has built the network. The
            next three are ``None`` until then too.
        host: name of the machine.
        device: ``cpu`` or the GPU's name.
        zero_output_loss: validation loss of a network whose output is zero.
        epoch: number of the last epoch that ended; 0 if none has.
        loss: its validation loss; ``None`` if it is missing or not finite.
        last_seconds: its seconds; ``None`` if they are missing.
        timed: number of epochs whose seconds are recorded.
        mean_seconds: their mean seconds; ``None`` without one.
        silent_seconds: seconds since the last epoch ended, at most the mean length of an epoch.
    """

    key: str
    epochs: int
    weights: int | None
    host: str | None
    device: str | None
    zero_output_loss: float | None
    epoch: int
    loss: float | None
    last_seconds: float | None
    timed: int
    mean_seconds: float | None
    silent_seconds: float


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
class OpenTrials:
    """The number of a study's trials in each state, and the RUNNING ones.

    Attributes:
        counts: number of trials by state.
        running: the RUNNING ones by number; ``None`` if they are those that were expected.
    """

    counts: Mapping[str, int]
    running: tuple[TrialState, ...] | None

    @property
    def finished(self) -> int:
        """The number of trials that are complete or pruned."""
        return self.counts.get("COMPLETE", 0) + self.counts.get("PRUNED", 0)

    @property
    def running_count(self) -> int:
        """The number of RUNNING trials, paused ones included."""
        return self.counts.get("RUNNING", 0)

    @property
    def waiting(self) -> int:
        """The number of enqueued trials."""
        return self.counts.get("WAITING", 0)


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """A trial with what is stored of it in Optuna's tables.

    Attributes:
        number: of the trial, from 0.
        state: RUNNING, PAUSED (at a rung), COMPLETE, PRUNED, FAIL or WAITING.
        value: lowest validation loss of a complete trial; ``None`` if it has none.
        epochs: number of reported epochs.
        last_loss: loss of the last of them; ``None`` without one.
        best_loss: lowest of their losses; ``None`` without one.
        started_utc: time without a zone; ``None`` for a waiting trial.
        ended_utc: the same; ``None`` before its end.
        facts: the attributes of `optuna_rows.FACTS` that the trial has.
        parameters: its sampled values.
    """

    number: int
    state: str
    value: float | None
    epochs: int
    last_loss: float | None
    best_loss: float | None
    started_utc: datetime | None
    ended_utc: datetime | None
    facts: Mapping[str, Any]
    parameters: Mapping[str, Any]

    @property
    def started(self) -> datetime | None:
        """The local time of the start, without a zone."""
        return local_time(self.started_utc)

    @property
    def ended(self) -> datetime | None:
        """The local time of the end, without a zone."""
        return local_time(self.ended_utc)


def local_time(utc: datetime | None) -> datetime | None:
    """Return a stored time as Optuna's trials have it: local, without a zone."""
    return None if utc is None else utc.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


@dataclass(frozen=True)
class LedgerTrial:
    """A trial in Optuna's tables.

    Attributes:
        number: of the trial, from 0.
        state: RUNNING, COMPLETE, PRUNED, FAIL or WAITING.
        value: its value; ``None`` if it has none or is not finite.
        reported: the finite intermediate values by epoch.
        attributes: its user attributes.
        parameters: the values of its sampled parameters.
        damage: what cannot be read, in words.
    """

    number: int
    state: str
    value: float | None
    reported: dict[int, float]
    attributes: dict[str, Any]
    parameters: dict[str, Any]
    damage: tuple[str, ...] = ()


PAUSED = "paused_at_epoch"
"""The attribute of a trial that waits at a rung: its last epoch."""

ORIGIN = "origin"
"""The attribute of a trial with a known configuration: where that comes from, in words."""

STAGE = "stage"
"""The attribute that says in words where a trial of a study with rungs stands."""

DecisionKind = Literal["pause", "promotion", "complete", "pruned", "failed"]


@dataclass(frozen=True)
class Decision:
    """A decision on a trial of a study with rungs.

    Attributes:
        sequence: its number among the study's epochs and decisions.
        key: of the trial's run.
        kind: the trial paused at a rung, was promoted from it, or has a verdict.
        rung: the rung, from 0; of a verdict, the number of rungs that the trial had reached.
        epoch: the trial's last epoch.
        loss: its lowest validation loss so far; ``None`` if it has none.
    """

    sequence: int
    key: str
    kind: DecisionKind
    rung: int
    epoch: int
    loss: float | None


@dataclass(frozen=True)
class LedgerVerdict:
    """The verdict of an ablation run.

    Attributes:
        row: the columns of `results`.
        errors: for each target ``target``, ``mae`` and ``residuals`` (bytes).
    """

    row: dict[str, Any]
    errors: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Ledger:
    """All rows of a study or an ablation.

    Attributes:
        provenance: the stored text.
        digest: of that text; ``None`` if it was written before digests.
        runs: our runs in the order of their creation.
        trials: Optuna's trials by number; ``None`` if Optuna has no study of that name.
        directions: Optuna's direction of each objective.
        verdicts: of an ablation's runs, by key.
        decisions: of early stopping, in their order.
    """

    provenance: str
    digest: str | None
    runs: tuple[RunRecord, ...]
    trials: tuple[LedgerTrial, ...] | None = None
    directions: tuple[str, ...] = ()
    verdicts: dict[str, LedgerVerdict] = field(default_factory=dict)
    decisions: tuple[Decision, ...] = ()


# --- Names ----------------------------------------------------------------------------------------

LONGEST_NAME = 200


def check_name(name: str, what: str = "study") -> str:
    """Return the name of a new experiment in normal form C of Unicode, if it is allowed.

    Any text that can be typed is accepted, SQL too: names are only used as bound parameters. Names
    that cannot be typed, shown as they are on one line, or stored by PostgreSQL are refused.

    Raises:
        InputError: the name is blank, too long, or has characters that cannot be shown.
    """
    name = normal_form(name)
    a_what = f"an {what}" if what[:1] in "aeiou" else f"a {what}"
    if not name.strip():
        raise InputError(f"the name of {a_what} must not be empty")
    if len(name) > LONGEST_NAME:
        raise InputError(
            f"the name of {a_what} must have at most {LONGEST_NAME} characters; got {len(name)}"
        )
    for place, character in enumerate(name):
        category = unicodedata.category(character)
        if category in ("Cc", "Cs", "Zl", "Zp"):
            raise InputError(
                f"the name of {a_what} must not contain control characters; "
                f"got U+{ord(character):04X}"
            )
        if category == "Cf" and not _joins(name, place):
            raise InputError(
                f"the name of {a_what} must not contain formatting characters, because they are "
                f"invisible; got U+{ord(character):04X}; leave it out"
            )
    return name


def normal_form(name: str) -> str:
    """Return ``name`` in normal form C of Unicode: texts that look the same become equal."""
    return unicodedata.normalize("NFC", name)


_JOINERS = ("\u200c", "\u200d")
"""Zero width non-joiner and zero width joiner."""


def _joins(name: str, place: int) -> bool:
    """Return whether the character is a joiner that the script may need.

    Persian and the scripts of India spell words with joiners, and emoji are combined with them. No
    script that uses ASCII needs them. There they would only make two different names look the same.
    """
    around = name[place - 1 : place], name[place + 1 : place + 2]
    return name[place] in _JOINERS and all(beside and not beside.isascii() for beside in around)


_MADE_BY = {"study": "launch", "ablation": "ablate"}


_MOST_NAMES = 20


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
    shown = ", ".join(names[-_MOST_NAMES:])
    if len(names) > _MOST_NAMES:
        shown = f"{len(names)} names, the last {_MOST_NAMES} of them {shown}"
    return InputError(
        f"{a_what} must be one of those in the store {label}: {shown}; got '{name}'"
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
