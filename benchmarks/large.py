"""Measure commands, pages and the first ask on a large study, and a driver of many runs.

    make bench-service               # or: python benchmarks/large.py --json FILE

A study of Table 3's space is filled with complete trials of ten epochs and twelve targets, in a
SQLite file and in a PostgreSQL server. Each command runs in a fresh process, as a person types it.
The pages come from `hpsearch dashboard` over HTTP. The first ask is the first trial of a launch
that continues the study with the TPE sampler.

With --keep FOLDER the studies are made once and used again.

Then one driver records the reports of simulated runs. Another process sends each report at its
time, as the text that a worker sends. The driver's thread gives it to the Work of a real search,
which writes it to the store. Ray is not part of this measurement.

The exit code is 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import optuna
from machine import conclude, machine
from service import EPOCHS, FACTS, Stores, about_the_store, fill, made_up_trials, table3

from hpsearch.config.targets import TARGET_NAMES
from hpsearch.executor.driver import ActiveRun, Driver
from hpsearch.executor.placement import Placement
from hpsearch.pages.files import page_files
from hpsearch.runs.messages import EpochEnded, EpochMetrics, Started, from_json, to_json
from hpsearch.search.launch import launch_study
from hpsearch.store import Store

HPSEARCH = Path(sys.executable).with_name("hpsearch")

GOALS = {
    "status": (2.0, 200),
    "status --json": (2.0, 200),
    "export-best": (2.0, None),
    "verify": (20.0, None),
    "report": (60.0, 1_000),
    "first ask": (5.0, None),
}
"""Most seconds and most megabytes of a command; ``None`` for no limit."""

PAGE_SECONDS = 3.0

ROWS = (*GOALS, "pages", "driver")

RUNS, PERIOD_SECONDS = 200, 5.0
"""Simulated runs at a time, and the seconds between two reports of one."""

MOST_BUSY, MOST_LATE_SECONDS = 0.5, 1.0


@dataclass(frozen=True)
class Measured:
    """What a process took.

    Attributes:
        what: the command.
        wall: seconds.
        cpu: seconds of user and system together.
        megabytes: the most resident memory.
        ok: whether it ended with exit code 0.
    """

    what: str
    wall: float
    cpu: float
    megabytes: float
    ok: bool

    def missed(self) -> list[str]:
        """Return what is over the goal, in words."""
        seconds, megabytes = GOALS[self.what]
        missed = [] if self.ok else [f"{self.what} fails"]
        if self.wall > seconds:
            missed.append(f"{self.what} takes {self.wall:.1f} s, not {seconds:g}")
        if megabytes is not None and self.megabytes > megabytes:
            missed.append(f"{self.what} takes {self.megabytes:.0f} MB, not {megabytes}")
        return missed

    def __str__(self) -> str:
        seconds, megabytes = GOALS[self.what]
        goal = f"{seconds:g} s" + (f", {megabytes:,} MB" if megabytes else "")
        return (
            f"  {self.what:14}{self.wall:7.2f} s  cpu {self.cpu:6.2f} s {self.megabytes:7.0f} MB"
            f"   goal {goal}{'' if self.ok else '   FAILED'}"
        )


IN_BETWEEN = """
import os, subprocess, sys, time
with open(sys.argv[1], "w") as output:
    started = time.perf_counter()
    process = subprocess.Popen(sys.argv[2:], stdout=output, stderr=output)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
