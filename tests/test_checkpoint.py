import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hpsearch import checkpoint
from hpsearch.checkpoint import DiskFull
from hpsearch.errors import HpsearchError
from hpsearch.report.write import write_files
from hpsearch.store import Store
from hpsearch.winner import Winner

TENSORS = {"x": torch.arange(2000.0)}
KIBIBYTE = 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all the space."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"\0" * KIBIBYTE):
                pass
        except OSError:
            return ballast
    raise AssertionError


def test_a_full_disk_is_said_and_the_older_files_stay(small_disk: Path) -> None:
    runs = small_disk / "run"
    older = checkpoint.write(runs, checkpoint.CHECKPOINT, 1, TENSORS, {"epoch": 1})
    ballast = fill(small_disk)
    with pytest.raises(DiskFull, match=r"No space left on device; free space.*same command"):
        checkpoint.write(runs, checkpoint.CHECKPOINT, 2, TENSORS, {"epoch": 2})
    assert list(runs.iterdir()) == [older]
    content = checkpoint.read(older)
    assert content is not None and content[1] == {"epoch": 1}
    ballast.unlink()
    checkpoint.write(runs, checkpoint.CHECKPOINT, 2, TENSORS, {"epoch": 2})
    assert len(checkpoint.files(runs, checkpoint.CHECKPOINT)) == 2


def test_an_export_and_a_report_on_a_full_disk_leave_the_older_ones(small_disk: Path) -> None:
    winner = Winner.read(Path(__file__).parents[1] / "search_spaces" / "paper_l1net.yaml")
    target = small_disk / "best.yaml"
    winner.write(target)
    write_files(small_disk / "report", {"report.md": "old"})
    before = target.read_text()
    fill(small_disk)
    for action in (
        lambda: winner.write(target),
        lambda: write_files(small_disk / "report", {"report.md": "new" * 10_000}),
    ):
        with pytest.raises(HpsearchError, match="No space left on device; free space") as caught:
            action()
        assert caught.value.exit_code == 1
    assert target.read_text() == before
    assert (small_disk / "report" / "report.md").read_text() == "old"
    assert sorted(path.name for path in (small_disk / "report").iterdir()) == ["report.md"]


def test_a_database_without_space_is_said_and_goes_on(small_disk: Path, tmp_path: Path) -> None:
    disk = tmp_path / "larger"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(disk)]
    subprocess.run(command, check=True)
    try:
        with Store.create(f"sqlite:///{disk}/s.db") as store:
            store.begin_experiment("study", "before", {})
            ballast = fill(disk)
            with pytest.raises(HpsearchError, match="free space and run the same command"):
                for number in range(1000):
                    store.begin_experiment("study", f"n{number}", {"x": "y" * 10_000})
            ballast.unlink()
            store.begin_experiment("study", "after", {})
            assert store.experiment("study", "before") is not None
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 8,
        b"\xff" * 100,
        (2**62).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{}",
        (6).to_bytes(8, "little") + b"[" * 6,
        (200_000).to_bytes(8, "little") + b"[" * 200_000,
        (len(body := json.dumps({"__metadata__": {"state": "3"}}).encode())).to_bytes(8, "little")
        + body,
    ],
    ids=["empty", "length", "longer", "huge", "no state", "not JSON", "deep", "number"],
)
def test_a_hostile_file_is_no_checkpoint(tmp_path: Path, data: bytes) -> None:
    digest = hashlib.sha256(data).hexdigest()[:16]
    path = tmp_path / f"checkpoint-00001-{digest}.safetensors"
    path.write_bytes(data)
    assert checkpoint.read(path) is None


def test_what_is_no_file_is_no_checkpoint_and_does_not_hinder(tmp_path: Path) -> None:
    names = [f"checkpoint-0000{n}-{'0' * 16}.safetensors" for n in (1, 2, 3)]
    (tmp_path / names[0]).mkdir()
    os.mkfifo(tmp_path / names[1])
    (tmp_path / names[2]).symlink_to("/dev/zero")
    assert [checkpoint.read(tmp_path / name) for name in names] == [None] * 3
    written = checkpoint.write(tmp_path, checkpoint.CHECKPOINT, 1, TENSORS, {})
    assert not (tmp_path / names[0]).exists()
    checkpoint.discard(tmp_path, keep_best=True)
    assert not written.exists()
    assert list(tmp_path.iterdir()) == []
