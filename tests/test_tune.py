from __future__ import annotations

import copy
import json
import os
import pickle
import queue
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.listed_work import SECRET, Listed, listed, tiny
from support.mounts import mounted

from hpsearch import executor
from hpsearch.config.run import DataConfig
from hpsearch.executor.attempts import LOST_WORKERS, Event, Retried
from hpsearch.executor.cluster import _check_shared_memory, cluster, scratch_folder
from hpsearch.executor.driver import Driver, Stop
from hpsearch.executor.execution import DriverCallback, WorkSearcher
from hpsearch.executor.failures import failure_from_tune
from hpsearch.executor.leftovers import kill_all, processes_of, remove
from hpsearch.executor.placement import Placement
from hpsearch.executor.ray_private import memory_kills_as_lost_workers
from hpsearch.executor.signals import ended_by_signals, restored_handlers, signals_delayed
from hpsearch.executor.worker import _check_split, _molecules, diagnosis
from hpsearch.runs.messages import (
    Assignment,
    EpochEnded,
    Failure,
    FailureKind,
    Finished,
    Started,
)
from hpsearch.system.errors import HpsearchError, InputError, MachineError
from hpsearch.system.process import worker_environment


def worker_processes() -> list[int]:
    """Processes of Tune's workers below this one."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            title = (folder / "cmdline").read_bytes()
            raylet = parent(int(folder.name))
            mine = parent(raylet) == os.getpid()
        except (OSError, ValueError):
            continue
        if title.startswith(b"ray::Worker") and mine:
            found.append(int(folder.name))
    return sorted(found)


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def first_epoch_of(key: str, action: Callable[[], None]) -> Callable[[Event], None]:
    """An ``on_event`` that acts once, when ``key`` ends its first epoch."""

    def on_event(event: Event) -> None:
        if isinstance(event, EpochEnded) and (event.key, event.metrics.epoch) == (key, 1):
            action()

    return on_event


@pytest.fixture(scope="module")
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@dataclass(frozen=True)
class Mixed:
    """What a search of good and bad runs left."""

    work: Listed
    events: list[Event]
    environments: list[dict[str, str]]
    written: bytes
    printed: str
    left: list[str]
    handlers_kept: bool


@pytest.fixture(scope="module")
def mixed(short_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    """One search, two runs at a time, over most of what can happen to a run."""
    runs = tmp_path_factory.mktemp("runs")
    work = listed(
        runs,
        good=tiny(3),
        diverging=tiny(3, learning_rate=1e30),
        greedy=tiny(train_size=200_000),
        huge=tiny(embedding_size=10**12),
    )
    last = Assignment("tested", tiny(1), str(runs / "tested"), evaluate_test=True)
    elsewhere = Assignment("elsewhere", tiny(1), str(runs / "elsewhere"), expected_split="0123abc")
    # Two parts of the run that "good" is in one piece.
    parts = [Assignment("parts", tiny(3), str(runs / "parts"), until=end) for end in (1, None)]
    work.assignments = [parts[0], *work.assignments, elsewhere, last, parts[1]]
    events: list[Event] = []
    environments: list[dict[str, str]] = []
    written = bytearray()
    remove = shutil.rmtree

    def look_before_removing(path: Any, **options: Any) -> None:
        for file in Path(path).rglob("*"):
            if file.is_file() and not file.is_symlink():
                written.extend(file.read_bytes())
        remove(path, **options)

    def on_event(event: Event) -> None:
        events.append(event)
        if not environments:
            for process in worker_processes():
                text = Path(f"/proc/{process}/environ").read_text()
                environments.append(dict(v.split("=", 1) for v in text.split("\0") if "=" in v))

    scratch = short_folder / "scratch"
    scratch.mkdir()
    before = {number: signal.getsignal(number) for number in (2, 10, 15)}
    saved = (os.dup(1), os.dup(2))
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryFile() as capture:
        patch.setattr("hpsearch.executor.leftovers.shutil.rmtree", look_before_removing)
        os.dup2(capture.fileno(), 1)
        os.dup2(capture.fileno(), 2)
        try:
            executor.run(work, Placement(max_concurrent=2), on_event=on_event, scratch=scratch)
        finally:
            for descriptor, original in zip((1, 2), saved, strict=True):
                os.dup2(original, descriptor)
                os.close(original)
        capture.seek(0)
        printed = capture.read().decode()
    return Mixed(
        work,
        events,
        environments,
        bytes(written),
        printed,
        sorted(path.name for path in scratch.iterdir()),
        before == {number: signal.getsignal(number) for number in before},
    )


@pytest.mark.slow
def test_a_good_run_reports_facts_every_epoch_and_its_end(mixed: Mixed) -> None:
    completion = mixed.work.completion("good")
    epochs = mixed.work.epochs["good"]

    assert [metrics.epoch for metrics in epochs] == [1, 2, 3]
    assert completion.epochs == 3
    assert completion.best_validation_loss == min(m.validation_loss for m in epochs)
    assert completion.test_loss is None
    assert mixed.work.facts["good"].device == "cpu"
    assert mixed.work.facts["good"].weights > 0
    assert [type(event).__name__ for event in mixed.events if event.key == "good"] == [
        "Started",
        "EpochEnded",
        "EpochEnded",
        "EpochEnded",
        "Finished",
    ]


@pytest.mark.slow
def test_a_run_in_parts_is_the_same_run(mixed: Mixed) -> None:
    """It pauses after its first part, frees its worker, and goes on to the same bits."""
    work = mixed.work
    assert work.pauses == {"parts": [1]}
    assert [type(event).__name__ for event in mixed.events if event.key == "parts"] == [
        *("Started", "EpochEnded", "Paused"),
        *("Started", "EpochEnded", "EpochEnded", "Finished"),
    ]
    assert work.facts["parts"].resumed_from == 1
    parts = {metrics.epoch: metrics for metrics in work.epochs["parts"]}
    for whole in work.epochs["good"]:
        assert replace(parts[whole.epoch], seconds=whole.seconds) == whole
    completion = replace(work.completion("parts"), peak_memory_bytes=None)
    assert completion == replace(work.completion("good"), peak_memory_bytes=None)


@pytest.mark.slow
def test_the_test_set_is_opened_where_asked(mixed: Mixed) -> None:
    assert mixed.work.completion("tested").test_maes["mu"] > 0


@pytest.mark.slow
def test_a_divergence_says_where(mixed: Mixed) -> None:
    failure = mixed.work.failure("diverging")

    assert failure.kind == "diverged"
    assert failure.epoch == 1
    assert failure.step is not None and 1 <= failure.step <= 4
    assert "not finite" in failure.message
    assert "diverging" in mixed.work.facts


@pytest.mark.slow
def test_an_exception_keeps_its_message_and_traceback(mixed: Mixed) -> None:
    failure = mixed.work.failure("greedy")

    assert failure.kind == "exception"
    assert "200000" in failure.message.replace(",", "").replace("_", "")
    assert "\n" not in failure.message
    assert failure.traceback.startswith("Traceback")


@pytest.mark.slow
def test_memory_that_never_suffices_is_called_infeasible(mixed: Mixed) -> None:
    failure = mixed.work.failure("huge")

    assert failure.kind == "infeasible"
    assert (
        "needs more memory than is available, even alone and with one molecule" in failure.message
    )
    tries = [event for event in mixed.events if isinstance(event, Retried)]
    assert [(event.key, event.attempt.alone, event.attempt.pieces) for event in tries] == [
        ("huge", True, 1),
        ("huge", True, 4),
    ]
    assert [failure.kind for failure in mixed.work.retries["huge"]] == ["out_of_memory"] * 2


@pytest.mark.slow
def test_another_split_than_planned_is_refused_with_both_hashes(mixed: Mixed) -> None:
    failure = mixed.work.failure("elsewhere")

    assert failure.kind == "machine"
    assert failure.message.endswith("; fix this, then run the same command again to continue")
    assert "0123abc" in failure.message
    assert mixed.work.facts["tested"].split_hash in failure.message
    assert "elsewhere" not in mixed.work.facts


@pytest.mark.slow
def test_every_run_finishes_once(mixed: Mixed) -> None:
    assert {key: len(outcomes) for key, outcomes in mixed.work.outcomes.items()} == dict.fromkeys(
        ["good", "diverging", "greedy", "huge", "elsewhere", "tested", "parts"], 1
    )


@pytest.mark.slow
def test_no_more_runs_than_asked_for_at_a_time(mixed: Mixed) -> None:
    assert mixed.work.most_running == 2


@pytest.mark.slow
def test_workers_are_started_with_the_settings_of_a_training_process(mixed: Mixed) -> None:
    assert mixed.environments
    for environment in mixed.environments:
        assert worker_environment(1).items() <= environment.items()


@pytest.mark.slow
def test_nothing_is_printed(mixed: Mixed) -> None:
    assert mixed.printed == ""


@pytest.mark.slow
def test_no_file_is_left_and_none_held_the_work(mixed: Mixed) -> None:
    assert mixed.left == []
    assert b"experiment_state" in mixed.written or len(mixed.written) > 1000
    assert SECRET.encode() not in mixed.written


@pytest.mark.slow
def test_signal_handlers_are_put_back(mixed: Mixed) -> None:
    assert mixed.handlers_kept


@pytest.mark.slow
def test_a_run_goes_on_after_its_worker_was_killed(
    short_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    work = listed(
        tmp_path, first=tiny(40, train_size=64), second=tiny(40, train_size=64), third=tiny()
    )
    killed: list[int] = []

    def kill_one() -> None:
        killed.append(worker_processes()[0])
        os.kill(killed[0], signal.SIGKILL)

    executor.run(
        work,
        Placement(max_concurrent=2),
        on_event=first_epoch_of("first", kill_one),
        scratch=short_folder,
    )

    assert len(killed) == 1
    [(lost, [failure])] = work.retries.items()
    assert lost in {"first", "second"}
    assert failure.kind == "worker_lost"
    assert failure.message.startswith("the worker process died: ")
    assert "\n" not in failure.message
    assert capfd.readouterr() == ("", "")
    for key, epochs in {"first": 40, "second": 40, "third": 2}.items():
        assert work.completion(key).epochs == epochs
        sent = [metrics.epoch for metrics in work.epochs[key]]
        assert sorted(set(sent)) == list(range(1, epochs + 1))
        # Trained before the kill, and sent again from the checkpoint rather than trained again.
        seconds = {(metrics.epoch, metrics.seconds) for metrics in work.epochs[key]}
        assert len(seconds) <= epochs + (key == lost)


@pytest.mark.slow
def test_a_run_whose_worker_always_dies_fails(short_folder: Path, tmp_path: Path) -> None:
    work = listed(tmp_path, doomed=tiny(1000), next=tiny())

    def kill(event: Event) -> None:
        if isinstance(event, Started) and event.key == "doomed":
            [worker] = worker_processes()
            os.kill(worker, signal.SIGKILL)

    executor.run(work, Placement(max_concurrent=1), on_event=kill, scratch=short_folder)

    assert [failure.kind for failure in work.retries["doomed"]] == ["worker_lost"] * LOST_WORKERS
    assert work.failure("doomed").kind == "worker_lost"
    assert work.completion("next").epochs == 2


@pytest.mark.slow
def test_without_a_raylet_the_search_ends_instead_of_waiting(
    short_folder: Path, tmp_path: Path
) -> None:
    work = listed(tmp_path, only=tiny(100_000))

    def kill_raylet() -> None:
        [raylet] = {parent(worker) for worker in worker_processes()}
        os.kill(raylet, signal.SIGKILL)

    with pytest.raises(HpsearchError, match="no machine of the Ray cluster has 1 CPUs"):
        executor.run(
            work,
            Placement(),
            on_event=first_epoch_of("only", kill_raylet),
            scratch=short_folder,
        )

    assert work.outcomes == {}


@pytest.mark.slow
def test_a_silent_run_ends_at_its_deadline(short_folder: Path, tmp_path: Path) -> None:
    work = listed(tmp_path, hanging=tiny(1000), next=tiny())

    def freeze(event: Event) -> None:
        if isinstance(event, Started) and event.key == "hanging":
            [worker] = worker_processes()
            os.kill(worker, signal.SIGSTOP)

    executor.run(
        work,
        Placement(max_concurrent=1, deadline_seconds=20),
        on_event=freeze,
        scratch=short_folder,
    )

    assert [failure.kind for failure in work.retries["hanging"]] == ["hung"]
    assert work.failure("hanging").kind == "hung"
    assert "sent no report for 20 s" in work.failure("hanging").message
    assert work.most_running == 1
    assert work.completion("next").epochs == 2


@pytest.mark.slow
def test_sigint_ends_the_workers_and_a_relaunch_sends_the_epochs_again(
    short_folder: Path, tmp_path: Path
) -> None:
    work = listed(tmp_path, long=tiny(100_000))

    with pytest.raises(KeyboardInterrupt):
        executor.run(
            work,
            Placement(),
            on_event=first_epoch_of("long", lambda: os.kill(os.getpid(), signal.SIGINT)),
            scratch=short_folder,
        )

    assert worker_processes() == []
    assert work.outcomes == {}
    trained = len(work.epochs["long"])

    class Lost(Exception):
        """Such as a lease that another driver has taken."""

    def refuse() -> None:
        raise Lost(SECRET)

    again = listed(tmp_path, long=tiny(100_000))
    started = []

    def on_event(event: Event) -> None:
        started.append(event)
        refuse()

    with pytest.raises(Lost, match=SECRET):
        executor.run(again, Placement(), on_event=on_event, scratch=short_folder)

    assert [type(event) for event in started] == [Started]
    assert worker_processes() == []
    sent = again.epochs["long"]
    assert [metrics.epoch for metrics in sent] == list(range(1, len(sent) + 1))
    assert sent[:trained] == work.epochs["long"]


@pytest.mark.slow
def test_runs_share_a_clusters_gpu_and_its_worker(short_folder: Path, tmp_path: Path) -> None:
    from ray._private.utils import get_ray_address_file
    from ray.cluster_utils import Cluster

    # Ray writes the address there and does not make the folder.
    Path(get_ray_address_file(None)).parent.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 2,
            "num_gpus": 1,
            "include_dashboard": False,
            "temp_dir": str(short_folder / "cluster"),
        },
    )
    try:
        blind = listed(tmp_path, one=tiny())
        given = Placement(address=cluster.address, gpus_per_run=1)
        executor.run(blind, given, scratch=short_folder)
        told = listed(tmp_path, two=tiny(), three=tiny(1))
        processes: set[int] = set()
        executor.run(
            told,
            replace(given, device="cpu"),
            on_event=lambda event: processes.update(worker_processes()),
            scratch=short_folder,
        )
        large = listed(tmp_path, four=tiny())
        with pytest.raises(InputError, match=r"2 CPUs and 1 GPUs.*--gpus-per-run"):
            executor.run(large, replace(given, cpus_per_run=3), scratch=short_folder)
    finally:
        cluster.shutdown()

    assert blind.failure("one").kind == "machine"
    assert "no CUDA device" in blind.failure("one").message
    assert told.completion("two").epochs == 2
    assert told.completion("three").epochs == 1
    assert told.most_running == 1
    assert len(processes) == 1
    assert len(large.assignments) == 1


DRIVER = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from support.listed_work import listed, tiny
from support.mounts import mounted
from hpsearch import executor
work = listed(Path({runs!r}), only=tiny(1))
executor.run(work, executor.Placement())
assert work.completion("only").epochs == 1
assert "torch" not in sys.modules, "the driver imported torch"
"""


