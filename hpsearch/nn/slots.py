r"""The convolution's three products over neighbour slots, in torch operations or compiled.

With k over the slots of atom a, and g the rows of their pairs::

    aggregate     A[a,h,c]  = Σ_k g[a,k,h] x[a,k,c]
    distribute    ∂x[a,k,c] = Σ_h g[a,k,h] y[a,h,c]
    contract      ∂g[a,k,h] = Σ_c x[a,k,c] y[a,h,c]     then summed over a pair's two slots

Each is a batch of products of small matrices of uneven height, for which libraries are slow: on an
EPYC of 2024 torch reaches a third of the speed of a large product. ``kernels.c`` is faster there
by more than a factor of two (docs/decisions/0014). Where it is not at hand, in float64 and on GPUs
the torch operations serve; they are also what the compiled ones are tested against.
"""

# A atoms, K neighbour slots, P unordered pairs, H hidden neurons, C features in a product

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from hpsearch.nn.kernels import compiled_for
from hpsearch.nn.neighbourhoods import Neighbourhoods


class SlotProducts(ABC):
    """The products of one copy's radial function; without gradients.

    Args:
        pairs: the neighbourhoods.
        g: ``[P, H]`` the radial function of each unordered pair.
        dg: ``[P, H]`` where its gradient shall stand after :meth:`finish`, if it is wanted.

    Attributes:
        hidden: H.
    """

    hidden: int

    @abstractmethod
    def aggregate(self, x: Tensor, out: Tensor) -> None:
        """``x`` ``[A, K, C]`` summed over slots into ``out`` ``[A, H, C]``."""

    @abstractmethod
    def distribute(self, y: Tensor, out: Tensor) -> None:
        """``y`` ``[A, H, C]`` to slots, added to ``out`` ``[A, K, C]``."""

    @abstractmethod
    def pull_back(self, x: Tensor, y: Tensor, dx: Tensor | None) -> None:
        """The backward pass of :meth:`aggregate`, whose output has the gradient ``y``.

        Args:
            x: ``[A, K, C]`` what was summed; ∂g grows by its contraction with ``y``.
            y: ``[A, H, C]``.
            dx: ``[A, K, C]`` the gradient of ``x``, which grows, if it is wanted.
        """

    @abstractmethod
    def finish(self) -> None:
        """Complete ``dg``, after the last :meth:`pull_back`."""


def slot_products(pairs: Neighbourhoods, g: Tensor, dg: Tensor | None = None) -> SlotProducts:
    """The fastest implementation for these tensors; arguments as of :class:`SlotProducts`.

    Raises:
        KernelsError: see :func:`implementation`.
    """
    library = compiled_for(g)
    if library is not None:
        return CompiledProducts(pairs, g, dg, library)
    return TorchProducts(pairs, g, dg)


@final
class TorchProducts(SlotProducts):
    """In torch operations, on every device and in every precision."""

    def __init__(self, pairs: Neighbourhoods, g: Tensor, dg: Tensor | None = None) -> None:
        self._pairs = pairs
        # g in slots, [A, K, H]; zero in unused ones.
        self._g = torch.cat((g, g.new_zeros(1, g.shape[1])))[pairs.pair]
        self.hidden = g.shape[1]
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
        """See the base class; a pair has exactly two slots."""
        if self._dg is None:
            return
        if self._dg_slots is None:
            self._dg.zero_()
            return
        flat = self._dg_slots.flatten(0, 1)
        torch.add(flat[self._pairs.slots[0]], flat[self._pairs.slots[1]], out=self._dg)


class _Table(ctypes.Structure):
    """``Neighbourhoods`` in kernels.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("atoms", "molecules", "slots", "pairs", "hidden")),
        ("threads", ctypes.c_int64),
        ("molecule", ctypes.c_void_p),
        ("pair", ctypes.c_void_p),
    )


@final
class CompiledProducts(SlotProducts):
    """In kernels.c: float32, on the CPU, over used slots only, straight from the rows of pairs."""

    def __init__(
        self, pairs: Neighbourhoods, g: Tensor, dg: Tensor | None, library: ctypes.CDLL
    ) -> None:
        A, K = pairs.pair.shape
        P, H = g.shape
        self.hidden = H
        self._library = library
        self._sizes = {"A": A, "K": K, "P": P, "H": H}
        self._tensors = pairs.molecule.contiguous(), pairs.pair.contiguous()  # keeps them alive
        self._table = _Table(
            *(A, pairs.molecules, K, P, H, torch.get_num_threads()),
            *(tensor.data_ptr() for tensor in self._tensors),
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
        """See the base class; the sum over a pair's slots was taken on the way."""

    def _pull_back(self, x: Tensor | None, y: Tensor, dx: Tensor | None, dg: Tensor | None) -> None:
        operands = (self._g, "PH"), (x, "AKC"), (y, "AHC"), (dx, "AKC"), (dg, "PH")
        self._call("pull_back", *operands)

    def _call(self, name: str, *operands: tuple[Tensor | None, str]) -> None:
        """Call with the addresses of tensors of the given shapes, of which the C code sees none."""
        width = next(x.shape[2] for x, shape in operands if x is not None and shape[-1] == "C")
        for x, shape in operands:
            sizes = tuple(self._sizes.get(letter, width) for letter in shape)
            if x is not None and not (
                x.shape == sizes and x.dtype == torch.float32 and x.is_contiguous()
            ):
                raise ValueError(f"{name} takes contiguous float32 {sizes}, got {tuple(x.shape)}")
        if width == 0:
            return
        table = ctypes.byref(self._table)
        room = torch.empty(self._library.hpsearch_room(table, width), dtype=torch.uint8)
        tensors = [*(x for x, _ in operands), room]
        addresses = [None if x is None else x.data_ptr() for x in tensors]
        getattr(self._library, f"hpsearch_{name}")(table, *addresses, width)
