"""Files in a run's folder that are not ours: known as no checkpoint, and never executed."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from hpsearch import checkpoint


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
    [(tensors, state)] = checkpoint.whole(folder, checkpoint.CHECKPOINT)
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
