"""The commands as a person types them, in a folder of their own."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from support.commands import (
    ABLATE,
    HPSEARCH,
    LAUNCH,
    PLAIN_QUICK,
    PROGRAMS,
    SIZES,
    SMALL_QUICK,
    Process,
    free_port,
    get,
    hpsearch,
    listing,
    refused,
    rows,
    run,
)

from hpsearch.models.folder import read_description

pytestmark = pytest.mark.slow

THROUGH_PYTHON = """
import sys
from hpsearch.cli.program import main
try:
    main()
finally:
    print("torch is", "in" if "torch" in sys.modules else "out")
"""


# --- The four commands --------------------------------------------------------------------------


@dataclass
class Session:
    folder: Path
    said: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A search, its relaunch and extension, its winner, an ablation and the reports."""
    folder = tmp_path_factory.mktemp("session")
    (folder / "quick.yaml").write_text(SMALL_QUICK)
    said = {
        "launch": hpsearch(folder, *LAUNCH, "--trials", "2", "--log-to", "tensorboard:logs"),
        "again": hpsearch(folder, *LAUNCH, "--trials", "2"),
        "status": hpsearch(folder, "status"),
        "status --json": hpsearch(folder, "status", "--json"),
        "verify": hpsearch(folder, "verify"),
        "verify --json": hpsearch(folder, "verify", "quick", "--json"),
        "study report": hpsearch(folder, "report", "-o", "study_report"),
        "export-best": hpsearch(folder, "export-best", "-o", "best.yaml"),
        "model": hpsearch(folder, "model", "export", "-o", "winner"),
        "dry run": hpsearch(
            folder, *ABLATE, "--variants", "L1Net,L0Net", "--match", "params", "--dry-run"
        ),
        "dry run --json": hpsearch(folder, *ABLATE, "--variants", "L0Net", "--dry-run", "--json"),
        "status after the dry run": hpsearch(folder, "status"),
        "ablate": hpsearch(
            folder, *ABLATE, "--variants", "L1Net,L0Net", "--log-to", "tensorboard:logs"
        ),
        "ablate again": hpsearch(folder, *ABLATE, "--variants", "L1Net,L0Net"),
        "report": hpsearch(folder, "report", "-o", "report"),
        "ensemble": hpsearch(folder, "model", "export", "-o", "ensemble", "--run", "L1Net"),
        "verify model": hpsearch(folder, "verify", "ensemble"),
        "train": hpsearch(folder, "train", "best.yaml", "--targets", "U0", "-o", "u0"),
        "train again": hpsearch(folder, "train", "best.yaml", "--targets", "U0", "-o", "u0"),
    }
    extend = run(folder, sys.executable, "-c", THROUGH_PYTHON, *LAUNCH, "--trials", "3")
    assert extend.returncode == 0, extend.stderr
    return Session(folder, {**said, "extend": extend.stdout})


def test_a_launch_says_what_it_found_every_epoch_and_the_winner(session: Session) -> None:
    said = session.said["launch"]

    assert f"study quick in {session.folder}/storage/hpsearch.db" in said
    assert "so far: 0 complete, 0 resumed, 2 left" in said
    for trial in (0, 1):
        for epoch in (1, 2):
            assert re.search(rf"trial {trial}: epoch {epoch}, validation loss [\d.,]+ \(", said)
    assert "2 of 2 complete" in said
    assert re.search(r"winner: trial [01], validation loss", said)
    assert re.search(r"^mu +[\d.]+ +[\d.]+ +[\d.]+  D$", said, re.M)
    assert re.search(r"^U0 +[\d.]+ +[\d.]+ +[\d.]+  meV$", said, re.M)
    assert said.endswith("next: hpsearch export-best -o best.yaml\n")


def test_the_same_command_again_finds_nothing_to_do(session: Session) -> None:
    assert "so far: 2 complete, 0 resumed, 0 left" in session.said["again"]
    assert "epoch" not in session.said["again"]
    assert (
        session.said["again"].partition("winner:")[2]
        == (session.said["launch"].partition("winner:")[2])
    )


