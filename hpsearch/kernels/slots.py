r"""The products of the convolution over neighbour slots, in torch or compiled.

With k over the slots of atom a, and g[a,k,:] the radial function of the slot's pair::

    aggregate     A[a,h,c]  = Σ_k g[a,k,h] x[a,k,c]
    distribute    ∂x[a,k,c] = Σ_h g[a,k,h] y[a,h,c]
    contract      ∂g[a,k,h] = Σ_c x[a,k,c] y[a,h,c]     then summed over the two slots of a pair

Every product is a batch of small matrices of different heights, for which libraries are slow: on an
AMD EPYC of 2024 torch reaches a third of the speed of a large product, and ``kernels.c`` is more
than twice as fast as torch (docs/decisions/0014). The convolution multiplies A by weights, and its
y is a product with weights too::

    convolve      out[a,u]   = Σ_hc W[u,h,c] A[a,h,c]
    backward      y[a,h,c]   = Σ_u  G[a,u] W[u,h,c]      then distributed, and contracted with x
                  ∂W[u,h,c]  = Σ_a  G[a,u] A[a,h,c]

`transform` multiplies by the weights first and then distributes. Its forward pass is the backward
pass of `convolve` to x, and its backward pass is a convolution.

A and y are the largest arrays, a hundred megabytes for twelve targets. The compiled code keeps them
in the cache: it sums over the slots of a few atoms and multiplies the sums at once. The torch
operations are used without the library, in float64 and on GPUs, and as the reference in tests.
"""

# A atoms, K neighbour slots of an atom, P unordered pairs, H hidden neurons, C input features of a
# product, U output features, D parts that share g and W: one for scalars, three for vectors

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from hpsearch.kernels.library import compiled_for
from hpsearch.kernels.neighbourhoods import Neighbourhoods
from hpsearch.kernels.products import product


class SlotProducts(ABC):
    """The products with the radial function of one copy; without gradients.

    Args:
        neighbourhoods: the slots of every atom.
        g: ``[P, H]`` the radial function of the unordered pairs.
        dg: ``[P, H]`` output: the gradient of ``g`` after :meth:`finish`; ``None`` if not needed.

    Attributes:
        hidden: H.
        slots_per_atom: K.
    """

    hidden: int
    slots_per_atom: int

    @abstractmethod
    def aggregate(self, x: Tensor, out: Tensor) -> None:
        """Sum ``x`` ``[A, K, C]`` over slots into ``out`` ``[A, H, C]``."""

    @abstractmethod
    def distribute(self, y: Tensor, out: Tensor) -> None:
        """Distribute ``y`` ``[A, H, C]`` to slots, adding to ``out`` ``[A, K, C]``."""

    @abstractmethod
    def pull_back(self, x: Tensor, y: Tensor, dx: Tensor | None) -> None:
        """Run the backward pass of :meth:`aggregate`.

        Args:
            x: ``[A, K, C]`` input of the forward pass; its contraction with ``y`` is added to ∂g.
            y: ``[A, H, C]`` gradient of the output.
            dx: ``[A, K, C]`` the gradient of ``x`` is added here; ``None`` if not needed.
        """

    @abstractmethod
    def finish(self) -> None:
        """Complete ``dg``, after the last backward pass."""

    def convolve(self, x: Tensor, w: Tensor) -> Tensor:
        """Aggregate, then multiply by weights.

        Args:
            x: ``[D, A, K, C]``.
            w: ``[U, H, C]``.

        Returns:
            ``[D, A, U]``.
        """
        return product(self._aggregated(x), w.flatten(1)).view(*x.shape[:2], -1)

    def transform(self, y: Tensor, w: Tensor) -> Tensor:
        """Multiply by weights, then distribute.

        Args:
            y: ``[D, A, U]``.
            w: ``[U, H, C]``.

        Returns:
            ``[D, A, K, C]``; zero in unused slots if all inputs are finite.
        """
        out = y.new_zeros(*y.shape[:2], self.slots_per_atom, w.shape[2])
        weighted = self._times_weights(y, w)
        for part in range(len(y)):
            self.distribute(weighted[part], out[part])
        return out

    def pull_back_convolve(
        self, x: Tensor, w: Tensor, G: Tensor, dx: Tensor | None, dw: Tensor, fresh: bool = False
    ) -> None:
        """Run the backward pass of :meth:`convolve`, which also adds to ∂g.

        Args:
            x: ``[D, A, K, C]`` input of the forward pass.
            w: ``[U, H, C]`` weights of the forward pass.
            G: ``[D, A, U]`` gradient of the output.
            dx: ``[D, A, K, C]`` the gradient of ``x`` is added here; ``None`` if not needed.
            dw: ``[U, H, C]`` output: the gradient of ``w``.
            fresh: whether ``dx`` is set instead of added to; its unused slots are then arbitrary.
        """
        if fresh and dx is not None:
            dx.zero_()
        dw.copy_(product(G.flatten(0, 1).t(), self._aggregated(x).t()).view_as(w))
        y = self._times_weights(G, w)
        for part in range(len(x)):
            self.pull_back(x[part], y[part], None if dx is None else dx[part])

    def _times_weights(self, y: Tensor, w: Tensor) -> Tensor:
        """``y`` ``[D, A, U]`` times the weights: ``[D, A, H, C]``."""
        flat = product(y.flatten(0, 1), w.flatten(1).t())
        return flat.view(*y.shape[:2], *w.shape[1:])

    def _aggregated(self, x: Tensor) -> Tensor:
        """The aggregate A of every part: ``[D, A, K, C]`` to ``[D A, H C]``."""
        out = x.new_empty(*x.shape[:2], self.hidden, x.shape[3])
        for part in range(len(x)):
            self.aggregate(x[part], out[part])
        return out.flatten(0, 1).flatten(1)


