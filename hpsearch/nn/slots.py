r"""The convolution's three products over neighbour slots, in torch operations or compiled.

With k over the slots of atom a, and g the rows of their pairs::

    aggregate     A[a,h,c]  = Σ_k g[a,k,h] x[a,k,c]
    distribute    ∂x[a,k,c] = Σ_h g[a,k,h] y[a,h,c]
    contract      ∂g[a,k,h] = Σ_c x[a,k,c] y[a,h,c]     then summed over a pair's two slots

Each is a batch of products of small matrices of uneven height, for which libraries are slow: on an
EPYC of 2024 torch reaches a third of the speed of a large product. ``slots.c`` is faster there by
more than a factor of two (docs/decisions/0014). It is compiled at first use, for this processor,
into the folder of caches. Where that fails, in float64 and on GPUs the torch operations serve; they
are also what the compiled ones are tested against.
"""

# A atoms, K neighbour slots, P unordered pairs, H hidden neurons, C features in a product

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from hpsearch.nn.neighbourhoods import Neighbourhoods

SOURCE = Path(__file__).with_name("slots.c")
VARIABLE = "HPSEARCH_KERNELS"

_COMPILER = "cc"
# No -ffast-math: it hides what is not finite. The link to OpenMP resolves to torch's own library.
_OPTIONS = ("-O3", "-march=native", "-std=gnu11", "-fopenmp", "-fPIC", "-shared", "-lm")
_SECONDS = 120


class KernelsError(RuntimeError):
    """HPSEARCH_KERNELS asks for what cannot be had."""


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


def compiled_for(x: Tensor) -> ctypes.CDLL | None:
    """The compiled library, where there is one and it computes with tensors like ``x``.

    Raises:
        KernelsError: see :func:`implementation`.
    """
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return None
    library = _library()
    return library if isinstance(library, ctypes.CDLL) else None


def implementation() -> str:
    """What computes float32 products on the CPU, and why.

    Raises:
        KernelsError: HPSEARCH_KERNELS is ``on`` and there is no compiled library, or it is neither
            ``on`` nor ``off``.
    """
    library = _library()
    if isinstance(library, ctypes.CDLL):
        return f"compiled, {library._name}"
    return f"torch operations, because {library}"


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
    """``Neighbourhoods`` in slots.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("atoms", "molecules", "slots", "pairs", "hidden")),
        ("threads", ctypes.c_int64),
        ("molecule", ctypes.c_void_p),
        ("pair", ctypes.c_void_p),
    )


@final
class CompiledProducts(SlotProducts):
    """In slots.c: float32, on the CPU, over used slots only, straight from the rows of pairs."""

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


# --- the compiled library ---


@cache
def _library() -> ctypes.CDLL | str:
    """The compiled library, or why there is none; the same for the whole life of a process."""
    wish = os.environ.get(VARIABLE, "")
    if wish not in ("", "on", "off"):
        raise KernelsError(f"{VARIABLE} must be 'on' or 'off' or not set, got '{wish}'")
    if wish == "off":
        return f"{VARIABLE} is 'off'"
    try:
        library = _load()
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        reason = _reason(error)
        if wish == "on":
            raise KernelsError(
                f"{VARIABLE} is 'on', but {reason}; unset it or mend this"
            ) from error
        return reason
    return library


def _load() -> ctypes.CDLL:
    compiler = shutil.which(_COMPILER)
    if compiler is None:
        raise FileNotFoundError(f"there is no C compiler '{_COMPILER}' on the PATH")
    path = _cache_directory() / "kernels" / f"slots-{_key(compiler)}.so"
    if not _whole(path):
        _compile(compiler, path)
    library = ctypes.CDLL(str(path))
    # Without the types ctypes passes a number as 32 bits, and C reads 64: garbage, on the stack.
    pointer: Any = ctypes.c_void_p
    number: Any = ctypes.c_int64
    for function, types in (
        (library.hpsearch_room, [pointer, number]),
        (library.hpsearch_aggregate, [*[pointer] * 5, number]),
        (library.hpsearch_pull_back, [*[pointer] * 7, number]),
        (library.hpsearch_gather, [pointer] * 5),
        (library.hpsearch_scatter, [pointer] * 5),
    ):
        function.argtypes = types
        function.restype = None
    library.hpsearch_room.restype = number
    return library


def _key(compiler: str) -> str:
    """Names the library by all it depends on: a shared home may serve different processors."""
    version = _run([compiler, "--version"])
    parts = (SOURCE.read_bytes(), version, _processor(), " ".join(_OPTIONS).encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:20]


def _processor() -> bytes:
    """What ``-march=native`` asks about: the instructions that this processor knows."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}".encode()
    wanted = (b"vendor_id", b"cpu family", b"model", b"flags", b"Features", b"CPU")
    return b"\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def _compile(compiler: str, path: Path) -> None:
    """Compile beside ``path``, append the digest that :func:`_whole` checks, and rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / path.name
        _run([compiler, "-o", str(part), str(SOURCE), *_OPTIONS])
        content = part.read_bytes()
        part.write_bytes(content + hashlib.sha256(content).digest())
        part.chmod(0o700)
        part.replace(path)


def _whole(path: Path) -> bool:
    """Whether the library is there and as it was written; to load a damaged one can kill."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    return content[-32:] == hashlib.sha256(content[:-32]).digest()


def _run(command: list[str]) -> bytes:
    return subprocess.run(command, capture_output=True, check=True, timeout=_SECONDS).stdout


def _reason(error: Exception) -> str:
    """One line."""
    if isinstance(error, subprocess.CalledProcessError):
        lines = error.stderr.decode(errors="replace").split("\n")
        first = next((line for line in lines if "error" in line), lines[0])
        return f"'{_COMPILER}' failed with exit code {error.returncode}: {first.strip()}"
    return " ".join(str(error).split())


def _cache_directory() -> Path:
    """The folder of caches, as ``hpsearch.data`` names it, which this package may not import."""
    if own := os.environ.get("HPSEARCH_CACHE"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser() / "hpsearch"
    return Path.home() / ".cache" / "hpsearch"