process.returncode = os.waitstatus_to_exitcode(status)
print([process.returncode, wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024])
"""
"""A small process starts the command: Linux counts the memory of the process that forks it, too."""


def measured(what: str, command: list[str], url: str, folder: Path) -> Measured:
    """Run a command in a fresh process."""
    environment = {**os.environ, "HPSEARCH_STORAGE": url}
    output = folder / "output.txt"
    done = subprocess.run(
        [sys.executable, "-S", "-c", IN_BETWEEN, str(output), *command],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    code, wall, cpu, megabytes = json.loads(done.stdout)
    if code:
        print(output.read_text()[-500:], file=sys.stderr)
    return Measured(what, wall, cpu, megabytes, code == 0)


# --- A large study --------------------------------------------------------------------------------


COMMANDS = {
    "status": ("status",),
    "status --json": ("status", "--json"),
    "export-best": ("export-best", "-o", "best.yaml"),
    "verify": ("verify",),
    "report": ("report", "-o", "report"),
}


def made_large(stores: Stores, kind: str, trials: int, folder: Path) -> str:
    """Return the URL of a store with a study of so many trials; it is made if it is missing."""
    url, is_new = stores.kept(kind)
    if not is_new:
        return url
    started = time.perf_counter()
    with Store.create(url) as store:
        space = table3("tpe").with_overrides(trials=trials)
        launch_study(store, space, "large", folder / "runs")
        fill(store, "large", made_up_trials(table3("random"), trials))
        hashes = {"data_hash": FACTS.data_hash, "split_hash": FACTS.split_hash}
        store.fill_provenance(store.find("large").id, **hashes)
    seconds = time.perf_counter() - started
    print(f"{kind}, {trials:,} trials of {EPOCHS} epochs, built in {seconds:.0f} s", flush=True)
    return url


ASK = """
import os
from pathlib import Path
from hpsearch.config.space import SearchSpace
from hpsearch.search.launch import launch_study
from hpsearch.store import Store
from hpsearch.system.collector import collect_seldom
from hpsearch.system.installation import find_space
collect_seldom()  # as the command does
with Store.create(os.environ["HPSEARCH_STORAGE"]) as store:
    count = len(store.trial_states("large"))
    space = SearchSpace.load(find_space("table3")).with_overrides(trials=count + 1, sampler="tpe")
    assert launch_study(store, space, "large", Path.cwd() / "runs").next() is not None
"""
"""Continue the study as a launch does, until its first trial is drawn."""


def pages(url: str, folder: Path) -> tuple[dict[str, float], float]:
    """Return the seconds of each page's figure over HTTP, and the dashboard's most megabytes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(HPSEARCH), "dashboard", "--read-only", "--port", str(port)]
    environment = {**os.environ, "HPSEARCH_STORAGE": url}
    with (folder / "dashboard.txt").open("w") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=output, stderr=subprocess.STDOUT
        )
    site = f"http://127.0.0.1:{port}/pages"
    try:
        for _ in range(300):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(site, timeout=10).read()
                break
            time.sleep(0.1)
        seconds = {}
        for path in page_files():
            started = time.perf_counter()
            text = urllib.request.urlopen(f"{site}/{path.stem}/figure", timeout=300).read()
            if text != b"null":
                seconds[path.stem] = time.perf_counter() - started
    finally:
        process.send_signal(signal.SIGTERM)  # a job in the background ignores SIGINT
        _, _, used = os.wait4(process.pid, 0)
        process.returncode = 0
    return seconds, used.ru_maxrss / 1_024


# --- Many runs ------------------------------------------------------------------------------------


def send_reports(pipe: Connection, keys: list[str], epochs: int) -> None:
    """Send every run's reports at their times (`time.time`), with the time in front."""
    pipe.send("ready")
    begin = time.time() + 0.1
    targets = dict.fromkeys(TARGET_NAMES, 1.0)
    for epoch in range(1, epochs + 1):
        for place, key in enumerate(keys):
            due = begin + (epoch - 1 + place / len(keys)) * PERIOD_SECONDS
            metrics = EpochMetrics(
                epoch, 1e-3, PERIOD_SECONDS, 20.0 / epoch, 20.0 / epoch, targets, targets
            )
            text = to_json(EpochEnded(key, metrics))
            time.sleep(max(due - time.time(), 0.0))
            pipe.send((due, text))
    pipe.send(None)


def many_runs(url: str, folder: Path, runs: int, epochs: int) -> dict[str, Any]:
    """Return how busy the driver's thread is, and how late the reports are stored."""
    with Store.create(url) as store:
        search = launch_study(
            store, table3("random").with_overrides(trials=runs), "many", folder / "runs"
        )
        driver = Driver(search, lambda event: None, Placement())
        for _ in range(runs):
            assignment = search.next()
            assert assignment is not None
            # As `Driver.next` does, which asks Ray for its machines first.
            driver._runs[assignment.key] = ActiveRun(assignment)
            driver.reported(assignment.key, Started(assignment.key, FACTS))
        keys = list(driver._runs)
        ours, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        sender = context.Process(target=send_reports, args=(theirs, keys, epochs))
        sender.start()
        assert ours.recv() == "ready"
        busy, late = [], []
        used = time.thread_time()
        while (received := ours.recv()) is not None:
            started = time.perf_counter()
            due, text = received
            report = from_json(text)
            driver.check()
            driver.reported(report.key, report)
            busy.append(time.perf_counter() - started)
            late.append(time.time() - due)
        used = time.thread_time() - used
        sender.join()
    elapsed = epochs * PERIOD_SECONDS
    at_half = MOST_BUSY * len(busy) / sum(busy)
    return {
        "runs": runs,
        "period_seconds": PERIOD_SECONDS,
        "reports": len(busy),
        "busy": sum(busy) / elapsed,
        "busy_cpu": used / elapsed,
        "median_milliseconds": 1e3 * median(busy),
        "latest_seconds": max(late),
        "late_seconds_median": median(late),
        "gpus_at_5_seconds": int(at_half * 5),
        "gpus_at_60_seconds": int(at_half * 60),
    }


