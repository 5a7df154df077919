"""A store whose file system, files or server cannot be used: what is said, and what goes on."""

from __future__ import annotations

import threading
import time
import uuid
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from support.commands import HPSEARCH, run
from support.mounts import bound_by_modes, mounted
from support.store_examples import new_database

from hpsearch.store import Store, StoreReader
from hpsearch.system.errors import InputError


def test_a_read_only_file_system_is_named_with_the_way_out(tmp_path: Path, created: Any) -> None:
    with mounted(tmp_path / "disk") as disk:
        url = f"sqlite:///{disk.folder}/s.db"
        store = created(url)
        store.begin_experiment("study", "s", {})
        store.close()
        disk.allow("ro")
        for opened in (StoreReader.open, Store.create):
            with pytest.raises(InputError) as refused:
                opened(url)
            assert str(refused.value) == (
                f"the store {disk.folder}/s.db failed: unable to open database file; its folder "
                "must be writable, also to read the store, got: Read-only file system; make it "
                "writable, or copy the store to a folder that is, then run the same command again "
                "to continue"
            )
        with pytest.raises(InputError, match=r"cannot be made: Read-only .*; choose another"):
            Store.create(f"sqlite:///{disk.folder}/below/s.db")
        disk.allow("rw")
        with StoreReader.open(url) as reader:
            assert reader.find("s").name == "s"


def test_a_file_system_that_becomes_read_only_ends_a_launch_in_words(
    tmp_path: Path, created: Any
) -> None:
    with mounted(tmp_path / "disk") as disk:
        store = created(f"sqlite:///{disk.folder}/s.db")
        store._database.engine.dispose()
        disk.allow("ro")
        with pytest.raises(InputError) as failed:
            store.begin_experiment("study", "s", {})
        words = "its folder must be writable, also to read the store, got: Read-only file system"
        assert words in str(failed.value)
        assert str(failed.value).endswith(", then run the same command again to continue")
        disk.allow("rw")
        store.begin_experiment("study", "s", {})
        store.close()


def test_a_store_without_inodes_says_that_files_must_go(tmp_path: Path, created: Any) -> None:
    with mounted(tmp_path / "disk", "size=64m,nr_inodes=20,mode=0777") as disk:
        url = f"sqlite:///{disk.folder}/s.db"
        created(url).close()
        disk.exhaust()
        with pytest.raises(InputError, match=r"No space left on device; .*no inodes left") as full:
            StoreReader.open(url)
        assert "delete some files" in str(full.value)
        disk.free()
        StoreReader.open(url).close()


@pytest.mark.parametrize(
    ("mode", "of", "words"),
    [
        (0o000, ".", "must be in a folder that this user may enter, got: Permission denied"),
        (0o555, ".", "its folder must be writable, also to read the store, got: Permission denied"),
        (0o000, "s.db", "s.db must be readable and writable for this user; change its mode"),
    ],
)
def test_a_file_that_this_user_may_not_use_is_named(
    tmp_path: Path, created: Any, mode: int, of: str, words: str
) -> None:
    folder = tmp_path / "storage"
    created(f"sqlite:///{folder}/s.db").close()
    (folder / of).chmod(mode)
    try:
        command = [HPSEARCH, "status", "--storage", f"sqlite:///{folder}/s.db"]
        done = run(tmp_path, *bound_by_modes(), *command)
    finally:
        (folder / of).chmod(0o755)
    assert (done.returncode, done.stdout) == (2, ""), done
    assert done.stderr.startswith("hpsearch: the store ") and done.stderr.count("\n") == 1
    assert words in done.stderr


def test_a_slow_read_is_not_called_a_lock(
    url: str, created: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    store = created(url, say=said.append)
    monkeypatch.setattr("hpsearch.store.engine.SILENT_SECONDS", 0.3)
    store.wait(lambda: time.sleep(1))
    assert said == [
        f"the store {store.label} takes long to answer",
        "the store answers again, after 1 s",
    ]


def test_a_call_that_fails_and_is_repeated_says_why(
    tmp_path: Path, created: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    store = created(f"sqlite:///{tmp_path}/s.db", say=said.append)
    monkeypatch.setattr("hpsearch.store.engine.SILENT_SECONDS", 0.3)
    monkeypatch.setattr("hpsearch.store.engine.is_transient", lambda error: True)
    begun = time.monotonic()

    def fail_for_a_second() -> None:
        if time.monotonic() - begun < 1:
            raise sa.exc.OperationalError("SELECT 1", {}, Exception("the cable is out"))

    store.wait(fail_for_a_second)
    waiting, _ = said
    assert waiting == f"waiting for the store {store.label} for 120 s at most: the cable is out"


def test_a_server_without_a_free_connection_is_waited_for(
    postgresql: Any, created: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpsearch.store.engine.SILENT_SECONDS", 0.3)
    # A role of its own, so that the other tests keep their connections.
    url, role = new_database(postgresql), f"few_{uuid.uuid4().hex[:12]}"
    name = url.partition("?")[0].rpartition("/")[2]
    with psycopg.connect(postgresql.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 4".encode())
        connection.execute(f"ALTER DATABASE {name} OWNER TO {role}".encode())
    url = url.replace("postgres:@", f"{role}:@")
    assert role in url
    taken = [psycopg.connect(url) for _ in range(4)]
    said: list[str] = []

    def free() -> None:
        for connection in taken:
            connection.close()

    released = threading.Timer(1.0, free)
    released.start()
    store = created(url, say=said.append)
    assert not released.is_alive()
    assert said[0].startswith(f"waiting for the store {store.label} for 120 s at most: ")
    assert "too many connections for role" in said[0]
    assert said[1].startswith("the store answers again")
    store.begin_experiment("study", "s", {})
