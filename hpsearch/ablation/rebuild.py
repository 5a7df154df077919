"""A configuration with changes, validated anew."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from hpsearch.errors import InputError

Config = TypeVar("Config", bound=BaseModel)


def rebuild(config: Config, **changes: object) -> Config:
    """``config`` with ``changes``, checked again: a copy alone would skip the validators."""
    try:
        return type(config).model_validate({**config.model_dump(), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or type(config).__name__
        message = first["msg"].replace("Input should be", "must be")
        raise InputError(f"{where}: {message}; got {first['input']!r}") from None
