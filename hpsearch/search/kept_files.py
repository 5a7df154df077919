"""Which folders and weights of a study's trials stay on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

from hpsearch.runs import checkpoint
from hpsearch.store import StoreReader, TrialState

KEPT_WEIGHTS = 5
"""So many complete trials, the best ones, keep the weights of their best epoch: 40 to 150 MB each
for a network of Table 3. The others' are removed when better trials replace them."""


@final
class KeptFiles:
    """The folders of one study's trials, one for each number.

    A trial that may still go on keeps its whole folder; a complete one keeps its best weights while
    it is among the :data:`KEPT_WEIGHTS` best; every other trial keeps nothing.
    """

    def __init__(self, store: StoreReader, study: str, folder: Path) -> None:
        """Name the folders; nothing is read or removed.

        Args:
            store: holds the study.
            study: its name.
            folder: holds the trials' folders.
        """
        self._store = store
        self._study = study
        self._folder = folder
        self._kept: set[int] = set()

    def directory(self, key: str) -> Path:
        """The folder of the trial whose number is ``key``."""
        return self._folder / key

    def remove_unneeded(self, rows: Sequence[TrialState]) -> None:
        """Remove files that no row needs any more: those of launches that died before they did.

        Args:
            rows: of the study, as they are now.
        """
        self._kept = self._best()
        # Of two rows with one number, the one that goes on decides.
        by_progress = sorted(rows, key=lambda row: row.state in ("RUNNING", "WAITING"))
        states = {str(row.number): row.state for row in by_progress}
        for folder in self._folder.iterdir() if self._folder.is_dir() else ():
            # What has no row, or one that may still be continued, is left alone.
            ended = states.get(folder.name) in ("COMPLETE", "FAIL", "PRUNED")
            if ended and not folder.is_symlink():
                checkpoint.discard(folder, keep_best=int(folder.name) in self._kept)

    def trial_ended(self, key: str) -> None:
        """Remove what the trial needed to go on, and weights that are not among the best now."""
        before, self._kept = self._kept, self._best()
        for number in before - self._kept:
            checkpoint.discard(self._folder / str(number), keep_best=False)
        checkpoint.discard(self.directory(key), keep_best=int(key) in self._kept)

    def remove(self, number: int) -> None:
        """Remove all that the trial left."""
        checkpoint.discard(self._folder / str(number), keep_best=False)

    def _best(self) -> set[int]:
        return self._store.best_trials(self._study, KEPT_WEIGHTS)
