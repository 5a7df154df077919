"""Callbacks: a launch tells other code what happens, such as an experiment tracker.

Each callback has a thread of its own. So a slow callback does not delay the training, and one that
fails costs a line, not a run.
"""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

from hpsearch.runs.messages import (
    EpochEnded,
    EpochMetrics,
    Failure,
    Finished,
    Outcome,
    Paused,
    RunFacts,
    Started,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpsearch.config.run import TrialConfig
    from hpsearch.executor.attempts import Event

MOST_WAITING = 10_000
"""A callback with more calls waiting is not called any more."""

END_SECONDS = 10.0
"""Seconds that the callbacks have for their last calls after the end of the training."""

_LAST = ""
"""The call that ends the thread."""


@dataclass(frozen=True)
class Launch:
    """A launch of a search or an ablation.

    Attributes:
        kind: ``study`` or ``ablation``.
        name: of the study or the ablation.
        store: the store's path or URL, without a password.
        runs: number of runs that the study or the ablation wants.
        units: the reporting unit of each target of the molecules, by name.
    """

    kind: Literal["study", "ablation"]
    name: str
    store: str
    runs: int
    units: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A run: a trial of a search, or a cell of an ablation.

    Attributes:
        key: the trial's number, or ``variant/target/repeat``.
        config: its configuration.
        facts: weights, device and hashes. A run that goes on after a pause has them too; ``None``
            for a run that an earlier launch trained and this one only stops.
    """

    key: str
    config: TrialConfig
    facts: RunFacts | None = None

    @property
    def parameters(self) -> dict[str, bool | int | float | str]:
        """The settings of its network and its training by name, and the targets as a text."""
        values = self.config.to_dict()
        flat = {**values["network"], **values["training"], "targets": ",".join(values["targets"])}
        return {name: value for name, value in flat.items() if value is not None}


class Callback:
    """Called at the events of a launch; override the methods that you need.

    The methods are called in the order of the events, in one thread of this callback. After a
    method has failed, only `on_end` is called; the launch prints a line and goes on.
    """

    def on_launch(self, launch: Launch) -> None:
        """Called once, before the first run starts."""

    def on_start(self, run: Run) -> None:
        """Called when a run starts or goes on; ``run.facts.resumed_from`` is its last epoch."""

    def on_epoch(self, run: Run, metrics: EpochMetrics) -> None:
        """Called after an epoch. After a failure an epoch may be repeated, and comes again."""

    def on_retry(self, run: Run, failure: Failure) -> None:
        """Called when a run has failed and is tried again."""

    def on_pause(self, run: Run, epoch: int) -> None:
        """Called when a trial waits at a rung, after its last epoch."""

    def on_promote(self, run: Run) -> None:
        """Called when a paused trial is chosen to go on."""

    def on_stop(self, run: Run, loss: float) -> None:
        """Called when a paused trial is stopped early for good; with its lowest loss."""

    def on_finish(self, run: Run, outcome: Outcome) -> None:
        """Called when a run has ended, with a `Completion` or a `Failure`."""

    def on_end(self) -> None:
        """Called once at the end of the launch, also after an error or Ctrl-C; close files here."""


class Callbacks:
    """The callbacks of a launch, as a context.

    Args:
        callbacks: the user's.
        launch: the launch.
        config_of: returns the configuration of a run by its key.
        say: prints one line.
    """

    def __init__(
        self,
        callbacks: Iterable[Callback],
        launch: Launch,
        config_of: Callable[[str], TrialConfig | None],
        say: Callable[[str], None],
    ) -> None:
        self._listeners = [_Listener(callback) for callback in callbacks]
        self._launch = launch
        self._config_of = config_of
        self._say = say
        self._runs: dict[str, Run] = {}

    def __enter__(self) -> Self:
        self._call("on_launch", self._launch)
        return self

    def __exit__(self, *error: object) -> None:
        self._call("on_end")
        for listener in self._listeners:
            listener.call(_LAST, ())
        until = time.monotonic() + END_SECONDS
        for listener in self._listeners:
            listener.wait(until)
        self._report()

    def event(self, event: Event) -> None:
        """Pass on an event of the executor."""
        if not self._listeners:
            return
        match event:
            case Started(key, facts):
                self._start(key, facts)
            case EpochEnded(key, metrics):
                self._call_for(key, "on_epoch", metrics)
            case Paused(key, epoch):
                self._call_for(key, "on_pause", epoch)
            case Finished(key, outcome):
                self._call_for(key, "on_finish", outcome)
                self._runs.pop(key, None)
            case _:
                self._call_for(event.key, "on_retry", event.failure)

    def promoted(self, key: str) -> None:
        """Pass on that a paused trial goes on."""
        self._call_for(key, "on_promote")

    def stopped(self, key: str, loss: float) -> None:
        """Pass on that a paused trial is stopped for good."""
        self._call_for(key, "on_stop", loss)
        self._runs.pop(key, None)

    def _start(self, key: str, facts: RunFacts) -> None:
        config = self._config_of(key)
        if config is not None:
            self._runs[key] = Run(key, config, facts)
            self._call_for(key, "on_start")

    def _call_for(self, key: str, method: str, *arguments: Any) -> None:
        """Call a method with a run."""
        if not self._listeners:
            return
        run = self._runs.get(key)
        if run is None:
            config = self._config_of(key)
            if config is None:
                return
            run = self._runs[key] = Run(key, config)
        self._call(method, run, *arguments)

    def _call(self, method: str, *arguments: Any) -> None:
        for listener in self._listeners:
            listener.call(method, arguments)
        self._report()

    def _report(self) -> None:
        """Print why callbacks were given up; here, because a thread should not print."""
        for listener in self._listeners:
            if (problem := listener.new_problem()) is not None:
                self._say(f"callback {listener.name}: {problem}; the launch goes on without it")


class _Listener:
    """A callback with its thread."""

    def __init__(self, callback: Callback) -> None:
        self.name = type(callback).__name__
        self._callback = callback
        self._calls: queue.Queue[tuple[str, tuple[Any, ...]]] = queue.Queue(MOST_WAITING)
        self._problem: str | None = None
        self._is_reported = False
        # A daemon, so that a callback that never returns does not keep the process.
        self._thread = threading.Thread(target=self._listen, name=self.name, daemon=True)
        self._thread.start()

    def call(self, method: str, arguments: tuple[Any, ...]) -> None:
        """Queue a call."""
        if self._problem is not None:
            return
        try:
            self._calls.put_nowait((method, arguments))
        except queue.Full:
            self._problem = f"it must keep up with the launch, but {MOST_WAITING:,} calls wait"

    def wait(self, until: float) -> None:
        """Wait until the thread has ended, at most until a time (monotonic)."""
        self._thread.join(max(until - time.monotonic(), 0.0))
        if self._problem is None and self._thread.is_alive():
            self._problem = f"it must return at the end within {END_SECONDS:.0f} s, but did not"

    def new_problem(self) -> str | None:
        """Return the reason why the callback is not called any more, once."""
        if self._problem is None or self._is_reported:
            return None
        self._is_reported = True
        return self._problem

    def _listen(self) -> None:
        while True:
            method, arguments = self._calls.get()
            if method == _LAST:
                return
            try:
                getattr(self._callback, method)(*arguments)
            except BaseException as error:
                self._problem = f"{method} failed: {_in_one_line(error)}"
                # It may hold files or connections. That it fails again says nothing new.
                with suppress(BaseException):
                    self._callback.on_end()
                return


def _in_one_line(error: BaseException) -> str:
    """Return the error with the file and line where it was raised."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    message = " ".join(str(error).split())
    return f"{where.filename}:{where.lineno}: {type(error).__name__}: {message}"