@pytest.mark.slow
def test_a_driver_is_quiet_needs_no_torch_and_leaves_nothing(
    short_folder: Path, tmp_path: Path
) -> None:
    from hpsearch.system.files import cache_directory

    home, temporary = short_folder / "home", short_folder / "temp"
    home.mkdir()
    temporary.mkdir()
    code = DRIVER.format(tests=str(Path(__file__).parent), runs=str(tmp_path))

    result = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "HOME": str(home),
            "TMPDIR": str(temporary),
            "HPSEARCH_CACHE": str(cache_directory()),
        },
        capture_output=True,
        text=True,
    )

    assert (result.stdout, result.stderr, result.returncode) == ("", "", 0)
    assert list(home.iterdir()) == []
    assert list(temporary.iterdir()) == []


LISTENING = """
import json, os, sys
from pathlib import Path
import ray
sys.path.insert(0, {tests!r})
from hpsearch.executor.cluster import _check_shared_memory, cluster, scratch_folder

with scratch_folder(None) as folder, cluster(None, folder, 1):
    token = os.environ["RAY_AUTH_TOKEN"]
    assert ray.get(ray.remote(lambda: os.environ["RAY_AUTH_TOKEN"]).remote()) == token
    print(json.dumps([str(folder), token, ray.get_runtime_context().gcs_address]), flush=True)
    sys.stdin.readline()
print(os.environ.get("RAY_AUTH_TOKEN"))
"""


