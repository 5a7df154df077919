"""How a study and an ablation stand, seen from another shell while they go on."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.commands import HPSEARCH, PLAIN_QUICK, hpsearch, run
from support.made_up import ERRORS, FACTS, metrics, run_search, the_winner
from support.terminals import Terminal

from hpsearch.ablation.launch import launch_ablation
from hpsearch.ablation.plan import AblationPlan
from hpsearch.report.text import ZERO_OUTPUT_LEGEND
from hpsearch.results.status import read_status
from hpsearch.runs.messages import Completion, Failure
from hpsearch.store import Store
from hpsearch.terminal.status import status_lines, traceback_lines

SEARCHED, COUNT = re.subn(
    r"\n  epochs: \d+((?:.|\n)*)\nparameters:",
    r"\1\nparameters:\n  epochs: {type: int, low: 300, high: 399}",
    PLAIN_QUICK,
)
LAUNCH = ["launch", "searched.yaml", "--trials", "1", "--train-size", "1000", "--targets", "mu,U0"]
ABLATE = ["ablate", "paper_l1net", "--targets", "mu", "--variants", "L0Net", "--epochs", "1"]
ABLATE += ["--train-size", "16", "--validation-size", "8", "--test-size", "8"]


@dataclass
class Seen:
    """What was seen of a search while it went on and after, and of an ablation that failed."""

    table: list[str]
    running: str
    narrow: list[str]
    stated: dict[str, Any]
    interrupted: str
    failing: str
    errors: str
    after: str
    after_json: dict[str, Any]
    traceback: str
    study: str
    tables: dict[int, list[str]]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    assert COUNT == 1
    folder = tmp_path_factory.mktemp("status")
    (folder / "searched.yaml").write_text(SEARCHED)
    launch = Terminal(folder, 80, HPSEARCH, *LAUNCH)
    try:
        assert launch.until(lambda: launch.shows("/3", "%  ", "cpu"))
        table = list(launch.screen.display)
        running, stated = hpsearch(folder, "status"), hpsearch(folder, "status", "--json")
        narrow = Terminal(folder, 80, HPSEARCH, "status")
        narrow.until(lambda: False, 30)
        narrow.process.wait(30)
        launch.type(b"\x03")
        launch.until(lambda: False, 60)
        assert launch.process.wait(30) == 128 + signal.SIGINT
    finally:
        launch.close()
    interrupted = hpsearch(folder, "status", "quick")
    failing = run(folder, "env", "HPSEARCH_KERNELS=nonsense", HPSEARCH, *ABLATE)
    assert failing.returncode == 1
    command = f"{HPSEARCH} report -o report --format md; {HPSEARCH} data describe --test-size 32"
    tables = {}
    for columns in (80, 200):
        terminal = Terminal(folder, columns, "bash", "-c", command, NO_COLOR="1")
        terminal.until(lambda: False, 120)
        terminal.process.wait(30)
        tables[columns] = terminal.lines()
        assert b"\x1b[" not in terminal.raw
        terminal.close()
    yield Seen(
        table,
        running,
        narrow.lines(),
        json.loads(stated),
        interrupted,
        failing.stdout,
        failing.stderr,
        hpsearch(folder, "status"),
        json.loads(hpsearch(folder, "status", "--json")),
        hpsearch(folder, "status", "--traceback"),
        hpsearch(folder, "status", "quick", "--traceback"),
        tables,
    )
    narrow.close()


@pytest.mark.slow
def test_status_says_what_the_table_of_the_launch_says(seen: Seen) -> None:
    [head] = [line for line in seen.table if "of zero output  s/epoch" in line]
    first, driver, left, blank, again, row, legend = seen.running.splitlines()
    assert legend == ZERO_OUTPUT_LEGEND
    assert first.endswith("storage/hpsearch.db: 0 of 1 complete, 1 running")
    assert driver.startswith("driven by process ")
    assert re.fullmatch(r"about \S+ \w+ left", left)
    assert (blank, again.split()) == ("", head.split())
    assert re.fullmatch(r" +0 +\d+/3\d\d +[\d,.]+ +[\d.]+ % +\d+\.\d +[\d,]+  cpu \S+", row)


@pytest.mark.slow
def test_the_table_has_the_epochs_that_were_drawn(seen: Seen) -> None:
    [trial] = seen.stated["trials"]
    assert 300 <= trial["params_epochs"] == trial["most_epochs"] < 400
    [row] = [line for line in seen.table if "%  " in line]
    assert f"/{trial['most_epochs']} " in row


@pytest.mark.slow
def test_scripts_are_told_the_same(seen: Seen) -> None:
    [trial] = seen.stated["trials"]
    assert (trial["state"], trial["device"]) == ("RUNNING", "cpu")
    assert 1 <= trial["last_epoch"] <= trial["most_epochs"]
    assert 0 < trial["last_loss"] < 10 * trial["zero_output_loss"]
    assert trial["last_seconds"] > 0
    assert seen.stated["driver"]["process"] > 1
    assert seen.stated["seconds_left"] > 0


@pytest.mark.slow
def test_on_eighty_columns_nothing_is_broken(seen: Seen) -> None:
    lines = [line for line in seen.narrow if line]
    assert max(map(len, lines)) <= 80
    [row] = [line for line in lines if re.match(r" +0 +\d+/3\d\d ", line)]
    assert "%" in row


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 200])
def test_tables_fit_the_terminal(seen: Seen, columns: int) -> None:
    lines = seen.tables[columns]
    heads = [line.split() for line in lines if line.startswith("Target ")]
    names = [name for head in heads for name in head if name in ("SchNet", "Cormorant", "Mean")]
    assert names == ["Mean", "SchNet", "Cormorant"]
    # In one piece where there is room, each part with its targets where there is not.
    [*parts] = [line for line in lines if line.startswith("μ ")]
    assert (len(parts) > 2) == (columns == 80)
    # A line that is broken goes on with a whole word, indented.
    folded = [line for line in lines if re.match(r"  \S.* test molecules$", line)]
    assert bool(folded) == (columns == 80)
    [row] = [line for line in lines if line.startswith("zpve")]
    assert row.endswith("meV")


@pytest.mark.slow
def test_an_interrupted_search_is_driven_by_nobody(seen: Seen) -> None:
    assert "no launch is active: trials marked running are paused" in seen.interrupted
    assert " left" not in seen.interrupted
    assert seen.study == "study quick: no traceback; no run failed\n"


@pytest.mark.slow
def test_an_ablation_s_first_failure_is_shown_with_its_traceback(seen: Seen) -> None:
    message = "KernelsError: HPSEARCH_KERNELS must be 'on' or 'off' or not set, got 'nonsense'"
    assert f"run L0Net/mu/0: failed (exception): {message}" in seen.failing
    # When it happens, and again at the end.
    _, shown = seen.failing.split("the traceback of run L0Net/mu/0; all of them: ")
    assert re.match(r"hpsearch status paper_l1net-\w+ --json\nTraceback \(most recent", shown)
    assert f"\nhpsearch.kernels.library.{message}\n0 complete, 1 failed\n" in shown
    assert seen.errors.startswith("run L0Net/mu/0: Traceback (most recent call last):\n")
    assert f"\nhpsearch.kernels.library.{message}\nhpsearch: 1 of 1 runs failed" in seen.errors
    first, head, row, why, command = seen.after.splitlines()
    assert re.match(r"ablation paper_l1net-\w+ in .*: 0 of 1 complete, 1 failed$", first)
    assert head.split() == ["run", "state", "epochs", "test", "MAE", "unit", "weights"]
    assert row.split()[:2] == ["L0Net/mu/0", "failed"]
    assert row.endswith(f"  {message}")
    assert why == "the traceback of the first failure:"
    assert re.fullmatch(r"  hpsearch status paper_l1net-\w+ --traceback", command)
    assert seen.traceback.startswith(f"run L0Net/mu/0 failed (exception): {message}\nTraceback")
    assert seen.traceback.endswith(f"hpsearch.kernels.library.{message}\n")
    [cell] = seen.after_json["cells"]
    assert (cell["state"], cell["failure"]) == ("failed", "exception")
    assert cell["failure_traceback"].splitlines()[-1] == f"hpsearch.kernels.library.{message}"
    assert seen.after_json["counts"] == {"waiting": 0, "running": 0, "complete": 0, "failed": 1}


# --- An ablation under way ------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(f"sqlite:///{tmp_path}/made-up.db") as store:
        yield store


def test_an_ablation_under_way(store: Store) -> None:
    winner = the_winner(run_search(store))
    variants, names = list(ERRORS), ("mu", "U0")
    plan = AblationPlan.make(winner, stem="best", targets=list(names), variants=variants)
    ablation = launch_ablation(store, winner, plan, Path("storage/runs"))
    first, second, third = (ablation.next() for _ in range(3))
    assert first and second and third
    # The third fails before its worker has built it.
    for cell in (first, second):
        ablation.started(str(cell.key), FACTS)
    for epoch in (1, 2):
        ablation.epoch(first.key, metrics(epoch, first.config))
    ablation.epoch(second.key, metrics(1, second.config))
    ablation.finish(first.key, Completion(2, 2, 0.5, 0.5, {first.config.targets[0]: 0.25}))
    ablation.finish(third.key, Failure("diverged", "the loss is not finite at step 3", epoch=1))

    found = read_status(store)
    assert (found.kind, found.name, found.is_driven) == ("ablation", plan.name, True)
    assert found.summary == "1 of 6 complete, 3 waiting, 1 running, 1 failed"
    epochs = plan.training.epochs
    # Epochs of 2.5 s: one runs, and three cells wait.
    assert found.seconds_left is not None
    assert found.seconds_left > (epochs - 1) * 2.5 + 3 * epochs * 2.5 * 0.2
    _, driver, left, _, head, row, legend, _, _, *ended = status_lines(
        found, store.label, "hpsearch status x"
    )
    assert driver.startswith("driven by process ")
    assert left.startswith("about ")
    assert head.split()[:3] == ["run", "epoch", "loss"]
    assert row.split()[:2] == [second.key, f"1/{epochs}"]
    assert row.endswith("3.0 %      2.5    4,321  cpu somewhere")
    assert legend == ZERO_OUTPUT_LEGEND
    assert [line.split()[:2] for line in ended] == [
        [first.key, "complete"],
        [third.key, "failed"],
    ] or [line.split()[:2] for line in ended] == [[third.key, "failed"], [first.key, "complete"]]
    # A divergence has no traceback, and no line offers one.
    assert not any("traceback" in line for line in ended)
    [said] = traceback_lines(found)
    assert said.endswith("1 failed without one, since a divergence is no error of the code")

    # The study is found by its name.
    assert read_status(store, "made-up").kind == "study"
