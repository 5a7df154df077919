"""The plan of an ablation: its cells and their training."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from hpsearch.ablation.variants import (
    VARIANTS,
    Match,
    Variant,
    require_vectors,
    select_variants,
)
from hpsearch.config.architecture import count_weights
from hpsearch.config.export import Winner
from hpsearch.config.run import (
    NO_OVERRIDES,
    DataConfig,
    NetworkConfig,
    Overrides,
    TrainingConfig,
    TrialConfig,
    fingerprint,
    rebuild,
)
from hpsearch.system.errors import InputError
from hpsearch.system.files import file_part

_OF_THE_SEARCH = (
    "epochs",
    "schedule",
    "plateau_factor",
    "plateau_patience",
    "minimum_learning_rate",
    "early_stopping_patience",
)
"""Fields of a *search's* training that an ablation replaces, to train to the end (section 2.1)."""


def ablation_training(search: TrainingConfig) -> TrainingConfig:
    """Return the training of an ablation: the search's batch size and rate, the paper's schedule.

    A search stops after ten epochs. The ablation trains for at most 200 epochs, with the plateau
    schedule and an early stopping patience of 50 (the defaults of ``TrainingConfig``). An export
    that was edited keeps its own training: see ``docs/decisions/0015``.
    """
    defaults = {name: TrainingConfig.model_fields[name].default for name in _OF_THE_SEARCH}
    return rebuild(search, **defaults)


