"""A store, its studies and its ablations, as frames and figures."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from hpsearch.system.errors import InputError, nearest, one_line

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from hpsearch.ablation.cells import CellState
    from hpsearch.config.export import Winner
    from hpsearch.config.run import TrialConfig
    from hpsearch.models.model import Model
    from hpsearch.search.study import Counts
    from hpsearch.search.study import Study as StudyReader
    from hpsearch.store import Experiment, StoreReader

LOOK_SECONDS = 2.0
"""Time between two looks at the store while `wait` waits."""


class Store:
    """A store that is open for reading; no method changes it.

    It is a context: ``with hpsearch.open_store() as store:`` closes it.

    Attributes:
        label: its path or URL, without a password.
    """

    def __init__(self, reader: StoreReader) -> None:
        self._reader = reader

    @classmethod
    def open(cls, url: str | None = None) -> Self:
        """Open a store.

        Args:
            url: ``sqlite:///FILE`` or ``postgresql://USER@HOST/DATABASE``; by default
                ``$HPSEARCH_STORAGE``, else ``sqlite:///storage/hpsearch.db``.

        Raises:
            InputError: there is no store at ``url``, or it cannot be reached.
        """
        from hpsearch.api.inputs import require_store
        from hpsearch.store import StoreReader

        return cls(StoreReader.open(require_store(url)))

    @property
    def label(self) -> str:
        """Its path or URL, without a password."""
        return self._reader.label

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<hpsearch.Store {self.label}>"

    def close(self) -> None:
        """Close the connections; its studies cannot be read any more."""
        self._reader.close()

    def experiments(self) -> pd.DataFrame:
        """Return the studies and ablations; the one launched last comes last.

        Columns: ``kind`` (``study`` or ``ablation``), ``name``, ``created_at``, ``launched_at``
        (UTC).
        """
        frame = self._reader.experiments()
        return frame[["kind", "name", "created_at", "launched_at"]]

    def study(self, name: str | None = None) -> Study:
        """Return the study called ``name``, by default the one launched last.

        Raises:
            InputError: there is no such study.
        """
        return Study(self._reader, self._reader.find(name, "study"))

    def ablation(self, name: str | None = None) -> Ablation:
        """Return the ablation called ``name``, by default the one launched last.

        Raises:
            InputError: there is no such ablation.
        """
        return Ablation(self._reader, self._reader.find(name, "ablation"))


class Stored(ABC):
    """What a study and an ablation have in common. Every call reads the store again.

    Attributes:
        name: of the study or the ablation.
    """

    kind: Literal["study", "ablation"]

    def __init__(self, reader: StoreReader, experiment: Experiment) -> None:
        self._reader = reader
        self._experiment = experiment
        self.name = experiment.name

    def __repr__(self) -> str:
        return f"<hpsearch.{type(self).__name__} {self.name}: {self.summary()}>"

    @abstractmethod
    def summary(self) -> str:
        """Return the numbers of runs in each state as a text."""

    @property
    def units(self) -> dict[str, str]:
        """The unit of the errors of each target of its molecules, in the order of tables."""
        return {target.name: target.unit for target in self._experiment.targets}

    def is_driven(self) -> bool:
        """Return whether a launch trains it now."""
        from hpsearch.results.status import is_driven

        return is_driven(self._reader.holder(self._experiment.id))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until no launch trains it any more.

        Args:
            timeout: the most seconds to wait; ``None`` waits for ever.

        Returns:
            Whether it has ended; ``False`` after ``timeout``.
        """
        until = math.inf if timeout is None else time.monotonic() + timeout
        while self.is_driven():
            left = until - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(LOOK_SECONDS, left))
        return True

    def figures(self, pages: str | Path | None = None) -> dict[str, go.Figure]:
        """Return the figures of the dashboard's pages that have something to show, by name.

        Args:
            pages: a folder of your own pages, in addition to the shipped ones.

        Raises:
            PageError: a page fails.
        """
        from hpsearch.pages.files import load_page, page_files

        own = None if pages is None else Path(pages)
        drawn = {
            page.name: page.figure(self._reader, self.name, self.kind)
            for page in map(load_page, page_files(own))
        }
        return {name: figure for name, figure in drawn.items() if figure is not None}

    def figure(self, page: str) -> go.Figure:
        """Return one figure of :meth:`figures`, such as ``learning_curves``.

        Raises:
            InputError: there is no such page, or it has nothing to show yet.
        """
        from hpsearch.pages.files import load_page, page_files

        files = {path.stem: path for path in page_files()}
        if page not in files:
            raise InputError(
                f"a page must be one of dashboards/, got '{one_line(page)}'; {nearest(page, files)}"
            )
        figure = load_page(files[page]).figure(self._reader, self.name, self.kind)
        if figure is None:
            raise InputError(f"the page '{page}' has nothing to show for {self.kind} '{self.name}'")
        return figure

    def export_model(self, folder: str | Path, *, runs: tuple[str, ...] = ()) -> Model:
        """Make a model of the kept weights of runs; as ``hpsearch model export``.

        Args:
            folder: of the new model; it must be empty or missing.
            runs: a trial's number, or a cell such as ``L1Net/U0/0``; ``L1Net/U0`` makes an ensemble
                of all repeats. By default the winner of a study.

        Raises:
            InputError: there is no such run, or the folder is not empty.
        """
        from hpsearch.models.build import build_model, runs_of
        from hpsearch.models.description import require_free
        from hpsearch.models.folder import read_model, write_model

        output = Path(folder)
        require_free(output)
        kept = runs_of(self._reader, self.name, [str(key) for key in runs])
        write_model(build_model(output.resolve().name, kept, lambda line: None), output)
        return read_model(output)

    def _plain(self, frame: pd.DataFrame, key: str) -> pd.DataFrame:
        """Return rows of this experiment without the columns that name it."""
        return frame.drop(columns=["kind", "experiment"]).rename(columns={"key": key})

    def _epochs(self, key: str) -> pd.DataFrame:
        return self._plain(self._reader.epochs(self._experiment.id), key)

    def _errors(self, key: str) -> pd.DataFrame:
        frame = self._plain(self._reader.target_errors(self._experiment.id), key)
        return frame.assign(unit=frame["target"].map(self.units))


