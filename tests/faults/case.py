"""One try of one fault: its folder, store, launches and what is counted."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from faults.invariant import Expected, breaches, states
from faults.launch import HPSEARCH, Failpoints, Launch, orphans
from faults.processes import kill
from faults.stores import Store

SPACE = Path(__file__).parent / "space.yaml"
STUDY = "faults"
TRIALS = 5
EPOCHS = 3
RELAUNCHES = 4


class Case:
    """What a scenario has in hand.

    Attributes:
        store: under test, empty at first.
        folder: of its own, with a short path.
        random: seeded by the suite's seed, the fault, the store and the number of the try.
        failpoints: shared with every process of its launches.
        hits: how often something was killed, by phase.
        faults: each may cost a trial one epoch.
        trials: verdicts wanted.
        launches: all so far.
    """

    def __init__(self, store: Store, folder: Path, seed: str) -> None:
        self.store = store
        self.folder = folder
        self.random = random.Random(seed)
        self.failpoints = Failpoints(folder / "p")
        self.hits: Counter[str] = Counter()
        self.faults = 0
        self.trials = TRIALS
        self.launches: list[Launch] = []
        self.runs = folder / "runs"
        self.space = Path(shutil.copy(SPACE, folder / "space.yaml"))

    # --- Launching --------------------------------------------------------------------------------

    def arguments(self, *options: str) -> list[str]:
        """The command that goes on with the study."""
        usual = ["--storage", self.store.url, "--study", STUDY, "--runs", str(self.runs)]
        usual += ["--trials", str(self.trials), "--max-concurrent", "1"]
        return ["launch", str(self.space), *usual, *options]

    def launch(self, *options: str, **environment: str) -> Launch:
        """Start or go on with the study; later options replace earlier ones."""
        number = len(self.launches)
        temporary = self.folder / str(number)
        temporary.mkdir()
        mark = f"{temporary}/mark"
        settings = {
            "TMPDIR": str(temporary),
            "HPSEARCH_FAILPOINTS": str(self.failpoints.folder),
            "HPSEARCH_FAULTS": mark,
            **environment,
        }
        began = {n for n, state in self.states().items() if state == "COMPLETE"}
        name = f"launch-{number}"
        self.launches.append(
            Launch(self.arguments(*options), self.folder, name, mark, settings, began)
        )
        return self.launches[-1]

    def training(self, *options: str, **environment: str) -> Launch:
        """A launch in which a trial has begun to train."""
        launch = self.launch(*options, **environment)
        launch.read(r"^trial \d+: started")
        return launch

    def stopped_at(self, name: str, *options: str, **environment: str) -> tuple[Launch, int]:
        """A launch of which a process stands at the failpoint ``name``, and that process."""
        self.failpoints.arm(name)
        launch = self.launch(*options, **environment)
        return launch, launch.reach(self.failpoints, name)

    def kill_driver(self, launch: Launch, phase: str) -> None:
        """SIGKILL to the driver, counted; whoever stands at a failpoint goes on."""
        launch.kill()
        self.hit(phase)

    def kill_worker(self, victim: int, phase: str) -> None:
        """The same to a process that trains."""
        kill(victim)
        self.hit(phase)

    def hit(self, phase: str) -> None:
        """Count a fault, and let whoever stands at a failpoint go on."""
        self.hits[phase] += 1
        self.faults += 1
        self.failpoints.disarm()

    def command(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Any other command, to its end."""
        return subprocess.run(
            [HPSEARCH, *arguments],
            cwd=self.folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )

    # --- Looking ----------------------------------------------------------------------------------

    def states(self, study: str = STUDY) -> dict[int, str]:
        """State of every trial, by number; empty while the store cannot be read."""
        with suppress(Exception):
            return states(self.store, study)
        return {}

    def complete(self) -> int:
        """How many trials have a verdict."""
        return sum(state == "COMPLETE" for state in self.states().values())

    def epochs(self, number: int) -> list[int]:
        """The epochs of a trial that are in the store."""
        query = (
            "SELECT p.epoch FROM hpsearch_epochs p JOIN hpsearch_runs r ON r.id = p.run_id "
            "WHERE r.key = ? ORDER BY 1"
        )
        return [epoch for (epoch,) in self.store.rows(query, str(number))]

    def attributes(self, number: int) -> dict[str, str]:
        """What is noted on a trial, as JSON texts."""
        query = (
            "SELECT a.key, a.value_json FROM trial_user_attributes a JOIN trials t "
            "USING (trial_id) WHERE t.number = ?"
        )
        return dict(self.store.rows(query, number))

    def run_folder(self, number: int) -> Path:
        """Where the checkpoints of a trial lie."""
        [found] = self.runs.glob(f"*/{number}")
        return found

    def phase(self) -> str:
        """What the rows say that a launch is doing."""
        running = [number for number, state in self.states().items() if state == "RUNNING"]
        if not running:
            return "between trials"
        if not any(self.store.rows("SELECT 1 FROM hpsearch_runs WHERE started_at IS NOT NULL")):
            return "starting"
        most = max(len(self.epochs(number)) for number in running)
        return "all epochs, untold" if most == EPOCHS else "training"

    # --- Ending -----------------------------------------------------------------------------------

    def finish(self, *options: str, **expected: Any) -> Launch:
        """The same command again until it is done, then all that must hold."""
        self.failpoints.disarm()
        for _ in range(RELAUNCHES):
            launch = self.launch(*options)
            if launch.wait() == 0:
                break
        else:
            raise AssertionError(f"{RELAUNCHES} launches did not end the search: {launch.said()}")
        self.check(**expected)
        return launch

    def check(self, epochs: int = EPOCHS, by_hand: Iterable[int] = ()) -> None:
        """The master invariant, by our own checker and by the product's; and nothing left over."""
        expected = Expected(STUDY, self.trials, epochs, self.faults, frozenset(by_hand))
        found = breaches(self.store, self.launches, expected)
        if not by_hand:
            found += self._verified()
        assert not found, "; ".join(found)
        self.check_leftovers()

    def _verified(self) -> list[str]:
        done = self.command("verify", STUDY, "--storage", self.store.url)
        return [] if done.returncode == 0 else [f"verify: {done.stdout} {done.stderr}"]

    def check_leftovers(self) -> None:
        """No process of a launch that is over; no temporary file of one that ended by itself."""
        for launch in self.launches:
            if launch.code is None:
                continue
            # Nobody sees the processes off whose driver was killed.
            seconds = 60.0 if launch.killed else 5.0
            left = orphans(launch.mark, seconds)
            assert not left, f"processes outlive their launch by {seconds:.0f} s: {left}"
            if not launch.killed:
                files = sorted(map(str, Path(launch.mark).parent.rglob("*")))
                assert not files, f"it left temporary files, {files}: {launch.said()}"

    def close(self) -> None:
        """End what is still running."""
        self.failpoints.disarm()
        for launch in self.launches:
            launch.close()
