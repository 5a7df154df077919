"""Compiles ``kernels.c`` at first use and loads it: small products, gathers and activations.

It is compiled for this processor, into the folder of caches (docs/decisions/0014). Where that
fails, in float64 and on GPUs, torch operations compute the same.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpsearch.system.files import cache_directory, write_atomically
from hpsearch.system.hardware import instructions

SOURCE = Path(__file__).with_name("kernels.c")
VARIABLE = "HPSEARCH_KERNELS"

_COMPILER = "cc"
# No -ffast-math: it hides what is not finite. The link to OpenMP resolves to torch's own library.
_OPTIONS = ("-O3", "-march=native", "-std=gnu11", "-fopenmp", "-fPIC", "-shared", "-lm")
_SECONDS = 120


class KernelsError(RuntimeError):
    """HPSEARCH_KERNELS has an unknown value, or requires a library that cannot be compiled."""


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
    """What computes float32 products and activations on the CPU, and why.

    Raises:
        KernelsError: HPSEARCH_KERNELS is ``on`` and there is no compiled library, or it is neither
            ``on`` nor ``off``.
    """
    library = _library()
    if isinstance(library, ctypes.CDLL):
        return f"compiled, {library._name}"
    return f"torch operations, because {library}"


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
    path = cache_directory() / "kernels" / f"kernels-{_key(compiler)}.so"
    if not _whole(path):
        _compile(compiler, path)
    library = ctypes.CDLL(str(path))
    for name, (result, arguments) in signatures(SOURCE.read_text(encoding="utf-8")).items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


_PROTOTYPE = re.compile(r"^(void|int64_t) (hpsearch_\w+)\(([^)]*)\)", re.MULTILINE)
# Without the types ctypes passes a number as 32 bits, and C reads 64: garbage, on the stack.
_NUMBERS = {"void": None, "int64_t": ctypes.c_int64}


def signatures(source: str) -> dict[str, tuple[Any, list[Any]]]:
    """What the functions of ``kernels.c`` return and take, as types of ctypes, by name.

    They are read from the source, so that no second list of them has to agree with it.

    Args:
        source: C, in which a function of the library begins a line with ``void hpsearch_`` or
            ``int64_t hpsearch_``, returns one of these and takes pointers and ``int64_t`` only.

    Raises:
        KeyError: an argument is of another type.
    """
    return {
        name: (_NUMBERS[result], [_type_of(argument) for argument in arguments.split(",")])
        for result, name, arguments in _PROTOTYPE.findall(source)
    }


def _type_of(argument: str) -> Any:
    return ctypes.c_void_p if "*" in argument else _NUMBERS[argument.split()[0]]


def _key(compiler: str) -> str:
    """Part of the file's name, made of all it depends on: one home may serve several machines."""
    version = _run([compiler, "--version"])
    parts = (SOURCE.read_bytes(), version, instructions(), " ".join(_OPTIONS).encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:20]


def _compile(compiler: str, path: Path) -> None:
    """Compile beside ``path`` and write it with the digest that :func:`_whole` checks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / path.name
        _run([compiler, "-o", str(part), str(SOURCE), *_OPTIONS])
        content = part.read_bytes()
    write_atomically(path, content + hashlib.sha256(content).digest(), 0o700)


def _whole(path: Path) -> bool:
    """Whether the file is there and undamaged: loading a damaged one can kill the process."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    return content[-32:] == hashlib.sha256(content[:-32]).digest()


def _run(command: list[str]) -> bytes:
    return subprocess.run(command, capture_output=True, check=True, timeout=_SECONDS).stdout


def _reason(error: Exception) -> str:
    """Why there is no library, in one line."""
    if isinstance(error, subprocess.CalledProcessError):
        lines = error.stderr.decode(errors="replace").split("\n")
        first = next((line for line in lines if "error" in line), lines[0])
        return f"'{_COMPILER}' failed with exit code {error.returncode}: {first.strip()}"
    return " ".join(str(error).split())