STRANGER = """
import sys
from ray._raylet import GcsClient
print("answered", len(GcsClient(address=sys.argv[1]).get_all_node_info(timeout=10)))
"""


def listeners(mark: str) -> set[str]:
    """The addresses on which processes listen that have ``mark`` in their environment."""
    sockets = set()
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            if mark.encode() in (process / "environ").read_bytes():
                sockets |= {link.readlink().name for link in (process / "fd").iterdir()}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *fields = line.split()
            if state == "0A" and f"socket:[{fields[5]}]" in sockets:
                found.add(local.partition(":")[0])
    return found


@pytest.mark.slow
def test_only_this_launch_can_use_its_cluster(short_folder: Path, tmp_path: Path) -> None:
    """Loopback only, a token that no file holds, folders of the user's own, no home needed."""
    temporary = short_folder / "p"
    temporary.mkdir()
    (tmp_path / "file").touch()
    mark = f"{short_folder}/mark"
    environment = {
        **os.environ,
        "HOME": str(tmp_path / "file" / "home"),  # nobody can make it, not even root
        "TMPDIR": str(temporary),
        "HPSEARCH_MARK": mark,
    }
    with subprocess.Popen(
        [sys.executable, "-c", LISTENING.format(tests=str(Path(__file__).parent))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        folder, token, address = json.loads(process.stdout.readline())
        loopback = {"0100007F", "0000000000000000FFFF00000100007F", f"{0:024}01000000"}
        addresses = listeners(mark)
        assert addresses and addresses <= loopback
        assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700
        for path in temporary.rglob("*"):
            assert not path.is_file() or token.encode() not in path.read_bytes(), path
        for mine, words in ((token, "answered"), ("f" * 64, "InvalidAuthToken")):
            asked = subprocess.run(
                [sys.executable, "-c", STRANGER, address],
                env={**environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": mine},
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert words in asked.stdout + asked.stderr
        rest, _ = process.communicate("\n", timeout=60)
    assert (rest, process.returncode) == ("None\n", 0)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"max_concurrent": 0}, "at least 1; got 0"),
        ({"cpus_per_run": 0.0}, "above 0; got 0"),
        ({"cpus_per_run": float("nan")}, "above 0; got nan"),
        ({"gpus_per_run": -1.0}, "got -1"),
        ({"gpus_per_run": float("nan")}, "0, 1 or a fraction; got nan"),
        ({"gpus_per_run": 1.5}, "one GPU at most, got 1.5"),
        ({"gpus_per_run": 2.0}, "one GPU at most, got 2"),
        ({"device": "mps"}, "cpu or cuda, got 'mps'"),
        ({"device": "cuda"}, "must be given a GPU or a part of one, got 0 GPUs"),
        ({"deadline_seconds": 0.0}, "above 0 s; got 0"),
        ({"address": "ray://head:10001"}, "host:port"),
        ({"address": "nonsense"}, "no Ray cluster answers at 'nonsense'"),
        ({"address": "127.0.0.1:9"}, "no Ray cluster answers at '127.0.0.1:9'"),
        ({"scratch": Path("/proc/none")}, "must be writable"),
    ],
)
def test_a_wrong_request_is_refused_at_once(
    tmp_path: Path, request_: dict[str, Any], words: str
) -> None:
    work = listed(tmp_path, never=tiny())
    started = time.monotonic()

    options = dict(request_)
    scratch = options.pop("scratch", None)
    with pytest.raises(InputError) as caught:
        executor.run(work, Placement(**options), scratch=scratch)

    assert words in str(caught.value)
    assert len(work.assignments) == 1
    assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    ("cpus", "gpus", "machine", "places"),
    [
        (1.0, 0.0, {"CPU": 2.0}, 2),
        (0.1, 0.0, {"CPU": 0.3}, 3),
        (4.0, 0.0, {"CPU": 2.0}, 0),
        (1.0, 1.0, {"CPU": 16.0, "GPU": 2.0}, 2),
        (1.0, 0.25, {"CPU": 3.0, "GPU": 1.0}, 3),
        (1.0, 1.0, {"CPU": 16.0}, 0),
    ],
)
def test_places_are_counted_by_the_scarcer_resource(
    cpus: float, gpus: float, machine: dict[str, float], places: int
) -> None:
    assert Placement(cpus_per_run=cpus, gpus_per_run=gpus).fitting(machine) == places


