"""Files are written whole or not at all, and nothing half-written is left."""

from __future__ import annotations

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hpsearch.data import qm9
from hpsearch.data.split import Split, save_split
from hpsearch.system import files
from hpsearch.system.files import open_atomically, write_atomically, write_together


def content(folder: Path) -> dict[str, str]:
    """Every file in ``folder``, hidden ones too."""
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def test_text_and_bytes_take_the_place_of_what_was_there(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", "first, and longer")
    write_atomically(tmp_path / "a", "é")
    write_atomically(tmp_path / "b", b"bytes")
    assert content(tmp_path) == {"a": "é", "b": "bytes"}


@pytest.mark.parametrize(("mode", "expected"), [(0o666, 0o644), (0o700, 0o700)])
def test_permissions_follow_the_umask(tmp_path: Path, mode: int, expected: int) -> None:
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "a", "", mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == expected


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_what_ends_it_half_way_leaves_the_old_content_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    (tmp_path / "a").write_text("old")

    def fails(descriptor: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(type(error)):
        write_atomically(tmp_path / "a", "new")
    with pytest.raises(type(error)):
        write_together(tmp_path, {"a": "new", "b": "new"})
    with pytest.raises(type(error)), open_atomically(tmp_path / "a") as file:
        file.write(b"new")
    assert content(tmp_path) == {"a": "old"}


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "a", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_disk_has_the_file_before_its_name_and_the_name_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []
    sync, replace = os.fsync, Path.replace

    def syncs(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        done.append("folder" if is_folder else "file")
        sync(descriptor)

    def replaces(path: Path, target: Path) -> Path:
        done.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", syncs)
    monkeypatch.setattr(Path, "replace", replaces)
    write_atomically(tmp_path / "a", "a")
    assert done == ["file", "rename", "folder"]
    done.clear()
    with open_atomically(tmp_path / "c") as file:
        file.write(b"c")
    assert done == ["file", "rename", "folder"]
    done.clear()
    assert write_together(tmp_path, {"a": "", "b": ""}) == (tmp_path / "a", tmp_path / "b")
    assert done == ["file", "file", "rename", "rename", "folder"]


@pytest.mark.parametrize(("number", "raised"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_folder_that_cannot_be_stored_on_request_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, raised: bool
) -> None:
    sync = os.fsync

    def fails_for_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fails_for_folders)
    if raised:
        with pytest.raises(OSError, match="Input/output error"):
            write_atomically(tmp_path / "a", "a")
    else:
        write_atomically(tmp_path / "a", "a")
    assert content(tmp_path) == {"a": "a"}


def test_many_may_write_one_file_at_once(tmp_path: Path) -> None:
    texts = [str(number) * 100_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: write_atomically(tmp_path / "a", text), texts * 4))
    assert list(content(tmp_path)) == ["a"]
    assert (tmp_path / "a").read_text() in texts


def test_files_that_belong_together_wait_for_the_last(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    # The second name cannot be written: its folder does not exist.
    with pytest.raises(FileNotFoundError):
        write_together(tmp_path, {"a": "new", "none/b": "new"})
    assert content(tmp_path) == {"a": "old"}


def test_all_caches_lie_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPSEARCH_CACHE", "~/own")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.cache_directory() == qm9.cache_directory() == tmp_path / "own"


def test_a_split_goes_through_a_link_and_into_a_pipe(tmp_path: Path) -> None:
    molecules = qm9.load()
    split = Split.of(molecules, *([row, row + 1] for row in (0, 2, 4)))
    save_split(split, molecules, tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    save_split(split, molecules, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        save_split(split, molecules, tmp_path / "pipe")
        through_the_pipe = os.read(reader, 10_000).decode()
    finally:
        os.close(reader)
    assert (tmp_path / "file").read_text() == (tmp_path / "target").read_text() == through_the_pipe
