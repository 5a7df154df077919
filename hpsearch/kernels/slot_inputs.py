r"""The input features of an atom's slots before any weight is applied: X and X_i of Eq. 3.

With S and V the features of the neighbour in a slot, and û the direction to it::

    X   = [S ; û·V]
    X_i = [sqrt(1/3) V ; sqrt(1/2) V × û ; sqrt(3/2) (û (û·V) - V/3)]_i      for each component i

In torch this takes about fifty passes over arrays larger than the cache, and as many backward.
``kernels.c`` makes one pass each way and is four times as fast on one thread; it is used under the
same conditions as its products.

The module also computes the vector output of the slots: the sum of messages along the directions.
"""

# T copies, A atoms, K neighbour slots, S scalars, V vectors, u vectors out

from __future__ import annotations

import ctypes
import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hpsearch.kernels.library import compiled_for
from hpsearch.kernels.neighbourhoods import Neighbourhoods


def slot_inputs(
    scalars: Tensor, vectors: Tensor, neighbourhoods: Neighbourhoods, vectors_leave: bool = True
) -> tuple[Tensor, Tensor]:
    """X and X_i of every copy.

    Args:
        scalars: ``[T, A, S]``.
        vectors: ``[T, 3, A, V]``.
        neighbourhoods: the slots of every atom.
        vectors_leave: whether X_i is needed; otherwise its width is zero.

    Returns:
        ``[T, A, K, S + V]`` and ``[T, 3, A, K, 3 V]``; unused slots contain arbitrary values.
    """
    library = compiled_for(scalars)
    if library is not None and not neighbourhoods.direction.requires_grad:
        result: tuple[Tensor, Tensor] = _Compiled.apply(  # type: ignore[no-untyped-call]
            scalars, vectors, neighbourhoods, vectors_leave, library
        )
        return result
    inputs = [
        _in_torch(s, v, neighbourhoods, vectors_leave)
        for s, v in zip(scalars, vectors, strict=True)
    ]
    return torch.stack([x for x, _ in inputs]), torch.stack([x for _, x in inputs])


def directed_sum(m: Tensor, neighbourhoods: Neighbourhoods) -> Tensor:
    """Σ_b sqrt(3) û M: the sum of the messages that an atom receives; without gradients.

    Args:
        m: ``[A, K, u]``; row k of an atom is its message to its neighbour k.
        neighbourhoods: the slots of every atom; û points from the receiver to the sender.

    Returns:
        ``[3, A, u]``.
    """
    library = compiled_for(m)
    if library is not None:
        out = m.new_empty(3, len(m), m.shape[2])
        _call(library.hpsearch_directed_sum, neighbourhoods, 0, m.shape[2], (m, out))
        return out
    to_receiver = neighbourhoods.direction.transpose(1, 2)
    summed = torch.bmm(to_receiver, mirrored(m, neighbourhoods)).transpose(0, 1)
    return summed * math.sqrt(3)


def directed(G: Tensor, neighbourhoods: Neighbourhoods) -> Tensor:
    """The transpose of :func:`directed_sum`: ``[3, A, u]`` to ``[A, K, u]``.

    Unused slots contain arbitrary values.
    """
    library = compiled_for(G)
    if library is not None:
        m = G.new_empty(*neighbourhoods.pair.shape, G.shape[2])
        _call(library.hpsearch_directed, neighbourhoods, 0, G.shape[2], (G.contiguous(), m))
        return m
    received = torch.bmm(neighbourhoods.direction, G.transpose(0, 1)) * math.sqrt(3)
    return mirrored(received, neighbourhoods)


def mirrored(m: Tensor, neighbourhoods: Neighbourhoods) -> Tensor:
    """``m`` ``[A, K, n]`` with the rows of the two slots of every pair exchanged."""
    return m.flatten(0, 1)[neighbourhoods.reverse]


# --- in torch operations ---