def test_a_run_that_had_a_neighbour_is_tried_alone_when_it_is_short_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpsearch.executor.driver.machines_up", lambda: [{"CPU": 2.0}])
    monkeypatch.setattr("hpsearch.executor.driver.free_resources", lambda: {"CPU": 2.0})
    work = listed(tmp_path, first=tiny())
    events: list[Event] = []
    driver = Driver(work, events.append, Placement())

    def fail(trial_id: str, kind: FailureKind) -> None:
        driver.reported(trial_id, Finished(trial_id, Failure(kind, "of a sort")))
        driver.ended(trial_id)

    assert driver.next("a") is not None
    fail("a", "worker_lost")
    assert driver.next("b") is not None
    work.assignments += listed(tmp_path, second=tiny()).assignments
    driver._ask_again = 0.0
    assert driver.next("c") is not None
    fail("b", "out_of_memory")

    lost, short = [event.attempt for event in events if isinstance(event, Retried)]
    assert (lost.alone, short.alone, short.pieces) == (False, True, 1)


def test_what_tune_writes_to_disk_is_empty() -> None:
    driver = Driver(Listed([]), lambda event: None, Placement())

    for part in (WorkSearcher(driver), DriverCallback(driver)):
        assert SECRET.encode() not in pickle.dumps(part)
        assert vars(copy.deepcopy(part)) == {}


