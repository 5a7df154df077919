"""Passwords on the command line, in texts and in the environment of other processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hpsearch.store.address import Address
from hpsearch.system import credentials
from hpsearch.system.errors import InputError

SECRET = "s3{cr%/e:t"


@pytest.mark.parametrize(
    "argument",
    [
        f"postgresql://me:{SECRET}@host/db",
        f"--storage=postgresql://me:{SECRET}@host/db",
        f" postgresql+psycopg://me:{SECRET}@host:5432/db",
        f"postgresql://me@corp:{SECRET}@host/db",
        f"postgresql://me:{SECRET}@ho st:port/d b",
        f"postgresql://:{SECRET}@host",
        f"mysql://me:{SECRET}@host/db",
        f"postgresql://me@host/db?password={SECRET}",
        f"postgresql://me@host/db?sslmode=require&sslpassword={SECRET}",
        f"postgresql:///db?PassWord={SECRET}",
        f"host=h password = {SECRET} dbname=d",
        f"password={SECRET}",
    ],
)
def test_a_password_in_an_argument_is_refused_and_not_repeated(argument: str) -> None:
    with pytest.raises(InputError) as error:
        credentials.refuse_passwords(["launch", "quick", argument])
    assert SECRET not in str(error.value)
    for mend in ("HPSEARCH_STORAGE", "PGPASSWORD", ".pgpass", "PGPASSFILE"):
        assert mend in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "argument",
    [
        "postgresql://me@host:5432/db",
        "postgresql://me:@host/db",
        "postgresql://host/db?sslmode=require&passfile=/a/b",
        "postgresql://host/db?password=",
        "sqlite:////a:b@c/store.db",
        "sqlite:///a b?c@d:e.db",
        "study: me@home",
        "--storage=sqlite:///x.db",
        "--password",
        "password",
    ],
)
def test_an_argument_without_one_is_fine(argument: str) -> None:
    credentials.refuse_passwords([argument])


@pytest.mark.parametrize(
    "text",
    [
        f"host=h password={SECRET}",
        f"me:{SECRET}@host/db",
        f"nonsense?sslpassword={SECRET}",
        f"sqlite:///x.db?password={SECRET}",
        f"sqlite://me:{SECRET}@/:memory:",
        "postgresql://me:ab@s3cr@host/db",
        "postgresql://me:ab@/s3cr@host/db",
    ],
)
def test_what_is_no_store_is_refused_without_its_password(text: str) -> None:
    with pytest.raises(InputError) as error:
        Address(text)
    assert SECRET not in str(error.value)
    assert "s3cr" not in str(error.value)
    assert error.value.__cause__ is None


@pytest.mark.parametrize("name", [*credentials.SECRET_PARAMETERS, "PASSWORD"])
def test_a_label_shows_no_secret_parameter(name: str) -> None:
    address = Address(f"postgresql://me@host/db?{name}=sesame&sslmode=require")
    assert address.label == "postgresql://me@host/db?sslmode=require"
    assert address.one_line(ValueError("it was sesame")) == "it was ***"


def test_a_secret_is_hidden_however_it_is_spelled() -> None:
    text = "p%40s%20%2Fp p%40s+%2Fp p%40s%20/p p@s /p"
    assert credentials.masked(["p@s /p", ""], text) == "*** *** *** ***"


def test_the_password_is_read_once_and_stays_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "sesame")
    address = Address("postgresql://me@127.0.0.1:1/db")
    monkeypatch.delenv("PGPASSWORD")
    assert address._environment == {"password": "sesame"}
    assert "sesame" not in f"{address.label} {address!r} {address.bare_url}"
    assert address.one_line(ValueError("it was sesame")) == "it was ***"


def test_withheld_variables_reach_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in credentials.DRIVER_ONLY:
        monkeypatch.setenv(name, "sesame")
    monkeypatch.setenv("HPSEARCH_KERNELS", "off")
    with pytest.raises(KeyError), credentials.withheld():
        code = "import os; print(*[k for k, v in os.environ.items() if v == 'sesame'])"
        seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert seen.stdout == "\n"
        assert os.environ["HPSEARCH_KERNELS"] == "off"
        raise KeyError
    assert all(os.environ[name] == "sesame" for name in credentials.DRIVER_ONLY)