def test_more_trials_extend_the_study_in_a_driver_without_torch(session: Session) -> None:
    said = session.said["extend"]

    assert "so far: 2 complete, 0 resumed, 1 left" in said
    [[best]] = rows(
        session.folder,
        "select min(value) from trial_values join trials using (trial_id) where number < 2",
    )
    [[last]] = rows(
        session.folder,
        "select value from trial_values join trials using (trial_id) where number = 2",
    )
    [verdict] = re.findall(r"trial 2: complete.*", said)
    assert (", the best so far; " in verdict) == (last < best)
    assert "trial 1: " not in said
    assert said.endswith("torch is out\n")
    [[complete]] = rows(session.folder, "select count(*) from trials where state = 'COMPLETE'")
    assert complete == 3


def test_status_says_how_the_study_stands(session: Session) -> None:
    said = session.said["status"].splitlines()
    # Where steps were timed on this machine before, the study has had an estimate.
    first, best, head, *lines = [line for line in said if not line.startswith("estimate check ")]
    assert first.endswith("storage/hpsearch.db: 2 of 2 complete")
    assert re.fullmatch(
        r"best so far: trial [01], validation loss [\d,.]+, [\d.]+ % of the loss of predicting "
        r"zero \(100 % = nothing learned\)",
        best,
    )
    assert head.split() == ["trial", "state", "epochs", "best", "loss", "s/epoch", "weights"]
    assert [line.split()[:3] for line in lines] == [["0", "complete", "2"], ["1", "complete", "2"]]

    stated = json.loads(session.said["status --json"])
    assert (stated["study"], stated["counts"]["complete"]) == ("quick", 2)
    for trial in stated["trials"]:
        assert trial["state"] == "COMPLETE"
        assert trial["value"] == trial["best_loss"]
        assert trial["weights"] > 0
        assert trial["params_learning_rate"] > 0


def test_verify_finds_a_real_study_in_order(session: Session) -> None:
    said = session.said["verify"]
    assert said.endswith(
        "storage/hpsearch.db: 2 trials checked, 2 of 2 finished, 0 failed, 4 epochs: no breaches\n"
    )
    assert said.count("\n") == 1
    stated = json.loads(session.said["verify --json"])
    assert (stated["study"], stated["verdicts"], stated["breaches"]) == ("quick", 2, [])


def test_verify_names_each_breach(store: Path) -> None:
    with contextlib.closing(sqlite3.connect(store / "storage" / "hpsearch.db")) as database:
        database.execute("update trials set state = 'RUNNING' where number = 1")
        database.execute("update hpsearch_runs set weights = null where key = '0'")
        database.commit()
    done = run(store, HPSEARCH, "verify")
    assert done.returncode == 1
    count, facts, digest, terminal = done.stdout.splitlines()
    assert re.fullmatch(
        r"count: the study has \d finished trials of \d wanted: launch it again", count
    )
    assert facts == "facts: trial 0 has no number of weights"
    assert digest.startswith("digest: trial 0 has other facts (fingerprint, weights,")
    assert terminal == "terminal: trial 1 has not ended: launch it again"
    assert re.fullmatch(r"hpsearch: study quick in .*: 4 breaches\n", done.stderr)
    stated = run(store, HPSEARCH, "verify", "--json")
    assert stated.returncode == 1
    rules = [(breach["rule"], breach["trial"]) for breach in json.loads(stated.stdout)["breaches"]]
    assert rules == [("count", None), ("facts", 0), ("digest", 0), ("terminal", 1)]