def test_a_kill_for_memory_is_named_without_the_machines_processes() -> None:
    text = (
        "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: "
        "10.0.0.1, ID: 89c5) was 22.88GB used / 23.54GB limit (0.97)\nTop 10 memory users: PID\t"
        f"MEM(GB)\tCOMMAND\n9\t1.4\thpsearch launch --storage postgresql://me:{SECRET}@db/s"
    )

    failure = failure_from_tune(text, raised=False)

    assert failure.kind == "out_of_memory"
    assert "22.88GB used / 23.54GB limit" in failure.message
    assert SECRET not in failure.message + failure.traceback


def refused_for(cause: Exception) -> InputError:
    error = InputError("refused")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (MemoryError(), "out_of_memory", "MemoryError: MemoryError"),
        (RuntimeError("CUDA out of memory. Tried"), "out_of_memory", "RuntimeError: CUDA out"),
        (RuntimeError("could not create a primitive"), "out_of_memory", "RuntimeError: could"),
        (RuntimeError("sizes must match\nat 3"), "exception", "RuntimeError: sizes must match"),
        (InputError("too many molecules"), "exception", "too many molecules"),
        (OSError(28, "No space left on device"), "disk_full", "OSError: [Errno 28] No space"),
        (refused_for(RuntimeError("can't allocate memory")), "out_of_memory", "refused"),
        (refused_for(ValueError("neither")), "exception", "refused"),
        (refused_for(PermissionError(13, "Permission denied")), "machine", "refused; fix this"),
        (OSError(12, "Cannot allocate memory"), "out_of_memory", "OSError: [Errno 12]"),
        (
            MachineError("no CUDA device"),
            "machine",
            "no CUDA device; fix this, then run the same command again to continue",
        ),
    ],
)
def test_exceptions_are_named(error: Exception, kind: str, message: str) -> None:
    found = diagnosis(error)

    assert found[0] == kind
    assert found[1].startswith(message)
    assert "\n" not in found[1]