def slot_products(
    neighbourhoods: Neighbourhoods, g: Tensor, dg: Tensor | None = None
) -> SlotProducts:
    """The fastest implementation for these tensors; arguments as in :class:`SlotProducts`.

    Raises:
        KernelsError: see :func:`implementation`.
    """
    library = compiled_for(g)
    if library is not None:
        return CompiledProducts(neighbourhoods, g, dg, library)
    return TorchProducts(neighbourhoods, g, dg)


@final
class TorchProducts(SlotProducts):
    """The products in torch operations, on every device and in every precision."""

    def __init__(self, neighbourhoods: Neighbourhoods, g: Tensor, dg: Tensor | None = None) -> None:
        self._neighbourhoods = neighbourhoods
        # g by slot, [A, K, H]; zero in unused slots.
        self._g = torch.cat((g, g.new_zeros(1, g.shape[1])))[neighbourhoods.pair]
        self.hidden = g.shape[1]
        self.slots_per_atom = neighbourhoods.pair.shape[1]
        self._dg = dg
        self._dg_slots: Tensor | None = None

    def aggregate(self, x: Tensor, out: Tensor) -> None:
        """See the base class."""
        torch.bmm(self._g.transpose(1, 2), x, out=out)

    def distribute(self, y: Tensor, out: Tensor) -> None:
        """See the base class."""
        out.baddbmm_(self._g, y)

    def pull_back(self, x: Tensor, y: Tensor, dx: Tensor | None) -> None:
        """See the base class."""
        if dx is not None:
            self.distribute(y, dx)
        if self._dg_slots is None:
            self._dg_slots = torch.bmm(x, y.transpose(1, 2))
        else:
            self._dg_slots.baddbmm_(x, y.transpose(1, 2))

    def finish(self) -> None:
        """See the base class."""
        if self._dg is None:
            return
        if self._dg_slots is None:
            self._dg.zero_()
            return
        flat, (one, other) = self._dg_slots.flatten(0, 1), self._neighbourhoods.slots_of_pair
        torch.add(flat[one], flat[other], out=self._dg)
        # A pair that was only added as padding has the same slot twice, and no gradient.
        self._dg.masked_fill_((one == other)[:, None], 0.0)


class _Weights(ctypes.Structure):
    """``Weights`` in kernels.c."""

    _fields_ = tuple((name, ctypes.c_int64) for name in ("parts", "width", "outs"))


