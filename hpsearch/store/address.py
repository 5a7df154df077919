"""Where a store is: its URL, read once. Its password never leaves this module as text.

SQLAlchemy takes half a second to import, so it reads the URL of a server only: a SQLite file that
is missing is refused without it.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from hpsearch.errors import InputError
from hpsearch.system import credentials
from hpsearch.system.file_system import network_type

if TYPE_CHECKING:
    from sqlalchemy import URL

DEFAULT_URL = "sqlite:///storage/hpsearch.db"
"""The store where neither an option nor the environment names one."""

EXAMPLES = f"{DEFAULT_URL} or postgresql://user@host/database"
CONNECT_SECONDS = 10
BUSY_SECONDS = 10.0
_KEEPALIVE = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""Seconds, and milliseconds for the last."""

_SQLITE = ("sqlite", "sqlite+pysqlite")
_POSTGRESQL = ("postgresql", "postgres", "postgresql+psycopg")


def default_url() -> str:
    """The URL in ``HPSEARCH_STORAGE``, else :data:`DEFAULT_URL`."""
    return os.environ.get(credentials.STORAGE_VARIABLE) or DEFAULT_URL


@final
class Address:
    """A parsed store URL: SQLite's made absolute, PostgreSQL's served by psycopg 3.

    The password, or the file that holds it, is read from the environment once, here: a connection
    that is made later may fall into a moment in which the environment is without it.

    Attributes:
        label: for messages: the absolute path, or the URL with its password hidden.
        path: the SQLite file; ``None`` for PostgreSQL.
    """

    def __init__(self, text: str) -> None:
        """Parse ``text``.

        Raises:
            InputError: ``text`` is no URL of a SQLite file or a PostgreSQL database.
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
        """A URL that names the dialect and nothing else; the connection comes from `connector`.

        Optuna keeps the URL that it is given, formats it (a brace in a password raises) and
        writes it into a configuration; so it gets one that holds no secret and no path.
        """
        return "sqlite://" if self.path else "postgresql+psycopg://"

    def connector(self, *, create: bool, writes: bool = True) -> Callable[[], Any]:
        """A function that opens one new driver connection.

        Args:
            create: whether a missing SQLite file may be made.
            writes: whether the database accepts writes of the connection.
        """
        if self.path is not None:
            return _sqlite_connector(self.path, create, writes)
        assert self._url is not None
        dialect_class = self._url.get_dialect()
        dialect = dialect_class(dbapi=dialect_class.import_dbapi())  # type: ignore[call-arg]
        arguments, options = dialect.create_connect_args(self._url)
        # Without it a host that swallows packets holds the command for minutes.
        options.setdefault("connect_timeout", CONNECT_SECONDS)
        options.setdefault("application_name", "hpsearch")
        # A server that vanishes without a word is noticed in half a minute, not in hours.
        for name, seconds in _KEEPALIVE.items():
            options.setdefault(name, seconds)
        for name, value in self._environment.items():
            options.setdefault(name, value)

        def connect() -> Any:
            connection: Any = dialect.connect(*arguments, **options)
            if not writes:
                connection.read_only = True
            return connection

        return connect

    def one_line(self, error: BaseException) -> str:
        """What ``error`` says, on one line and without a secret."""
        text = " ".join(str(getattr(error, "orig", None) or error).split())
        return credentials.without(self._secrets, text)


def make_folder(address: Address) -> None:
    """Make the folder of a SQLite file.

    Raises:
        InputError: it cannot be made, or lies on a network file system: there SQLite's write-ahead
            log, which is memory that processes share, loses or damages what is written.
    """
    if address.path is None:
        return
    if kind := network_type(address.path):
        raise InputError(
            f"the store {address.label} lies on a network folder ({kind}), where SQLite is not "
            "safe; name a local folder with --storage sqlite:////FOLDER/hpsearch.db, or a server: "
            "postgresql://user@host/database"
        )
    try:
        address.path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the folder of the store {address.label} cannot be made: {error.strerror}"
        ) from None


def require_file(address: Address) -> None:
    """Raise unless the SQLite file exists: connecting would make an empty one."""
    if address.path is not None and not address.path.is_file():
        raise InputError(f"no study store at {address.label}; `hpsearch launch` makes one")


def _driver(text: str) -> str:
    """The database and its driver, which a URL begins with.

    Raises:
        InputError: ``text`` is no URL, or one of another database.
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
    return InputError(f"a store must be a URL as {EXAMPLES}; {got}{hint}")


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
    # As people write it; whatever else a URL may be is read by SQLAlchemy.
    plain = re.fullmatch(r"[\w+]+:///([^?%]+)", text)
    name = _database(_parse(text)) if plain is None else _required(plain[1], text)
    if "\0" in name:
        raise InputError("the path of a store must not contain a NUL character")
    return Path(name).expanduser().absolute()


def _database(url: URL) -> str:
    """The file that a SQLite URL names."""
    shown = _without_secrets(url)
    name = _required(url.database or "", shown)
    if url.query:
        raise InputError(f"a SQLite store takes no options; got '{shown}'")
    return name


def _required(name: str, shown: str) -> str:
    if name in ("", ":memory:") or name.startswith("file:"):
        raise InputError(
            f"a store must outlive its command, so SQLite needs a file, as in {DEFAULT_URL}; "
            f"got '{shown}'"
        )
    return name


def _sqlite_connector(path: Path, create: bool, writes: bool) -> Callable[[], sqlite3.Connection]:
    # The mode makes SQLite itself refuse to create a file for a reader, even one that is deleted
    # between our check and the connection.
    uri = f"{path.as_uri()}?mode={'rwc' if create else 'rw'}"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            uri,
            uri=True,
            timeout=BUSY_SECONDS,
            # Transactions begin by the hook in `engine`, not by the driver's guess, which takes
            # the write lock too late: two processes then read the same rows before either writes.
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            if create:
                # Readers and one writer do not wait for each other. The file keeps this setting.
                connection.execute("PRAGMA journal_mode=WAL")
            # NORMAL may lose the last commits at a power cut: a trial that the user has seen
            # complete would be gone. FULL costs a sync per commit, some dozens per trial.
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
    """Refuse a password with a bare @ in it: what follows would be read as the host."""
    if "@" in f"{url.host}{url.database}":
        raise InputError(
            f"a store must be a URL as {EXAMPLES}; got one with an @ too many; percent-encode it "
            "(%40) in a password"
        )


def _from_environment() -> dict[str, str]:
    """psycopg's options for what libpq would read from the environment when it connects."""
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
