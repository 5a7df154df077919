"""SchNet in plain torch, a single-target peer to measure a step against (arXiv 1706.08566)."""

# A atoms, E ordered pairs, F features, B Gaussians

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from hpsearch.nn import Neighbourhoods


def _activation(x: Tensor) -> Tensor:
    return softplus(x) - 0.6931471805599453


class _Interaction(nn.Module):
    def __init__(self, features: int, gaussians: int) -> None:
        super().__init__()
        self.enter = nn.Linear(features, features, bias=False)
        self.filter_1 = nn.Linear(gaussians, features)
        self.filter_2 = nn.Linear(features, features)
        self.leave_1 = nn.Linear(features, features)
        self.leave_2 = nn.Linear(features, features)

    def forward(self, x: Tensor, phi: Tensor, receiver: Tensor, sender: Tensor) -> Tensor:
        filters = self.filter_2(_activation(self.filter_1(phi)))
        messages = self.enter(x)[sender] * filters
        total = torch.zeros_like(x).index_add(0, receiver, messages)
        return self.leave_2(_activation(self.leave_1(total)))


class SchNet(nn.Module):
    """128 features, 6 interactions, 25 Gaussians to 10 Å: continuous-filter convolutions."""

    def __init__(self, features: int = 128, interactions: int = 6, gaussians: int = 25) -> None:
        super().__init__()
        self.maximum = 10.0
        self.embedding = nn.Embedding(5, features)
        self.register_buffer("centres", torch.linspace(0.0, self.maximum, gaussians))
        self.interactions = nn.ModuleList(
            _Interaction(features, gaussians) for _ in range(interactions)
        )
        self.out_1 = nn.Linear(features, features // 2)
        self.out_2 = nn.Linear(features // 2, 1)

    def forward(self, elements: Tensor, positions: Tensor, counts: Tensor) -> Tensor:
        pairs = Neighbourhoods.of(positions, counts, self.maximum)
        receiver, _ = pairs.used.nonzero(as_tuple=True)
        sender = pairs.neighbour[pairs.used]
        distance = pairs.distance[pairs.pair[pairs.used]]
        width = self.centres[1] - self.centres[0]
        phi = torch.exp(-0.5 * ((distance[:, None] - self.centres) / width) ** 2)
        x = self.embedding(elements)
        for interaction in self.interactions:
            x = x + interaction(x, phi, receiver, sender)
        per_atom = self.out_2(_activation(self.out_1(x)))
        return per_atom.new_zeros(len(counts), 1).index_add(0, pairs.molecule, per_atom)