def test_a_dry_run_prints_the_plan_and_its_cost_and_leaves_nothing(session: Session) -> None:
    said = session.said["dry run"]
    assert (
        "2 runs = 2 variants × 1 target (mu) × 1 repeat; variants have nearly equal numbers of "
        "weights" in said
    )
    weights = [
        int(text.replace(",", ""))
        for text in re.findall(r"^  L[01]Net +([\d,]+) weights", said, re.M)
    ]
    assert len(weights) == 2
    assert abs(weights[1] / weights[0] - 1) < 0.05
    assert re.search(
        r"^  L0Net: [\d,]+ ms per step, .* per run of 1 epochs; [\d.]+ GB$", said, re.M
    )
    assert re.search(r"^total: at most \d+ s, \d+ at a time", said, re.M)
    assert "nothing was trained or written" in said
    assert session.said["status after the dry run"] == session.said["status"]
    assert "so far: 0 complete, 2 to run" in session.said["ablate"]


def test_a_dry_run_for_scripts(session: Session) -> None:
    quote = json.loads(session.said["dry run --json"])
    assert (quote["runs"], quote["targets"], quote["repeats"]) == (1, ["mu"], 1)
    [arm] = quote["arms"]
    assert (arm["variant"], arm["epochs"]) == ("L0Net", 1)
    assert f"  L0Net  {arm['weights']:>11,} weights" in session.said["ablate"]
    assert quote["seconds"] == arm["run_seconds"] > arm["epoch_seconds"] > 0


def test_the_molecules_for_scripts_with_the_cache_still_to_be_made(empty: Path) -> None:
    cache = f"HPSEARCH_CACHE={empty}/cache"
    done = run(empty, "env", cache, HPSEARCH, "data", "describe", *SIZES, "--json")
    assert done.returncode == 0
    assert "QM9 is converted once" in done.stderr
    facts = json.loads(done.stdout)
    assert (facts["molecules"], facts["train"], facts["test"]) == (130_831, 64, 32)
    said = hpsearch(empty, "data", "describe", *SIZES)
    assert f"\ncontent {facts['content']}\nsplit {facts['split']}: 64 training" in said
    for row in facts["targets"]:
        numbers = f"{row['mae_of_mean']:.4g} {row['mae_of_composition']:.4g} {row['unit']}"
        assert f"{row['target']} {row['mean']:.5g} {row['deviation']:.5g} {numbers}" in (
            " ".join(said.split())
        )


def test_the_export_is_read_by_the_ablation(session: Session) -> None:
    said = session.said["ablate"]
    exported = session.said["export-best"]
    assert "chosen on validation molecules: best.yaml" in exported
    assert re.search(r"^validation loss [\d,.]+, [\d.]+ % of the loss of predict", exported, re.M)
    assert "so far: 0 complete, 2 to run" in session.said["ablate"]
    assert re.search(r"training: at most 1 epochs, plateau, .* not your search's 2 epochs\n", said)
    assert "2 complete, 0 failed" in session.said["ablate"]
    assert re.search(r"run L0Net/mu/0: complete .* test MAE mu [\d.]+ D", session.said["ablate"])
    assert re.search(r"; 2 of 2 done, 0 running$", session.said["ablate"], re.M)
    assert "so far: 2 complete, 0 to run" in session.said["ablate again"]
    assert ": epoch " not in session.said["ablate again"]
    query = "select target, count(*), min(mae) from hpsearch_test_errors group by target"
    [(target, count, least)] = rows(session.folder, query)
    assert (target, count) == ("mu", 2)
    assert least > 0


@pytest.mark.parametrize(
    ("folder", "files"),
    [
        ("report", {"report.html", "report.md", "table1.tex", "table1.csv", "cells.csv"}),
        ("study_report", {"report.html", "report.md", "trials.csv", "epochs.csv"}),
    ],
)
def test_the_report_s_files(session: Session, folder: str, files: set[str]) -> None:
    written = {path.name for path in (session.folder / folder).iterdir()}

    assert files < written
    assert {path for path in written if path.endswith(".html")} == {"report.html"}
    assert 'id="study-learning_curves"' in (session.folder / folder / "report.html").read_text()
    said = session.said[folder.replace("_", " ")]
    assert all(f"{folder}/{name}" in said for name in written)


