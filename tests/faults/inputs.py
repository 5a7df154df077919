"""What a user gives, edits, names or does by hand; and what must never be seen."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from faults.case import STUDY, Case
from faults.launch import HPSEARCH, Launch
from faults.processes import marked, title, wait_until
from faults.stores import PostgreSQL
from faults.table import fault

YAML = "malformed YAML"
NAMES = "SQL in a study name; ../../x, NUL, 10 kB, unicode names"
SECRETS = "passwords"
EDITS = "the space, the data or the split edited mid-study"
BY_HAND = "a dashboard user deletes or tells a live trial"

PASSWORD = "s3cret{w}ord"


# --- YAML ---------------------------------------------------------------------------------------

MALFORMED = {
    "duplicate key": ("sampler: tpe", "sampler: tpe\nsampler: gp"),
    "1e-6 as text": ("low: 1.0e-4", "low: 1e-6"),
    "low > high": ("low: 3.0, high: 4.0", "low: 5.0, high: 4.0"),
    "log of 0": ("low: 1.0e-4", "low: 0.0"),
    "unknown key": ("sampler: tpe", "smapler: tpe"),
    "alias bomb": ("targets: [mu]", "targets: [&a mu, *a, *a]"),
    "no YAML": ("network:", "network: {["),
    "NaN": ("softplus_beta: 5.0", "softplus_beta: .nan"),
    "bytes": ("name: faults", "name: fa\x07ults"),
}


@fault(YAML, seconds=25)
def malformed_yaml(case: Case) -> None:
    """One line that names file, line and mend; the store is not even made."""
    text = case.space.read_text()
    for what, (before, after) in MALFORMED.items():
        assert before in text, before
        case.space.write_text(text.replace(before, after, 1))
        done = case.command(*case.arguments())
        assert done.returncode == 2, f"{what}: {done.stdout}{done.stderr}"
        line = rf"hpsearch: {re.escape(str(case.space))}:\d+: [^\n]+\n"
        assert re.fullmatch(line, done.stderr), f"{what}: {done.stderr}"
        assert "Traceback" not in done.stderr
        assert not stored(case), f"{what} was stored"


def stored(case: Case) -> bool:
    """Whether the store has any study, or a file was made for it."""
    if not isinstance(case.store, PostgreSQL):
        return (case.folder / "store.db").exists()
    found = case.store.rows(
        "SELECT count(*) FROM information_schema.tables WHERE table_name = ?", "trials"
    )
    return found != [(0,)]


# --- Names --------------------------------------------------------------------------------------


@fault(NAMES, seconds=60)
def odd_names(case: Case) -> None:
    """Stored literally, or refused in one line; no file outside the folder of the runs."""
    outside = sorted(path.name for path in case.folder.parent.iterdir())
    for name in ("", " ", "x" * 10_000, "a\nb", "\x1b[2J"):
        done = case.command(*case.arguments("--study", name))
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr[:300]
    text = case.space.read_text()
    case.space.write_text(text.replace("name: faults", 'name: "a\\0b"'))
    without = [word for word in case.arguments() if word not in ("--study", STUDY)]
    done = case.command(*without)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr[:300]
    case.space.write_text(text)
    assert not stored(case)
    odd = ("'; DROP TABLE trials; --", "../../x", "Ω 分子 🧪 %s {0}")
    for name in odd:
        done = case.command(*case.arguments("--study", name, "--trials", "1", "--epochs", "1"))
        assert done.returncode == 0, done.stderr
        assert list(case.states(name).values()) == ["COMPLETE"]
    names = case.store.rows("SELECT study_name FROM studies ORDER BY study_id")
    assert names == [(name,) for name in odd], names
    assert len(list(case.runs.iterdir())) == len(odd)
    assert sorted(path.name for path in case.folder.parent.iterdir()) == outside


# --- Passwords ----------------------------------------------------------------------------------


@fault(SECRETS, stores=("postgresql",), seconds=45, password=PASSWORD)
def passwords(case: Case) -> None:
    """Not printed, not in any file of the launch or of Ray, not in the list of processes."""
    url, case.store.url = case.store.url, "postgresql:///nothing"
    options = [word for word in case.arguments() if word not in ("--storage", case.store.url)]
    launch = _launch_without_option(case, options, url)
    launch.read(r"^trial \d+: epoch 1")
    assert_unseen(case, "in training")
    assert launch.wait() == 0, launch.said()
    outputs = [
        case.command(*command, HPSEARCH_STORAGE=url)
        for command in (
            ["status"],
            ["status", "--json"],
            ["export-best", "-o", "best.yaml"],
            ["report", "-o", "report"],
            ["status", "--storage", url],
        )
    ]
    nowhere = re.sub(r"@/.*", "@127.0.0.1:9/nothing", url)
    outputs.append(case.command("--debug", "status", HPSEARCH_STORAGE=nowhere))
    for done in outputs:
        assert PASSWORD not in done.stdout + done.stderr, done.args
    assert_unseen(case, "afterwards")
    case.store.url = url.replace(f":{PASSWORD}", "")
    case.check()


@fault(SECRETS, stores=("postgresql",), seconds=5, password=PASSWORD)
def passwords_in_a_command(case: Case) -> None:
    """Typed as a part of --storage, where others can list it, it is refused and not repeated."""
    done = case.command(*case.arguments())
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert PASSWORD not in done.stderr + done.stdout
    assert not stored(case)


def _launch_without_option(case: Case, options: list[str], url: str) -> Launch:
    case.arguments = lambda *more: [*options, *more]  # type: ignore[method-assign]
    return case.launch(HPSEARCH_STORAGE=url)


def assert_unseen(case: Case, when: str) -> None:
    """No file below the folder, and no command line, has the password."""
    secret = PASSWORD.encode()
    for folder, _, names in os.walk(case.folder):
        for path in (Path(folder, name) for name in names):
            # Ray's files come and go.
            with suppress(OSError):
                if path.is_file() and not path.is_symlink():
                    assert secret not in path.read_bytes(), f"{when}: the password is in {path}"
    for launch in case.launches:
        for process in marked(launch.mark):
            assert PASSWORD not in title(process), f"{when}: {process} shows it in its command"


# --- Edits --------------------------------------------------------------------------------------


def refused(case: Case, *words: str, **environment: str) -> None:
    """The same command is refused in words, and every row stays as it was."""
    before = case.states()
    launch = case.launch(**environment)
    assert launch.wait() not in (0, None), f"it was not refused: {launch.said()}"
    assert "Traceback" not in launch.errors, launch.errors
    for word in words:
        assert word in launch.errors, f"'{word}' is not in: {launch.errors}"
    after = case.states()
    assert after == before, f"a refused launch has changed {before} to {after}"


@fault(EDITS, seconds=45, hits={"space": 1})
def space_edited(case: Case) -> None:
    """Refused with a diff; undone, the study goes on; forced, it goes on with the new one."""
    launch, _ = case.stopped_at("mid-epoch")
    case.kill_driver(launch, "space")
    text = case.space.read_text()
    case.space.write_text(text.replace("low: 3.0, high: 4.0", "low: 3.0, high: 3.5"))
    refused(case, "radial_maximum_angstrom.high: 4.0 -> 3.5")
    forced = case.launch("--force")
    assert forced.wait() == 0, forced.said()
    case.check()


@fault(EDITS, seconds=60, hits={"split": 1})
def split_edited(case: Case) -> None:
    """Refused with both hashes; with the old file back, the study goes on."""
    split = case.folder / "split.json"
    sizes = ["--train-size", "48", "--validation-size", "20", "--test-size", "20"]
    assert case.command("data", "describe", *sizes, "-o", str(split)).returncode == 0
    text, count = re.subn(
        r"\ndata:(\n  .*)+", "\ndata: {split_file: split.json}", case.space.read_text()
    )
    assert count == 1
    case.space.write_text(text)
    launch, _ = case.stopped_at("mid-epoch")
    launch.read(r"^trial 0: started")
    case.kill_driver(launch, "split")
    before = split.read_text()
    parts = json.loads(before)
    parts["train"][0], parts["test"][0] = parts["test"][0], parts["train"][0]
    split.write_text(json.dumps(parts))
    refused(case, "split")
    split.write_text(before)
    case.finish()


@fault(EDITS, seconds=60, hits={"data": 1})
def data_edited(case: Case) -> None:
    """Refused with both hashes; with the old molecules back, the study goes on."""
    launch, _ = case.stopped_at("mid-epoch")
    launch.read(r"^trial 0: started")
    case.kill_driver(launch, "data")
    refused(case, "data", HPSEARCH_CACHE=str(_other_molecules(case)))
    case.finish()


@fault(EDITS, seconds=60, hits={"molecules": 1})
def molecules_changed_in_the_cache(case: Case) -> None:
    """With the recorded hash left as it was, the cache is made again and the study goes on."""
    launch, _ = case.stopped_at("mid-epoch")
    launch.read(r"^trial 0: started")
    case.kill_driver(launch, "molecules")
    code = (
        "import sys, shutil, numpy; from pathlib import Path\n"
        "from hpsearch.data import qm9\n"
        "folder = Path(sys.argv[1]) / 'qm9'\n"
        "shutil.copytree(qm9.cache_directory() / 'qm9', folder)\n"
        "targets, positions = folder / 'targets.npy', folder / 'positions.npy'\n"
        "numpy.save(targets, numpy.load(targets)[::-1])\n"
        "numpy.save(positions, numpy.load(positions) * 2)\n"
    )
    cache = case.folder / "cache"
    subprocess.run([sys.executable, "-c", code, str(cache)], check=True)
    launch = case.launch(HPSEARCH_CACHE=str(cache))
    assert launch.wait() == 0, launch.said()
    assert "is damaged (its numbers do not have the recorded hash)" in launch.output, launch.output
    case.check()


@fault(EDITS, seconds=40, hits={"rows": 1})
def rows_edited(case: Case) -> None:
    """`verify` names the trial; `export-best` refuses it and writes nothing."""
    case.finish()
    case.store.execute("UPDATE hpsearch_target_errors SET mae = mae / 100")
    case.hit("rows")
    checked = case.command("verify", STUDY, "--storage", case.store.url)
    assert checked.returncode == 1, checked.stdout + checked.stderr
    for number in range(case.trials):
        assert f"digest: trial {number} has other numbers than were recorded" in checked.stdout
    best = case.folder / "best.yaml"
    exported = case.command("export-best", STUDY, "--storage", case.store.url, "-o", str(best))
    assert exported.returncode == 1 and "must be as they were recorded" in exported.stderr
    assert "Traceback" not in exported.stderr and not best.exists(), exported.stderr


def _other_molecules(case: Case) -> Path:
    """A cache in which one molecule has another value, and the hash that says so."""
    code = (
        "import sys, numpy, dataclasses; from pathlib import Path\n"
        "from hpsearch.data import cache, qm9\n"
        "table = qm9.load(); values = numpy.array(table.targets); values[0] += 1\n"
        "other = dataclasses.replace(table, targets=values, recorded_hash=None)\n"
        "cache.write_table(other, Path(sys.argv[1]) / 'qm9', cache.read_source("
        "qm9.cache_directory() / 'qm9') or 'edited')\n"
    )
    folder = case.folder / "cache"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
    return folder


# --- By hand ------------------------------------------------------------------------------------


@fault(BY_HAND, seconds=30, hits={"told": 1})
def live_trial_told(case: Case) -> None:
    """Told by a user in Optuna's own dashboard, it stays so; the driver replaces it."""
    launch, _ = case.stopped_at("mid-epoch")
    with Dashboard(case) as dashboard:
        trial_id = dashboard.live_trial()
        dashboard.post(f"/api/trials/{trial_id}/tell", {"state": "Fail"})
    case.hit("told")
    assert launch.wait() == 0, launch.said()
    [number] = [number for number, state in case.states().items() if state == "FAIL"]
    case.check(by_hand=[number])