class _Gather(torch.autograd.Function):
    """``[A, n]`` rows of atoms to ``[A, K, n]`` rows of neighbours.

    If b is in a slot of a, then a is in a slot of b. So the gradient is a gather too: for atom b,
    the sum over its slots of the gradients in the reverse slots.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, neighbourhoods: Neighbourhoods) -> Tensor:
        ctx.neighbourhoods = neighbourhoods
        return x[neighbourhoods.neighbour]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        neighbourhoods = ctx.neighbourhoods
        mirrored = gradients[0].flatten(0, 1)[neighbourhoods.reverse]
        return (mirrored * neighbourhoods.used[..., None]).sum(1), None


def _gather(x: Tensor, neighbourhoods: Neighbourhoods) -> Tensor:
    gathered: Tensor = _Gather.apply(x, neighbourhoods)  # type: ignore[no-untyped-call]
    return gathered


def _in_torch(
    scalars: Tensor, vectors: Tensor, neighbourhoods: Neighbourhoods, vectors_leave: bool
) -> tuple[Tensor, Tensor]:
    """X and X_i of one copy: ``[A, K, S + V]`` and ``[3, A, K, 3 V]``."""
    S = _gather(scalars, neighbourhoods)
    if vectors.shape[-1] == 0:
        return S, S.new_zeros(3, *S.shape[:2], 0)
    V = [_gather(component, neighbourhoods) for component in vectors]  # x, y, z: [A, K, V]
    u = neighbourhoods.direction[..., None].unbind(2)
    along = u[0] * V[0] + u[1] * V[1] + u[2] * V[2]
    into_scalars = torch.cat((S, along), dim=-1)
    if not vectors_leave:
        return into_scalars, S.new_zeros(3, *S.shape[:2], 0)
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
    return into_scalars, torch.stack(into_vectors)


# --- compiled ---


class _Table(ctypes.Structure):
    """``SlotTable`` in kernels.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("atoms", "slots", "pairs", "scalars", "vectors")),
        ("threads", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("pair", "neighbour", "reverse", "direction")),
    )


class _Compiled(torch.autograd.Function):
    """X and X_i in kernels.c, for float32 on the CPU; only used slots are written."""

    @staticmethod
    def forward(
        ctx: Any,
        scalars: Tensor,
        vectors: Tensor,
        neighbourhoods: Neighbourhoods,
        vectors_leave: bool,
        library: ctypes.CDLL,
    ) -> tuple[Tensor, Tensor]:
        ctx.neighbourhoods, ctx.library = neighbourhoods, library
        T, A, S = scalars.shape
        V, K = vectors.shape[3], neighbourhoods.pair.shape[1]
        ctx.sizes = S, V
        x = scalars.new_empty(T, A, K, S + V)
        x_i = scalars.new_empty(T, 3, A, K, 3 * V if vectors_leave else 0)
        for copy in zip(scalars.contiguous(), vectors.contiguous(), x, x_i, strict=True):
            _call(library.hpsearch_gather, neighbourhoods, S, V, copy)
        return x, x_i

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        dx, dx_i = (gradient.contiguous() for gradient in gradients)
        (T, A), (S, V) = dx.shape[:2], ctx.sizes
        d_scalars, d_vectors = dx.new_empty(T, A, S), dx.new_empty(T, 3, A, V)
        for copy in zip(dx, dx_i, d_scalars, d_vectors, strict=True):
            _call(ctx.library.hpsearch_scatter, ctx.neighbourhoods, S, V, copy)
        return d_scalars, d_vectors, None, None, None


def _call(
    function: Any, near: Neighbourhoods, scalars: int, vectors: int, operands: tuple[Tensor, ...]
) -> None:
    """Call a function of the library with the addresses of contiguous float32 tensors.

    A tensor without elements becomes a null pointer.
    """
    slot_arrays = near.pair, near.neighbour, near.reverse, near.direction
    slot_arrays = tuple(tensor.contiguous() for tensor in slot_arrays)  # type: ignore[assignment]
    table = _Table(
        *(*near.pair.shape, len(near.distance), scalars, vectors, torch.get_num_threads()),
        *(tensor.data_ptr() for tensor in slot_arrays),
    )
    addresses = (tensor.data_ptr() if tensor.numel() else None for tensor in operands)
    function(ctypes.byref(table), *addresses)