def test_train_goes_on_and_leaves_safetensors(session: Session) -> None:
    assert "run u0: epoch 2" in session.said["train"]
    assert re.search(r"test MAE U0 [\d.e+]+ meV", session.said["train"])
    assert "run u0: epoch" not in session.said["train again"]
    said, again = (session.said[name].splitlines() for name in ("train", "train again"))
    assert again[-1] == said[-1] == "next: hpsearch predict u0 FILE -o predictions.csv"
    [line] = [line for line in said if line.startswith("weights: ")]
    assert line in again
    with safe_open(session.folder / line.removeprefix("weights: "), "pt") as weights:
        assert len(list(weights.keys())) > 5


def test_train_leaves_a_model(session: Session) -> None:
    assert "calibration molecules" in session.said["train"]
    assert "calibration molecules" not in session.said["train again"], "the model was kept"
    description = read_description(session.folder / "u0")
    assert [target.name for target in description.targets] == ["U0"]
    assert f"{description.tested['U0'].mae:.3g}"[:2] in session.said["train"]


def test_models_of_the_winner_and_of_an_arm(session: Session) -> None:
    winner, ensemble = (read_description(session.folder / name) for name in ("winner", "ensemble"))
    best = (session.folder / "best.yaml").read_text()
    assert f"trial: {winner.networks[0].origin.key}\n" in best
    assert [target.name for target in winner.targets] == ["mu", "U0"]
    keys = [network.origin.key for network in ensemble.networks]
    assert keys
    assert all(key.startswith("L1Net/") for key in keys)
    first, *lines = session.said["verify model"].splitlines()
    assert first.startswith("predicting ")
    assert all(line.startswith("unbroken: ") for line in lines)
    assert sum(": run L1Net/" in line for line in lines) == len(keys)


def test_nothing_lies_beside_what_was_asked_for(session: Session) -> None:
    names = {path.name for path in session.folder.iterdir()}
    assert names == {
        *("quick.yaml", "best.yaml", "report", "storage", "study_report"),
        *("winner", "ensemble", "u0", "logs"),
    }
    assert {path.name for path in (session.folder / "storage").iterdir()} == {"hpsearch.db", "runs"}


def test_an_edited_export_keeps_its_training_and_says_so(store: Path) -> None:
    text = (store / "best.yaml").read_text()
    text = re.sub(r"fingerprint: .*\n", "", text).replace("epochs: 2", "epochs: 1")
    (store / "mine.yaml").write_text(text)
    said = hpsearch(store, "ablate", "mine.yaml", "--targets", "mu", "--variants", "L1Net")
    assert "training: at most 1 epochs" in said
    assert "defaults are those of the file" in said
    assert "64 training, 32 validation, 32 test molecules" in said
    hpsearch(store, "report", "-o", "report", "--format", "md")
    assert "edited after export" in (store / "report" / "report.md").read_text()


def test_what_is_printed_as_next_can_be_typed(store: Path) -> None:
    said = hpsearch(store, "export-best", "-o", "my best.yaml")
    [command] = re.findall(r"or (hpsearch train .*)", said)
    _, *arguments = shlex.split(command)
    said = hpsearch(store, *arguments)
    assert "mu, U0 for at most 2 epochs; 64 training, 32 validation, 32 test molecules" in said
    assert "test MAE mu" in said
    assert list((store / "my best-train").glob("*.safetensors"))


