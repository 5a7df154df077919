"""The evaluation of a network on molecules: its outputs and their errors."""

# M molecules, T targets

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hpsearch.data.molecule import Molecules
from hpsearch.data.statistics import TargetStatistics
from hpsearch.nn import MultiTargetNetwork
from hpsearch.nn.loss import known_mean, molecule_losses

EVALUATION_BATCH = 64
"""Molecules per batch without gradients; it limits memory and does not change results.

If training batches are cut into pieces, so is this one: 64 molecules without gradients need more
memory than 16 with gradients (289 and 223 MiB for the paper's L1Net on twelve targets).
"""

EVALUATION_ATOMS = 2_048
"""Atoms per batch without gradients; 64 molecules of QM9 have fewer (at most 29 each)."""


class Errors(NamedTuple):
    """The errors of a network on molecules.

    Attributes:
        loss: Eq. 18, summed over targets.
        target_losses: Eq. 17 averaged over the molecules with a known target, times the declared
            weight, per target.
        target_maes: mean absolute error, in each target's reporting unit.
    """

    loss: float
    target_losses: dict[str, float]
    target_maes: dict[str, float]


@dataclass(frozen=True)
class Evaluator:
    """Evaluates a network on molecules.

    Attributes:
        network: the network, on ``device``.
        molecules: the data set.
        statistics: statistics of the training molecules (Eqs 14-16).
        device: the torch device.
        pieces: parts into which a batch is cut; see :class:`hpsearch.runs.training.Training`.
    """

    network: MultiTargetNetwork
    molecules: Molecules
    statistics: TargetStatistics
    device: torch.device
    pieces: int

    def normalised(self, rows: np.ndarray[Any, Any]) -> Tensor:
        """``[M, T]`` normalised targets of molecules, float64."""
        return torch.from_numpy(self.statistics.normalise(self.molecules, rows))

    def inputs(self, rows: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """The network's input for molecules: elements, positions and atom counts."""
        batch = self.molecules.batch(rows).to(self.device)
        return batch.elements, batch.positions.to(torch.get_default_dtype()), batch.counts

    def outputs(self, rows: np.ndarray[Any, Any]) -> Tensor:
        """``[M, T]`` normalised outputs of the network with its current weights."""
        outputs: Tensor = self.network(*self.inputs(rows))
        return outputs

    @torch.no_grad()
    def differences(self, rows: np.ndarray[Any, Any], normalised: Tensor) -> Tensor:
        """``[M, T]`` outputs minus ``normalised``, in float64 (docs/decisions/0012)."""
        self.network.eval()
        outputs = torch.cat([self.outputs(batch) for batch in self._batches(rows)])
        return outputs.cpu().double() - normalised

    def errors(self, differences: Tensor) -> Errors:
        """Losses and MAEs of ``differences`` (``[M, T]``)."""
        losses = known_mean(molecule_losses(differences, torch.zeros_like(differences)))
        losses = losses * self.target_weights
        maes = known_mean(differences.abs()) * self._scale
        return Errors(
            float(losses.sum()),
            dict(zip(self.statistics.targets, losses.tolist(), strict=True)),
            dict(zip(self.statistics.targets, maes.tolist(), strict=True)),
        )

    def zero_output_loss(self, normalised: Tensor) -> float:
        """The loss of a network that outputs zero for molecules with these targets ``[M, T]``."""
        if not bool(normalised.isnan().any()) and bool((self.target_weights == 1).all()):
            return float(normalised.square().sum(1).mean())
        return self.errors(-normalised).loss

    def residuals(self, differences: Tensor) -> dict[str, list[float]]:
        """The columns of ``differences`` (``[M, T]``) in the targets' reporting units."""
        columns = (differences * self._scale).float().T.tolist()
        return dict(zip(self.statistics.targets, columns, strict=True))

    @property
    def target_weights(self) -> Tensor:
        """``[T]`` declared weight of each target in the loss."""
        table = self.statistics.target_table
        return torch.tensor(
            [table[name].weight for name in self.statistics.targets], dtype=torch.float64
        )

    @property
    def _scale(self) -> Tensor:
        return torch.from_numpy(self.statistics.reporting_scale)

    def _batches(self, rows: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
        size = max(1, EVALUATION_BATCH // self.pieces)
        atoms = max(1, EVALUATION_ATOMS // self.pieces)
        ends = np.cumsum(self.molecules.atom_counts[rows])
        start = 0
        while start < len(rows):
            before = ends[start - 1] if start else 0
            fitting = int(np.searchsorted(ends, before + atoms, side="right"))
            end = max(start + 1, min(start + size, fitting))
            yield rows[start:end]
            start = end
