"""The molecules of an ablation: sizes, baselines, and the check that its test set is new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from hpsearch.ablation.plan import AblationPlan
from hpsearch.config.export import Provenance, Winner
from hpsearch.config.run import DataConfig
from hpsearch.data.baselines import baselines
from hpsearch.data.molecule import Molecules
from hpsearch.data.split import Split, make_split
from hpsearch.errors import InputError


@dataclass(frozen=True)
class DataSummary:
    """The molecules of an ablation and what predictions without a geometry reach on them.

    Attributes:
        molecules: in the whole data set.
        train: training molecules.
        validation: validation molecules.
        test: test molecules.
        data_hash: of the molecules' content.
        split_hash: of the three sets.
        baselines: ``mean`` and ``composition``, each target to mean absolute error on the test
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
        """The summary for ``plan``, whose test molecules are checked to be new to the search.

        Raises:
            InputError: the sizes do not fit, the search's split cannot be made again, or the
                search has seen a test molecule.
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
    """The split of ``data``, whose test molecules are new to the search that found ``winner``.

    Raises:
        InputError: the sizes do not fit, the search's split cannot be made again, or the search
            has seen a test molecule.
    """
    split = make_split(molecules, data)
    if winner.provenance is not None:
        check_split(_split_of_the_search(molecules, winner, winner.provenance), split)
    return split


def _split_of_the_search(molecules: Molecules, winner: Winner, search: Provenance) -> Split:
    """The search's split, made again; its hash proves that it is the same one.

    Raises:
        InputError: it is not.
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
    """Refuse test molecules that the search trained on or chose its winner by.

    Splits of one seed and one validation size never clash as long as testing lies behind both;
    other seeds, split files and larger sizes may.

    Raises:
        InputError: there are such molecules.
    """
    seen = np.concatenate([search.train, search.validation])
    shared = len(np.intersect1d(seen, run.test))
    if shared:
        raise InputError(
            f"the test molecules must be new to the search; {shared:,} of {len(run.test):,} were "
            "training or validation molecules of the search; lower --test-size, or keep the "
            "search's split"
        )