def test_a_split_file_beside_its_space_is_what_trains(empty: Path) -> None:
    (empty / "spaces").mkdir()
    hpsearch(empty, "data", "describe", *SIZES, "-o", "spaces/split.json")
    split = json.loads((empty / "spaces" / "split.json").read_text())
    assert {name: len(molecules) for name, molecules in split.items()} == {
        "train": 64,
        "validation": 32,
        "test": 32,
    }
    text, count = re.subn(r"\ndata:(\n  .*)+", "\ndata: {split_file: split.json}", SMALL_QUICK)
    assert count == 1
    (empty / "spaces" / "mine.yaml").write_text(text)
    launch = ["launch", "spaces/mine.yaml", "--trials", "1", "--epochs", "1", "--targets", "mu"]
    refused(empty, [*launch, "--train-size", "77"], "--train-size must be left out", "split.json")
    assert "1 of 1 complete" in hpsearch(empty, *launch)
    hpsearch(empty, "export-best", "-o", "best.yaml")
    train = ["train", "best.yaml", "--validation-size", "7"]
    refused(empty, train, "--validation-size must be left out")
    said = hpsearch(empty, "ablate", "best.yaml", "--variants", "L1Net", "--epochs", "1")
    assert "64 training, 32 validation, 32 test molecules" in said
    hpsearch(empty, "report", "-o", "report", "--format", "md")
    report = (empty / "report" / "report.md").read_text()
    assert (
        "Trained on 64 molecules and tested on 32. Another 32 molecules chose the epoch." in report
    )
    assert "109,000 |" not in report


# --- A launch that is watched, interrupted, ended and finished ----------------------------------

LONG = ["launch", "plain.yaml", "--trials", "1", "--epochs", "12", "--train-size", "128"]
LONG += ["--validation-size", "32", "--test-size", "32"]


def descendants(process: int) -> set[tuple[int, str]]:
    """Number and starting time of every process below ``process`` that has not ended."""
    parents = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            state, parent, *rest = (entry / "stat").read_text().rpartition(")")[2].split()
            if state != "Z":
                parents[int(entry.name)] = (int(parent), rest[17])
    found = {process}
    while more := {child for child, (above, _) in parents.items() if above in found} - found:
        found |= more
    return {(child, parents[child][1]) for child in found - {process}}


