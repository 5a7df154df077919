"""Passwords: where they may be given, where they are refused, and how they are hidden in texts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from urllib.parse import quote, quote_plus

from hpsearch.system.errors import InputError

STORAGE_VARIABLE = "HPSEARCH_STORAGE"
"""Environment variable that names the store; its URL may hold a password."""

TOKEN_VARIABLE = "HPSEARCH_TOKEN"
"""Environment variable with the token that opens the dashboard."""

PASSWORD_VARIABLE = "PGPASSWORD"
PASSWORD_FILE_VARIABLE = "PGPASSFILE"

DRIVER_ONLY = (
    STORAGE_VARIABLE,
    TOKEN_VARIABLE,
    PASSWORD_VARIABLE,
    PASSWORD_FILE_VARIABLE,
    # storage/README.md tells users to set it for the server, often in the shell of a launch.
    "POSTGRES_PASSWORD",
)
"""Environment variables that only the driver's process needs."""

SECRET_PARAMETERS = (
    "password",
    "sslpassword",
    "oauth_client_secret",
    "scram_client_key",
    "scram_server_key",
)
"""Parameters of a PostgreSQL URL that hold a secret."""

PASSWORD_ADVICE = (
    f"give the URL in {STORAGE_VARIABLE}, or leave the password out of it and give it in "
    f"{PASSWORD_VARIABLE} or in a file ~/.pgpass ({PASSWORD_FILE_VARIABLE} names another file)"
)

# Parsed as SQLAlchemy does, so that no password in SQLAlchemy's sense is missed.
_IN_AUTHORITY = re.compile(r"[\w+]+://[^:/]*:[^@]+@")
_AS_PARAMETER = re.compile(rf"(?:^|[?&\s])({'|'.join(SECRET_PARAMETERS)})\s*=\s*[^&\s]", re.I)


def has_password(text: str) -> bool:
    """Whether ``text`` is a URL, or a list of parameters, that holds a password."""
    return bool(_IN_AUTHORITY.match(text.strip()) or _AS_PARAMETER.search(text))


def may_have_password(text: str) -> bool:
    """Whether ``text``, which could not be parsed, may hold a password and must not be shown."""
    return "@" in text or any(name in text.lower() for name in SECRET_PARAMETERS)


def refuse_passwords(arguments: Iterable[str]) -> None:
    """Refuse a command line with a password, which every user of the machine could read.

    Raises:
        InputError: there is a password; the message does not repeat it.
    """
    for argument in arguments:
        option, equals, value = argument.partition("=")
        is_option = option.startswith("--") and bool(equals)
        if has_password(value if is_option else argument):
            raise InputError(
                "a password must not be on the command line, where every user of the machine can "
                f"read it, got one in an argument; change this password; {PASSWORD_ADVICE}"
            )


def masked(secrets: Iterable[str], text: str) -> str:
    """``text`` with ``***`` in place of every secret, plain or percent-encoded."""
    for secret in secrets:
        for spelling in {secret, quote(secret, safe=""), quote(secret), quote_plus(secret)} - {""}:
            text = text.replace(spelling, "***")
    return text


@contextmanager
def withheld() -> Iterator[None]:
    """Hide the variables in :data:`DRIVER_ONLY` from processes that are started in this context.

    A child process inherits the environment at its start and passes it on to its own children.
    This process must read the variables before.
    """
    hidden = {name: os.environ.pop(name) for name in DRIVER_ONLY if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
