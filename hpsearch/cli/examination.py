"""The check of this machine: what works, what does not, and how to fix it.

The doctor writes only two caches, which any run would write too: the molecules and the compiled
kernel. A separate process checks torch, CUDA and the kernel as a worker would see them.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from hpsearch.data import qm9
from hpsearch.store import StoreReader
from hpsearch.store.address import Address
from hpsearch.system import credentials, gpus, hardware
from hpsearch.system.errors import HpsearchError, TablesNotReady
from hpsearch.system.file_system import network_type
from hpsearch.system.process import prepare_worker, worker_environment

State = Literal["good", "warning", "bad"]

LEAST_MEMORY = 10**9
"""Bytes for one trial of the quick space, which takes 0.7 to 0.9 GB."""

ENOUGH_MEMORY = 2 * 10**9
"""Bytes to have for every run at a time; the real need depends on the space and the batch size."""

LEAST_DISK = 2 * 10**9
"""Bytes: a search of Table 3 stores five sets of weights, and two checkpoints per running trial."""

CROWDED = 1.0
"""Load per core above which other programs already use the cores."""


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        what: name of the check.
        state: ``bad`` if a launch would fail, ``warning`` if it would be slow or might fail.
        said: the result in words.
        fix: how to fix it; empty if there is nothing to fix.
    """

    what: str
    state: State
    said: str
    fix: str = ""

    def to_dict(self) -> dict[str, str]:
        """The form for JSON; ``mend`` is an older name of ``fix`` that scripts may read."""
        return {**asdict(self), "mend": self.fix}


def examine(url: str, runs: Path) -> Iterator[Finding]:
    """Run every check, one after the other.

    Args:
        url: address of the store.
        runs: folder of the checkpoints.
    """
    yield _python()
    yield _cores()
    yield _memory()
    yield from _worker()
    yield _guarded("molecules", _molecules)
    yield _guarded("store", lambda: _store(url))
    yield _disk(runs)
    yield _temporary()
    yield _ray()


def _guarded(what: str, look: Callable[[], Finding]) -> Finding:
    """The result of ``look``; an error of it is a ``bad`` result."""
    try:
        return look()
    except HpsearchError as error:
        return Finding(what, "bad", str(error))


def _python() -> Finding:
    names = ("hpsearch", "torch", "ray", "optuna")
    known = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    return Finding("versions", "good", f"Python {platform.python_version()}, {known}")


def _cores() -> Finding:
    cores = hardware.cores()
    share = hardware.core_share()
    load = os.getloadavg()[0]
    said = f"{cores} cores, load {load:.1f}"
    if share is not None and share < cores:
        return Finding(
            "cores",
            "warning",
            f"{said}, but this container may use {share:g} of them",
            f"launch with --max-concurrent {max(1, int(share))}",
        )
    if load > CROWDED * cores:
        return Finding(
            "cores",
            "warning",
            f"{said}: other programs use them too",
            "end these programs, or launch with a lower --max-concurrent",
        )
    return Finding("cores", "good", said)