def alive(process: tuple[int, str]) -> bool:
    try:
        state, *rest = Path(f"/proc/{process[0]}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return state != "Z" and rest[18] == process[1]


def all_gone(processes: set[tuple[int, str]]) -> bool:
    deadline = time.monotonic() + 15
    while any(map(alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not any(map(alive, processes))


def seen_trials(port: int) -> list[dict[str, Any]]:
    """Every trial of the study as a browser gets it."""
    summaries = json.loads(get(port, "/api/studies"))["study_summaries"]
    [study] = [summary for summary in summaries if summary["study_name"] == "quick"]
    trials = json.loads(get(port, f"/api/studies/{study['study_id']}"))["trials"]
    assert isinstance(trials, list)
    return trials


@dataclass
class Watched:
    """What was seen of one trial that took three launches."""

    folder: Path
    trials: dict[str, list[dict[str, Any]]]
    stored: dict[int, float]
    pages: dict[str, str]
    dashboard_end: tuple[int, str]
    interrupt: tuple[int, str]
    status: str
    terminate: tuple[int, str]
    orphans: dict[str, bool]
    temporary: list[str]
    last: str


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    url = f"sqlite:///{folder}/storage/hpsearch.db"
    ours, plain = free_port(), free_port()
    with contextlib.ExitStack() as stack:
        # Ray's sockets need a short path, which pytest's is not.
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp", prefix="t")))
        (folder / "plain.yaml").write_text(PLAIN_QUICK)
        command = (HPSEARCH, *LONG)
        launch = stack.enter_context(Process(folder, *command, temporary=temporary))
        launch.read_until("trial 0: started")
        port = ["--port", str(ours)]
        dashboard = stack.enter_context(Process(folder, HPSEARCH, "dashboard", *port))
        program = str(PROGRAMS / "optuna-dashboard")
        other = stack.enter_context(Process(folder, program, "--port", str(plain), url))
        get(ours, "/api/studies")
        get(plain, "/api/studies")
        launch.read_until("trial 0: epoch 3")
        trials = {"ours": seen_trials(ours), "plain": seen_trials(plain)}
        below = descendants(launch.pid)
        interrupt = launch.end(signal.SIGINT)
        orphans = {"SIGINT": all_gone(below)}
        stored = dict(rows(folder, "select epoch, validation_loss from hpsearch_epochs"))
        status = hpsearch(folder, "status")

        relaunch = stack.enter_context(Process(folder, *command, temporary=temporary))
        relaunch.read_until("so far: 0 complete, 1 resumed from epoch ")
        relaunch.read_until("trial 0: epoch ")
        below = descendants(relaunch.pid)
        terminate = relaunch.end(signal.SIGTERM)
        orphans["SIGTERM"] = all_gone(below)
        left = [path.name for path in temporary.iterdir()]

        last = hpsearch(folder, *LONG)
        index = get(ours, "/pages")
        links = re.findall(r'href="(/pages/[^"]+)"', index)
        pages = {link: get(ours, link.replace("?", "/figure?")) for link in links}
        dashboard_end = dashboard.end(signal.SIGINT)
        other.end(signal.SIGINT)
        yield Watched(
            folder,
            trials,
            stored,
            pages,
            dashboard_end,
            interrupt,
            status,
            terminate,
            orphans,
            left,
            last,
        )


@pytest.mark.parametrize("dashboard", ["ours", "plain"])
def test_a_dashboard_shows_every_epoch_of_a_running_trial(watched: Watched, dashboard: str) -> None:
    [trial] = watched.trials[dashboard]
    seen = {value["step"]: value["value"] for value in trial["intermediate_values"]}

    assert trial["state"] == "Running"
    assert len(seen) >= 3
    assert set(seen) == set(range(1, len(seen) + 1))
    assert seen == {epoch: watched.stored[epoch] for epoch in seen}


def test_the_pages_are_drawn_for_the_study(watched: Watched) -> None:
    drawn = {link: json.loads(text) for link, text in watched.pages.items()}
    assert {link.partition("?")[0] for link in drawn} >= {
        "/pages/learning_curves",
        "/pages/targets",
        "/pages/importance",
    }
    pages = ("features", "learning_curves", "search_cost", "targets")
    with_figure = sorted(link for link, figure in drawn.items() if figure is not None)
    assert with_figure == [f"/pages/{page}?study=quick" for page in pages]
    assert all(drawn[link]["data"] for link in with_figure)


def test_ctrl_c_ends_the_dashboard_in_silence(watched: Watched) -> None:
    assert watched.dashboard_end == (0, "")


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interrupted_launch_says_so_in_one_line_and_leaves_nothing(
    watched: Watched, name: str, code: int
) -> None:
    ended = {"SIGINT": watched.interrupt, "SIGTERM": watched.terminate}[name]

    command = shlex.join(["hpsearch", *LONG])
    assert ended == (code, f"hpsearch: interrupted; to resume, type: {command}\n")
    assert watched.orphans[name]
    assert watched.temporary == []


def test_the_interrupted_trial_waits_as_running(watched: Watched) -> None:
    assert "0 of 1 complete, 1 running" in watched.status
    assert len(watched.stored) in (3, 4)


def test_the_same_command_finishes_the_interrupted_trial(watched: Watched) -> None:
    assert re.search(r"so far: 0 complete, 1 resumed from epoch \d+, 0 left", watched.last)
    assert "trial 0: epoch 1," not in watched.last
    assert "1 of 1 complete" in watched.last
    epochs = rows(watched.folder, "select epoch, validation_loss from hpsearch_epochs order by 1")
    assert [epoch for epoch, _ in epochs] == list(range(1, len(epochs) + 1))
    assert dict(epochs).items() >= watched.stored.items()
    assert rows(watched.folder, "select state from trials") == [("COMPLETE",)]


IMPORTING = """
import signal, sys
from hpsearch.cli import program
sys.path.insert(0, sys.argv[1])
signal.signal(signal.SIGTERM, program._interrupt)
try:
    import interrupted
    signal.pause()
except KeyboardInterrupt as error:
    print(error.args[0], interrupted.whole)
"""


def test_a_signal_waits_for_the_import_that_it_comes_into(tmp_path: Path) -> None:
    code = "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\nwhole = True\n"
    (tmp_path / "interrupted.py").write_text(code)
    done = run(tmp_path, sys.executable, "-c", IMPORTING, str(tmp_path), timeout=30)
    assert (done.stdout, done.stderr) == ("15 True\n", "")


# --- Bad input: `test_refusals.py` has the rest, without a process each -------------------------


@pytest.fixture
def empty(session: Session, tmp_path: Path) -> Path:
    """An empty folder; the session has made the cache of the molecules."""
    return tmp_path


@pytest.fixture
def store(session: Session, tmp_path: Path) -> Path:
    """A copy of the session's store and export."""
    (tmp_path / "storage").mkdir()
    shutil.copy(session.folder / "storage" / "hpsearch.db", tmp_path / "storage")
    shutil.copy(session.folder / "best.yaml", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("hpsearch la", {"plain,launch"}),
        ("hpsearch launch --dry", {"plain,--dry-run"}),
        ("hpsearch launch tab", {"plain,table3", "plain,table3_log", "file,tab"}),
    ],
)
def test_the_shell_completes(tmp_path: Path, words: str, found: set[str]) -> None:
    variables = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    variables["_HPSEARCH_COMPLETE"] = "bash_complete"
    command = ["env", *(f"{name}={text}" for name, text in variables.items()), HPSEARCH]
    assert set(run(tmp_path, *command).stdout.split()) == found


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["launch", "missing.yaml"], ["missing.yaml", "quick, table3"]),
        (["launch", "quick", "--nonsense", "1"], ["--nonsense", "hpsearch launch --help"]),
        (["lanch", "quick"], ["lanch", "Did you mean 'launch'?"]),
        (["launch", "quick", "--storage", "me:sesame@127.0.0.1/db"], ["cannot be parsed"]),
        (["ablate", "best.yaml", "--targets", "U9"], ["'U9'"]),
        (["export-best", "nope", "-o", "x.yaml"], ["quick", "'nope'"]),
        (["report", "-o", "best.yaml/x"], ["'best.yaml/x' must be writable"]),
        (["train", "best.yaml", "--test-size", "130000"], ["must be new to the search"]),
    ],
)
def test_a_wrong_request_is_refused(store: Path, arguments: list[str], words: list[str]) -> None:
    refused(store, arguments, *words)


