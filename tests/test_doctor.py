"""What the doctor finds on machines that lack something, and on this one."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from hpsearch.cli import examination as doctor
from hpsearch.cli.examination import Finding
from hpsearch.store import Store, schema
from hpsearch.system import hardware


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


def files(monkeypatch: pytest.MonkeyPatch, **contents: str) -> None:
    """Let the system's files hold ``contents``, by the last part of their names."""
    monkeypatch.setattr(
        hardware, "_read", lambda path: contents.get(Path(path).name.replace(".", "_"), "")
    )


def command(folder: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hpsearch.cli", "doctor", *options],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=200,
    )


# --- On this machine


@pytest.mark.slow
def test_it_looks_at_everything_and_makes_nothing(tmp_path: Path) -> None:
    done = command(tmp_path, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {row["what"]: row for row in json.loads(done.stdout)}
    assert list(found) == [
        *("versions", "cores", "memory", "torch", "GPUs", "kernel", "molecules", "store", "disk"),
        *("temporary", "Ray"),
    ]
    assert "130,831 of QM9" in found["molecules"]["said"]
    assert "the first launch will create" in found["store"]["said"]
    assert all(row["fix"] == row["mend"] for row in found.values())
    assert list(tmp_path.iterdir()) == []


def test_what_keeps_a_launch_from_working_is_named_with_its_fix(tmp_path: Path) -> None:
    (tmp_path / "file.db").write_text("no database, though as long as one" * 40)
    done = command(tmp_path, "--storage", f"sqlite:///{tmp_path}/file.db", HPSEARCH_KERNELS="off")
    assert done.returncode == 1
    assert "BAD  store" in done.stdout
    assert "not a SQLite database" in done.stdout
    assert done.stderr == "hpsearch: a launch would fail: store\n"
    # Without the compiled kernel it is slower, and works.
    assert "warn kernel" in done.stdout
    assert "-> install a C compiler" in done.stdout


# --- On others


def test_a_container_s_share_of_the_cores_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    files(monkeypatch, cpu_max="150000 100000\n")
    found = doctor._cores()
    assert found.state == "warning"
    assert "may use 1.5 of them" in found.said
    assert found.fix == "launch with --max-concurrent 1"
    files(monkeypatch, cpu_max="max 100000\n")
    assert doctor._cores() == Finding("cores", "good", "16 cores, load 0.0")


def test_cores_that_others_use_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    monkeypatch.setattr(os, "getloadavg", lambda: (2.5, 0.0, 0.0))
    files(monkeypatch)
    assert doctor._cores().state == "warning"
    assert "other programs use them too" in doctor._cores().said


@pytest.mark.parametrize(
    ("limit", "state", "words"),
    [
        ("1200000000", "bad", "0.7 GB available"),
        ("1500000000", "warning", "launch quick with --max-concurrent 1;"),
        ("6500000000", "warning", "--max-concurrent 3"),
        ("64000000000", "good", "32.8 GB available"),
    ],
)
def test_memory_is_the_control_group_s_where_that_has_less(
    monkeypatch: pytest.MonkeyPatch, limit: str, state: str, words: str
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    meminfo = "MemTotal: 64000000 kB\nMemAvailable:   32000000 kB\n"
    files(monkeypatch, meminfo=meminfo, memory_max=limit, memory_current="500000000")
    found = doctor._memory()
    assert found.state == state
    assert words in f"{found.said} {found.fix}"


@pytest.mark.parametrize(
    ("torch", "driver", "state", "words"),
    [
        ([], [], "good", "runs use CPU cores"),
        (["H100", "H100"], ["H100", "H100"], "good", "2: H100, H100"),
        ([], ["H100"], "warning", "does not see"),
    ],
)
def test_gpus_that_torch_does_not_see_are_said(
    monkeypatch: pytest.MonkeyPatch, torch: list[str], driver: list[str], state: str, words: str
) -> None:
    monkeypatch.setattr(doctor.gpus, "models", lambda: driver)
    found = doctor._gpus(torch)
    assert found.state == state
    assert words in found.said


def test_a_store_of_studies_is_counted_and_a_network_folder_is_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    with Store.create(url) as store:
        store.begin_experiment("study", "one", {})
        store.begin_experiment("ablation", "two", {})
    assert doctor._store(url).said.endswith("store.db: 1 studies, 1 ablations")
    monkeypatch.setattr(doctor, "network_type", lambda path: "nfs4")
    assert doctor._store(url).state == "bad"
    assert "network folder (nfs4)" in doctor._store(url).said


def test_a_database_that_a_launch_makes_a_store_of_is_good(tmp_path: Path) -> None:
    database, url = tmp_path / "fresh.db", f"sqlite:///{tmp_path}/fresh.db"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("VACUUM")
    assert doctor._store(url) == Finding(
        "store", "good", f"{database} is not a study store; `hpsearch launch` makes one"
    )
    assert doctor._store(f"sqlite:///{tmp_path}").state == "bad"


@pytest.mark.parametrize(
    ("version", "state", "words"),
    [
        ("0001", "good", "has the older schema 0001; `hpsearch launch` upgrades it"),
        ("9999", "bad", "of a newer hpsearch"),
    ],
)
def test_a_schema_is_bad_where_a_launch_cannot_upgrade_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, state: str, words: str
) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    Store.create(url).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as connection, connection:
        connection.execute("UPDATE hpsearch_alembic_version SET version_num = ?", [version])
    monkeypatch.setattr(schema, "READABLE", frozenset())
    found = doctor._guarded("store", lambda: doctor._store(url))
    assert found.state == state
    assert words in found.said


def test_little_disk_and_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert doctor._disk(tmp_path / "not" / "there").state == "good"
    assert not (tmp_path / "not").exists()
    monkeypatch.setattr(doctor, "LEAST_DISK", 10**18)
    assert doctor._disk(tmp_path).state == "warning"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert doctor._disk(tmp_path).state == "bad"


def test_a_worker_that_does_not_start_is_bad_and_the_rest_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(*arguments: object, **options: object) -> None:
        raise subprocess.CalledProcessError(1, "python")

    monkeypatch.setattr(doctor.subprocess, "run", ends)
    found = by_name(list(doctor.examine(f"sqlite:///{tmp_path}/none.db", tmp_path)))
    assert found["torch"].state == "bad"
    assert found["store"].state == "good"
