"""A placement without Ray, and what is private of Ray in one file."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hpsearch.executor import Placement
from hpsearch.system.errors import InputError

ROOT = Path(__file__).resolve().parents[1]

PRIVATE = re.compile(
    r"ray\._|\b_internal\b|_temp_dir|RayActorManager|temporary_state|\bray_actor\b"
    r"|ResourceAndLabelSpec"
)


def test_a_run_is_given_one_gpu_at_most() -> None:
    with pytest.raises(InputError, match="one GPU at most, got 2; give it 1 or a fraction"):
        Placement(gpus_per_run=2)
    assert Placement(gpus_per_run=1).torch_device == "cuda"
    assert Placement(gpus_per_run=0.25).torch_device == "cuda"
    assert Placement(gpus_per_run=1, device="cpu").torch_device == "cpu"
    assert Placement().torch_device == "cpu"


def test_a_run_alone_has_a_whole_gpu_or_a_machine_s_cores() -> None:
    machines = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 16.0}]
    assert Placement(gpus_per_run=0.25).alone(machines) == {"CPU": 1.0, "GPU": 1.0}
    assert Placement(cpus_per_run=2).alone(machines) == {"CPU": 16.0, "GPU": 0.0}


def test_runs_side_by_side_are_those_that_fit_up_to_the_limit() -> None:
    machines = [{"CPU": 4.0}, {"CPU": 3.0}]
    assert Placement(cpus_per_run=2).runs_at_a_time(machines) == 3
    assert Placement(cpus_per_run=2, max_concurrent=2).runs_at_a_time(machines) == 2


def test_a_placement_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom hpsearch.executor import Placement\nPlacement(gpus_per_run=0.5)\n"
        "print(*[name for name in ('ray', 'torch', 'pydantic', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    "command",
    [
        ["launch", "quick", "--gpus-per-trial", "2"],
        ["ablate", "paper_l1net", "--gpus-per-run", "2"],
        ["launch", "quick", "--gpus-per-trial", "2", "--dry-run"],
        ["ablate", "paper_l1net", "--gpus-per-run", "1.5", "--dry-run"],
    ],
    ids=" ".join,
)
def test_more_than_one_gpu_a_run_is_refused_before_anything_is_imported(
    command: list[str], tmp_path: Path
) -> None:
    script = Path(sys.executable).parent / "hpsearch"
    done = subprocess.run(
        [str(script), *command], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("hpsearch: a run uses one GPU at most, got ")
    assert list(tmp_path.iterdir()) == []


def test_what_is_private_of_ray_is_in_one_file() -> None:
    sources = sorted((ROOT / "hpsearch").rglob("*.py"))
    using = {path.name for path in sources if PRIVATE.search(path.read_text(encoding="utf-8"))}
    assert using == {"ray_private.py"}
    hidden = [
        f"{path}: {name}"
        for path in sources
        if path.name != "ray_private.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in imported(node)
        if re.match(r"ray\..*\b_", name)
    ]
    assert hidden == []


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def test_ray_is_pinned_to_the_minor_version_whose_private_parts_are_used() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '"ray[tune]==2.60.*"' in text
