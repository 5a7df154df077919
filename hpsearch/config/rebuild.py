"""A configuration with changes, validated anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from hpsearch.errors import InputError

Config = TypeVar("Config", bound=BaseModel)


def rebuild(config: Config, **changes: object) -> Config:
    """``config`` with ``changes``, checked again: a copy alone would skip the validators."""
    return _rebuilt(config, changes, str)


def rebuild_by_options(config: Config, changes: Mapping[str, object]) -> Config:
    """As :func:`rebuild`, for changes that a command's options gave: errors name the option.

    Raises:
        InputError: a value is not allowed.
    """
    return _rebuilt(config, changes, option)


def option(field: str) -> str:
    """The command's option for a configuration's field: ``--train-size`` for ``train_size``."""
    return f"--{field.replace('_', '-')}"


def _rebuilt(config: Config, changes: Mapping[str, object], shown: Callable[[str], str]) -> Config:
    try:
        return type(config).model_validate({**config.model_dump(), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(shown(str(part)) for part in first["loc"]) or type(config).__name__
        message = first["msg"].replace("Input should be", "must be")
        raise InputError(f"{where} {message}; got {first['input']!r}") from None
