"""Faults of files: full disks, damaged checkpoints, files that would like to execute something."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from faults.case import EPOCHS, Case
from faults.processes import kill
from faults.stores import PostgreSQL, Sqlite
from faults.table import fault

DISK = "disk full in checkpoint, database, export"
DAMAGE = "truncated or bit-flipped checkpoint"
NAN = "NaN at the first, a middle, the last epoch"
EXECUTE = "!!python/object, pickled checkpoint"


# --- Full disks ---------------------------------------------------------------------------------


class Disk:
    """A small file system of its own, which can be filled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Take all the room there is."""
        with self._ballast.open("wb", buffering=0) as file:
            for size in (65_536, 4_096):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    def free(self) -> None:
        """Give it back."""
        self._ballast.unlink()


@contextmanager
def small_disk(case: Case, megabytes: int) -> Iterator[Disk]:
    """A tmpfs; needs root, and without it the row fails rather than being skipped."""
    folder = case.folder / "disk"
    folder.mkdir()
    size = f"size={megabytes}m,mode=0777"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", str(folder)], check=True)
    try:
        yield Disk(folder)
    finally:
        case.close()
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@fault(DISK, seconds=60, hits={"checkpoint": 1, "export": 2})
def disk_full_in_checkpoint_and_export(case: Case) -> None:
    """Files that were whole stay whole, the message says so, the same command goes on."""
    with small_disk(case, 4) as disk:
        case.runs = disk.folder / "runs"
        launch, _ = case.stopped_at("checkpoint-renamed")
        disk.fill()
        case.hit("checkpoint")
        assert launch.wait() != 0, launch.said()
        said = launch.output + launch.errors
        assert "No space left" in said and "Traceback" not in said, launch.said()
        for path in case.runs.rglob("*-*.safetensors"):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            assert path.stem.endswith(digest[:16]), f"{path.name} is damaged"
        disk.free()
        case.finish()
        exports_on_a_full_disk(case, disk)


def exports_on_a_full_disk(case: Case, disk: Disk) -> None:
    best, report = disk.folder / "best.yaml", disk.folder / "report"
    export = ["export-best", "--storage", case.store.url, "-o", str(best)]
    # Without the pages, which are larger than the disk.
    reporting = ["report", "--storage", case.store.url, "-o", str(report), "--format", "md,csv"]
    assert case.command(*export).returncode == 0
    before = best.read_bytes()
    disk.fill()
    for command in (export, reporting):
        done = case.command(*command)
        assert done.returncode != 0, f"{command[0]} on a full disk ended well"
        assert "No space left" in done.stderr and "Traceback" not in done.stderr, done.stderr
        case.hit("export")
    assert best.read_bytes() == before
    disk.free()
    for command in (export, reporting):
        assert case.command(*command).returncode == 0


@fault(DISK, seconds=60, hits={"database": 1})
def disk_full_in_database(case: Case) -> None:
    """What was committed stays, the message says why, the same command goes on."""
    with small_disk(case, 48) as disk:
        if isinstance(case.store, PostgreSQL):
            case.store = case.store.on_disk(disk.folder)
        else:
            case.store = Sqlite(disk.folder / "store.db")
        # Much is written: what is not on a page yet needs a page more.
        case.trials = 12
        launch, _ = case.stopped_at("mid-epoch")
        before = case.states()
        disk.fill()
        case.hit("database")
        assert launch.wait(300) != 0, launch.said()
        said = launch.output + launch.errors
        assert "full" in said or "No space left" in said, launch.said()
        assert "Traceback" not in said, launch.said()
        assert case.states().keys() >= before.keys()
        disk.free()
        case.finish()
        case.store.drop()


# --- Checkpoints --------------------------------------------------------------------------------


@fault(DAMAGE, seconds=60, hits={"truncated": 1, "flipped": 1})
def damaged_checkpoints(case: Case) -> None:
    """The checksum notices, and the run goes on from the checkpoint before."""
    for how in ("truncated", "flipped"):
        number, newest = killed_after_epoch(case, 2)
        damage(case, newest, how)
        case.hit(how)
        launch = case.training()
        again = launch.read(rf"^trial {number}: epoch (\d),")
        assert again[1] == "2", f"it went on with epoch {again[1]}"
        launch.read(rf"^trial {number}: complete")
        launch.kill()
    case.finish()


@fault(DAMAGE, seconds=40, hits={"both": 1})
def both_checkpoints_damaged(case: Case) -> None:
    """Without a whole checkpoint the trial begins again, under its own number."""
    number, _ = killed_after_epoch(case, 2)
    for path in case.run_folder(number).glob("*.safetensors"):
        damage(case, path, "flipped")
    case.hit("both")
    case.faults += 1
    launch = case.training()
    assert launch.read(rf"^trial {number}: epoch (\d),")[1] == "1"
    assert launch.wait() == 0
    case.check()


def killed_after_epoch(case: Case, epoch: int) -> tuple[int, Path]:
    """A driver killed in the middle of the epoch after ``epoch``; trial, newest checkpoint."""
    launch = case.launch()
    number = int(launch.read(rf"^trial (\d+): epoch {epoch - 1 or 1},")[1])
    if epoch > 1:
        launch.read(rf"^trial {number}: epoch {epoch},")
    case.failpoints.arm("mid-epoch")
    worker = launch.reach(case.failpoints, "mid-epoch")
    launch.kill()
    # Left alone, it would end its epoch before it notices that nobody listens.
    kill(worker)
    case.faults += 1
    case.failpoints.disarm()
    assert case.epochs(number) == list(range(1, epoch + 1))
    return number, max(case.run_folder(number).glob("checkpoint-*.safetensors"))


def damage(case: Case, path: Path, how: str) -> None:
    """Cut a file in half, or flip one of its bits."""
    data = bytearray(path.read_bytes())
    if how == "truncated":
        del data[len(data) // 2 :]
    else:
        data[case.random.randrange(len(data))] ^= 1 << case.random.randrange(8)
    path.write_bytes(data)


# --- NaN ----------------------------------------------------------------------------------------


@fault(NAN, seconds=30, hits={"first": 1})
def nan_in_the_first_epoch(case: Case) -> None:
    """A trial that diverges at once is FAIL with its step, and replaced; never the best."""
    lowest, rate = "low: 1.0e-4, high: 1.0e-3, scale: log", "learning_rate: {type: "
    text = case.space.read_text()
    assert f"{rate}float, {lowest}" in text
    choices = "categorical, choices: [1.0e-3, 1.0e+30]"
    case.space.write_text(text.replace(f"{rate}float, {lowest}", rate + choices))
    case.finish("--sampler", "random")
    failed = [number for number, state in case.states().items() if state == "FAIL"]
    for number in failed:
        assert_diverged(case, number, 1)
        case.hit("first")


@fault(NAN, seconds=45, hits={"middle": 1, "last": 1})
def nan_in_a_later_epoch(case: Case) -> None:
    """The same in a middle and in the last epoch: the epochs before it stay recorded."""
    for phase, epoch in (("middle", 2), ("last", EPOCHS)):
        number, newest = killed_after_epoch(case, epoch - 1)
        poison(newest)
        case.hit(phase)
        launch = case.launch()
        launch.read(rf"^trial {number}: failed \(diverged\)")
        launch.kill()
        assert case.states()[number] == "FAIL"
        assert_diverged(case, number, epoch)
        assert case.epochs(number) == list(range(1, epoch))
    case.finish()


def poison(path: Path) -> None:
    """A checkpoint whose weights are NaN, and whose checksum is right."""
    with safe_open(path, "np") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, values in tensors.items():
        if name.startswith("network.") and values.dtype == np.float32:
            tensors[name] = np.full_like(values, np.nan)
    data = save(tensors, metadata)
    digest = hashlib.sha256(data).hexdigest()[:16]
    path.unlink()
    path.with_name(f"{path.name[:16]}-{digest}.safetensors").write_bytes(data)


def assert_diverged(case: Case, number: int, epoch: int) -> None:
    noted = case.attributes(number)
    assert noted["failure"] == '"diverged"', noted
    assert noted["failure_epoch"] == str(epoch), noted
    assert int(noted["failure_step"]) >= 1


# --- Files that would execute -------------------------------------------------------------------


class Bomb:
    """Unpickled, it makes the file whose path it holds."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._path),)


