r"""What each atom's neighbours bring to its slots, before any weight: X and X_i of Eq. 3.

With S and V the features of the neighbour in a slot and û the direction to it::

    X   = [S ; û·V]
    X_i = [sqrt(1/3) V ; sqrt(1/2) V × û ; sqrt(3/2) (û (û·V) - V/3)]_i      for each component i

In torch operations these are some fifty passes over arrays larger than the cache, and as many
backward; ``kernels.c`` makes one of each, four times as fast on one thread, and serves where its
products do.
"""

# T copies, A atoms, K neighbour slots, S scalars, V vectors

from __future__ import annotations

import ctypes
import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hpsearch.nn.kernels import compiled_for
from hpsearch.nn.neighbourhoods import Neighbourhoods


def slot_inputs(scalars: Tensor, vectors: Tensor, pairs: Neighbourhoods) -> tuple[Tensor, Tensor]:
    """X and X_i of every copy.

    Args:
        scalars: ``[T, A, S]``.
        vectors: ``[T, 3, A, V]``.
        pairs: the neighbourhoods.

    Returns:
        ``[T, A, K, S + V]`` and ``[T, 3, A, K, 3 V]``; what stands in unused slots means nothing.
    """
    library = compiled_for(scalars)
    if library is not None and not pairs.direction.requires_grad:
        result: tuple[Tensor, Tensor] = _Compiled.apply(scalars, vectors, pairs, library)  # type: ignore[no-untyped-call]
        return result
    inputs = [_in_torch(s, v, pairs) for s, v in zip(scalars, vectors, strict=True)]
    return torch.stack([x for x, _ in inputs]), torch.stack([x for _, x in inputs])


# --- in torch operations ---


class _Gather(torch.autograd.Function):
    """``[A, n]`` rows of atoms to ``[A, K, n]`` rows of neighbours.

    b stands in a's slots as often as a in b's, so the gradient is a gather as well: the sum over
    b's own slots of what arrived in their mirror images.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, pairs: Neighbourhoods) -> Tensor:
        ctx.pairs = pairs
        return x[pairs.neighbour]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        pairs = ctx.pairs
        mirrored = gradients[0].flatten(0, 1)[pairs.reverse]
        return (mirrored * pairs.used[..., None]).sum(1), None


def _gather(x: Tensor, pairs: Neighbourhoods) -> Tensor:
    gathered: Tensor = _Gather.apply(x, pairs)  # type: ignore[no-untyped-call]
    return gathered


def _in_torch(scalars: Tensor, vectors: Tensor, pairs: Neighbourhoods) -> tuple[Tensor, Tensor]:
    """X and X_i of one copy: ``[A, K, S + V]`` and ``[3, A, K, 3 V]``."""
    S = _gather(scalars, pairs)
    if vectors.shape[-1] == 0:
        return S, S.new_zeros(3, *S.shape[:2], 0)
    V = [_gather(component, pairs) for component in vectors]  # x, y, z: [A, K, V]
    u = pairs.direction[..., None].unbind(2)
    along = u[0] * V[0] + u[1] * V[1] + u[2] * V[2]
    into_vectors = [
        torch.cat(
            (
                V[i] * math.sqrt(1 / 3),
                (V[j] * u[k] - V[k] * u[j]) * math.sqrt(1 / 2),
                (u[i] * along - V[i] / 3) * math.sqrt(3 / 2),
            ),
            dim=-1,
        )
        for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1))
    ]
    return torch.cat((S, along), dim=-1), torch.stack(into_vectors)


# --- compiled ---


class _Table(ctypes.Structure):
    """``Slots`` in kernels.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("atoms", "slots", "pairs", "scalars", "vectors")),
        ("threads", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("pair", "neighbour", "reverse", "direction")),
    )


class _Compiled(torch.autograd.Function):
    """In kernels.c: float32, on the CPU, over used slots only."""

    @staticmethod
    def forward(
        ctx: Any, scalars: Tensor, vectors: Tensor, pairs: Neighbourhoods, library: ctypes.CDLL
    ) -> tuple[Tensor, Tensor]:
        ctx.pairs, ctx.library = pairs, library
        T, A, S = scalars.shape
        V, K = vectors.shape[3], pairs.pair.shape[1]
        x, x_i = scalars.new_empty(T, A, K, S + V), scalars.new_empty(T, 3, A, K, 3 * V)
        copies = zip(scalars.contiguous(), vectors.contiguous(), x, x_i, strict=True)
        for copy in copies:
            _call(library.hpsearch_gather, pairs, S, V, copy)
        return x, x_i

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        dx, dx_i = (gradient.contiguous() for gradient in gradients)
        T, A = dx.shape[:2]
        V = dx_i.shape[4] // 3
        S = dx.shape[3] - V
        d_scalars, d_vectors = dx.new_empty(T, A, S), dx.new_empty(T, 3, A, V)
        for copy in zip(dx, dx_i, d_scalars, d_vectors, strict=True):
            _call(ctx.library.hpsearch_scatter, ctx.pairs, S, V, copy)
        return d_scalars, d_vectors, None, None


def _call(
    function: Any, pairs: Neighbourhoods, scalars: int, vectors: int, operands: tuple[Tensor, ...]
) -> None:
    """Call with the addresses of contiguous float32 tensors."""
    where = pairs.pair, pairs.neighbour, pairs.reverse, pairs.direction
    where = tuple(tensor.contiguous() for tensor in where)  # type: ignore[assignment]
    table = _Table(
        *(*pairs.pair.shape, len(pairs.distance), scalars, vectors, torch.get_num_threads()),
        *(tensor.data_ptr() for tensor in where),
    )
    function(ctypes.byref(table), *(tensor.data_ptr() for tensor in operands))
