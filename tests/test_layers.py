"""The table of docs/architecture.md, held against the imports of every module."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "hpsearch"
FOLDERS = ("search_spaces", "storage", "dashboards")

AT_THE_TOP = {
    "torch": {"kernels", "nn", "runs", "models", "dipoles"},
    "ray": {"executor"},
    "sqlalchemy": {"store"},
    "alembic": {"store"},
    "optuna": {"store", "search"},
    "optuna_dashboard": {"pages"},
    "plotly": {"pages", "dipoles"},
    "click": {"cli"},
    "rich": {"terminal"},
    "waitress": {"pages"},
    "tensorboard": {"api"},
}
"""Who may import a library when it is imported itself; what is not named here, all may."""

INSIDE = {
    "torch": {"api", "cli", "data", "executor", "system"},
    "plotly": {"api"},
    "safetensors": {"runs", "models"},
    "optuna": {"config"},
}
"""Who else may inside a function, or for its types."""

MOST_ROWS = 20
"""Of the table, so that it can be drawn from memory."""

MOST_MODULES = 5
"""Beside the packages."""

MOST_FILES = 13
"""In one package, beside its __init__."""

HEAVY = ("torch", "ray", "optuna", "sqlalchemy", "alembic", "pandas", "plotly", "numpy", "pydantic")


@dataclass(frozen=True)
class Import:
    file: Path
    line: int
    name: str
    at_the_top: bool

    @property
    def unit(self) -> str:
        """The module or package of hpsearch/ that imports."""
        return self.file.relative_to(PACKAGE).parts[0].removesuffix(".py")

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}: {self.name}"


def imports_of(file: Path) -> list[Import]:
    return list(_imports(file, ast.parse(file.read_text(encoding="utf-8")), at_the_top=True))


def _imports(file: Path, node: ast.AST, at_the_top: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(file, child.lineno, alias.name, at_the_top)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{file}:{child.lineno}: imports are absolute"
            for alias in child.names:
                yield Import(file, child.lineno, f"{child.module}.{alias.name}", at_the_top)
        else:
            lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            lazy |= isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            yield from _imports(file, child, at_the_top and not lazy)


def table() -> list[tuple[str, str]]:
    """The rows of the table, lowest first: a module or package, and its purpose."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    first, _, _ = text.partition("\n## How the data flows")
    return re.findall(r"^\| `([a-z_]+)/?` \| ([^|]+) \|", first, flags=re.M)


def layers() -> dict[str, int]:
    """The row of every module and package in the table, lowest first."""
    rows = [name for name, _ in table()]
    assert len(set(rows)) == len(rows), "a name stands twice in the table"
    return {name: number for number, name in enumerate(rows)}


def units() -> set[str]:
    """Modules and packages of hpsearch/."""
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    return modules | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def imported_unit(name: str) -> str | None:
    """Module or package of hpsearch/ that ``name`` lies in; None for libraries."""
    parts = name.split(".")
    if parts[0] != "hpsearch" or len(parts) < 2 or parts[1].startswith("__"):
        return None
    assert parts[1] in units(), f"{name} is no module of hpsearch"
    return parts[1]


SOURCES = sorted(PACKAGE.rglob("*.py"))
IMPORTS = [found for source in SOURCES for found in imports_of(source)]


def test_the_table_names_every_module() -> None:
    assert set(layers()) == units()


def test_a_stranger_can_draw_the_house() -> None:
    assert len(table()) <= MOST_ROWS
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert len(modules) <= MOST_MODULES, modules
    sizes = {path.name: len(list(path.glob("[!_]*.py"))) for path in PACKAGE.iterdir()}
    crowded = {name: size for name, size in sizes.items() if size > MOST_FILES}
    assert not crowded


def test_a_package_says_its_purpose_in_the_first_line() -> None:
    for name, purpose in table():
        file = PACKAGE / name / "__init__.py"
        text = (file if file.exists() else PACKAGE / f"{name}.py").read_text(encoding="utf-8")
        first = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
        assert first.endswith("."), f"{name}: the first line must be a sentence, got '{first}'"
        assert first == purpose.strip(), f"{name}: the table has another purpose"


