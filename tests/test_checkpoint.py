"""Files in a run's folder: full disks, damage, and what is not ours, which is never executed."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hpsearch.config.export import Winner
from hpsearch.report.write import write_files
from hpsearch.runs import checkpoint
from hpsearch.runs.checkpoint import DiskFull
from hpsearch.store import Store
from hpsearch.system.errors import HpsearchError


class Payload:
    """Leaves a file in the working folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


def file(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def with_state(state: Any, **tensors: Any) -> bytes:
    return file(json.dumps({"__metadata__": {"state": state}, **tensors}).encode())


def tensor(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}


HOSTILE = {
    "nothing": b"",
    "short": b"\x01\x02",
    "pickle": pickle.dumps(Payload()),
    "pickle as the header": file(pickle.dumps(Payload())),
    "pickle as the state": with_state(pickle.dumps(Payload(), protocol=0).decode()),
    "huge length": file(b"{}", length=2**64 - 1),
    "length past the end": file(b'{"__metadata__": {"state": "{}"}}', length=10_000),
    "no JSON": file(b"{not JSON"),
    "no text": file(b"\xff\xfe\x00"),
    "a list": file(b"[]"),
    "a number": file(b"7"),
    "no metadata": file(b"{}"),
    "no state": file(b'{"__metadata__": {}}'),
    "metadata is text": file(b'{"__metadata__": "state"}'),
    "state is a number": with_state(7),
    "state is a mapping": with_state({}),
    "state is no JSON": with_state("__import__('os').system('touch executed')"),
    "state is a list": with_state("[]"),
    "state is null": with_state("null"),
    "deep state": with_state("[" * 100_000),
    "deep header": file(b"[" * 100_000),
    "long number": with_state('{"epoch": ' + "9" * 10_000 + "}"),
    "tensor without data": with_state("{}", w=tensor()),
    "tensor of a huge shape": with_state("{}", w=tensor(shape=[2**40, 2**40])),
    "tensor before the file": with_state("{}", w=tensor(data_offsets=[-4, 0])),
    "tensor of an unknown kind": with_state("{}", w=tensor(dtype="O")),
    "tensor is text": with_state("{}", w="w"),
}


def put(folder: Path, data: bytes, epoch: int = 3) -> Path:
    """A file whose name fits its content, as an attacker can make one."""
    digest = hashlib.sha256(data).hexdigest()[:16]
    path = folder / f"{checkpoint.CHECKPOINT}-{epoch:05d}-{digest}.safetensors"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_no_checkpoint_and_the_one_before_is_used(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    checkpoint.write(folder, checkpoint.CHECKPOINT, 2, {"w": torch.ones(2)}, {"epoch": 2})
    path = put(folder, HOSTILE[kind])

    assert checkpoint.files(folder, checkpoint.CHECKPOINT)[0] == path
    assert checkpoint.read(path) is None
    found = map(checkpoint.read, checkpoint.files(folder, checkpoint.CHECKPOINT))
    [(tensors, state)] = [content for content in found if content is not None]
    assert (tensors["w"].tolist(), state) == ([1.0, 1.0], {"epoch": 2})
    assert not (tmp_path / "executed").exists()


def test_what_is_written_beside_them_by_the_same_means_is_read(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {"state": '{"a": 1}'}, "w": tensor()}).encode()
    read = checkpoint.read(put(tmp_path, file(header, b"\0\0\x80?")))
    assert read is not None
    assert (read[0]["w"].tolist(), read[1]) == ([1.0], {"a": 1})


@pytest.mark.parametrize("name", ["checkpoint.pt", "../checkpoint-00001-0.safetensors", "x"])
def test_other_names_are_not_looked_at(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / name).write_bytes(pickle.dumps(Payload()))
    assert checkpoint.read(folder / name) is None
    assert checkpoint.files(folder, checkpoint.CHECKPOINT) == []


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
            with pytest.raises(HpsearchError, match="free some space, then run the same"):
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
