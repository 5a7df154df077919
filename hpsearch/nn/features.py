"""The features of atoms: scalars (l = 0) and vectors (l = 1)."""

# T copies (one per target, or one shared), A atoms, u multiplicity

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from hpsearch.config.architecture import Degrees


class Features(NamedTuple):
    """Features of all atoms of a batch.

    Attributes:
        scalars: ``[T, A, u0]``; they do not rotate.
        vectors: ``[T, 3, A, u1]``; Cartesian components x, y, z; they rotate with the molecule.
    """

    scalars: Tensor
    vectors: Tensor

    @property
    def degrees(self) -> Degrees:
        """Multiplicities of both degrees."""
        return Degrees(self.scalars.shape[-1], self.vectors.shape[-1])
