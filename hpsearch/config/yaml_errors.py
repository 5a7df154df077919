"""Turns pydantic's errors about a YAML file into one line: place, what must hold, the fix."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from hpsearch.config.yaml_file import (
    LOOKS_LIKE_A_NUMBER,
    Document,
    Position,
    dotted,
    has_step,
    is_short_integer,
    respelled,
)
from hpsearch.system.errors import InputError, close_to, nearest, one_line

T = TypeVar("T")


def validate(kind: type[T] | TypeAdapter[T], document: Document, at: Position = ()) -> T:
    """The value at ``at``, validated by a pydantic model, type or adapter.

    Raises:
        InputError: the value is not valid: one line with file, line, what must hold, what came
            and, if known, the fix.
    """
    adapter = kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)
    try:
        return adapter.validate_python(document.at(at))
    except ValidationError as error:
        model = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        raise _first_error(error, document, at, model) from None


_KIND_WORDS = {
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "list_type": "a list",
    "tuple_type": "a list",
    "finite_number": "a finite number",
}
_BOUND_WORDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}


def _first_error(
    error: ValidationError, document: Document, at: Position, model: type[BaseModel] | None
) -> InputError:
    """The error to show. An unknown key comes first, because a misspelt key is also missing."""
    details = error.errors(include_url=False, include_context=True)
    details.sort(key=lambda detail: detail["type"] != "extra_forbidden")
    detail = details[0]
    position = _position(document, at, detail["loc"])
    name = dotted(position) or "the file"
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        known = _known_keys(model, detail["loc"])
        return document.error(
            position,
            f"{name} must be a known key, got {one_line(str(position[-1]))}; "
            f"{nearest(str(position[-1]), known)}",
            key=True,
        )
    if kind in ("missing", "union_tag_not_found"):
        place = (*position, _discriminator(context)) if kind != "missing" else position
        return document.error(place, f"{dotted(place)} must be given, got nothing; add it")
    if kind == "union_tag_invalid":
        position = (*position, _discriminator(context))
        tags = str(context["expected_tags"]).replace("'", "")
        return document.error(
            position, f"{dotted(position)} must be one of {tags}, got {document.got(position)}"
        )
    if kind == "value_error":
        return document.error(
            position, _own_words(name, str(context["error"]), document.got(position))
        )
    must, fix = _must(kind, context, detail["msg"], document, position)
    return document.error(position, f"{name} must {must}, got {document.got(position)}{fix}")


def _own_words(name: str, message: str, got: str) -> str:
    """The message of one of our validators: ``must ...`` without a subject, or a sentence."""
    if message.startswith("must "):
        return f"{name} {message}" if ", got " in message else f"{name} {message}, got {got}"
    return f"{name}: {message}"


def _discriminator(context: Mapping[str, Any]) -> str:
    return str(context["discriminator"]).strip("'")


def _must(
    kind: str, context: Mapping[str, Any], message: str, document: Document, position: Position
) -> tuple[str, str]:
    """What must hold, and the fix, for an error of a value."""
    value = document.at(position)
    if kind in _KIND_WORDS:
        return f"be {_KIND_WORDS[kind]}", _kind_fix(kind, value)
    if kind in _BOUND_WORDS:
        word, bound = _BOUND_WORDS[kind]
        return f"be {word} {context[bound]}", "; raise it" if bound[0] == "g" else "; lower it"
    if kind in ("too_short", "too_long"):
        limit = context.get("min_length", context.get("max_length"))
        return f"have {'at least' if kind == 'too_short' else 'at most'} {limit} entries", ""
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", str(context["expected"])) or [str(context["expected"])]
        close = close_to(str(value), choices)
        words = choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
        return f"be {words}", f"; did you mean {close}?" if close else ""
    if kind == "string_pattern_mismatch":
        return f"match {context['pattern']}", "; rename it"
    return f"be valid ({one_line(message, longest=120)})", ""


def _kind_fix(kind: str, value: Any) -> str:
    if kind == "string_type":
        return "; put it in quotes" if isinstance(value, (bool, int, float)) else ""
    if isinstance(value, str) and kind in ("int_type", "float_type", "finite_number"):
        if LOOKS_LIKE_A_NUMBER.fullmatch(value):
            return f"; write {respelled(value)} without quotes"
        return "; write a number"
    if kind == "int_type" and isinstance(value, float) and is_short_integer(value):
        return f"; write {int(value)}"
    return {
        "a list": "; write a list in brackets",
        "true or false": "; write true or false",
        "a mapping": "; write key: value under it",
    }.get(_KIND_WORDS[kind], "")


def _position(document: Document, at: Position, location: Position) -> Position:
    """The place in the file for pydantic's ``location``, which also contains union members."""
    position, value = at, document.at(at)
    for index, step in enumerate(location):
        inside = has_step(value, step)
        if not inside and index + 1 < len(location):
            continue
        if not inside and not isinstance(value, dict):
            continue
        position = (*position, step)
        value = value[step] if inside else None
    return position


def _known_keys(model: type[BaseModel] | None, location: Position) -> Collection[str]:
    """The known keys at the place of the unknown key ``location``."""
    kind: Any = model
    for step in location[:-1]:
        kind = _inner(kind, step)
    return list(kind.model_fields) if _is_model(kind) else ()


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _inner(kind: Any, step: str | int) -> Any:
    """The type of the value under ``step`` in a value of type ``kind``."""
    if _is_model(kind):
        info = kind.model_fields.get(step)
        return None if info is None else _bare(info.annotation)
    if get_origin(kind) in (Union, UnionType):
        members = (_bare(member) for member in get_args(kind))
        return next((m for m in members if _is_model(m) and _carries_tag(m, step)), None)
    arguments = get_args(kind)
    return _bare(arguments[-1] if isinstance(step, str) else arguments[0]) if arguments else None


def _bare(kind: Any) -> Any:
    """``kind`` without constraints and without ``None``."""
    if get_origin(kind) is Annotated:
        return _bare(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        given = [member for member in get_args(kind) if member is not NoneType]
        return _bare(given[0]) if len(given) == 1 else kind
    return kind


def _carries_tag(model: type[BaseModel], tag: str | int) -> bool:
    return any(tag in get_args(info.annotation) for info in model.model_fields.values())