def test_a_folder_of_another_run_is_not_trained_in(session: Session) -> None:
    arguments = ["train", "best.yaml", "--targets", "mu", "-o", "u0"]
    before = listing(session.folder)
    done = run(session.folder, HPSEARCH, *arguments)

    assert done.returncode == 2
    assert "holds a run with other settings (targets " in done.stderr
    assert listing(session.folder) == before


def test_tensorboard_has_every_epoch_of_a_launch(session: Session) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logs = session.folder / "logs"
    folders = sorted({path.parent for path in logs.rglob("events.out.tfevents.*")})
    assert [path.relative_to(logs).parts[1:] for path in folders] == [
        *(("L0Net", "mu", "0"), ("L1Net", "mu", "0")),
        *(("0",), ("1",)),
    ]
    for folder in folders:
        name, *key = folder.relative_to(logs).parts
        known = rows(
            session.folder,
            "SELECT p.epoch, p.validation_loss FROM hpsearch_epochs p "
            "JOIN hpsearch_runs r ON r.id = p.run_id JOIN hpsearch_experiments e "
            f"ON e.id = r.experiment_id WHERE e.name = '{name}' AND r.key = '{'/'.join(key)}' "
            "ORDER BY p.epoch",
        )
        written = EventAccumulator(str(folder)).Reload()
        found = [(each.step, each.value) for each in written.Scalars("loss/validation")]
        assert found == [(epoch, pytest.approx(loss, rel=1e-6)) for epoch, loss in known]
