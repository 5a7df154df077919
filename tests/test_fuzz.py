"""Spoilt files: each is read, or refused in one line with its place; nothing else may happen."""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import optuna
import pytest
from support.exports import make_winner
from support.mutation import EXPORT_CHANGES, SPACE_CHANGES, Mutant, mutant

from hpsearch.ablation.plan import AblationPlan
from hpsearch.cli import program
from hpsearch.config.export import Winner
from hpsearch.config.run import TrialConfig
from hpsearch.config.space import SearchSpace
from hpsearch.search.launch import launch_study
from hpsearch.store import Store
from hpsearch.system.errors import InputError

FOLDER = Path(__file__).resolve().parents[1] / "search_spaces"
README = (FOLDER / "README.md").read_text("utf-8")
SPACES = {
    **{name: (FOLDER / f"{name}.yaml").read_text("utf-8") for name in ("quick", "table3")},
    "table3_log": (FOLDER / "table3_log.yaml").read_text("utf-8"),
    "readme": README.split("```yaml\n")[1].split("```")[0],
}
EXPORTS = {
    "paper_l1net": (FOLDER / "paper_l1net.yaml").read_text("utf-8"),
    "exported": make_winner().to_yaml(),
    "exported_split": make_winner(split_file="split.json").to_yaml(),
}

LONGEST_SECONDS = 10.0
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LONGEST_LINE = 900
DRAWS = 5
T = TypeVar("T")
HPSEARCH = str(Path(sys.executable).parent / "hpsearch")


# What must hold of one file ---------------------------------------------------------------------


def check_refusal(message: str, path: Path) -> None:
    """One line that begins with the file and a line that it has."""
    found = re.fullmatch(rf"{re.escape(str(path))}:(\d+): (.+)", message)
    assert found, ascii(message)
    assert message.isprintable(), ascii(message)
    assert len(found[2]) <= LONGEST_LINE, f"{len(found[2])} characters: {message}"
    lines = len(re.split(rb"\r\n?|\n", path.read_bytes()))
    assert 1 <= int(found[1]) <= lines, f"of {lines} lines: {message}"


def check_draws(space: SearchSpace, seed: int) -> None:
    """Whatever is drawn is a configuration that can be stored and read back."""
    assert space.with_overrides() == space
    assert space.with_overrides(trials=1).trials == 1
    record = json.loads(json.dumps(space.to_provenance(), allow_nan=False))
    assert SearchSpace.from_provenance(record) == space
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(DRAWS):
        config = space.suggest(study.ask())
        stored = json.loads(json.dumps(config.to_dict(), allow_nan=False))
        assert TrialConfig.from_dict(stored) == config


def check_export(winner: Winner, path: Path) -> None:
    """A configuration that was read is written and read as the same, and can be planned with."""
    winner.write(path)
    assert Winner.read(path) == winner
    with contextlib.suppress(InputError):
        AblationPlan.make(winner, stem=path.stem)


def read(reader: Callable[[Path], T], path: Path) -> T | None:
    """What ``reader`` makes of the file; ``None`` for one that it refuses as it must."""
    began = time.process_time()
    found: T | None = None
    try:
        found = reader(path)
    except InputError as error:
        check_refusal(str(error), path)
    assert time.process_time() - began < LONGEST_SECONDS
    return found


def launched(path: Path, storage: Path) -> tuple[int, str]:
    """Exit code and standard error of the command, run in this process."""
    said = io.StringIO()
    handlers = {number: signal.getsignal(number) for number in ENDING}
    command = ["hpsearch", "launch", str(path), "--storage", f"sqlite:///{storage}"]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
        patch.setattr(sys, "argv", command)
        try:
            program.main()
        except SystemExit as ended:
            return int(ended.code or 0), said.getvalue()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    raise AssertionError("a command ends by exiting")


def check_command(code: int, said: str, path: Path, storage: Path) -> None:
    """The command refused the file in one line, and wrote nothing."""
    assert code == 2, said
    assert said.startswith("hpsearch: "), said
    assert said.endswith("\n"), said
    check_refusal(said.removeprefix("hpsearch: ").removesuffix("\n"), path)
    assert not storage.parent.exists()


# Many files -------------------------------------------------------------------------------------


