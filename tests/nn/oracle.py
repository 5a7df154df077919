"""The convolution of Eq. 3 as e3nn writes it: one weight for every edge, channel pair and path."""

# E edges (ordered pairs), A atoms

import math

import torch
from e3nn import o3

from hpsearch.nn.convolution import Convolution
from hpsearch.nn.features import Degrees, Features

PATHS = [(0, 0, 0), (1, 1, 0), (0, 1, 1), (1, 0, 1), (1, 1, 1), (1, 2, 1)]
"""(l_in, l_f, l_out) of every allowed path."""


def edges(positions, counts, maximum):
    """Ordered pairs (a, b) of distinct atoms of a molecule within the maximum."""
    a, b, start = [], [], 0
    for count in counts.tolist():
        for i in range(start, start + count):
            for j in range(start, start + count):
                if i != j and (positions[i] - positions[j]).norm() <= maximum:
                    a.append(i)
                    b.append(j)
        start += count
    return torch.tensor(a, dtype=torch.int64), torch.tensor(b, dtype=torch.int64)


def irreps(degrees: Degrees) -> o3.Irreps:
    return o3.Irreps(f"{degrees.scalars}x0e + {degrees.vectors}x1e")


def flatten(features: Features, copy: int) -> torch.Tensor:
    """Features of one copy in e3nn's layout: u0 scalars, then u1 vectors of x, y, z."""
    vectors = features.vectors[copy].transpose(1, 2).flatten(1)
    return torch.cat((features.scalars[copy], vectors), dim=1)


def convolve(
    convolution: Convolution,
    degrees_in: Degrees,
    features: Features,
    radial,
    positions,
    counts,
    maximum,
):
    """Eq. 3 by e3nn's TensorProduct, per copy, in e3nn's layout; ``radial(d)`` is ``[T, E, H]``."""
    a, b = edges(positions, counts, maximum)
    out = convolution.degrees_out
    sh_irreps = o3.Irreps("1x0e + 1x1e + 1x2e")
    in_irreps, out_irreps = irreps(degrees_in), irreps(out)
    vector = positions[b] - positions[a]
    harmonics = o3.spherical_harmonics(sh_irreps, vector, normalize=True, normalization="integral")
    multiplicity = [degrees_in.scalars, degrees_in.vectors]
    present = sum(m > 0 for m in multiplicity)
    paths = [p for p in PATHS if multiplicity[p[0]] and [out.scalars, out.vectors][p[2]]]
    instructions = []
    for l_in, l_f, l_out in paths:
        filters = sum(p[0] == l_in and p[2] == l_out for p in PATHS)
        n = math.sqrt(4 * math.pi * (2 * l_out + 1) / (multiplicity[l_in] * filters * present))
        # TensorProduct multiplies by sqrt(path_weight) under normalisations 'none'.
        instructions.append((l_in, l_f, l_out, "uvw", True, n**2))
    product = o3.TensorProduct(
        in_irreps,
        sh_irreps,
        out_irreps,
        instructions,
        irrep_normalization="none",
        path_normalization="none",
        shared_weights=False,
        internal_weights=False,
    )
    g = radial(vector.norm(dim=1))
    results = []
    for t in range(g.shape[0]):
        weights = [path_weights(convolution, t, degrees_in, path).flatten(1) for path in paths]
        hidden = g.shape[2]
        per_edge = torch.cat([g[t] @ w / math.sqrt(hidden) for w in weights], dim=1)
        x = flatten(features, t if features.scalars.shape[0] > 1 else 0)
        messages = product(x[b], harmonics, per_edge)
        total = messages.new_zeros(len(positions), out_irreps.dim).index_add(0, a, messages)
        results.append(total)
    return results


def path_weights(convolution, t, degrees_in, path):
    """W_h,v,u of one path as ``[H, v, u]``."""
    S, V = degrees_in
    if path == (0, 0, 0):
        return convolution.to_scalars[t, :, :S]
    if path == (1, 1, 0):
        return convolution.to_scalars[t, :, S:]
    if path == (0, 1, 1):
        return convolution.scalars_to_vectors[t].transpose(0, 1)
    place = {(1, 0, 1): 0, (1, 1, 1): 1, (1, 2, 1): 2}[path]
    return convolution.vectors_to_vectors[t, :, place * V : (place + 1) * V]
