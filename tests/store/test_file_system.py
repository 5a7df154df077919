"""A SQLite file on a network folder is refused before anything is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpsearch.store import Store
from hpsearch.system import file_system
from hpsearch.system.errors import InputError
from hpsearch.system.file_system import network_type


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    shared = str(tmp_path / "my shared").replace(" ", r"\040")
    lines = [
        "overlay / overlay rw 0 0",
        f"server:/home {shared} nfs4 rw,vers=4.2 0 0",
        f"/dev/sdb {shared}/scratch ext4 rw 0 0",
        f"tmpfs {tmp_path}/hidden tmpfs rw 0 0",
        f"//server/share {tmp_path}/hidden cifs rw 0 0",
        "half a",
    ]
    file = tmp_path / "mounts"
    file.write_text("\n".join(lines))
    return file


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("my shared/new/x.db", "nfs4"),
        ("my shared", "nfs4"),
        ("my shared/scratch/x.db", None),
        ("my shared too/x.db", None),
        ("hidden/x.db", "cifs"),
        ("x.db", None),
    ],
)
def test_the_innermost_mount_decides(
    tmp_path: Path, mounts: Path, place: str, kind: str | None
) -> None:
    assert network_type(tmp_path / place, mounts) == kind


def test_a_link_leads_to_where_the_file_is(tmp_path: Path, mounts: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "my shared")
    assert network_type(tmp_path / "link" / "x.db", mounts) == "nfs4"


def test_without_a_list_of_mounts_nothing_is_refused(tmp_path: Path) -> None:
    assert network_type(tmp_path / "x.db", tmp_path / "none") is None


def test_a_store_is_not_made_on_a_network_folder(
    tmp_path: Path, mounts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_system.network_type, "__defaults__", (mounts,))
    path = tmp_path / "my shared" / "new" / "x.db"
    with pytest.raises(InputError) as caught:
        Store.create(f"sqlite:///{path}")
    message = str(caught.value)
    assert f"{path} is in a network folder (nfs4)" in message
    assert "local folder" in message and "postgresql://" in message
    assert "\n" not in message
    assert not (tmp_path / "my shared").exists()
    Store.create(f"sqlite:///{tmp_path}/my shared/scratch/x.db").close()
