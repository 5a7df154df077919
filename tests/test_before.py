"""A study and an ablation that an earlier version began go on with this one.

`tests/fixtures/before` was made at commit a624d74 by its `make.py`: both were interrupted in their
third epoch. The losses that the same runs had without an interruption lie beside them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.commands import HPSEARCH, run

from hpsearch.store import Store

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent / "fixtures" / "before"
UNINTERRUPTED = json.loads((HERE / "uninterrupted.json").read_text())
PLACE = ("--max-concurrent", "1", "--runs", "runs")
ABLATE = (
    *("ablate", "best.yaml", "--name", "before-ablation", "--targets", "mu"),
    *("--variants", "L1Net,L0Net", "--epochs", "4", "--schedule", "plateau"),
    *("--train-size", "48", "--validation-size", "20", "--test-size", "20"),
)


def hpsearch(folder: Path, *arguments: str) -> str:
    storage = f"sqlite:///{folder}/hpsearch.db"
    done = run(folder, HPSEARCH, *arguments, HPSEARCH_STORAGE=storage)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("before") / "copy"
    shutil.copytree(HERE, copy)
    return copy


def losses(folder: Path, kind: str) -> dict[str, list[tuple[float, float]]]:
    with Store.open(f"sqlite:///{folder}/hpsearch.db") as store:
        epochs = store.epochs()
    found: dict[str, list[tuple[float, float]]] = {}
    for row in epochs[epochs["kind"] == kind].to_dict("records"):
        pair = (row["training_loss"], row["validation_loss"])
        found.setdefault(row["key"], []).append(pair)
    return found


def require_the_same(found: dict[str, list[tuple[float, float]]], kind: str) -> None:
    wanted = UNINTERRUPTED[kind]
    assert found.keys() == wanted.keys()
    for key, epochs in wanted.items():
        # Another processor rounds otherwise.
        flat = [loss for epoch in found[key] for loss in epoch]
        assert flat == pytest.approx([loss for epoch in epochs for loss in epoch], rel=1e-4), key


def test_the_study_goes_on(folder: Path) -> None:
    before = losses(folder, "study")
    said = hpsearch(folder, "launch", "space.yaml", *PLACE)
    assert "so far: 2 complete, 1 resumed from epoch 2, 1 left" in said
    after = losses(folder, "study")
    # What was recorded before stays as it was, to the last digit.
    assert {key: after[key][: len(epochs)] for key, epochs in before.items()} == before
    require_the_same(after, "study")
    said = hpsearch(folder, "verify")
    assert "4 of 4 finished, 0 failed, 16 epochs: no breaches" in said
    assert "trial 2 of before" in hpsearch(folder, "export-best", "-o", "again.yaml")


def test_the_ablation_goes_on(folder: Path) -> None:
    before = losses(folder, "ablation")
    assert {key: len(epochs) for key, epochs in before.items()} == {"L0Net/mu/0": 2}
    said = hpsearch(folder, *ABLATE, *PLACE)
    assert "2 complete, 0 failed" in said
    after = losses(folder, "ablation")
    assert after["L0Net/mu/0"][:2] == before["L0Net/mu/0"]
    require_the_same(after, "ablation")


def test_its_pages_and_report_can_be_read(folder: Path) -> None:
    assert "before" in hpsearch(folder, "status", "before")
    hpsearch(folder, "report", "-o", "report")
    assert (folder / "report" / "report.html").is_file()