TRIAL_TABLES = (
    "params",
    "values",
    "intermediate_values",
    "heartbeats",
    "user_attributes",
    "system_attributes",
)


@fault(BY_HAND, seconds=30, hits={"deleted": 1})
def live_trial_deleted(case: Case) -> None:
    """Deleted under the driver's hands, it is replaced."""
    launch, _ = case.stopped_at("mid-epoch")
    [(trial_id, number)] = case.store.rows("SELECT trial_id, number FROM trials")
    for table in (*(f"trial_{part}" for part in TRIAL_TABLES), "trials"):
        case.store.execute(f"DELETE FROM {table} WHERE trial_id = ?", trial_id)
    case.hit("deleted")
    assert launch.wait() == 0, launch.said()
    case.check(by_hand=[number])


@fault(BY_HAND, seconds=30, hits={"study deleted": 1})
def study_deleted(case: Case) -> None:
    """Deleted as a whole in the dashboard, the launch ends in words."""
    launch, _ = case.stopped_at("mid-epoch")
    with Dashboard(case) as dashboard:
        dashboard.delete(f"/api/studies/{dashboard.study()}")
    case.hit("study deleted")
    assert launch.wait() not in (0, None), launch.said()
    assert "was deleted" in launch.errors and "Traceback" not in launch.errors, launch.errors
    case.check_leftovers()


class Dashboard:
    """Optuna's own, which lets whoever reaches it change everything."""

    def __init__(self, case: Case) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        program = str(Path(HPSEARCH).parent / "optuna-dashboard")
        url = case.store.url.replace("postgresql://", "postgresql+psycopg://")
        self._process = subprocess.Popen(
            [program, "--port", str(self._port), url],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> Dashboard:
        wait_until(lambda: self._answers(), "the dashboard")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)

    def study(self) -> int:
        """The number of the only study."""
        [study] = self._request("GET", "/api/studies")["study_summaries"]
        return int(study["study_id"])

    def live_trial(self) -> int:
        """The number, for requests, of the only trial."""
        [trial] = self._request("GET", f"/api/studies/{self.study()}")["trials"]
        assert trial["state"] == "Running"
        return int(trial["trial_id"])

    def post(self, path: str, values: dict[str, Any]) -> None:
        self._request("POST", path, values)

    def delete(self, path: str) -> None:
        self._request("DELETE", path)

    def _answers(self) -> bool:
        with suppress(OSError):
            self._request("GET", "/api/studies")
            return True
        return False

    def _request(self, method: str, path: str, values: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}{path}",
            method=method,
            data=None if values is None else json.dumps(values).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None