@fault(EXECUTE, seconds=50, hits={"pickle": 1})
def pickled_checkpoint(case: Case) -> None:
    """A pickle in place of a checkpoint is not loaded, whatever its name says."""
    exploded = case.folder / "exploded"
    number, newest = killed_after_epoch(case, 2)
    data = pickle.dumps(Bomb(exploded))
    digest = hashlib.sha256(data).hexdigest()[:16]
    newest.with_name(f"checkpoint-00009-{digest}.safetensors").write_bytes(data)
    case.hit("pickle")
    launch = case.training()
    launch.read(rf"^trial {number}: complete")
    assert launch.wait() == 0
    case.check()
    assert not exploded.exists(), "the pickle was executed"


@fault(EXECUTE, seconds=10)
def tags_in_yaml(case: Case) -> None:
    """A tag that asks for an object of Python's is refused; nothing executes."""
    exploded = case.folder / "exploded"
    text = case.space.read_text()
    for tag in ("object/apply:os.mkdir", "object/new:os.mkdir"):
        case.space.write_text(text + f"\ndescription: !!python/{tag} ['{exploded}']\n")
        done = case.command(*case.arguments())
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        assert f"{case.space}:" in done.stderr, done.stderr
        assert not exploded.exists(), "the tag was executed"
    assert case.states() == {}
