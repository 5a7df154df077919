"""The address of a store: its URL, parsed once. No message contains its password.

SQLAlchemy takes half a second to import, so only the URL of a server is parsed by SQLAlchemy. A
missing SQLite file is reported without importing it.
"""

from __future__ import annotations

import os
import re
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from hpsearch.system import credentials
from hpsearch.system.errors import InputError, disk_full, or_inodes
from hpsearch.system.file_system import network_type

if TYPE_CHECKING:
    from sqlalchemy import URL

DEFAULT_URL = "sqlite:///storage/hpsearch.db"
"""The store if neither an option nor the environment names one."""

EXAMPLES = f"{DEFAULT_URL} or postgresql://user@host/database"
CONNECT_SECONDS = 10
BUSY_SECONDS = 10.0
LOCK_SECONDS = 5
"""How long one statement waits for PostgreSQL's locks; then the call is repeated, with patience."""
_DURABLE = (
    "SELECT set_config('synchronous_commit', 'on', false) "
    "WHERE current_setting('synchronous_commit') = 'off'"
)
"""With ``off`` a crash of the server would lose commits that were answered: epochs and verdicts."""
_KEEPALIVE = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""The last value is in milliseconds, the first two in seconds."""

_SQLITE = ("sqlite", "sqlite+pysqlite")
_POSTGRESQL = ("postgresql", "postgres", "postgresql+psycopg")


def default_url() -> str:
    """Return the URL in ``HPSEARCH_STORAGE``, or :data:`DEFAULT_URL`."""
    return os.environ.get(credentials.STORAGE_VARIABLE) or DEFAULT_URL


@final
class Address:
    """A parsed store URL; PostgreSQL is accessed through psycopg 3.

    The password, or the name of the password file, is read from the environment only once, here.
    Later, `credentials.withheld` may have removed it while a connection is opened.

    Attributes:
        label: the name in messages: the absolute path, or the URL with its password hidden.
        path: the SQLite file; ``None`` for PostgreSQL.
    """

    def __init__(self, text: str) -> None:
        """Parse ``text``.

        Raises:
            InputError: ``text`` is not the URL of a SQLite file or a PostgreSQL database.
        """
        driver = _driver(text)
        self.path: Path | None = None
        self._url: URL | None = None
        self._environment: dict[str, str] = {}
        self._secrets: list[str] = []
        if driver in _SQLITE:
            self.path = _sqlite_path(text)
            self.label = str(self.path)
            return
        self._url = _server_url(text)
        self.label = _without_secrets(self._url)
        self._environment = _from_environment()
        self._secrets = [*_secrets(self._url), self._environment.get("password", "")]

    def __repr__(self) -> str:
        return f"Address({self.label!r})"

    @property
    def bare_url(self) -> str:
        """The URL for SQLAlchemy and Optuna: only the dialect, without a path or a password.

        The connection comes from `connector`. Optuna stores the URL it is given, formats it (a
        brace in a password raises an error) and writes it into a configuration.
        """
        return "sqlite://" if self.path else "postgresql+psycopg://"

    def connector(self, *, create: bool, writes: bool = True) -> Callable[[], Any]:
        """Return a function that opens a new connection.

        Args:
            create: whether a missing SQLite file may be created.
            writes: whether the connection may write.
        """
        if self.path is not None:
            return _sqlite_connector(self.path, create, writes)
        assert self._url is not None
        dialect_class = self._url.get_dialect()
        dialect = dialect_class(dbapi=dialect_class.import_dbapi())  # type: ignore[call-arg]
        arguments, options = dialect.create_connect_args(self._url)
        # Without a timeout, a host that drops packets blocks the command for minutes.
        options.setdefault("connect_timeout", CONNECT_SECONDS)
        options.setdefault("application_name", "hpsearch")
        # With keepalives, a lost server is noticed within half a minute instead of hours.
        for name, seconds in _KEEPALIVE.items():
            options.setdefault(name, seconds)
        for name, value in self._environment.items():
            options.setdefault(name, value)

        # A row that another session has locked would block the driver without a word.
        limits_locks = "lock_timeout" not in str(options.get("options", ""))

        def connect() -> Any:
            connection: Any = dialect.connect(*arguments, **options)
            try:
                connection.autocommit = True
                if limits_locks:
                    connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
                if writes:
                    connection.execute(_DURABLE)
                connection.autocommit = False
                if not writes:
                    connection.read_only = True
            except Exception:
                # The server may end just now; the caller tries again with a new connection.
                connection.close()
                raise
            return connection

        return connect

    def one_line(self, error: BaseException) -> str:
        """Return the message of ``error`` on one line, without secrets."""
        text = " ".join(str(getattr(error, "orig", None) or error).split())
        return credentials.masked(self._secrets, text)


def make_folder(address: Address) -> None:
    """Create the folder of a SQLite file.

    Raises:
        InputError: the folder cannot be created, or it is on a network file system. SQLite's
            write-ahead log uses memory shared between processes and is not safe there.
    """
    if address.path is None:
        return
    if kind := network_type(address.path):
        raise InputError(
            f"the store {address.label} is in a network folder ({kind}), where SQLite is not "
            "safe; choose a local folder with --storage sqlite:////FOLDER/hpsearch.db, or a "
            "server: postgresql://user@host/database"
        )
    try:
        address.path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the folder of the store {address.label} cannot be made: {error.strerror}; choose "
            "another place with --storage sqlite:////FOLDER/hpsearch.db"
        ) from None


def obstacle(path: Path) -> str | None:
    """Return what keeps this user from a SQLite file, and the way to mend it, if that is found.

    The files themselves are not opened: closing one would drop SQLite's locks on it.
    """
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        fix = "make it writable, or copy the store to a folder that is"
        if disk_full(error):
            fix = f"free some space{or_inodes(path.parent)}"
        return f"its folder must be writable, also to read the store, got: {error.strerror}; {fix}"
    for file in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
        if file.exists() and not os.access(file, os.R_OK | os.W_OK):
            return f"{file.name} must be readable and writable for this user; change its mode"
    return None


def require_file(address: Address) -> None:
    """Raise an error if the SQLite file does not exist: connecting would create an empty one."""
    if address.path is None:
        return
    try:
        exists = address.path.is_file()
    except OSError as error:
        raise InputError(
            f"the store {address.label} must be in a folder that this user may enter, got: "
            f"{error.strerror}; change the folder's mode"
        ) from None
    if not exists:
        raise InputError(f"no study store at {address.label}; `hpsearch launch` makes one")


def _driver(text: str) -> str:
    """Return the database and driver that a URL begins with.

    Raises:
        InputError: ``text`` is not a URL, or the URL of an unsupported database.
    """
    scheme = re.match(r"([\w+]+)://", text)
    if scheme is None:
        raise _not_a_url(text)
    if scheme[1] not in (*_SQLITE, *_POSTGRESQL):
        raise InputError(
            f"a store must be SQLite or PostgreSQL (psycopg), as in {EXAMPLES}; "
            f"got a URL that begins with '{scheme[1]}:'"
        )
    return scheme[1]


def _not_a_url(text: str) -> InputError:
    hidden = credentials.may_have_password(text)
    got = "got one that cannot be parsed" if hidden else f"got '{text}'"
    hint = "; percent-encode / ? # @ : % in a password" if hidden else ""
    if text and ":" not in text and "@" not in text:
        hint = f"; a SQLite file is written sqlite:///{text}"
    return InputError(f"a store must be a URL such as {EXAMPLES}; {got}{hint}")


def _parse(text: str) -> URL:
    from sqlalchemy import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return make_url(text)
    except (SQLAlchemyError, ValueError):
        raise _not_a_url(text) from None


def _server_url(text: str) -> URL:
    url = _parse(text).set(drivername="postgresql+psycopg")
    _refuse_split_password(url)
    return url


def _sqlite_path(text: str) -> Path:
    # The usual form needs no import; SQLAlchemy parses every other one.
    plain = re.fullmatch(r"[\w+]+:///([^?%]+)", text)
    name = _database(_parse(text)) if plain is None else _required(plain[1], text)
    if "\0" in name:
        raise InputError("the path of a store must not contain a NUL character")
    return Path(name).expanduser().absolute()


def _database(url: URL) -> str:
    """Return the file that a SQLite URL names."""
    shown = _without_secrets(url)
    name = _required(url.database or "", shown)
    if url.query:
        raise InputError(f"a SQLite store takes no options; got '{shown}'")
    return name


def _required(name: str, shown: str) -> str:
    if name in ("", ":memory:") or name.startswith("file:"):
        raise InputError(f"a SQLite store must be a file, as in {DEFAULT_URL}; got '{shown}'")
    return name


def _sqlite_connector(path: Path, create: bool, writes: bool) -> Callable[[], sqlite3.Connection]:
    # With mode=rw SQLite never creates a file for a reader, even if the file is deleted between
    # our check and the connection.
    uri = f"{path.as_uri()}?mode={'rwc' if create else 'rw'}"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            uri,
            uri=True,
            timeout=BUSY_SECONDS,
            # The hook in `engine` begins the transactions. The driver would take the write lock
            # too late: two processes could read the same rows before either of them writes.
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            if create:
                # Readers and one writer do not block each other. The setting is stored in the file.
                connection.execute("PRAGMA journal_mode=WAL")
            # NORMAL may lose the last commits at a power cut, and with them a trial that was
            # reported complete. FULL costs one sync per commit, a few dozen per trial.
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            if not writes:
                connection.execute("PRAGMA query_only=ON")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    return connect


def _refuse_split_password(url: URL) -> None:
    """Refuse a password that contains an unescaped @: the rest would be parsed as the host."""
    if "@" in f"{url.host}{url.database}":
        raise InputError(
            f"a store must be a URL such as {EXAMPLES}; got one with more than one @; write an @ "
            "in a password as %40"
        )


def _from_environment() -> dict[str, str]:
    """Return psycopg's options for what libpq would otherwise read from the environment."""
    variables = {
        "password": credentials.PASSWORD_VARIABLE,
        "passfile": credentials.PASSWORD_FILE_VARIABLE,
    }
    return {name: os.environ[key] for name, key in variables.items() if os.environ.get(key)}


def _is_secret(parameter: str) -> bool:
    return parameter.lower() in credentials.SECRET_PARAMETERS


def _secrets(url: URL) -> list[str]:
    found = [str(url.password)] if url.password else []
    for key, value in url.query.items():
        if _is_secret(key):
            found += [value] if isinstance(value, str) else list(value)
    return [secret for secret in found if secret]


def _without_secrets(url: URL) -> str:
    shown = url.difference_update_query([key for key in url.query if _is_secret(key)])
    if url.drivername == "postgresql+psycopg":
        shown = shown.set(drivername="postgresql")
    return shown.render_as_string(hide_password=True)
