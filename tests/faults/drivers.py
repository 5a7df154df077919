"""Drivers that meet, sleep, are interrupted, and trials that hang or want too much memory."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from faults.case import Case
from faults.launch import Launch
from faults.processes import wait_until
from faults.table import fault

TWO = "two launches on one study"
PAUSED = "a paused driver wakes after another took the lease"
MEMORY = "out of memory (host or GPU)"
HANG = "a hanging trial"
SIGNALS = "SIGINT, SIGTERM, twice"
CONTRACT = "8 processes x 50 trials on one store"

LEASE_SECONDS = "4"


# --- Two drivers --------------------------------------------------------------------------------


@fault(TWO, seconds=30)
def a_second_launch(case: Case) -> None:
    """It is told who holds the study and gives up; the first one ends with exactly the trials."""
    # Held in an epoch: its few trials may take less time than another launch needs to start.
    first, _ = case.stopped_at("mid-epoch")
    second = case.launch()
    assert second.wait() not in (0, None), f"both drive the study: {second.said()}"
    assert str(first.pid) in second.errors, second.errors
    assert len(second.errors.strip().splitlines()) == 1, second.errors
    assert ": started" not in second.output
    case.failpoints.disarm()
    assert first.wait() == 0, first.said()
    case.launches.append(case.launches.pop(0))
    case.check()


@fault(TWO, seconds=30)
def two_launches_at_once(case: Case) -> None:
    """Started in the same instant, one of them drives."""
    both = [case.launch(), case.launch()]
    codes = [launch.wait() for launch in both]
    assert sorted(code == 0 for code in codes) == [False, True], [each.said() for each in both]
    case.launches.sort(key=lambda launch: launch.code == 0)
    case.check()


@fault(TWO, seconds=60)
def a_second_launch_that_waits(case: Case) -> None:
    """Asked to wait, it takes over when the first has ended, and finds what that left."""
    first, _ = case.stopped_at("mid-epoch")
    second = case.launch("--if-held", "wait")
    second.read(str(first.pid))
    assert ": started" not in second.output
    case.kill_driver(first, "mid-epoch")
    assert second.wait() == 0, second.said()
    case.check()


@fault(PAUSED, seconds=45, hits={"before-tell": 1})
def a_driver_that_slept(case: Case) -> None:
    """Its late tell is rejected, and it says so: what the other one wrote stands."""
    asleep, _ = case.stopped_at("before-tell", HPSEARCH_LEASE_SECONDS=LEASE_SECONDS)
    os.kill(asleep.pid, signal.SIGSTOP)
    case.hit("before-tell")
    time.sleep(float(LEASE_SECONDS))
    other = case.launch(HPSEARCH_LEASE_SECONDS=LEASE_SECONDS)
    other.read(r"^trial 0: complete")
    os.kill(asleep.pid, signal.SIGCONT)
    assert asleep.wait() not in (0, None), f"it went on: {asleep.said()}"
    assert "trial 0: complete" not in asleep.output, "its late tell was accepted"
    assert "Traceback" not in asleep.errors, asleep.errors
    assert other.wait() == 0, other.said()
    case.check()


@fault(PAUSED, seconds=45, hits={"random": 1})
def a_driver_that_slept_in_training(case: Case) -> None:
    """It writes no epoch either, and its worker is gone when it is."""
    asleep = case.training(HPSEARCH_LEASE_SECONDS=LEASE_SECONDS)
    time.sleep(case.random.uniform(0, 0.3))
    os.kill(asleep.pid, signal.SIGSTOP)
    case.hit(f"random: {case.phase()}")
    time.sleep(float(LEASE_SECONDS))
    other = case.launch(HPSEARCH_LEASE_SECONDS=LEASE_SECONDS)
    other.read(r"^trial \d+: (epoch|complete)")
    os.kill(asleep.pid, signal.SIGCONT)
    assert asleep.wait() not in (0, None), f"it went on: {asleep.said()}"
    assert other.wait() == 0, other.said()
    case.check()


@fault(CONTRACT, seconds=60)
def many_processes(case: Case) -> None:
    """Numbers are unique and nothing is told twice; the store's own contract test, run here."""
    test = Path(__file__).parents[1] / "store" / "test_contract.py"
    assert test.is_file(), f"{test} is not there"
    # No -q: the project's settings have one already, and a second would leave out the summary.
    command = [sys.executable, "-m", "pytest", str(test), "-k", case.store.kind]
    environment = os.environ | {"HPSEARCH_CONTRACT_TRIALS": "50"}
    done = subprocess.run(
        command, cwd=test.parents[2], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-500:]
    assert re.search(r"[1-9]\d* passed", done.stdout), done.stdout[-500:]


# --- Signals ------------------------------------------------------------------------------------


