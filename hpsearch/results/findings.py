"""The store's records of an ablation and a study, each table read once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import pandas as pd

from hpsearch.ablation.cells import AblationRows, cells_of
from hpsearch.config.targets import Targets
from hpsearch.results.subject import Subject, subject
from hpsearch.search.study import Study, StudyRows
from hpsearch.store import Experiment, StoreReader


@dataclass(frozen=True)
class AblationFindings:
    """An ablation at the moment when it was read.

    All readers share the frames, so none of them may be changed in place.

    Attributes:
        experiment: the ablation.
        rows: of its runs.
        cells: its cell table, with the columns ``ablation.cells.CELL_COLUMNS``.
        residuals: of the test molecules, with the columns of `StoreReader.test_residuals`.
    """

    experiment: Experiment
    rows: AblationRows
    cells: pd.DataFrame
    residuals: pd.DataFrame

    @classmethod
    def read(cls, store: StoreReader, name: str | None = None) -> Self:
        """Read the ablation called ``name``, by default the one launched last.

        Raises:
            InputError: the store has no such ablation.
        """
        experiment = store.find(name, "ablation")
        return store.once(
            ("findings of an ablation", experiment.id), lambda: cls._of(store, experiment)
        )

    @classmethod
    def _of(cls, store: StoreReader, experiment: Experiment) -> Self:
        rows = AblationRows.read(store, experiment.id)
        cells = cells_of(rows, experiment.provenance)
        return cls(experiment, rows, cells, store.test_residuals(experiment.id))

    @property
    def name(self) -> str:
        """The ablation's name."""
        return self.experiment.name

    @property
    def provenance(self) -> dict[str, Any]:
        """The records of what the ablation was made from."""
        return self.experiment.provenance

    @property
    def data(self) -> dict[str, Any]:
        """The sizes and baselines that the launch recorded; empty if it recorded none."""
        return self.provenance.get("data") or {}

    @property
    def targets(self) -> Targets:
        """All targets of its molecules, in the order of tables."""
        return self.experiment.targets

    @property
    def is_own(self) -> bool:
        """Whether its molecules are a user's own, so that the paper has no numbers for them."""
        return self.experiment.data.is_own

    @property
    def complete(self) -> pd.DataFrame:
        """The cells that are complete."""
        return self.cells[self.cells["state"] == "complete"]


@dataclass(frozen=True)
class SearchFindings:
    """A study at the moment when it was read.

    Attributes:
        study: the study, which answers from ``rows``.
        rows: of its trials; not to be changed in place.
    """

    study: Study
    rows: StudyRows

    @classmethod
    def read(cls, store: StoreReader, name: str | None = None) -> Self:
        """Read the study called ``name``, by default the one launched last.

        Raises:
            InputError: the store has no such study.
            HpsearchError: its trials were deleted or renamed outside hpsearch.
        """
        study = Study.open(store, name)
        rows = study.read()
        return cls(study.at(rows), rows)


@dataclass(frozen=True)
class Findings:
    """The study and the ablation of a report.

    Attributes:
        about: their names.
        ablation: ``None`` if there is no ablation.
        search: ``None`` if there is no search.
    """

    about: Subject
    ablation: AblationFindings | None
    search: SearchFindings | None

    @classmethod
    def read(cls, store: StoreReader, name: str | None = None) -> Self:
        """Read the study and the ablation that `subject.subject` finds for ``name``.

        Raises:
            InputError: the store has nothing, or nothing of that name.
            HpsearchError: the study's trials were deleted or renamed outside hpsearch.
        """
        about = subject(store, name)
        return cls(
            about,
            None if about.ablation is None else AblationFindings.read(store, about.ablation),
            None if about.study is None else SearchFindings.read(store, about.study),
        )
