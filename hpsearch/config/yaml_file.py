"""Reads YAML files strictly into plain data, with the line of every key.

PyYAML follows YAML 1.1, which reads ``1e-6`` as text, ``010`` as 8 and ``1:30`` as 90. Of two equal
keys it takes the last one. Nobody means this in a search space, so all of it is refused here, with
the line and the fix.
"""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn, TypeVar

import yaml

from hpsearch.system.errors import InputError, one_line

Position = tuple[str | int, ...]
"""The place of a value: keys and list indices from the top of the file."""

T = TypeVar("T")

MAX_BYTES = 64_000
"""Limit that refuses a wrong file early: a space has 3 kB, and PyYAML takes up to 14 ms per kB."""

MAX_DEPTH = 16
"""Limit of nested mappings and lists, which bounds the recursion; a space needs five."""

_LONGEST_NUMBER = 64
_LARGEST_INTEGER = 2**63 - 1

# U+0085, U+2028 and U+2029 end a line in YAML but not in editors, so line numbers would differ.
_UNPRINTABLE = re.compile(
    "[^\x09\x0a\x0d\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)
_LINE_BREAK = re.compile("\r\n?|\n")
_OCTAL = re.compile(r"[-+]?0[0-9_]+", re.ASCII)

LOOKS_LIKE_A_NUMBER = re.compile(r"[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)([eE][-+]?\d+)?", re.ASCII)
"""Text that is meant as a number, even if YAML 1.1 reads it as something else."""


@dataclass(frozen=True)
class Document:
    """Plain data with the place of every value in the file.

    Attributes:
        source: the file's name as the user wrote it, or a description of data without a file.
        data: the top-level mapping.
        text: the file's text; empty without a file.
        key_lines: line of every key, counted from 1.
        value_lines: line on which every value starts.
        written: the spelling of every scalar in the file.
    """

    source: str
    data: dict[str, Any]
    text: str = ""
    key_lines: Mapping[Position, int] = field(default_factory=dict)
    value_lines: Mapping[Position, int] = field(default_factory=dict)
    written: Mapping[Position, str] = field(default_factory=dict)

    def error(self, position: Position, message: str, *, key: bool = False) -> InputError:
        """An :class:`InputError` that begins with the file and the line of ``position``.

        Args:
            position: position of the value; if the file lacks it, the nearest enclosing one counts.
            message: what must hold, what came, the fix.
            key: whether to report the line of the key and not of its value.
        """
        return located(self.source, self._line(position, key), message)

    def _line(self, position: Position, key: bool) -> int | None:
        if not self.value_lines:
            return None
        for length in range(len(position), 0, -1):
            place = position[:length]
            # A missing value is reported at its parent's key, not at the parent's first line.
            by_key = key or length < len(position)
            lines = self.key_lines if by_key and place in self.key_lines else self.value_lines
            if place in lines:
                return lines[place]
        return 1

    def at(self, position: Position) -> Any:
        """The value at ``position``; ``None`` if there is none."""
        value: Any = self.data
        for step in position:
            if not has_step(value, step):
                return None
            value = value[step]
        return value

    def got(self, position: Position) -> str:
        """A description of the value at ``position``, in the file's spelling."""
        value = self.at(position)
        if isinstance(value, dict):
            return "a mapping"
        if isinstance(value, list):
            return "a list"
        written = self.written.get(position)
        if isinstance(value, str):
            return f"the text {one_line(repr(value))}"
        if value is None:
            return "nothing"
        plain = str(value).lower() if isinstance(value, bool) else str(value)
        if isinstance(value, bool) and written is not None and written.lower() != plain:
            return f"{one_line(written)}, which YAML reads as {plain}"
        return one_line(written or plain)


def read_yaml(path: str | Path) -> Document:
    """The content of the file at ``path``, read strictly.

    Raises:
        InputError: the file is missing, unreadable, too large, or not one plain YAML mapping.
    """
    source = one_line(str(path), longest=300)
    return _Reader(source, _read_text(Path(path), source)).document()


def parse_yaml(text: str, source: str) -> Document:
    """The content of ``text``, read as strictly as by :func:`read_yaml`; errors name ``source``.

    Raises:
        InputError: the text is not one plain YAML mapping.
    """
    _refuse_unprintable(text, source)
    return _Reader(source, text).document()


def dotted(position: Position) -> str:
    """The dotted form of a position: ``parameters.x.choices[2]``."""
    text = ""
    for step in position:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return one_line(text)


def yaml_number(value: float) -> str:
    """``value`` in a spelling that YAML 1.1 reads as the same number: ``1.0e-6`` for 1e-06."""
    mantissa, _, exponent = repr(value).partition("e")
    if not exponent:
        return mantissa
    sign = "-" if exponent.startswith("-") else "+"
    whole = mantissa if "." in mantissa else f"{mantissa}.0"
    return f"{whole}e{sign}{abs(int(exponent))}"


def located(source: str, line: int | None, message: str) -> InputError:
    """An error in one line that begins with the place."""
    place = source if line is None else f"{source}:{line}"
    return InputError(f"{place}: {message}")


def has_step(value: Any, step: str | int) -> bool:
    """Whether ``value`` is a mapping with the key ``step``, or a list with that index."""
    if isinstance(value, dict):
        return step in value
    return isinstance(value, list) and isinstance(step, int) and step < len(value)


# Reading the file -------------------------------------------------------------------------------


def _read_text(path: Path, source: str) -> str:
    try:
        # Reading a pipe or a device could block or never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise located(source, None, "must be a file, got a directory or a device")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise located(source, None, "must be a file, got no such file; check the path") from None
    except PermissionError:
        raise located(
            source, None, "must be readable, got no permission; change its mode or owner"
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise located(source, None, f"must be readable, got: {reason}") from None
    if len(content) > MAX_BYTES:
        raise located(
            source, 1, f"must be at most {MAX_BYTES:,} bytes, got more; is it the right file?"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise located(
            source,
            _line_after(content[: error.start].decode("utf-8")),
            f"must be UTF-8 text, got byte 0x{content[error.start]:02x}; save as UTF-8",
        ) from None
    _refuse_unprintable(text, source)
    return text


def _refuse_unprintable(text: str, source: str) -> None:
    if found := _UNPRINTABLE.search(text):
        raise located(
            source,
            _line_after(text[: found.start()]),
            f"must be printable text, got the control character {found[0]!a}; delete it",
        )


def _line_after(text: str) -> int:
    """The line after ``text``, counted from 1."""
    return len(_LINE_BREAK.findall(text)) + 1


class _Reader:
    """Builds plain data from PyYAML's events, which still contain anchors, tags and documents.

    At the level of events an alias is refused before it is followed.
    """

    def __init__(self, source: str, text: str) -> None:
        self._source = source
        self._text = text
        self._loader = yaml.SafeLoader(text)
        self._before: yaml.Event | None = None
        self._key_lines: dict[Position, int] = {}
        self._value_lines: dict[Position, int] = {}
        self._written: dict[Position, str] = {}

    def document(self) -> Document:
        self._next()  # the stream's start
        start = self._next()
        if isinstance(start, yaml.StreamEndEvent):
            raise located(self._source, 1, "must be a mapping of keys, got an empty file")
        data = self._value(self._next(), (), "the file")
        if not isinstance(data, dict):
            raise located(
                self._source, 1, f"must be a mapping, got {_WORDS[type(data)]}; write key: value"
            )
        self._next()  # the document's end
        after = self._next()
        if not isinstance(after, yaml.StreamEndEvent):
            self._refuse(after, "must be one document, got a second one; delete the line ---")
        return Document(
            self._source, data, self._text, self._key_lines, self._value_lines, self._written
        )

    def _next(self) -> yaml.Event:
        try:
            event: yaml.Event = self._loader.get_event()  # type: ignore[no-untyped-call]
        except yaml.MarkedYAMLError as error:
            problem = one_line(error.problem or error.context or "a mistake", longest=120)
            raise located(
                self._source,
                _line(_beginning(error, self._before)),
                f"must be valid YAML, got: {problem}; {_syntax_fix(problem)}",
            ) from None
        except (yaml.YAMLError, ValueError, OverflowError):
            # PyYAML passes on the error of chr() for an escape like "\UFFFFFFFF" and the error of
            # int() for a long %YAML line.
            raise located(
                self._source,
                _line(self._loader.get_mark()),
                "must be valid YAML, got an impossible character escape or version; write the "
                "character, or delete the version",
            ) from None
        self._before = event
        return event

    def _refuse(self, event: yaml.Event, message: str) -> NoReturn:
        raise located(self._source, _line(event.start_mark), message)

    def _value(self, event: yaml.Event, position: Position, name: str) -> Any:
        self._refuse_anchor_and_tag(event, name)
        if len(position) > MAX_DEPTH:
            self._refuse(event, f"must nest at most {MAX_DEPTH} levels, got more; flatten it")
        self._value_lines[position] = _line(event.start_mark)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(position)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(position)
        assert isinstance(event, yaml.ScalarEvent)
        self._written[position] = event.value
        return self._scalar(event, name)

    def _refuse_anchor_and_tag(self, event: yaml.Event, name: str) -> None:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            mark = "*" if isinstance(event, yaml.AliasEvent) else "&"
            written = one_line(f"{mark}{getattr(event, 'anchor', '')}")
            self._refuse(event, f"{name} must not use anchors, got {written}; write the value out")
        if (tag := getattr(event, "tag", None)) is not None:
            self._refuse(event, f"{name} must have no tag, got {one_line(tag)}; delete the tag")

    def _mapping(self, position: Position) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._key(event, position)
            place = (*position, key)
            if key in values:
                self._refuse(
                    event,
                    f"{dotted(place)} must be given once, got it again after line "
                    f"{self._key_lines[place]}; delete one",
                )
            self._key_lines[place] = _line(event.start_mark)
            values[key] = self._value(self._next(), place, dotted(place))
        return values

    def _key(self, event: yaml.Event, position: Position) -> str:
        where = dotted(position) or "the file"
        self._refuse_anchor_and_tag(event, f"a key of {where}")
        if not isinstance(event, yaml.ScalarEvent):
            self._refuse(event, f"a key of {where} must be text, got a mapping or a list")
        if self._tag(event) != "str":
            self._refuse(
                event,
                f"a key of {where} must be text, got {one_line(event.value) or 'nothing'}, which "
                "YAML does not read as text; put it in quotes",
            )
        self._refuse_unprintable_text(event, f"a key of {where}")
        return str(event.value)

    def _sequence(self, position: Position) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            place = (*position, len(values))
            values.append(self._value(event, place, dotted(place)))
        return values

    def _tag(self, event: yaml.ScalarEvent) -> str:
        resolve = self._loader.resolve
        tag = resolve(yaml.ScalarNode, event.value, event.implicit)  # type: ignore[no-untyped-call]
        return str(tag).rpartition(":")[2]

    def _scalar(self, event: yaml.ScalarEvent, name: str) -> Any:
        tag, written = self._tag(event), event.value
        if tag == "str":
            self._refuse_misread_text(event, name)
            return written
        if tag == "null":
            return None
        if tag == "bool":
            return yaml.SafeLoader.bool_values[written.lower()]
        if tag in ("int", "float"):
            return self._number(event, tag, name)
        self._refuse(
            event,
            f"{name} must be a number or text, got {one_line(written)}, which YAML reads as a "
            f"{tag}; put it in quotes if text is meant",
        )

    def _refuse_misread_text(self, event: yaml.ScalarEvent, name: str) -> None:
        if event.style is None and LOOKS_LIKE_A_NUMBER.fullmatch(event.value):
            self._refuse(
                event,
                f"{name} must be a number, got the text '{one_line(event.value)}'; "
                f"write {respelled(event.value)}",
            )
        self._refuse_unprintable_text(event, name)

    def _refuse_unprintable_text(self, event: yaml.ScalarEvent, name: str) -> None:
        if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in event.value):
            self._refuse(event, f"{name} must be printable text, got an escaped NUL or surrogate")

    def _number(self, event: yaml.ScalarEvent, tag: str, name: str) -> int | float:
        written = event.value
        if len(written) > _LONGEST_NUMBER:
            self._refuse(
                event, f"{name} must have at most {_LONGEST_NUMBER} digits, got {one_line(written)}"
            )
        node = yaml.ScalarNode(tag, written)
        try:
            loader = self._loader
            value: int | float = (
                loader.construct_yaml_int(node)
                if tag == "int"
                else loader.construct_yaml_float(node)
            )
        except (ValueError, OverflowError):
            self._refuse(event, f"{name} must be a number, got {one_line(written)}")
        if isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
            self._refuse(event, f"{name} must be below 2^63, got {one_line(written)}")
        if ":" in written or _OCTAL.fullmatch(written):
            self._refuse(
                event,
                f"{name} must be a plain decimal number, got {one_line(written)}, which YAML "
                f"reads as {value}; write the number meant, or put it in quotes if text is meant",
            )
        return value


_WORDS: dict[type, str] = {
    list: "a list",
    str: "text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    NoneType: "nothing",
}


def _line(mark: Any) -> int:
    """The line of PyYAML's mark, counted from 1; 1 without a mark."""
    return 1 if mark is None else int(mark.line) + 1


def _beginning(error: yaml.MarkedYAMLError, before: yaml.Event | None) -> Any:
    """The mark of the line to fix; PyYAML notices an open bracket or quote only further down."""
    context, problem = error.context or "", error.problem or ""
    unclosed = "simple key" in context or any(
        end in problem for end in ("end of stream", "<stream end>", "document separator")
    )
    mark = error.context_mark if unclosed and error.context_mark else error.problem_mark
    # A forgotten quotation mark is noticed at a later one, which then begins another text.
    if isinstance(before, yaml.ScalarEvent) and before.style in ("'", '"'):
        return before.start_mark if _line(before.end_mark) == _line(mark) else mark
    return mark


def respelled(written: str) -> str:
    """A spelling that YAML 1.1 reads as the number that ``written`` looks like."""
    digits = written.replace("_", "")
    if re.fullmatch(r"[-+]?\d{1,18}", digits):
        return str(int(digits))
    value = float(digits)
    if not math.isfinite(value):
        return "a smaller number"
    # 1e6 usually means a count, and a whole number is also valid for a float.
    return str(int(value)) if is_short_integer(value) else yaml_number(value)


def is_short_integer(value: float) -> bool:
    """Whether ``value`` is a whole number of at most 15 digits, exact as a float."""
    return value.is_integer() and abs(value) < 1e15


def _syntax_fix(problem: str) -> str:
    if "\\t" in problem:
        return "indent with spaces instead of tabs"
    return "check the indentation, the colons, the quotes and the brackets around this line"