@fault(SIGNALS, seconds=90, hits={"SIGINT": 2, "SIGTERM": 2})
def signals(case: Case) -> None:
    """One line, the exit code that shells give, nothing left; the same command goes on."""
    # Enough that none of the four launches comes to its end before its signal.
    case.trials = 20
    for name in ("SIGINT", "SIGTERM"):
        for twice in (False, True):
            number = signal.Signals[name]
            launch = case.training()
            time.sleep(case.random.uniform(0, 0.5))
            launch.signal(number)
            if twice:
                time.sleep(case.random.uniform(0, 0.3))
                launch.signal(number)
            case.hit(f"{name}{' twice' if twice else ''}")
            code = launch.wait()
            assert code == 128 + number, f"{code}: {launch.said()}"
            assert re.fullmatch(r"\n?hpsearch: interrupted; [^\n]+\n", launch.errors), launch.errors
            case.check_leftovers()
    case.finish()


@fault(SIGNALS, seconds=60, hits={"SIGTERM": 3})
def signals_before_training(case: Case) -> None:
    """The same while it still starts: modules, store, Ray."""
    for _ in range(3):
        launch = case.launch()
        time.sleep(case.random.uniform(0.5, 6))
        launch.signal(signal.SIGTERM)
        case.hit("SIGTERM")
        code = launch.wait()
        assert code in (128 + signal.SIGTERM, -signal.SIGTERM), f"{code}: {launch.said()}"
        case.check_leftovers()
    case.finish()


# --- A trial that hangs -------------------------------------------------------------------------


@fault(HANG, seconds=60, hits={"mid-epoch": 1})
def hanging_trial(case: Case) -> None:
    """A worker that stands still is ended at its deadline; its neighbour and the search go on."""
    options = ("--deadline", "30", "--max-concurrent", "2")
    launch, worker = case.stopped_at("mid-epoch", *options)
    os.kill(worker, signal.SIGSTOP)
    case.hit("mid-epoch")
    began = time.monotonic()
    wait_until(lambda: not Path(f"/proc/{worker}").exists(), "the end of the worker", 120)
    assert time.monotonic() - began > 5, "it was ended before its deadline"
    assert launch.wait() == 0, launch.said()
    case.check()


# --- Out of memory ------------------------------------------------------------------------------


@fault(MEMORY, seconds=60, hits={"too large": 1})
def network_larger_than_memory(case: Case) -> None:
    """Labelled as out of memory, tried a bounded number of times; the others complete."""
    text, size = case.space.read_text(), "embedding_size: {type: "
    assert f"{size}int, low: 4, high: 6}}" in text
    choices = f"{size}categorical, choices: [4, 1000000000000]}}"
    case.space.write_text(text.replace(f"{size}int, low: 4, high: 6}}", choices))
    case.finish("--sampler", "random", "--seed", "1", "--max-concurrent", "2")
    assert len(case.launches) == 1
    for number in (number for number, state in case.states().items() if state == "FAIL"):
        assert case.attributes(number)["failure"] in ('"out_of_memory"', '"infeasible"')
        case.hit("too large")


@fault(MEMORY, seconds=60, hits={"mid-epoch": 1})
def worker_short_of_memory(case: Case) -> None:
    """A worker that gets no more memory: labelled as such or tried again, and the search ends."""
    text = case.space.read_text()
    wide = text.replace("featurization_components: {type: int, low: 4, high: 6}", WIDE)
    assert wide != text
    case.space.write_text(wide)
    launch, worker = case.stopped_at("mid-epoch")
    size = int(Path(f"/proc/{worker}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    subprocess.run(["prlimit", "--pid", str(worker), f"--as={size}"], check=True)
    case.hit("mid-epoch")
    assert launch.wait() == 0, launch.said()
    case.check()
    noted = [case.attributes(number).get("failure") for number in case.states()]
    kinds = {kind for kind in noted if kind}
    said = re.findall(r"^trial \d+: failed.*", launch.output, re.M)
    assert kinds <= {'"out_of_memory"', '"infeasible"', '"worker_lost"'}, said
    assert "memory" in launch.output, launch.said()


WIDE = "featurization_components: {type: int, low: 96, high: 100}"


@fault(MEMORY, seconds=70, hits={"Ray's monitor": 1})
def machine_short_of_memory(case: Case) -> None:
    """Ray ends a worker for its machine's sake: labelled as such, and the search can go on."""
    monitor = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}
    launch = case.launch(**monitor)
    wait_until(lambda: _labelled(launch) or launch.code is not None, "a kill by Ray", 120)
    assert _labelled(launch), launch.said()
    case.hit("Ray's monitor")
    launch.signal(signal.SIGINT)
    assert launch.wait() != 0
    assert "Traceback" not in launch.errors, launch.errors
    case.finish()


def _labelled(launch: Launch) -> bool:
    return "out_of_memory" in launch.output or "ran low on memory" in launch.output
