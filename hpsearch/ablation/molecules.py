"""The molecules of an ablation: sizes, baselines, and a check of its test molecules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from hpsearch.ablation.plan import AblationPlan
from hpsearch.config.export import Provenance, Winner
from hpsearch.config.run import DataConfig
from hpsearch.data.baselines import baselines
from hpsearch.data.check import require_sound_references
from hpsearch.data.molecule import Molecules
from hpsearch.data.split import Split, make_split
from hpsearch.system.errors import InputError


@dataclass(frozen=True)
class DataSummary:
    """The molecules of an ablation, and the test errors of predictions without the geometry.

    Attributes:
        molecules: number of molecules in the data set.
        train: number of training molecules.
        validation: number of validation molecules.
        test: number of test molecules.
        data_hash: hash of the molecules.
        split_hash: hash of the three sets.
        baselines: for ``mean`` and ``composition``, each target's mean absolute error on the test
            molecules.
    """

    molecules: int
    train: int
    validation: int
    test: int
    data_hash: str
    split_hash: str
    baselines: dict[str, dict[str, float]]

    @classmethod
    def of(cls, molecules: Molecules, winner: Winner, plan: AblationPlan) -> Self:
        """Return the summary for ``plan``; check that its test molecules are new to the search.

        Raises:
            InputError: the sizes do not fit, the search's split cannot be made again, or the search
                has used a test molecule.
        """
        split = checked_split(molecules, winner, plan.data)
        return cls(
            molecules=len(molecules),
            train=len(split.train),
            validation=len(split.validation),
            test=len(split.test),
            data_hash=molecules.content_hash,
            split_hash=split.hash,
            baselines=baselines(molecules, split.train, split.test, plan.targets),
        )


def checked_split(molecules: Molecules, winner: Winner, data: DataConfig) -> Split:
    """Return the split of ``data``; check that the search for ``winner`` used no test molecule.

    Raises:
        InputError: the sizes do not fit, the references of own molecules belong to other labels,
            the search's split cannot be made again, or the search has used a test molecule.
    """
    split = make_split(molecules, data)
    if data.is_own:
        require_sound_references(molecules, split, data.all_targets.names)
    if winner.provenance is not None:
        check_split(_split_of_the_search(molecules, winner, winner.provenance), split)
    return split


def _split_of_the_search(molecules: Molecules, winner: Winner, search: Provenance) -> Split:
    """Return the search's split, made again and compared by its hash.

    Raises:
        InputError: the molecules or the split are not the search's.
    """
    if molecules.content_hash != search.data_hash:
        raise InputError(
            f"the molecules must be those of the search, whose hash is {search.data_hash[:12]}; "
            f"got {molecules.content_hash[:12]}; use the data set of the search"
        )
    split = make_split(molecules, winner.config.data)
    if split.hash != search.split_hash:
        raise InputError(
            f"config.data must be the search's, whose split is {search.split_hash[:12]}; got the "
            f"split {split.hash[:12]}; restore config.data and change sizes by the command's "
            "options"
        )
    return split


def check_split(search: Split, run: Split) -> None:
    """Refuse test molecules that were training or validation molecules of the search.

    With the search's seed and sizes there are none. Other seeds, split files or larger sizes may
    give some.

    Raises:
        InputError: there are such molecules.
    """
    used = np.concatenate([search.train, search.validation])
    shared = len(np.intersect1d(used, run.test))
    if shared:
        raise InputError(
            f"the test molecules must be new to the search; {shared:,} of {len(run.test):,} were "
            "training or validation molecules of the search; lower --test-size, or keep the "
            "search's split"
        )