def test_packages_are_two_folders_deep() -> None:
    assert max(len(source.relative_to(PACKAGE).parts) for source in SOURCES) == 2


def test_imports_point_downward() -> None:
    layer = layers()
    upward = [
        f"{found}: {found.unit} is in row {layer[found.unit]}, {wanted} in row {layer[wanted]}"
        for found in IMPORTS
        if found.unit != "__init__"
        and (wanted := imported_unit(found.name)) not in (None, found.unit)
        and layer[wanted] >= layer[found.unit]  # type: ignore[index]
    ]
    assert not upward, "\n".join(upward)


def test_the_network_and_the_data_do_not_know_each_other() -> None:
    known = {unit: set[str | None]() for unit in ("nn", "data")}
    for found in IMPORTS:
        if found.unit in known:
            known[found.unit].add(imported_unit(found.name))
    assert "data" not in known["nn"]
    assert "nn" not in known["data"]
    assert known["nn"] <= {None, "nn", "config", "kernels"}


@pytest.mark.parametrize("library", sorted(AT_THE_TOP.keys() | INSIDE.keys()))
def test_libraries_stay_in_their_places(library: str) -> None:
    eager = AT_THE_TOP.get(library, set())
    allowed = {True: eager, False: eager | INSIDE.get(library, set())}
    wrong = [
        str(found)
        for found in IMPORTS
        if found.name.split(".")[0] == library and found.unit not in allowed[found.at_the_top]
    ]
    assert not wrong, "\n".join(wrong)


def test_the_three_folders_are_opened_by_path() -> None:
    files = [*SOURCES, *(ROOT / "tests").rglob("*.py")]
    files += [file for name in FOLDERS for file in (ROOT / name).rglob("*.py")]
    wrong = [
        str(found)
        for file in files
        for found in imports_of(file)
        if found.name.split(".")[0] in FOLDERS
    ]
    assert not wrong, "\n".join(wrong)


def test_no_module_is_imported_behind_the_parser() -> None:
    hidden = re.compile(r"(?<!\.)\b(__import__|exec|eval)\(|\bimport_module\(")
    assert [str(source) for source in SOURCES if hidden.search(source.read_text())] == []


def loaded_after(code: str) -> set[str]:
    """The heavy libraries that a fresh process has after ``code``."""
    report = f"\nimport sys\nprint(*[n for n in {HEAVY!r} if n in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code + report], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def test_the_commands_import_nothing_heavy() -> None:
    assert loaded_after("import hpsearch.cli") == set()


def test_help_needs_no_library_but_click() -> None:
    code = """
import sys
from hpsearch.cli import main
sys.argv = ["hpsearch", "--help"]
try:
    main()
except SystemExit:
    names = {name.partition(".")[0] for name in sys.modules}
    others = {name for name in names - sys.stdlib_module_names if not name.startswith("_")}
    print(*sorted(others), file=sys.stderr)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("Usage: hpsearch ")
    assert result.stderr.split() == ["click", "hpsearch"]


@pytest.mark.parametrize(
    "module",
    [
        "executor",
        "search.launch",
        "search.study",
        "search.quote",
        "ablation.launch",
        "ablation.molecules",
        "report",
        "pages.server",
    ],
)
def test_the_driver_s_modules_import_no_torch(module: str) -> None:
    assert "torch" not in loaded_after(f"import hpsearch.{module}")


@pytest.mark.parametrize("sampler", ["random", "tpe", "qmc"])
def test_sampling_imports_no_torch(sampler: str, tmp_path: Path) -> None:
    # Only Optuna's Gaussian process does, which computes with it.
    code = f"""
from pathlib import Path
from hpsearch.config.space import SearchSpace
from hpsearch.system.installation import find_space
from hpsearch.store import Store
from hpsearch.search.launch import launch_study
space = SearchSpace.load(find_space("quick")).with_overrides(sampler={sampler!r})
with Store.create("sqlite:///{tmp_path}/store.db") as store:
    search = launch_study(store, space, None, Path({str(tmp_path)!r}))
    for _ in range(6):
        assert search.next() is not None
"""
    assert "torch" not in loaded_after(code)