def main() -> int:
    """Measure and print; return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stores", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS, help="to measure")
    parser.add_argument("--trials", type=int, default=10_000, help="of the large study")
    parser.add_argument("--runs", type=int, default=RUNS, help="simulated at a time")
    parser.add_argument("--run-epochs", type=int, default=8, help="reports of each of them")
    parser.add_argument("--folder", type=Path, help="for the stores; the system's temporary one")
    parser.add_argument(
        "--keep", type=Path, help="a folder for the large studies, which are used again next time"
    )
    parser.add_argument("--json", type=Path, help="write the results to this file")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kept = arguments.keep
    folder = kept or Path(tempfile.mkdtemp(prefix="hpsearch-bench-", dir=arguments.folder))
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # PostgreSQL may run as another user
    about = {**machine(), **about_the_store(folder)}
    print(
        f"{about['cpu']}, {about['cores']} cores, load {about['load']:.1f}, a synced write "
        f"{about['sync_milliseconds']:.2f} ms"
    )
    stores = Stores(folder)
    results: list[dict[str, Any]] = []
    missed: list[str] = []
    try:
        for kind in arguments.stores:
            url = made_large(stores, kind, arguments.trials, folder)
            result: dict[str, Any] = {"store": kind, "trials": arguments.trials, "commands": []}
            results.append(result)
            for what in GOALS:
                if what not in arguments.rows:
                    continue
                if what == "first ask":
                    # In a copy, because it adds a trial.
                    command = [sys.executable, "-c", ASK]
                    each = measured(what, command, stores.copy(kind), folder)
                else:
                    each = measured(what, [str(HPSEARCH), *COMMANDS[what]], url, folder)
                print(each, flush=True)
                result["commands"].append(vars(each))
                missed += [f"{kind}: {words}" for words in each.missed()]
            if "pages" in arguments.rows:
                result["pages"], result["dashboard_megabytes"] = pages(url, folder)
                for page, taken in result["pages"].items():
                    print(f"  page {page:18}{taken:7.2f} s   goal {PAGE_SECONDS:g} s", flush=True)
                    if taken > PAGE_SECONDS:
                        missed.append(f"{kind}: the page {page} takes {taken:.1f} s")
                print(f"  the dashboard takes {result['dashboard_megabytes']:.0f} MB")
            if "driver" in arguments.rows:
                driven = many_runs(stores.new(kind), folder, arguments.runs, arguments.run_epochs)
                result["driver"] = driven
                print(
                    f"  a driver of {driven['runs']} runs that report every {PERIOD_SECONDS:g} s: "
                    f"its thread is {100 * driven['busy']:.0f} % busy "
                    f"({100 * driven['busy_cpu']:.0f} % on the CPU), "
                    f"{driven['median_milliseconds']:.1f} ms a report, the latest after "
                    f"{driven['latest_seconds']:.2f} s; goal {100 * MOST_BUSY:.0f} %, "
                    f"{MOST_LATE_SECONDS:g} s\n"
                    f"  half busy it serves {driven['gpus_at_5_seconds']:,} GPUs with a run each "
                    f"of epochs of 5 s, {driven['gpus_at_60_seconds']:,} with epochs of 60 s",
                    flush=True,
                )
                if driven["busy"] > MOST_BUSY:
                    busy = f"{100 * driven['busy']:.0f} %"
                    missed.append(f"{kind}: the driver's thread is {busy} busy")
                if driven["latest_seconds"] > MOST_LATE_SECONDS:
                    missed.append(f"{kind}: a report is {driven['latest_seconds']:.1f} s late")
    finally:
        stores.close()
        if kept is None:
            shutil.rmtree(folder, ignore_errors=True)
    return conclude(arguments.json, about, results, missed)


if __name__ == "__main__":
    sys.exit(main())
