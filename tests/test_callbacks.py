"""Callbacks of a launch: the order of their calls, and that none of them can stop a launch."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.mounts import mounted
from support.store_examples import CONFIG, FACTS, metrics
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import hpsearch
from hpsearch.api import callbacks
from hpsearch.api.callbacks import Callbacks, Launch
from hpsearch.executor.attempts import Attempt, Retried
from hpsearch.runs.messages import Completion, EpochEnded, Failure, Finished, Paused, Started

LAUNCH = Launch("study", "small", "store.db", 3, {"mu": "D", "U0": "meV"})


class Recorder(hpsearch.Callback):
    """Notes its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.threads: set[int] = set()

    def _note(self, *call: Any) -> None:
        self.calls.append(call)
        self.threads.add(threading.get_ident())

    def on_launch(self, launch: Launch) -> None:
        self._note("launch", launch.name)

    def on_start(self, run: callbacks.Run) -> None:
        self._note("start", run.key, run.parameters["learning_rate"], run.parameters["targets"])

    def on_epoch(self, run: callbacks.Run, metrics: Any) -> None:
        self._note("epoch", run.key, metrics.epoch)

    def on_retry(self, run: callbacks.Run, failure: Failure) -> None:
        self._note("retry", run.key, failure.kind)

    def on_pause(self, run: callbacks.Run, epoch: int) -> None:
        self._note("pause", run.key, epoch)

    def on_promote(self, run: callbacks.Run) -> None:
        self._note("promote", run.key)

    def on_stop(self, run: callbacks.Run, loss: float) -> None:
        self._note("stop", run.key, loss)

    def on_finish(self, run: callbacks.Run, outcome: Any) -> None:
        self._note("finish", run.key, type(outcome).__name__)

    def on_end(self) -> None:
        self._note("end")


def test_the_calls_come_in_the_order_of_the_events() -> None:
    recorder, said = Recorder(), list[str]()
    with Callbacks([recorder], LAUNCH, lambda key: CONFIG, said.append) as told:
        told.event(Started("0", FACTS))
        told.event(EpochEnded("0", metrics(1, 2.0)))
        told.event(Retried("0", Failure("worker_lost", "gone"), Attempt(2)))
        told.event(Paused("0", 1))
        told.promoted("0")
        told.event(Finished("0", Completion(3, 2, 1.5)))
        told.stopped("7", 3.0)
    assert recorder.calls == [
        ("launch", "small"),
        ("start", "0", 1e-3, "mu,U0"),
        ("epoch", "0", 1),
        ("retry", "0", "worker_lost"),
        ("pause", "0", 1),
        ("promote", "0"),
        ("finish", "0", "Completion"),
        ("stop", "7", 3.0),
        ("end",),
    ]
    assert len(recorder.threads) == 1
    assert threading.get_ident() not in recorder.threads
    assert said == []


def test_a_callback_that_fails_costs_one_line() -> None:
    class Dead(hpsearch.Callback):
        def on_epoch(self, run: Any, metrics: Any) -> None:
            raise ConnectionError("no tracker\nat this address")

    recorder, said = Recorder(), list[str]()
    with Callbacks([Dead(), recorder], LAUNCH, lambda key: CONFIG, said.append) as told:
        for epoch in range(1, 4):
            told.event(EpochEnded("0", metrics(epoch, 2.0)))
    [line] = said
    assert line.startswith(f"callback Dead: on_epoch failed: {__file__}:")
    assert line.endswith(
        "ConnectionError: no tracker at this address; the launch goes on without it"
    )
    assert ("epoch", "0", 3) in recorder.calls
    assert recorder.calls[-1] == ("end",)