class _Table(ctypes.Structure):
    """``Neighbourhoods`` in kernels.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("atoms", "molecules", "slots", "pairs", "hidden")),
        ("threads", ctypes.c_int64),
        ("molecule", ctypes.c_void_p),
        ("pair", ctypes.c_void_p),
    )


_LANES = 16
"""Least number of entries in a row of A: the longest vector of kernels.c on any processor."""


@final
class CompiledProducts(SlotProducts):
    """The products in kernels.c, for float32 on the CPU; only used slots are read."""

    def __init__(
        self, neighbourhoods: Neighbourhoods, g: Tensor, dg: Tensor | None, library: ctypes.CDLL
    ) -> None:
        A, K = neighbourhoods.pair.shape
        P, H = g.shape
        self.hidden, self.slots_per_atom = H, K
        self._library = library
        self._sizes = {"A": A, "K": K, "P": P, "H": H}
        molecule, pair = neighbourhoods.molecule.contiguous(), neighbourhoods.pair.contiguous()
        self._kept_alive = molecule, pair
        self._table = _Table(
            *(A, neighbourhoods.molecules, K, P, H, torch.get_num_threads()),
            *(molecule.data_ptr(), pair.data_ptr()),
        )
        self._g = g.contiguous()
        self._dg = None if dg is None else dg.zero_()

    def aggregate(self, x: Tensor, out: Tensor) -> None:
        """See the base class."""
        self._call("aggregate", (self._g, "PH"), (x, "AKC"), (out, "AHC"))

    def distribute(self, y: Tensor, out: Tensor) -> None:
        """See the base class."""
        self._pull_back(None, y, out, None)

    def pull_back(self, x: Tensor, y: Tensor, dx: Tensor | None) -> None:
        """See the base class."""
        self._pull_back(x, y, dx, self._dg)

    def finish(self) -> None:
        """See the base class; nothing is left to do, since kernels.c sums over both slots."""

    def _pull_back(self, x: Tensor | None, y: Tensor, dx: Tensor | None, dg: Tensor | None) -> None:
        operands = (self._g, "PH"), (x, "AKC"), (y, "AHC"), (dx, "AKC"), (dg, "PH")
        self._call("pull_back", *operands)

    def convolve(self, x: Tensor, w: Tensor) -> Tensor:
        """See the base class."""
        if not self.is_fused(w):
            return super().convolve(x, w)
        out = x.new_empty(*x.shape[:2], len(w))
        operands = (self._g, "PH"), (x, "DAKC"), (w, "UHC"), (out, "DAU")
        self._call_weighted("convolve", w, operands)
        return out

    def transform(self, y: Tensor, w: Tensor) -> Tensor:
        """See the base class."""
        if not self.is_fused(w):
            return super().transform(y, w)
        out = y.new_zeros(*y.shape[:2], self.slots_per_atom, w.shape[2])
        self._pull_back_weighted(None, w, y, out, None, True)
        return out

    def pull_back_convolve(
        self, x: Tensor, w: Tensor, G: Tensor, dx: Tensor | None, dw: Tensor, fresh: bool = False
    ) -> None:
        """See the base class."""
        if not self.is_fused(w):
            super().pull_back_convolve(x, w, G, dx, dw, fresh)
            return
        G = G.contiguous()
        self._pull_back_weighted(x, w, G, dx, self._dg, fresh)
        operands = (self._g, "PH"), (x, "DAKC"), (G, "DAU"), (dw, "UHC")
        self._call_weighted("convolve_weights", w, operands)

    def _pull_back_weighted(
        self,
        x: Tensor | None,
        w: Tensor,
        G: Tensor,
        dx: Tensor | None,
        dg: Tensor | None,
        fresh: bool,
    ) -> None:
        if dx is None and dg is None:
            return
        g = self._g, "PH"
        operands = g, (x, "DAKC"), (w, "UHC"), (G, "DAU"), (dx, "DAKC"), (dg, "PH")
        self._call_weighted("convolve_inputs", w, operands, int(fresh))

    def is_fused(self, w: Tensor) -> bool:
        """Whether one call of kernels.c sums and multiplies by weights.

        That is faster if there are enough molecules to keep all threads busy.
        """
        few = self._table.threads == 1 or 4 * self._table.threads <= self._table.molecules
        return few and w.shape[1] * w.shape[2] >= _LANES

    def _call_weighted(
        self, name: str, w: Tensor, operands: tuple[tuple[Tensor | None, str], ...], *more: int
    ) -> None:
        U, _, C = w.shape
        D = next(len(x) for x, shape in operands if x is not None and shape[0] == "D")
        addresses = self._addresses(name, {"U": U, "C": C, "D": D}, operands)
        tables = ctypes.byref(self._table), ctypes.byref(_Weights(D, C, U))
        size = self._library.hpsearch_weights_scratch_bytes(*tables)
        scratch = torch.empty(size, dtype=torch.uint8, device="cpu")
        getattr(self._library, f"hpsearch_{name}")(*tables, *addresses, scratch.data_ptr(), *more)

    def _call(self, name: str, *operands: tuple[Tensor | None, str]) -> None:
        width = next(x.shape[2] for x, shape in operands if x is not None and shape[-1] == "C")
        addresses = self._addresses(name, {"C": width}, operands)
        if width == 0:
            return
        table = ctypes.byref(self._table)
        size = self._library.hpsearch_scratch_bytes(table, width)
        scratch = torch.empty(size, dtype=torch.uint8, device="cpu")
        getattr(self._library, f"hpsearch_{name}")(table, *addresses, scratch.data_ptr(), width)

    def _addresses(
        self, name: str, sizes: dict[str, int], operands: tuple[tuple[Tensor | None, str], ...]
    ) -> list[int | None]:
        """The addresses of tensors; their shapes are checked here, because C cannot check them."""
        sizes = self._sizes | sizes
        for x, letters in operands:
            shape = tuple(sizes[letter] for letter in letters)
            if x is not None and not (
                x.shape == shape and x.dtype == torch.float32 and x.is_contiguous()
            ):
                raise ValueError(f"{name} takes contiguous float32 {shape}, got {tuple(x.shape)}")
        return [None if x is None else x.data_ptr() for x, _ in operands]
