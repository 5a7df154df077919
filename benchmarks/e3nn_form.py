"""The network with e3nn's form of the convolution: a weight for every edge and channel pair.

It has the same parameters as the engine's network and gives the same numbers. The tests check the
engine's arithmetic with it, and the benchmark compares their speed. Each copy of a convolution
computes R_uv(d) for every ordered pair and passes it to e3nn's ``TensorProduct``. Both of e3nn's
normalisations are 'none'; the path weights contain Eq. 13.
"""

# T copies, A atoms, E ordered pairs, H hidden neurons of the radial MLP

from __future__ import annotations

import copy
import math

import torch
from e3nn import o3
from torch import Tensor, nn

from hpsearch.nn import Degrees, Features, MultiTargetNetwork, Neighbourhoods
from hpsearch.nn.convolution import Convolution

PATHS = [(0, 0, 0), (1, 1, 0), (0, 1, 1), (1, 0, 1), (1, 1, 1), (1, 2, 1)]
"""(l_in, l_f, l_out) of every allowed path, in the order of e3nn's weights."""

HARMONICS = o3.Irreps("1x0e + 1x1e + 1x2e")


def irreps(degrees: Degrees) -> o3.Irreps:
    """Even irreps: parity is ignored."""
    return o3.Irreps(f"{degrees.scalars}x0e + {degrees.vectors}x1e")


def degrees_in(convolution: Convolution) -> Degrees:
    return Degrees(
        convolution.self_scalars.weight.shape[2], convolution.self_vectors.weight.shape[2]
    )


def degrees_out(convolution: Convolution) -> Degrees:
    return Degrees(convolution.to_scalars.shape[1], convolution.vectors_to_vectors.shape[1])


def paths(convolution: Convolution) -> list[tuple[int, int, int]]:
    """The paths between degrees that have features."""
    enter, leave = degrees_in(convolution), degrees_out(convolution)
    return [path for path in PATHS if enter[path[0]] and leave[path[2]]]


def tensor_product(convolution: Convolution) -> o3.TensorProduct:
    """Eq. 3 without its radial function, normalised by Eq. 13."""
    enter, leave = degrees_in(convolution), degrees_out(convolution)
    instructions = []
    for l_in, l_f, l_out in paths(convolution):
        filters = sum(path[0] == l_in and path[2] == l_out for path in PATHS)
        n = math.sqrt(4 * math.pi * (2 * l_out + 1) / (enter[l_in] * filters * enter.present))
        # TensorProduct multiplies by the root of a path's weight.
        instructions.append((l_in, l_f, l_out, "uvw", True, n**2))
    return o3.TensorProduct(
        irreps(enter),
        HARMONICS,
        irreps(leave),
        instructions,
        irrep_normalization="none",
        path_normalization="none",
        shared_weights=False,
        internal_weights=False,
    )


def path_weights(convolution: Convolution, t: int, path: tuple[int, int, int]) -> Tensor:
    """W_h,v,u of one path and copy: ``[H, v, u]``."""
    S, V = degrees_in(convolution)
    if path == (0, 0, 0):
        return convolution.to_scalars[t].permute(1, 2, 0)[:, :S]
    if path == (1, 1, 0):
        return convolution.to_scalars[t].permute(1, 2, 0)[:, S:]
    if path == (0, 1, 1):
        return convolution.scalars_to_vectors[t].transpose(0, 1)
    place = {(1, 0, 1): 0, (1, 1, 1): 1, (1, 2, 1): 2}[path]
    return convolution.vectors_to_vectors[t].permute(1, 2, 0)[:, place * V : (place + 1) * V]


def flatten(features: Features, t: int) -> Tensor:
    """One copy in e3nn's layout ``[A, u0 + 3 u1]``: scalars, then x, y, z of each vector."""
    return torch.cat((features.scalars[t], features.vectors[t].permute(1, 2, 0).flatten(1)), dim=1)


class E3nnConvolution(Convolution):
    """A ``Convolution`` with e3nn's sum over neighbours and the original's parameters."""

    def __init__(self, original: Convolution) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(original.__dict__)
        self.product = tensor_product(original)

    def neighbour_sum(
        self,
        features: Features,
        neighbourhoods: Neighbourhoods,
        radial: Tensor,
        embedding: Tensor | None = None,
    ) -> Features:
        scalars = features.scalars if embedding is None else features.scalars @ embedding
        features = Features(scalars, features.vectors)
        used = neighbourhoods.used
        receiver, slot = used.nonzero(as_tuple=True)
        sender = neighbourhoods.neighbour[used]
        direction = neighbourhoods.direction[receiver, slot]
        harmonics = o3.spherical_harmonics(
            HARMONICS, direction, normalize=False, normalization="integral"
        )
        g = radial[:, neighbourhoods.pair[used]] / math.sqrt(radial.shape[2])  # [T, E, H]
        leave = degrees_out(self)
        outs = []
        for t in range(len(radial)):
            weights = torch.cat(
                [g[t] @ path_weights(self, t, path).flatten(1) for path in paths(self)], dim=1
            )
            x = flatten(features, t if len(scalars) > 1 else 0)
            messages = self.product(x[sender], harmonics, weights)
            outs.append(
                messages.new_zeros(len(used), messages.shape[1]).index_add(0, receiver, messages)
            )
        out = torch.stack(outs)
        vectors = out[..., leave.scalars :].unflatten(2, (leave.vectors, 3))
        return Features(out[..., : leave.scalars], vectors.permute(0, 3, 1, 2))


def e3nn_form(network: MultiTargetNetwork) -> MultiTargetNetwork:
    """Return a copy of the network with the same weights and e3nn's convolutions."""
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        if hasattr(module, "convolution"):
            module.convolution = E3nnConvolution(module.convolution)
    return network