def test_molecules_and_splits_that_a_machine_lacks_are_no_fault_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> None:
        raise InputError("the package must be installed")

    monkeypatch.setattr("hpsearch.data.qm9.load", fail)
    monkeypatch.setattr("hpsearch.executor.worker._opened", {})
    with pytest.raises(MachineError, match="must be installed"):
        _molecules(DataConfig())
    data = DataConfig(split_file=str(tmp_path / "missing.json"))
    config = tiny().model_copy(update={"data": data})
    expecting = Assignment("run", config, str(tmp_path), expected_split="0123abc")
    unused: Any = None
    with pytest.raises(MachineError, match=r"missing.json' must be readable"):
        _check_split(expecting, unused)
    _check_split(Assignment("first", config, str(tmp_path)), unused)


def test_a_package_that_a_worker_cannot_import_is_no_fault_of_its_run() -> None:
    text = "Traceback\nModuleNotFoundError: No module named 'torch'"
    failure = failure_from_tune(text, raised=True)
    assert (failure.kind, failure.traceback) == ("machine", text)
    assert failure_from_tune("Traceback\nKeyError: 'mu'", raised=True).kind == "exception"


def test_tune_takes_a_kill_for_memory_as_a_death() -> None:
    from ray.air.execution._internal import RayActorManager
    from ray.exceptions import OutOfMemoryError, RayActorError

    caught: list[Exception] = []
    manager = SimpleNamespace(_failed_actor_ids=set(), _cleanup_actor=lambda **options: None)
    task = SimpleNamespace(
        _tracked_actor=SimpleNamespace(actor_id=1, _on_error=None),
        _on_error=lambda actor, error: caught.append(error),
    )
    error = OutOfMemoryError("the node is running low on memory")

    with pytest.raises(RuntimeError, match="Caught unexpected exception"):
        RayActorManager._actor_task_failed(manager, tracked_actor_task=task, exception=error)
    with memory_kills_as_lost_workers():
        RayActorManager._actor_task_failed(manager, tracked_actor_task=task, exception=error)

    [death] = caught
    assert isinstance(death, RayActorError)
    assert "running low on memory" in str(death)


# --- Signals that come at a bad moment ------------------------------------------------------------


def test_a_signal_that_comes_while_ray_starts_interrupts_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[int] = []
    with pytest.raises(KeyboardInterrupt) as interrupt, signals_delayed(seen.append):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        seen.append(-1)
        # As Ray where its servers were ended too.
        raise RuntimeError("timed out")
    assert interrupt.value.args == (signal.SIGTERM,)
    assert seen == [signal.SIGTERM, -1]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_signal_while_ray_starts_interrupts_at_once() -> None:
    with pytest.raises(KeyboardInterrupt) as interrupt, signals_delayed(lambda number: None):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("it went on")
    assert interrupt.value.args == (signal.SIGINT,)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_while_runs_go_on_interrupts_at_once(second: signal.Signals) -> None:
    driver = Driver(Listed([]), lambda event: None, Placement())
    seen: queue.SimpleQueue[int] = queue.SimpleQueue()
    with restored_handlers(), ended_by_signals(driver, seen.put):
        os.kill(os.getpid(), signal.SIGTERM)
        assert driver.interrupted == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt) as interrupt:
            os.kill(os.getpid(), second)
        assert interrupt.value.args == (second,)
    assert seen.get(timeout=5) == signal.SIGTERM


ENDING = """
import os, signal, sys, threading, time
from pathlib import Path
from hpsearch.executor.cluster import cluster, scratch_folder
from hpsearch.executor.signals import restored_handlers
import ray

def storm():
    while True:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)

shut_down = ray.shutdown

def shutdown():
    threading.Thread(target=storm, daemon=True).start()
    shut_down()
    time.sleep(0.5)  # kill_remaining and the removal of files take as long on a slow disk

with restored_handlers(), scratch_folder(Path(sys.argv[1])) as folder:
    with cluster(None, folder, 1.0):
        ray.shutdown = shutdown
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ended in order", flush=True)
os._exit(0)
"""


@pytest.mark.slow
def test_signals_while_ray_ends_do_not_end_the_process_before_its_files_are_removed(
    tmp_path: Path,
) -> None:
    """Ray's end puts the system's default in place of our handler of SIGTERM."""
    with tempfile.TemporaryDirectory(dir="/tmp") as scratch:
        done = subprocess.run(
            [sys.executable, "-c", ENDING, scratch],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
        )
        assert (done.returncode, done.stdout) == (0, "ended in order\n"), done.stderr[-500:]
        assert list(Path(scratch).iterdir()) == []


STUCK = """
import signal, subprocess, sys, threading, time
from pathlib import Path
from hpsearch.executor import signals
signals.GRACE_SECONDS = 0.3
signal.signal(signal.SIGTERM, lambda number, frame: print("again", flush=True))
log = open(sys.argv[1] + "/log", "w")
child = subprocess.Popen(["sleep", "60"], start_new_session=True, stdout=log)
print(child.pid, flush=True)
end = (Path(sys.argv[1]), threading.Event(), signal.SIGTERM)
threading.Thread(target=signals.force_end, args=end, daemon=True).start()
time.sleep(60)
"""