class Study(Stored):
    """A stored search, for reading."""

    kind = "study"

    def counts(self) -> Counts:
        """Return the number of trials in each state: ``complete``, ``running``, ``wanted``, …"""
        return self._study().counts()

    def summary(self) -> str:
        """Return the counts as a text: ``3 of 10 complete, 2 running``."""
        return str(self.counts())

    def trials(self) -> pd.DataFrame:
        """Return one row per trial, by number.

        Columns: ``number``, ``state``, ``value`` (lowest validation loss of a complete trial, Eq.
        18), ``epochs``, ``last_loss``, ``best_loss``, ``weights``, ``host``, ``device``,
        ``seconds_per_epoch``, ``started``, ``ended`` (local time), ``zero_output_loss`` (the loss
        of predicting zero), ``failure`` (kind), ``failure_reason``, ``failure_traceback``,
        ``stage`` (where it stands in a study with rungs), ``origin`` (of a known configuration),
        and ``params_NAME`` for each hyperparameter.
        """
        return self._study().trials()

    def epochs(self) -> pd.DataFrame:
        """Return one row per trial and epoch.

        Columns: ``trial``, ``epoch``, ``learning_rate`` (of its last step), ``seconds``,
        ``training_loss``, ``validation_loss`` (Eq. 18), ``created_at`` (UTC).
        """
        return _by_trial(self._epochs("trial"))

    def errors(self) -> pd.DataFrame:
        """Return one row per trial, epoch and target, on the validation molecules.

        Columns: ``trial``, ``epoch``, ``target``, ``loss`` (Eq. 17), ``mae`` in ``unit``, ``unit``.
        """
        return _by_trial(self._errors("trial"))

    def importances(self) -> pd.DataFrame:
        """Return how important each hyperparameter is for the loss and for each target, 0 to 1.

        Rows are hyperparameters. The column ``all`` is for the sum of the losses, the others are
        targets. The frame is empty below five complete trials.
        """
        return self._study().importances()

    def best(self, select_on: Literal["validation", "test"] = "validation") -> Winner:
        """Return the configuration with the lowest validation loss, and its origin.

        Its ``config`` can be ablated, built or written: ``study.best().write("best.yaml")``.

        Args:
            select_on: ``test`` chooses as the paper did; then the test errors are too low.

        Raises:
            InputError: ``select_on`` is ``test``, and test losses were not recorded.
            HpsearchError: no trial is complete.
        """
        from hpsearch.search.verify import require_sound

        winner = self._study().winner(select_on=select_on)
        assert winner.provenance is not None
        require_sound(self._reader, self.name, winner.provenance.trial)
        return winner

    def config(self, trial: int) -> TrialConfig:
        """Return the configuration of a trial.

        Raises:
            InputError: there is no such trial, or it has no configuration.
        """
        config = self._study().config(trial)
        if config is None:
            raise InputError(
                f"the study '{self.name}' must have a trial with this number, got {trial}"
            )
        return config

    def _study(self) -> StudyReader:
        from hpsearch.search.study import Study

        return Study.open(self._reader, self.name)


class Ablation(Stored):
    """A stored ablation, for reading."""

    kind = "ablation"

    def counts(self) -> dict[CellState, int]:
        """Return the number of cells in each state."""
        from hpsearch.ablation.cells import STATES

        states = list(self.cells()["state"])
        return {state: states.count(state) for state in STATES}

    def summary(self) -> str:
        """Return the counts as a text: ``3 complete, 2 waiting``."""
        return ", ".join(f"{number} {state}" for state, number in self.counts().items() if number)

    def cells(self) -> pd.DataFrame:
        """Return one row per cell, that is one run of an arm for a target.

        Columns: ``key``, ``variant``, ``target``, ``repeat``, ``state``, ``test_mae`` and
        ``validation_mae`` in ``unit``, ``weights``, ``train_size``, ``epochs``, ``best_epoch``,
        ``seconds``, ``reason`` (of a failure), ``unit``.
        """
        from hpsearch.ablation.cells import cell_table

        cells = cell_table(self._reader, self._experiment.id)
        return cells.assign(unit=cells["target"].map(self.units))

    def epochs(self) -> pd.DataFrame:
        """Return one row per cell and epoch; columns as of `Study.epochs`, with ``key``."""
        return self._epochs("key")

    def errors(self) -> pd.DataFrame:
        """Return one row per cell, epoch and target; columns as of `Study.errors`, with ``key``."""
        return self._errors("key")

    def residuals(self) -> pd.DataFrame:
        """Return prediction minus reference of every test molecule, one row per complete cell.

        Columns: ``key``, ``target``, ``residuals`` (array in the target's unit).
        """
        return self._plain(self._reader.test_residuals(self._experiment.id), "key")

    def table1(self) -> pd.DataFrame:
        """Return Table 1: each arm's test error by target, for QM9 next to the paper's."""
        from hpsearch.report import table1

        return table1(self._reader, self.name)

    def intervals(self) -> pd.DataFrame:
        """Return each arm's test error with its interval over the repeats, by target."""
        from hpsearch.report import interval_table

        return interval_table(self._reader, self.name)


def _by_trial(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(trial=frame["trial"].astype(int))