def repeat_seed(seed: int, repeat: int) -> int:
    """Return the seed of a repeat, for the initial weights and the order of batches.

    The seed does not depend on the variant or the target, so that the arms of a repeat are paired.
    """
    digest = hashlib.sha256(f"{seed}/{repeat}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


@dataclass(frozen=True)
class CellKey:
    """The key of a cell; its text names the cell in the store, in folders and in printed lines.

    >>> CellKey.parse("L1Net/mu/0")
    CellKey(variant='L1Net', target='mu', repeat=0)
    >>> str(CellKey("L1Net", "mu", 0))
    'L1Net/mu/0'

    Attributes:
        variant: name of the variant.
        target: name of the target.
        repeat: counted from 0.
    """

    variant: str
    target: str
    repeat: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the key from its text."""
        variant, target, repeat = text.split("/")
        return cls(variant, target, int(repeat))

    def __str__(self) -> str:
        return f"{self.variant}/{self.target}/{self.repeat}"

    @property
    def folder(self) -> str:
        """The folder of the cell in that of the ablation, which every file system can have."""
        return f"{self.variant}/{file_part(self.target)}/{self.repeat}"


@dataclass(frozen=True)
class Cell:
    """A run of the ablation.

    Attributes:
        key: its variant, target and repeat.
        config: its configuration, with a single target.
    """

    key: CellKey
    config: TrialConfig


@dataclass(frozen=True)
class AblationPlan:
    """The cells of an ablation: variants × targets × repeats of an exported configuration.

    Attributes:
        name: the ablation's name in the store.
        network: the winner's network.
        training: the training of every cell; the seeds of the repeats derive from its seed.
        training_note: one line for the user that says where the training comes from.
        data: the data of every cell.
        targets: the targets in the order of tables; each is trained separately.
        variants: the arms.
        repeats: number of runs per variant and target.
        match: what the arms without vectors have in common with the winner.
        vary_split: whether the repeats also have different training and validation molecules. Their
            test molecules are always the same.
        expected_split: hash of the search's split if the cells use it, else ``None``.
    """

    name: str
    network: NetworkConfig
    training: TrainingConfig
    data: DataConfig
    targets: tuple[str, ...]
    variants: tuple[Variant, ...]
    repeats: int = 1
    match: Match = "dims"
    vary_split: bool = False
    expected_split: str | None = None
    training_note: str = ""

    @classmethod
    def make(
        cls,
        winner: Winner,
        *,
        targets: Iterable[str] = (),
        variants: Iterable[str] = (),
        declared: tuple[Variant, ...] = (),
        repeats: int = 1,
        match: Match = "dims",
        vary_split: bool = False,
        overrides: Overrides = NO_OVERRIDES,
        name: str | None = None,
        stem: str | None = None,
    ) -> AblationPlan:
        """Return the plan for ``winner``.

        An unchanged export of a search gets the paper's training. A configuration that was written
        or edited by hand keeps its own. Then ``overrides`` are applied.

        Args:
            winner: the exported configuration.
            targets: names; ``all`` for all of the molecules; without names, the winner's targets.
            variants: names; ``all``, or no name, for the five and the declared ones.
            declared: variants in addition to the five.
            repeats: number of runs per variant and target.
            match: what the arms without vectors have in common with the winner.
            vary_split: whether the repeats also have different training and validation molecules.
            overrides: changes to the training and the data.
            name: the ablation's name; by default ``stem`` or the winner's name, with the first
                digits of the plan's identity.
            stem: name of the exported file without its extension.

        Raises:
            InputError: a name is unknown, a value is not allowed, or the winner has no vectors.
        """
        if repeats < 1:
            raise InputError(f"the number of repeats must be at least 1; got {repeats}")
        search = winner.config
        require_vectors(search.network)
        data = overrides.apply(search.data)
        to_the_end = ablation_training(search.training) if winner.untouched else search.training
        training = overrides.apply(to_the_end)
        plan = cls(
            name=name or "",
            network=search.network,
            training=training,
            data=data,
            targets=data.all_targets.canonical(tuple(targets) or search.targets),
            variants=select_variants(variants, (*VARIANTS, *declared)),
            repeats=repeats,
            match=match,
            vary_split=vary_split,
            expected_split=winner.split_hash if data == search.data else None,
            training_note=_training_note(winner, training),
        )
        return plan if name else replace(plan, name=f"{stem or winner.name}-{plan.identity[:8]}")

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the settings that all cells share: network, training, data and matching.

        It does not depend on targets, variants and repeats: adding some adds cells to the same
        ablation.
        """
        shared: dict[str, object] = {
            "network": self.network.model_dump(mode="json"),
            "training": self.training.model_dump(mode="json"),
            "data": self.data.model_dump(mode="json"),
            "split": self.expected_split,
        }
        # Added only if it is not the default, so that the hashes of older ablations stay the same.
        if self.match != "dims":
            shared["match"] = self.match
        if self.vary_split:
            shared["vary_split"] = True
        return fingerprint(shared)

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, repeat by repeat, in Table 1's order."""
        return tuple(
            Cell(CellKey(variant.name, target, repeat), self._config(variant, target, repeat))
            for repeat in range(self.repeats)
            for target in self.targets
            for variant in self.variants
        )

    @cached_property
    def networks(self) -> dict[str, NetworkConfig]:
        """The network of each variant, by the variant's name."""
        return {v.name: v.network_of(self.network, self.match) for v in self.variants}

    @cached_property
    def weights(self) -> dict[str, int]:
        """The number of trainable weights of each variant, by the variant's name."""
        elements = self.data.element_count
        return {name: count_weights(net, 1, elements) for name, net in self.networks.items()}

    def _config(self, variant: Variant, target: str, repeat: int) -> TrialConfig:
        seed = repeat_seed(self.training.seed, repeat)
        return TrialConfig(
            targets=(target,),
            network=self.networks[variant.name],
            training=rebuild(variant.training_of(self.training), seed=seed),
            data=self.data_of(repeat),
        )

    def data_of(self, repeat: int) -> DataConfig:
        """Return the data of a repeat; the first repeat has the plan's data."""
        if not self.vary_split or repeat == 0:
            return self.data
        return rebuild(self.data, training_seed=repeat_seed(self.data.split_seed, repeat))


def split_name(vary_split: bool, repeat: int) -> str:
    """Return the name of the provenance's entry for the hash of a repeat's split."""
    return f"split_hash_{repeat}" if vary_split and repeat > 0 else "split_hash"


def _training_note(winner: Winner, training: TrainingConfig) -> str:
    note = (
        f"training: at most {training.epochs} epochs, {training.schedule}, early stopping after "
        f"{training.early_stopping_patience} epochs without improvement"
    )
    if winner.untouched:
        epochs = winner.config.training.epochs
        return f"{note}; defaults are the paper's, not your search's {epochs} epochs"
    return f"{note}; defaults are those of the file"