def test_a_driver_that_no_interrupt_ends_is_ended_by_force(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", STUCK, str(scratch)], capture_output=True, text=True, timeout=40
    )
    child, again = done.stdout.split()
    assert (done.returncode, again) == (128 + signal.SIGTERM, "again")
    assert done.stderr.startswith("hpsearch: interrupted; Ray did not respond and was killed")
    assert not scratch.exists()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}/exe").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{child}/exe").exists()


def test_a_folder_that_is_still_written_into_is_removed_all_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir()
    end = time.monotonic() + 1.0

    def write() -> None:
        while time.monotonic() < end:
            folder.mkdir(exist_ok=True)
            with suppress(OSError):
                (folder / f"{time.monotonic()}").touch()

    writer = threading.Thread(target=write)
    writer.start()
    while time.monotonic() < end:
        remove(folder)
    writer.join()
    remove(folder)
    assert not folder.exists()


def test_a_cluster_that_does_not_end_is_ended_by_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpsearch.executor.cluster._connect", lambda *arguments: None)
    monkeypatch.setattr("hpsearch.executor.cluster.SHUTDOWN_SECONDS", 0.3)
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(["sleep", "30"], stdout=log) as server,
    ):
        monkeypatch.setattr("ray.shutdown", server.wait)
        with restored_handlers(), cluster(None, tmp_path, 1.0):
            pass
    assert server.returncode == -signal.SIGKILL


def test_a_cluster_is_over_also_where_ray_cannot_be_shut_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("no answer")

    monkeypatch.setattr("hpsearch.executor.cluster._connect", lambda *arguments: None)
    monkeypatch.setattr(
        "hpsearch.executor.cluster.force_end", lambda folder, over, number: over.is_set()
    )
    monkeypatch.setattr("ray.shutdown", fail)
    with (
        pytest.raises(RuntimeError, match="no answer"),
        restored_handlers(),
        cluster(None, tmp_path, 1.0) as is_over,
    ):
        assert not is_over(signal.SIGTERM)
    assert is_over(signal.SIGTERM)


LATE = """
import sys, time
from pathlib import Path
folder = Path(sys.argv[1])
while True:
    folder.mkdir(exist_ok=True)
    log = (folder / "log").open("w")
    print("written", flush=True)
    time.sleep(0.02)
"""


