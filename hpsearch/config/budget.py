"""What a trial may cost: a configuration beyond it is refused when it is drawn, not trained."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, Field, model_serializer

from hpsearch.config.parameters import LARGEST, Entry

REFUSALS = 1_000
"""So many draws in a row beyond the budget end a launch: its space has next to nothing within."""

_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def parse_bytes(text: str) -> int:
    """``1.5 GB`` as bytes.

    Raises:
        ValueError: the text is no size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)", text)
    if found is None or found[2] not in _UNITS:
        raise ValueError(f"must be a size such as '8 GB', in one of {', '.join(_UNITS)}")
    return int(float(found[1]) * _UNITS[found[2]])


def _size(text: str) -> str:
    if parse_bytes(text) < 1:
        raise ValueError("must be above 0")
    return text


class Budget(Entry):
    """Limits of a trial; ``None`` for no limit.

    Attributes:
        max_parameters: trainable weights of all its output blocks together.
        max_memory: of the process that trains it, as text such as ``8 GB``.
        max_epoch_seconds: of an epoch, its evaluation included.
    """

    max_parameters: Annotated[int, Field(ge=1, le=LARGEST)] | None = None
    max_memory: Annotated[str, AfterValidator(_size)] | None = None
    max_epoch_seconds: Annotated[float, Field(gt=0)] | None = None

    @property
    def is_measured(self) -> bool:
        """Whether a limit is on something that has to be measured on the machine."""
        return self.max_memory is not None or self.max_epoch_seconds is not None

    def refusal(self, weights: int, cost: Callable[[], tuple[int, float]]) -> str | None:
        """Why a configuration is beyond the budget, with its figure; ``None`` if it is within.

        Args:
            weights: of its network.
            cost: gives its bytes and the seconds of an epoch; called where they are limited.
        """
        if self.max_parameters is not None and weights > self.max_parameters:
            return f"{weights:,} weights, max_parameters is {self.max_parameters:,}"
        if not self.is_measured:
            return None
        memory, seconds = cost()
        if self.max_memory is not None and memory > parse_bytes(self.max_memory):
            return f"about {memory / 1e9:.2f} GB, max_memory is {self.max_memory}"
        if self.max_epoch_seconds is not None and seconds > self.max_epoch_seconds:
            return (
                f"about {seconds:.3g} s an epoch, max_epoch_seconds is {self.max_epoch_seconds:g}"
            )
        return None

    @model_serializer(mode="plain")
    def _without_none(self) -> dict[str, int | str | float]:
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in given.items() if value is not None}