def test_a_callback_that_hangs_delays_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "END_SECONDS", 0.2)
    for_ever = threading.Event()

    class Hanging(hpsearch.Callback):
        def on_epoch(self, run: Any, metrics: Any) -> None:
            for_ever.wait()

    recorder, said = Recorder(), list[str]()
    began = time.monotonic()
    with Callbacks([Hanging(), recorder], LAUNCH, lambda key: CONFIG, said.append) as told:
        for epoch in range(1, 4):
            told.event(EpochEnded("0", metrics(epoch, 2.0)))
    assert time.monotonic() - began < 5
    assert len(recorder.calls) == 5
    assert said == [
        "callback Hanging: it must return at the end within 0 s, but did not; the launch goes on "
        "without it"
    ]
    said.clear()
    monkeypatch.setattr(callbacks, "MOST_WAITING", 5)
    with Callbacks([Hanging()], LAUNCH, lambda key: CONFIG, said.append) as told:
        for epoch in range(1, 10):
            told.event(EpochEnded("0", metrics(epoch, 2.0)))
    assert said == [
        "callback Hanging: it must keep up with the launch, but 5 calls wait; the launch goes on "
        "without it"
    ]
    for_ever.set()


def test_the_end_is_told_after_an_error_too() -> None:
    recorder = Recorder()
    with (
        pytest.raises(KeyboardInterrupt),
        Callbacks([recorder], LAUNCH, lambda key: CONFIG, lambda line: None),
    ):
        raise KeyboardInterrupt
    assert recorder.calls == [("launch", "small"), ("end",)]


def _read(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    return accumulator.Reload()


def _told_to_tensorboard(folder: Path, *events: Any) -> list[str]:
    said: list[str] = []
    board = hpsearch.TensorBoard(folder)
    with Callbacks([board], LAUNCH, lambda key: CONFIG, said.append) as told:
        for event in events:
            told.event(event)
    return said


def test_tensorboard_reads_epochs_parameters_and_verdicts(tmp_path: Path) -> None:
    key = "L1Net/mu/0"
    said = _told_to_tensorboard(
        tmp_path,
        Started(key, FACTS),
        EpochEnded(key, metrics(1, 2.0)),
        EpochEnded(key, metrics(2, 1.5)),
        Finished(key, Completion(2, 2, 1.5)),
        Started("1", FACTS),
        Finished("1", Failure("diverged", "the loss is not finite")),
    )
    assert said == []
    read = _read(tmp_path / "small" / key)
    assert [(e.step, e.value) for e in read.Scalars("loss/validation")] == [(1, 2.0), (2, 1.5)]
    assert [(e.step, e.value) for e in read.Scalars("loss/training")] == [(1, 3.0), (2, 2.5)]
    assert [(e.step, e.value) for e in read.Scalars("mae/U0 [meV]")] == [(1, 200.0), (2, 150.0)]
    assert read.Tensors("verdict")[0].tensor_proto.string_val == [
        b"complete after 2 epochs, lowest validation loss 1.5 in epoch 2"
    ]
    parameters = read.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"radial_functions" in parameters
    failed = _read(tmp_path / "small" / "1").Tensors("verdict")[0].tensor_proto.string_val
    assert failed == [b"failed (diverged): the loss is not finite"]


def test_tensorboard_hides_epochs_that_are_trained_again(tmp_path: Path) -> None:
    from dataclasses import replace

    first = [Started("0", FACTS), *(EpochEnded("0", metrics(n, 9.0)) for n in (1, 2, 3))]
    _told_to_tensorboard(tmp_path, *first)
    again = Started("0", replace(FACTS, resumed_from=1))
    _told_to_tensorboard(tmp_path, again, EpochEnded("0", metrics(2, 4.0)))
    read = _read(tmp_path / "small" / "0")
    assert [(e.step, e.value) for e in read.Scalars("loss/validation")] == [(1, 9.0), (2, 4.0)]


def test_a_full_disk_costs_tensorboard_one_line(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "size=64k,mode=0777"):
        epochs = (EpochEnded("0", metrics(number, 2.0)) for number in range(1, 500))
        said = _told_to_tensorboard(tmp_path, Started("0", FACTS), *epochs)
    [line] = said
    assert line.startswith("callback TensorBoard: on_epoch failed: ")
    assert "No space left on device" in line


@pytest.mark.parametrize("name", ["../outside", "/root", "a\x00b", "."])
def test_names_stay_inside_the_folder_of_tensorboard(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "logs"
    board = hpsearch.TensorBoard(inside)
    board.on_launch(Launch("study", name, "store.db", 1))
    board.on_start(callbacks.Run("0", CONFIG, FACTS))
    board.on_end()
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]
    assert len(list(inside.rglob("events.out.tfevents.*"))) == 1