def _memory() -> Finding:
    available = hardware.available_memory()
    if available is None:
        return Finding("memory", "warning", "unknown on this system", "watch it with other tools")
    said = f"{available / 1e9:.1f} GB available"
    cores = hardware.cores()
    if available < LEAST_MEMORY:
        fix = "end other programs: a trial of the quick space needs up to 0.9 GB"
        return Finding("memory", "bad", said, fix)
    if available < ENOUGH_MEMORY * cores:
        trials = available // ENOUGH_MEMORY
        fix = f"launch Table 3 with --max-concurrent {trials}: a trial may need 2 GB"
        if not trials:
            trials = min(cores, available // LEAST_MEMORY)
            fix = f"launch quick with --max-concurrent {trials}; a trial of Table 3 may need 2 GB"
        return Finding("memory", "warning", f"{said} for {cores} trials at a time", fix)
    return Finding("memory", "good", said)


def _worker() -> Iterator[Finding]:
    try:
        seen = _ask_a_worker()
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        yield Finding("torch", "bad", f"a worker cannot start: {error}", "install hpsearch again")
        return
    yield Finding("torch", "good", f"{seen['torch']}, {seen['threads']} threads")
    yield _gpus(seen["gpus"])
    if seen["kernel"].startswith("compiled"):
        yield Finding("kernel", "good", "compiled for this processor")
    else:
        fix = "install a C compiler (apt install gcc); training steps then take half the time"
        yield Finding("kernel", "warning", seen["kernel"], fix)


def _ask_a_worker() -> dict[str, Any]:
    cores = hardware.cores()
    with credentials.withheld():
        done = subprocess.run(
            [sys.executable, "-m", "hpsearch.cli.examination"],
            capture_output=True,
            text=True,
            timeout=180,
            check=True,
            env={**os.environ, **worker_environment(cores)},
        )
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def _gpus(seen_by_torch: list[str]) -> Finding:
    installed = gpus.models()
    if seen_by_torch:
        return Finding(
            "GPUs",
            "good",
            f"{len(seen_by_torch)}: {', '.join(seen_by_torch)}",
            "use them with launch --gpus-per-trial 1 and ablate --gpus-per-run 1, or a fraction",
        )
    if installed:
        return Finding(
            "GPUs",
            "warning",
            f"{', '.join(installed)}: this build of torch does not see them",
            "install a build of torch for CUDA",
        )
    return Finding("GPUs", "good", "none; runs use CPU cores")


def _molecules() -> Finding:
    steps: list[str] = []
    molecules = qm9.load(say=steps.append)
    said = f"{len(molecules):,} of QM9, content {molecules.content_hash[:12]}"
    damage = [step for step in steps if "damaged" in step]
    if damage:
        return Finding("molecules", "warning", f"{said}; {damage[0]}", "nothing to do: made again")
    return Finding("molecules", "good", said)


def _store(url: str) -> Finding:
    address = Address(url)
    if address.path is not None and (kind := network_type(address.path)):
        return Finding(
            "store",
            "bad",
            f"{address.label} is in a network folder ({kind}), where SQLite is not safe",
            "use --storage sqlite:////LOCAL/FOLDER/hpsearch.db or postgresql://user@host/database",
        )
    if address.path is not None and not address.path.exists():
        return Finding("store", "good", f"the first launch will create {address.label}")
    if address.path is not None and address.path.is_dir():
        fix = f"name a file in it: --storage sqlite:///{address.path}/hpsearch.db"
        return Finding("store", "bad", f"{address.label} is a folder", fix)
    try:
        with StoreReader.open(url) as store:
            experiments = store.experiments()
    except TablesNotReady as error:
        # Readers cannot open such a database, but a launch can.
        return Finding("store", "good", str(error))
    studies = int((experiments["kind"] == "study").sum())
    said = f"{address.label}: {studies} studies, {len(experiments) - studies} ablations"
    return Finding("store", "good", said)


def _disk(runs: Path) -> Finding:
    existing = runs.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    said = f"{free / 1e9:.1f} GB free for the runs in {runs}"
    if not os.access(existing, os.W_OK):
        fix = "choose another folder: --runs FOLDER"
        return Finding("disk", "bad", f"{existing} cannot be written", fix)
    if free < LEAST_DISK:
        fix = "free space, or choose another folder: --runs FOLDER"
        return Finding("disk", "warning", said, fix)
    return Finding("disk", "good", said)


def _temporary() -> Finding:
    """Check where Ray puts its sockets and logs (this folder) and its objects (shared memory)."""
    folder = Path(tempfile.gettempdir())
    if not os.access(folder, os.W_OK):
        return Finding(
            "temporary", "bad", f"{folder} cannot be written", "set TMPDIR to another folder"
        )
    free = shutil.disk_usage(folder).free
    shared = Path("/dev/shm")
    if shared.exists() and shutil.disk_usage(shared).free < 10**8:
        fix = "give the container more shared memory (--shm-size 1g)"
        return Finding("temporary", "warning", "/dev/shm has less than 0.1 GB", fix)
    return Finding("temporary", "good", f"{free / 1e9:.1f} GB free in {folder}")


def _ray() -> Finding:
    address = os.environ.get("RAY_ADDRESS")
    if address:
        said = f"RAY_ADDRESS is {address}, but a launch without --address starts its own Ray"
        return Finding("Ray", "good", said)
    return Finding("Ray", "good", "a launch starts its own Ray on this machine and stops it")


def _as_a_worker() -> dict[str, Any]:
    prepare_worker(hardware.cores())
    import torch

    from hpsearch.kernels.library import implementation

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "kernel": implementation(),
    }


if __name__ == "__main__":
    print(json.dumps(_as_a_worker()))
