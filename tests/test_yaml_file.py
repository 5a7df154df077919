"""Strict YAML: every surprise is one line with the file, the line and the mend."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from hpsearch.config.yaml_errors import validate
from hpsearch.config.yaml_file import (
    MAX_BYTES,
    Document,
    dotted,
    parse_yaml,
    read_yaml,
    yaml_number,
)
from hpsearch.system.errors import InputError, one_line

REFUSED = [
    ("a: 1\nb: 1e-6", 2, "b must be a number, got the text '1e-6'; write 1.0e-6"),
    ("a: 3e-1", 1, "got the text '3e-1'; write 0.3"),
    ("a: 1.5e3", 1, "got the text '1.5e3'; write 1500"),
    ("a: [1.0, 2e-3]", 1, "a[1] must be a number, got the text '2e-3'; write 0.002"),
    ("a: 08", 1, "write 8"),
    ("a: 010", 1, "got 010, which YAML reads as 8"),
    ("a: 1:30", 1, "got 1:30, which YAML reads as 90"),
    ("a: 1:30.5", 1, "which YAML reads as 90.5"),
    ("a: 2024-01-02", 1, "which YAML reads as a timestamp"),
    ("a: 0b_", 1, "a must be a number"),
    ("a: " + "9" * 30, 1, "must be below 2^63"),
    ("a: " + "9" * 9000, 1, "must have at most 64 digits"),
    ("a: 1\nb: 2\na: 3", 3, "a must be given once, got it again after line 1; delete one"),
    ("a:\n  b: 1\n  b: 1", 3, "a.b must be given once"),
    ("a: &x 1\nb: *x", 1, "must not use anchors, got &x"),
    ("a: *x", 1, "must not use anchors, got *x"),
    ("&x a: 1", 1, "must not use anchors"),
    ("a: 1\nb: !!python/object/apply:os.system [id]", 2, "b must have no tag"),
    ("a: !!int '3'", 1, "a must have no tag"),
    ("a: ! 3", 1, "a must have no tag"),
    ("!!python/object:os.x {}", 1, "the file must have no tag"),
    ("a: 1\n---\nb: 1", 2, "must be one document"),
    ("- 1", 1, "must be a mapping, got a list"),
    ("text", 1, "must be a mapping, got text"),
    ("", 1, "got an empty file"),
    ("# only a comment\n", 1, "got an empty file"),
    ("on: 1", 1, "must be text, got on"),
    ("1: 1", 1, "must be text, got 1"),
    ("<<: {a: 1}", 1, "must be text, got <<"),
    ("? [a]\n: 1", 1, "must be text, got a mapping or a list"),
    ("a: =", 1, "put it in quotes"),
    ("a:\n\tb: 1", 2, "indent with spaces instead of tabs"),
    ("a: b: c", 1, "must be valid YAML"),
    ("a: [1", 1, "must be valid YAML"),
    ('a: "\\UFFFFFFFF"', 1, "impossible character escape"),
    ('a: "\\0"', 1, "must be printable text"),
    ('a: "\\ud800"', 1, "must be printable text"),
    ("a: 1\nb: \x00", 2, "control character"),
    ("a: 1\nb: \x1b[2J", 2, "control character"),
    ("a: 1\rb: \x00", 2, "control character"),
    ("a: 1\r\nb: \x00", 2, "control character"),
    ("a: 1 # \u2028", 1, "control character '\\u2028'"),
    ("a: 1\n# \x85", 2, "control character '\\x85'"),
    ('a:\n  "\\0": 1', 2, "a key of a must be printable text"),
    ('"\\ud800": 1', 1, "a key of the file must be printable text"),
    ("a: 1\nb: 'open\nc: 1\nd: 1", 2, "must be valid YAML, got: found unexpected end of stream"),
    ("a: 1\nb: 'open\n---\nd: 1", 2, "must be valid YAML, got: found unexpected document separ"),
    ("a: 1\nb: 'open\nc: 1\nd: 'x'", 2, "must be valid YAML, got: expected <block end>"),
    ("a: 1\nb 2\nc: 3", 2, "must be valid YAML, got: could not find expected ':'"),
    ("a: 1\nb: [2,\n  3", 2, "must be valid YAML, got: expected ',' or ']'"),
    ("%YAML 9." + "9" * 5000 + "\n---\na: 1", 1, "impossible character escape or version"),
    ("[" * 5000, 1, "must nest at most"),
    ("a: " + "{a: " * 5000, 1, "must nest at most"),
    ("\n".join(" " * i + "a:" for i in range(200)), 18, "must nest at most"),
]


@pytest.mark.parametrize(("text", "line", "message"), REFUSED)
def test_what_surprises_is_refused(text: str, line: int, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_yaml(text, "f.yaml")
    found = str(caught.value)
    assert found.startswith(f"f.yaml:{line}: ")
    assert message in found
    assert "\n" not in found
    assert len(found) < 300


def test_plain_values_and_their_places() -> None:
    text = "a: 1_000\nb:\n  c: [1.0e-6, 'x',\n      yes]\n  d:\ne: '1e-6'\nf: 0x10\n"
    document = parse_yaml(text, "f.yaml")
    assert document.data == {
        "a": 1000,
        "b": {"c": [1e-6, "x", True], "d": None},
        "e": "1e-6",
        "f": 16,
    }
    assert document.value_lines["b", "c", 2] == 4
    assert document.key_lines["b", "d"] == 5
    assert str(document.error(("b", "c", 2), "x")) == "f.yaml:4: x"
    assert str(document.error(("b", "missing", "deep"), "x")) == "f.yaml:2: x"
    assert str(document.error(("nowhere",), "x")) == "f.yaml:1: x"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    large.write_text("# " + "x" * MAX_BYTES)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"a: 1\nb: \xe9\n")
    old = tmp_path / "old.yaml"
    old.write_bytes(b"a: 1\rb: \xe9\r")
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    for path, message in [
        (large, f"{large}:1: must be at most"),
        (latin, f"{latin}:2: must be UTF-8 text, got byte 0xe9"),
        (old, f"{old}:2: must be UTF-8 text, got byte 0xe9"),
        (pipe, "must be a file, got a directory or a device"),
        (tmp_path, "must be a file, got a directory or a device"),
        (tmp_path / "none.yaml", "got no such file"),
        (latin / "below", "got no such file"),
        (Path("a\0b"), "must be readable"),
        (tmp_path / ("x" * 300), "must be readable"),
        (tmp_path / "line\nbreak", "got no such file"),
    ]:
        with pytest.raises(InputError) as caught:
            read_yaml(path)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every file")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "secret.yaml"
    path.write_text("a: 1")
    path.chmod(0)
    with pytest.raises(InputError, match="no permission"):
        read_yaml(path)


def test_a_byte_order_mark_is_no_key(tmp_path: Path) -> None:
    path = tmp_path / "windows.yaml"
    path.write_bytes("\ufeffa: 1\r\nb: 2\r\n".encode())
    assert read_yaml(path).data == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "1" * 60_000 + "x",
        "a: " + "1:" * 30_000,
        "a: '" + "\\0" * 30_000,
        "{" * 60_000,
        "a: [" + "a," * 30_000 + "]",
        "a: {" + ",".join(f"{i}" for i in range(10_000)) + "}",
        "".join(f"k{i}: 1\n" for i in range(6_000)),
        "- " * 30_000,
        'a: "\\' + "\n" * 60_000,
    ],
)
def test_no_text_takes_long(text: str) -> None:
    assert len(text) <= MAX_BYTES
    began = time.process_time()
    with contextlib.suppress(InputError):
        parse_yaml(text, "f.yaml")
    assert time.process_time() - began < 2


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_read_back(value: float) -> None:
    assert yaml.safe_load(yaml_number(value)) == value


def test_words() -> None:
    assert yaml_number(1e-6) == "1.0e-6"
    assert dotted(("a", "b", 2, "c")) == "a.b[2].c"
    assert one_line("a\nb\x1b") == "a\\nb\\x1b"
    assert one_line("x" * 100) == "x" * 59 + "…"
    assert len(one_line("\u202e" * 60)) == 60


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    width: int
    share: float = 0.5


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    inner: Inner
    many: dict[str, Inner] = {}
    listed: list[Inner] = []
    maybe: Inner | None = None
    flag: bool = False
    word: str = ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "inner:\n  widht: 3",
            "f.yaml:2: inner.widht must be a known key, got widht; did you mean",
        ),
        ("inner:\n  share: 0.1", "f.yaml:1: inner.width must be given, got nothing; add it"),
        ("inner:\n  width: 3.0", "f.yaml:2: inner.width must be an integer, got 3.0; write 3"),
        (
            "inner:\n  width: '3'",
            "inner.width must be an integer, got the text '3'; write 3 without",
        ),
        ("inner:\n  width: 1.0e+300", "inner.width must be an integer, got 1.0e+300"),
        ("inner: 3", "f.yaml:1: inner must be a mapping, got 3"),
        ("inner: {width: 1}\nmany: {x: {width: 1, shar: 2}}", "f.yaml:2: many.x.shar must be"),
        ("inner: {width: 1}\nlisted:\n- width: 1\n- wid: 1", "f.yaml:4: listed[1].wid must be"),
        (
            "inner: {width: 1}\nmaybe:\n  wid: 1",
            "f.yaml:3: maybe.wid must be a known key, got wid; d",
        ),
        ("inner: {width: 1}\nflag: 1", "f.yaml:2: flag must be true or false, got 1"),
        ("inner: {width: 1}\nword: no", "got no, which YAML reads as false; put it in quotes"),
        ("inner: {width: 1}\nword:", "f.yaml:2: word must be text, got nothing"),
        ("inner: {width: 1}\nwidth: 1", "f.yaml:2: width must be a known key, got width; choose"),
    ],
)
def test_a_model_s_errors_are_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        validate(Outer, parse_yaml(text, "f.yaml"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 150


def test_a_part_of_a_document_is_checked() -> None:
    document = parse_yaml("a:\n  b: {width: 2}\n  c: {width: x}", "f.yaml")
    assert validate(Inner, document, ("a", "b")).width == 2
    with pytest.raises(InputError, match=r"^f.yaml:3: a.c.width must be an integer"):
        validate(Inner, document, ("a", "c"))


def test_data_without_a_file_has_no_line() -> None:
    with pytest.raises(InputError, match=r"^overrides: width must be an integer"):
        validate(Inner, Document("overrides", {"width": None}))
