"""Runs faults, try by try, and keeps what came of them."""

from __future__ import annotations

import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from faults.case import Case
from faults.stores import KINDS, PostgreSQL, Server, Sqlite, Store
from faults.table import Fault

__all__ = ["Outcome", "Suite"]


@dataclass
class Outcome:
    """What came of one fault on one store.

    Attributes:
        fault: which.
        store: on what kind of store.
        tries: how often it was tried.
        held: in how many of them everything held.
        hits: kills, by phase.
        seconds: of all tries.
        breaches: what did not hold, one text a try.
    """

    fault: Fault
    store: str
    tries: int = 0
    held: int = 0
    hits: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    breaches: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Every planned try was made and held."""
        return self.tries == self.held == self.fault.tries


class Suite:
    """Folders, one PostgreSQL server, and a seed from which all random instants follow.

    Args:
        seed: of everything random.
        keep: whether the folders of tries that failed stay.
        say: takes a line when a try begins and ends.
    """

    def __init__(self, seed: int, keep: bool, say: Callable[[str], None]) -> None:
        self.seed = seed
        self._keep = keep
        self._say = say
        # Short, for Ray's sockets; and not for root alone, since PostgreSQL runs as someone else.
        self._folder = Path(tempfile.mkdtemp(prefix="hf", dir="/tmp"))
        self._folder.chmod(0o755)
        self._server: Server | None = None
        self._case_now: Case | None = None
        self._aborted = False
        self._cases = 0

    def run(self, faults: Sequence[Fault], stores: Sequence[str] = KINDS) -> Iterator[Outcome]:
        """Every try of ``faults``, one outcome for each of its stores."""
        for fault in faults:
            for store in fault.stores:
                if store in stores and not self._aborted:
                    yield self._all_tries(fault, store)

    def abort(self) -> None:
        """End the try that runs in another thread, and begin no other."""
        self._aborted = True
        if self._case_now is not None:
            self._case_now.close()

    def close(self) -> None:
        """Stop the server and remove the folders."""
        if self._server is not None:
            self._server.stop()
        if not self._keep:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Suite:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _all_tries(self, fault: Fault, store: str) -> Outcome:
        outcome = Outcome(fault, store)
        for number in range(fault.tries):
            if self._aborted:
                break
            began = time.monotonic()
            breach = self._try(fault, store, number, outcome.hits)
            seconds = time.monotonic() - began
            outcome.tries += 1
            outcome.seconds += seconds
            if breach is None:
                outcome.held += 1
            else:
                outcome.breaches.append(breach)
            words = "held" if breach is None else f"FAILED: {breach}"
            self._say(f"{fault.name} on {store}, try {number + 1}, {seconds:.0f} s: {words}")
        return outcome

    def _try(self, fault: Fault, store: str, number: int, hits: Counter[str]) -> str | None:
        """One try; what did not hold."""
        try:
            with self._case(fault, store, number) as case:
                try:
                    fault.run(case)
                finally:
                    hits.update(case.hits)
                for phase, least in fault.hits.items():
                    found = sum(n for hit, n in case.hits.items() if hit.startswith(phase))
                    assert found >= least, f"only {found} of {least} kills hit {phase}"
        except Exception as error:
            # Whatever goes wrong in a try is a failure of it, and the others still run.
            where = traceback.extract_tb(error.__traceback__)
            here = [frame for frame in where if "/faults/" in frame.filename][-1]
            place = f"{Path(here.filename).name}:{here.lineno}"
            return f"{type(error).__name__} at {place}: {error}"
        return None

    @contextmanager
    def _case(self, fault: Fault, kind: str, number: int) -> Iterator[Case]:
        self._cases += 1
        folder = self._folder / str(self._cases)
        folder.mkdir()
        seed = f"{self.seed} {fault.name} {kind} {number}"
        self._case_now = case = Case(self._store(kind, folder, fault), folder, seed)
        try:
            yield case
        finally:
            case.close()
        if not self._keep:
            shutil.rmtree(folder, ignore_errors=True)

    def _store(self, kind: str, folder: Path, fault: Fault) -> Store:
        if kind == "sqlite":
            return Sqlite(folder / "store.db")
        if self._server is None:
            self._server = Server()
        return PostgreSQL(self._server, fault.password)
