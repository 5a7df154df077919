"""The table of faults: each scenario under the row of the table that it belongs to."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field

from faults.case import Case
from faults.stores import KINDS

Scenario = Callable[[Case], None]


@dataclass(frozen=True)
class Fault:
    """One scenario.

    Attributes:
        row: the fault, in the words of the table.
        run: what is done; its docstring is what must hold.
        stores: kinds of store that it is tried on.
        tries: how often on each.
        seconds: of one try, on two quiet cores; the sum is what `make faults` says it will take.
        hits: kills that a try must bring about, by phase; fewer are a failure.
        password: in the URL of a PostgreSQL.
    """

    row: str
    run: Scenario
    stores: tuple[str, ...] = KINDS
    tries: int = 1
    seconds: float = 30.0
    hits: dict[str, int] = field(default_factory=dict)
    password: str = ""

    @property
    def name(self) -> str:
        """For `--only`."""
        return self.run.__name__


MODULES = ("kills", "drivers", "files", "inputs", "rungs")
"""Where the scenarios stand, in the order of the table."""

_entered: list[Fault] = []


def faults() -> list[Fault]:
    """Every scenario."""
    for name in MODULES:
        importlib.import_module(f"faults.{name}")
    return list(_entered)


def fault(row: str, **settings: object) -> Callable[[Scenario], Scenario]:
    """Enter a scenario into the table."""

    def enter(run: Scenario) -> Scenario:
        _entered.append(Fault(row, run, **settings))  # type: ignore[arg-type]
        return run

    return enter
