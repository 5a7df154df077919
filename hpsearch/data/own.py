"""The molecules of an experiment: QM9's, or those of a user's own file."""

from __future__ import annotations

from collections.abc import Callable

from hpsearch.config.run import DataConfig
from hpsearch.data import qm9
from hpsearch.data.molecule import Molecules


def load(data: DataConfig, say: Callable[[str], None] = lambda line: None) -> Molecules:
    """The molecules that ``data`` names.

    Args:
        data: the ``data`` section.
        say: called with one line before a slow step.
    """
    if data.is_own:
        raise NotImplementedError
    return qm9.load(say=say)
