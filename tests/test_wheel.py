"""The wheel outside the checkout: what it carries, and the commands that it installs."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
import venv
import zipfile
from contextlib import closing
from pathlib import Path

import pytest
from support.commands import Process, free_port, get

pytestmark = [pytest.mark.acceptance, pytest.mark.wheel, pytest.mark.timeout(1200)]

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("search_spaces", "storage", "dashboards")
TINY = ["--epochs", "1", "--train-size", "64", "--validation-size", "32", "--test-size", "32"]

LEFT_BY_A_SEARCH = (
    "storage/hpsearch.db",
    "storage/hpsearch.db-wal",
    "storage/mine.sqlite",
    "storage/runs/quick-90fddc9c68/0/checkpoint-00001-73aed94f0c8e9b56.safetensors",
    "storage/runs/quick-90fddc9c68/notes.py",
    "storage/runs/quick-90fddc9c68/notes.yaml",
    "storage/versions/runs/notes.py",
    "storage/__pycache__/env.cpython-311.pyc",
    "search_spaces/runs/0/best.yaml",
    "search_spaces/hpsearch.db",
    "dashboards/curves.db",
)
"""Files that a working copy may hold beside its own; some are ignored by git, some are not."""


HIDDEN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "HPSEARCH_STORAGE")
"""What would show the checkout and its environment to what is installed elsewhere."""


def shell(command: list[str], folder: Path, timeout: float = 300) -> str:
    """What ``command`` prints; the checkout and its environment are out of its sight."""
    environment = {name: text for name, text in os.environ.items() if name not in HIDDEN}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout after a search."""
    copy = tmp_path_factory.mktemp("source")
    left = shutil.ignore_patterns("__pycache__", "*.db", "*.db-*", ".*")

    def without(folder: str, names: list[str]) -> set[str]:
        # A search's runs are left by a search; the package has a folder of that name too.
        runs = {"runs"} if Path(folder) == ROOT / "storage" else set()
        return {*left(folder, names), *(runs & set(names))}

    for name in ("hpsearch", *FOLDERS):
        shutil.copytree(ROOT / name, copy / name, ignore=without)
    for name in ("pyproject.toml", "README.md", ".gitignore"):
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    own = shipped_files(source)
    for name in LEFT_BY_A_SEARCH:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("private")
    built = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(built), "."]
    shell(command, source)
    (built / "expected.json").write_text(json.dumps(sorted(own)))
    [path] = built.glob("*.whl")
    return path


def shipped_files(root: Path) -> set[str]:
    files = (path for name in FOLDERS for path in (root / name).rglob("*") if path.is_file())
    return {f"hpsearch/_shipped/{path.relative_to(root)}" for path in files}


def test_the_wheel_carries_the_three_folders_and_nothing_of_a_search(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    carried = {name for name in names if name.startswith("hpsearch/_shipped/")}

    assert sorted(carried) == json.loads((wheel.parent / "expected.json").read_text())
    assert {"hpsearch/_shipped/storage/env.py", "hpsearch/_shipped/search_spaces/quick.yaml"} < (
        carried
    )


def test_the_rest_of_the_wheel_is_the_package(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    own = set(shell(["git", "ls-files", "hpsearch"], ROOT).splitlines())

    assert {name for name in names if "/_shipped/" not in name} == own


def test_an_editable_installation_holds_no_copies(source: Path, tmp_path: Path) -> None:
    hook = "import hatchling.build as b, sys; print(b.build_editable(sys.argv[1]))"
    name = shell([sys.executable, "-c", hook, str(tmp_path)], source).split()[-1]
    names = zipfile.ZipFile(tmp_path / name).namelist()

    assert [name for name in names if ".dist-info/" not in name] == ["_hpsearch.pth"]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs' folder of an environment whose only hpsearch is the wheel.

    Everything else is that of the checkout's environment, which `make install` has made from the
    locked versions: to install them once more would take longer than the tests of the wheel.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    python = str(folder / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    shell([*pip, "install", "--quiet", "--no-deps", str(wheel)], folder)
    # Of a folder named in a .pth file no other .pth file is read: one of its leads to the checkout.
    [own] = folder.glob("lib/python*/site-packages")
    (own / "locked.pth").write_text(sysconfig.get_path("purelib"))
    shell([*pip, "check"], folder)
    return folder / "bin"


def test_the_commands_work_from_an_empty_folder(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in HIDDEN:
        monkeypatch.delenv(name, raising=False)

    def hpsearch(*arguments: str) -> str:
        return shell([str(installed / "hpsearch"), *arguments], tmp_path)

    where = "import hpsearch.cli as c; print(c.__file__)"
    assert str(installed.parent) in shell([str(installed / "python"), "-c", where], tmp_path)

    launched = hpsearch("launch", "quick.yaml", "--trials", "1", *TINY)
    again = hpsearch("launch", "search_spaces/quick.yaml", "--trials", "1", *TINY)
    exported = hpsearch("export-best", "-o", "best.yaml")
    options = ["--targets", "mu", "--variants", "L1Net", *TINY]
    ablated = hpsearch("ablate", "best.yaml", *options)
    reported = hpsearch("report", "-o", "report")
    port = free_port()
    with Process(tmp_path, str(installed / "hpsearch"), "dashboard", "--port", str(port)):
        pages = get(port, "/pages")
        get(port, "/pages/follow.js")
    status = json.loads(hpsearch("status", "quick", "--json"))

    assert "so far: 0 complete, 0 resumed, 1 left" in launched
    assert "winner: trial 0" in launched
    assert "so far: 1 complete, 0 resumed, 0 left" in again
    assert "trial 0: started" not in again
    assert "best.yaml" in exported
    assert "1 complete, 0 failed" in ablated
    assert (status["study"], status["counts"]["complete"]) == ("quick", 1)
    assert [row["epochs"] for row in status["trials"]] == [1]
    files = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"report.html", "report.md", "table1.csv", "table1.tex"} <= files
    assert "report.html" in reported
    assert "study quick" in pages
    assert 'id="ablation-learning_curves"' in (tmp_path / "report" / "report.html").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"best.yaml", "report", "storage"}
    with closing(sqlite3.connect(tmp_path / "storage" / "hpsearch.db")) as database:
        kinds = database.execute("select kind, name from hpsearch_experiments order by id")
        assert [kind for kind, _ in kinds.fetchall()] == ["study", "ablation"]
        [epochs] = database.execute("select count(*) from hpsearch_epochs").fetchone()
        assert epochs == 2
