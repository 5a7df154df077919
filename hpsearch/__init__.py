"""Hyperparameter search for equivariant molecular networks (arXiv 2008.08461)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike

    from hpsearch.models.model import Model

__version__ = "0.1.0"

__all__ = ["__version__", "load_model"]


def load_model(folder: str | PathLike[str]) -> Model:
    """Read the model in a folder; see docs/models.md.

    Raises:
        hpsearch.system.errors.InputError: the folder has no model, or one that was damaged, edited
            or written by another version.
    """
    # Imported here: `import hpsearch` loads no library.
    from pathlib import Path

    from hpsearch.models.folder import read_model

    return read_model(Path(folder))