def each(mutants: Iterable[Mutant], path: Path, check: Callable[[Mutant], str]) -> Counter[str]:
    """How often each answer of ``check`` came; all that failed are named together."""
    answers, failures = Counter[str](), list[str]()
    for spoilt in mutants:
        path.write_bytes(spoilt.content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                answers[check(spoilt)] += 1
        except Exception as error:
            failures.append(f"{spoilt}: {type(error).__name__}: {str(error)[:500]}")
    assert not failures, f"{len(failures)} failed:\n" + "\n".join(failures[:20])
    return answers


def spaces(numbers: Iterable[int]) -> Iterator[Mutant]:
    return (mutant(number, SPACES, SPACE_CHANGES) for number in numbers)


def exports(numbers: Iterable[int]) -> Iterator[Mutant]:
    return (mutant(number, EXPORTS, EXPORT_CHANGES) for number in numbers)


def spoil_spaces(numbers: range, folder: Path) -> None:
    path, storage = folder / "space.yaml", folder / "new" / "store.db"

    def check(spoilt: Mutant) -> str:
        space = read(SearchSpace.load, path)
        if space is not None:
            check_draws(space, spoilt.number)
            return "space"
        if spoilt.number % 5 == 0:
            check_command(*launched(path, storage), path, storage)
        return "refused"

    answers = each(spaces(numbers), path, check)
    # Both ends are reached, or the mutations have lost their bite.
    assert min(answers["space"], answers["refused"]) > len(numbers) / 20, answers


def store_spaces(numbers: range, folder: Path) -> None:
    """A space that was read can be launched, by its own sampler."""
    path = folder / "space.yaml"
    with Store.create(f"sqlite:///{folder}/store.db") as store:

        def check(spoilt: Mutant) -> str:
            space = read(SearchSpace.load, path)
            if space is None:
                return "refused"
            search = launch_study(store, space, f"{spoilt.number} {space.name}")
            assignment = search.next()
            assert assignment is not None
            assert assignment.config.data == space.data
            return "launched"

        assert each(spaces(numbers), path, check)["launched"]


def spoil_exports(numbers: range, folder: Path) -> None:
    path = folder / "best.yaml"

    def check(spoilt: Mutant) -> str:
        winner = read(Winner.read, path)
        if winner is None:
            return "refused"
        check_export(winner, path)
        return "read"

    answers = each(exports(numbers), path, check)
    assert min(answers["read"], answers["refused"]) > len(numbers) / 20, answers


def launch_for_real(numbers: range, folder: Path) -> None:
    path, storage = folder / "space.yaml", folder / "new" / "store.db"
    command = [HPSEARCH, "launch", str(path), "--storage", f"sqlite:///{storage}"]

    def check(spoilt: Mutant) -> str:
        if read(SearchSpace.load, path) is not None:
            return "space"
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=60)
        assert done.stdout == ""
        check_command(done.returncode, done.stderr, path, storage)
        assert list(folder.iterdir()) == [path]
        return "refused"

    assert each(spaces(numbers), path, check)["refused"] > len(numbers) / 2


WHOLE = [range(start, start + 500) for start in range(0, 10_000, 500)]


@pytest.mark.slow
def test_a_spoilt_space_is_a_space_or_one_line(tmp_path: Path) -> None:
    spoil_spaces(range(1_000), tmp_path)


def test_a_spoilt_space_that_is_read_can_be_launched(tmp_path: Path) -> None:
    store_spaces(range(1_000, 1_100), tmp_path)


def test_a_spoilt_export_is_an_export_or_one_line(tmp_path: Path) -> None:
    spoil_exports(range(200), tmp_path)


def test_the_command_refuses_a_spoilt_space_and_writes_nothing(tmp_path: Path) -> None:
    launch_for_real(range(3), tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize("numbers", WHOLE, ids=str)
def test_ten_thousand_spoilt_spaces(numbers: range, tmp_path: Path) -> None:
    spoil_spaces(numbers, tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize("numbers", WHOLE[:4], ids=str)
def test_two_thousand_spoilt_exports(numbers: range, tmp_path: Path) -> None:
    spoil_exports(numbers, tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize("numbers", WHOLE[:4], ids=str)
def test_two_thousand_spoilt_spaces_are_launched_where_read(numbers: range, tmp_path: Path) -> None:
    store_spaces(numbers, tmp_path)


@pytest.mark.faults
def test_the_command_refuses_a_hundred_spoilt_spaces(tmp_path: Path) -> None:
    launch_for_real(range(100), tmp_path)


# Places -----------------------------------------------------------------------------------------

BROKEN = ("'x", '"x', "&a x", "*a", "!!int x", "1e-6", "1:30", "@x", "x: y", "]", "\x07", "\u2028")
"""What makes any value wrong, whatever its key."""


@pytest.mark.parametrize("base", SPACES)
def test_a_fault_is_reported_on_its_own_line(base: str) -> None:
    lines = SPACES[base].splitlines()
    values = [(row, found) for row, line in enumerate(lines) if (found := _own_value(line))]
    assert len(values) > 10
    for row, (start, end) in values:
        for broken in BROKEN:
            line = lines[row][:start] + broken + lines[row][end:]
            text = "\n".join([*lines[:row], line, *lines[row + 1 :]])
            with pytest.raises(InputError, match=rf"^f\.yaml:{row + 1}: "):
                SearchSpace.parse(text, "f.yaml")


def _own_value(line: str) -> tuple[int, int] | None:
    """Where the value of a key stands that has a line of its own."""
    found = re.match(r" *\w+: ([\w.]+)(?= *(#|$))", line)
    return None if found is None else found.span(1)
