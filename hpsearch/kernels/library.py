"""Compiles ``kernels.c`` at first use and loads it: small products, gathers and activations.

The library is compiled for this processor and stored in the cache folder (docs/decisions/0014).
Torch operations compute the same on GPUs, in float64 and if the compilation fails.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpsearch.system.files import cache_directory, home_cache_directory, write_atomically
from hpsearch.system.hardware import instructions

SOURCE = Path(__file__).with_name("kernels.c")
VARIABLE = "HPSEARCH_KERNELS"

_COMPILER = "cc"
# -ffast-math would hide numbers that are not finite. OpenMP is linked to the library of torch.
_OPTIONS = ("-O3", "-march=native", "-std=gnu11", "-fopenmp", "-fPIC", "-shared", "-lm")
_SECONDS = 120


class KernelsError(RuntimeError):
    """HPSEARCH_KERNELS has an unknown value, or is ``on`` while the library cannot be compiled."""


def compiled_for(x: Tensor) -> ctypes.CDLL | None:
    """The compiled library, if it exists and supports the type and device of ``x``.

    Raises:
        KernelsError: see :func:`implementation`.
    """
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return None
    library = _library()
    return library if isinstance(library, ctypes.CDLL) else None


def implementation() -> str:
    """The implementation of float32 products and activations on the CPU, and the reason for it.

    Raises:
        KernelsError: HPSEARCH_KERNELS is ``on`` and there is no compiled library, or its value is
            unknown.
    """
    library = _library()
    if isinstance(library, ctypes.CDLL):
        return f"compiled, {library._name}"
    return f"torch operations, because {library}"


@cache
def _library() -> ctypes.CDLL | str:
    """The compiled library, or the reason why there is none; decided once per process."""
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
            raise KernelsError(f"{VARIABLE} is 'on', but {reason}; unset it or fix this") from error
        return reason
    return library


def _load() -> ctypes.CDLL:
    compiler = shutil.which(_COMPILER)
    if compiler is None:
        raise FileNotFoundError(f"there is no C compiler '{_COMPILER}' on the PATH")
    library = _cached(compiler)
    for name, (result, arguments) in signatures(SOURCE.read_text(encoding="utf-8")).items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


_PROTOTYPE = re.compile(r"^(void|int64_t) (hpsearch_\w+)\(([^)]*)\)", re.MULTILINE)
# Without types, ctypes passes an integer as 32 bits and C reads 64 bits: a wrong number.
_NUMBERS = {"void": None, "int64_t": ctypes.c_int64}


def signatures(source: str) -> dict[str, tuple[Any, list[Any]]]:
    """The ctypes result and arguments of every function of ``kernels.c``, by name.

    They are read from the source, so no second list has to agree with it.

    Args:
        source: C code. The declaration of a library function begins a line with ``void hpsearch_``
            or ``int64_t hpsearch_``; its arguments are pointers and ``int64_t`` only.

    Raises:
        KeyError: an argument has another type.
    """
    return {
        name: (_NUMBERS[result], [_type_of(argument) for argument in arguments.split(",")])
        for result, name, arguments in _PROTOTYPE.findall(source)
    }


def _type_of(argument: str) -> Any:
    return ctypes.c_void_p if "*" in argument else _NUMBERS[argument.split()[0]]


def _key(compiler: str) -> str:
    """A hash of everything the compiled file depends on, for its name.

    Several machines may share a home folder.
    """
    version = _run([compiler, "--version"])
    parts = (SOURCE.read_bytes(), version, instructions(), " ".join(_OPTIONS).encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:20]


def _cached(compiler: str) -> ctypes.CDLL:
    """Load the library from a cache folder of this user; compile it if it is not there.

    Several users may share one cache folder, so each user has a folder in it. If that folder cannot
    be used, the library is compiled into the cache of the home folder, else for this process only.
    """
    name = f"kernels-{_key(compiler)}.so"
    caches = [cache_directory()]
    with suppress(RuntimeError):  # in a container, a user may have no home
        caches.append(home_cache_directory())
    for cache_folder in caches:
        path = cache_folder / f"kernels-{os.geteuid()}" / name
        with suppress(OSError):
            return _open(path) or _compile(compiler, path)
    with tempfile.TemporaryDirectory(prefix="hpsearch-kernels-") as private:
        return _compile(compiler, Path(private) / name)


def _open(path: Path) -> ctypes.CDLL | None:
    """Load the library if the file is undamaged and nobody else can write to it.

    Loading a damaged file can kill the process. Loading another user's file runs that user's code.
    The descriptor of the checked file is loaded, because another user who can write to the folder
    may replace the file after the check.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if found.st_uid not in (os.geteuid(), 0) or found.st_mode & 0o022:
            return None
        content = file.read()
        if content[-32:] != hashlib.sha256(content[:-32]).digest():
            return None
        library = ctypes.CDLL(f"/proc/self/fd/{descriptor}")
    library._name = str(path)  # for messages; the descriptor is closed now
    return library


def _compile(compiler: str, path: Path) -> ctypes.CDLL:
    """Compile into ``path``, append the digest that :func:`_open` checks, and load the library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / path.name
        _run([compiler, "-o", str(part), str(SOURCE), *_OPTIONS])
        content = part.read_bytes()
    write_atomically(path, content + hashlib.sha256(content).digest(), 0o700)
    library = _open(path)
    if library is None:
        raise OSError(f"'{path}' cannot be read back")
    return library


def _run(command: list[str]) -> bytes:
    return subprocess.run(command, capture_output=True, check=True, timeout=_SECONDS).stdout


def _reason(error: Exception) -> str:
    """The reason why there is no library, in one line."""
    if isinstance(error, subprocess.CalledProcessError):
        lines = error.stderr.decode(errors="replace").split("\n")
        first = next((line for line in lines if "error" in line), lines[0])
        return f"'{_COMPILER}' failed with exit code {error.returncode}: {first.strip()}"
    return " ".join(str(error).split())