def test_what_goes_on_writing_into_a_folder_is_ended(tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    command = [sys.executable, "-c", LATE, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as late:
        assert late.stdout is not None
        late.stdout.readline()
        remove(folder)
        assert late.wait(5) == -signal.SIGKILL
    assert not folder.exists()


WATCHED = """
import os, sys
from pathlib import Path
from hpsearch.executor.leftovers import watched
folder = Path(sys.argv[1])
folder.mkdir()
with watched(folder):
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("end", ["killed", "done"])
def test_a_folder_is_removed_for_a_launch_that_was_ended(tmp_path: Path, end: str) -> None:
    folder = tmp_path / "cluster"
    done = subprocess.run([sys.executable, "-c", WATCHED, str(folder), end], timeout=60)
    assert done.returncode == (-signal.SIGKILL if end == "killed" else 0)
    deadline = time.monotonic() + (10 if end == "killed" else 2)
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    # One that ended by itself has removed its folder already, or wanted it kept.
    assert folder.exists() == (end == "done")


def test_a_process_of_a_cluster_is_known_before_it_has_begun_its_log(tmp_path: Path) -> None:
    # As Ray's worker that was just started: its script lies in Ray's folder.
    arguments = ["/site-packages/ray/default_worker.py", f"--temp-dir={tmp_path}/cluster"]
    command = [sys.executable, "-c", "import time; time.sleep(60)", *arguments]
    with subprocess.Popen(command) as started:
        assert processes_of(tmp_path) == [started.pid]
        kill_all(tmp_path)


def test_who_only_reads_in_a_folder_is_none_of_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "raylet.err"
    log.touch()
    with (
        log.open() as reading,
        log.open("a") as writing,
        subprocess.Popen(["sleep", "60"], stdin=reading) as reader,
        subprocess.Popen(["sleep", "60"], stdout=writing) as writer,
    ):
        assert processes_of(tmp_path) == [writer.pid]
        monkeypatch.setattr(os, "geteuid", lambda: 2**31)
        assert processes_of(tmp_path) == []
        monkeypatch.undo()
        kill_all(tmp_path)
        assert writer.wait(5) == -signal.SIGKILL
        assert reader.poll() is None
        reader.kill()


@pytest.mark.slow
def test_a_clusters_processes_are_found_where_the_temporary_folder_is_a_link(
    short_folder: Path,
) -> None:
    link = short_folder / "link"
    link.symlink_to(short_folder)
    with (
        scratch_folder(link) as folder,
        (folder / "log").open("w") as log,
        subprocess.Popen(["sleep", "60"], stdout=log) as process,
    ):
        found = processes_of(folder)
        process.kill()
    link.unlink()
    assert found == [process.pid]
    assert not folder.exists()


def test_a_process_that_may_not_be_killed_does_not_keep_the_others_alive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[int] = []

    def kill(process: int, number: int) -> None:
        tried.append(process)
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("hpsearch.executor.leftovers.processes_of", lambda folder: [1, 2])
    monkeypatch.setattr(os, "kill", kill)
    kill_all(Path("scratch"))
    assert tried == [1, 2]


CLUSTER = """
import os, signal, sys, time
from pathlib import Path
from hpsearch.executor.cluster import cluster
from hpsearch.executor.leftovers import processes_of

def title(process):
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return ""

folder = Path(sys.argv[1])
with cluster(None, folder, 1.0):
    while not any("RuntimeEnvAgent" in title(one) for one in processes_of(folder)):
        time.sleep(0.1)
    ours = processes_of(folder)
    servers = [one for one in ours if "/gcs_server" in title(one) or "/raylet/" in title(one)]
    unused = ("monitor.py", "dashboard.py", "default_worker.py", "ray::IDLE")
    others = [title(one) for one in ours if one not in servers]
    spare = [one for one in others if any(name in one for name in unused)]
    # A signal to this process's group must not reach them.
    apart = all(os.getpgid(one) != os.getpgrp() for one in servers)
    print(len(servers), apart, spare, flush=True)
    for one in servers:
        os.kill(one, signal.SIGKILL)
deadline = time.monotonic() + 5
while (left := processes_of(folder)) and time.monotonic() < deadline:
    time.sleep(0.1)
print([title(one) for one in left], flush=True)
"""


@pytest.mark.slow
def test_a_cluster_has_no_spare_processes_and_its_agents_do_not_outlive_its_servers(
    short_folder: Path,
) -> None:
    # A folder of its own: this process still has logs of the earlier tests' clusters open, and
    # would be taken for what theirs left.
    folder = short_folder / "own"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER, str(folder)],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (0, "2 True []\n[]\n"), done.stderr


HELD_IN_C = """
import ctypes, sys, threading
from pathlib import Path
from hpsearch.executor import execution, signals
from hpsearch.executor.cluster import scratch_folder
from hpsearch.executor.driver import Driver
from hpsearch.executor.placement import Placement
execution._SILENT_SECONDS, signals.GRACE_SECONDS = 0.5, 0.5
driver = Driver(None, lambda event: None, Placement())
ended = threading.Event()
end = lambda number: signals.force_end(Path(sys.argv[1]), ended, number)
with signals.ended_by_signals(driver, end), execution._silence_reported(driver):
    # A call that never returns, as one of Ray to a server that is stopped.
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)
"""


def test_a_call_of_ray_that_never_returns_is_reported_and_ended_by_a_signal(
    tmp_path: Path,
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HELD_IN_C, str(scratch)], stderr=subprocess.PIPE, text=True
    ) as held:
        try:
            assert held.stderr is not None
            assert held.stderr.readline().startswith("hpsearch: Ray has not responded for")
            held.send_signal(signal.SIGINT)
            assert held.wait(20) == 128 + signal.SIGINT
            assert held.stderr.readline().startswith("hpsearch: interrupted; Ray did not respond")
        finally:
            held.kill()
    assert not scratch.exists()


def test_the_time_in_the_work_is_no_silence_of_ray() -> None:
    driver = Driver(Listed([]), lambda event: None, Placement())
    driver._checked -= 60
    assert driver.ray_is_silent_for > 59
    with driver._asking_work():
        assert driver.ray_is_silent_for == 0
    assert driver.ray_is_silent_for < 5


class Waits:
    """A Work that has one run, which no worker ever starts."""

    finished = False

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment

    def next(self) -> Assignment:
        return self._assignment


def test_a_full_temporary_folder_ends_a_launch_that_waits_for_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpsearch.executor.driver._FOLDER_SECONDS", 0)
    monkeypatch.setattr("hpsearch.executor.driver.machines_up", lambda: [{"CPU": 2.0}])
    with mounted(tmp_path / "disk", "size=1m,nr_inodes=20,mode=0777") as disk:
        scratch = disk.folder / "scratch"
        scratch.mkdir()
        [assignment] = listed(tmp_path, only=tiny()).assignments
        work: Any = Waits(assignment)
        driver = Driver(work, lambda event: None, Placement(), folder=scratch)
        assert driver.next("trial") is not None
        driver.check()
        disk.exhaust()
        with pytest.raises(Stop) as stopped:
            driver.check()
        assert str(stopped.value).startswith(
            f"the folder for temporary files, {disk.folder}, must be writable, got: No space left "
        )
        assert "no inodes left" in str(stopped.value)
        disk.free()
        driver.check()


def test_shared_memory_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk") as disk:
        _check_shared_memory(disk.folder)
        disk.allow("ro")
        with pytest.raises(InputError, match=r"must be writable for Ray, .*; mount it writable"):
            _check_shared_memory(disk.folder)
