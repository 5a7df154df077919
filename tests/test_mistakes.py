"""A mistake in a command is answered before any of the heavy libraries is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "search_spaces"
HEAVY = (
    *("torch", "ray", "optuna", "optuna_dashboard"),
    *("sqlalchemy", "alembic", "pandas", "scipy", "plotly"),
)

MISTAKES = {
    "launch key.yaml": "key.yaml:6: trails must be a known key",
    "launch value.yaml": "value.yaml:7: sampler must be one of",
    "launch large.yaml": "large.yaml:28: train_size",
    "launch paper_l1net": "must be a search space, got an exported configuration",
    "launch missing.yaml": "a search space must be a file or one of",
    "launch quick --sampler best": "--sampler must be one of",
    "launch quick --targets foo": "--targets: a target must be one of",
    "launch quick --train-size 999999": "must fit the 130,831 molecules",
    "launch quick --device tpu": "the device must be cpu or cuda",
    "launch quick --device cuda": "must be given a GPU",
    "launch quick --cpus-per-trial 0": "--cpus-per-trial must be above 0",
    "launch quick --address ray://host:1": "the address must be host:port",
    "launch quick --study ": "the name of a study must not be empty",
    "launch quick --study x\u202e": "must not contain formatting characters",
    "launch quick --runs /proc/none": "'/proc/none' must be writable",
    "launch quick --storage mysql://host/name": "a store must be SQLite or PostgreSQL",
    "launch quick --enqueue missing.yaml": "a configuration must be a file that export-best wrote",
    "launch quick --enqueue quick": "must be an exported configuration, got a search space",
    "launch quick --enqueue paper_l1net": "embedding_size must be from 32 to 64, got 112",
    "launch quick --enqueue starts.yaml": "a study to start from must be in the store: no study",
    "launch quick --log-to mlflow:x": "--log-to must be tensorboard:FOLDER, got 'mlflow:x'",
    "launch quick --log-to tensorboard:/proc/none": "'/proc/none' must be writable",
    "launch quick --json": "--json must come with --dry-run",
    "launch quick --trails 3": "No such option '--trails'",
    "ablate missing.yaml": "a configuration must be a file that export-best wrote",
    "ablate export.yaml": "export.yaml:18: confg must be a known key",
    "ablate paper_l1net --variants Foo": "a variant must be one of",
    "ablate paper_l1net --targets foo": "a target must be one of",
    "ablate paper_l1net --variants-file missing.yaml": "missing.yaml: must be a file",
    "ablate paper_l1net --name ": "the name of an ablation must not be empty",
    "ablate paper_l1net --log-to tensorboard:": "--log-to must be tensorboard:FOLDER",
    "ablate paper_l1net --device tpu": "the device must be cpu or cuda",
    "ablate paper_l1net --test-size 999999": "must fit the 130,831 molecules",
    "train missing.yaml": "a configuration must be a file that export-best wrote",
    "train export.yaml": "export.yaml:18: confg must be a known key",
    "train paper_l1net --schedule slow": "--schedule must be 'plateau', 'cosine' or",
    "train paper_l1net --device tpu": "the device must be cpu or cuda",
    "train paper_l1net -o /proc/none": "'/proc/none' must be writable",
    "status": "no study store at",
    "status other --json": "no study store at",
    "status --storage store.db": "a SQLite file is written sqlite:///store.db",
    "verify": "no study store at",
    "doctor --storage store.db": "a SQLite file is written sqlite:///store.db",
    "dashboard": "no study store at",
    "dashboard --host 0.0.0.0": "the dashboard has no login",
    "export-best -o best.yaml": "no study store at",
    "report -o out": "no study store at",
    "report -o out --format pdf": "a format must be one of html, csv, md, latex; got 'pdf'",
    "data describe --train-size 999999": "must fit the 130,831 molecules",
    "data prepare --uncharacterized list.txt": "--uncharacterized must come with --archive",
    "data prepare --archive missing": "'missing' must be",
    "dipoles -o /proc/none": "'/proc/none' must be writable",
    "lunch quick": "No such command 'lunch'",
}
"""What is typed, words divided by single spaces, and a part of the answer."""

IN_ONE_PROCESS = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from hpsearch.cli import main

heavy, mistakes = json.loads(sys.stdin.read())
known = set()
for mistake in mistakes:
    sys.argv = ["hpsearch", *mistake.split(" ")]
    said, printed, code = io.StringIO(), io.StringIO(), None
    with redirect_stderr(said), redirect_stdout(printed):
        try:
            main()
        except SystemExit as end:
            code = end.code
    loaded = sorted(set(heavy) & set(sys.modules) - known)
    known.update(loaded)
    print(json.dumps([mistake, [code, said.getvalue(), printed.getvalue(), loaded]]))
"""
"""Each mistake after the other, with the libraries that it was the first to import."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mistakes")
    quick = (FOLDER / "quick.yaml").read_text()
    (folder / "key.yaml").write_text(quick.replace("\ntrials:", "\ntrails:"))
    (folder / "value.yaml").write_text(quick.replace("\nsampler: tpe", "\nsampler: best"))
    (folder / "large.yaml").write_text(quick.replace("train_size: ", "train_size: 999"))
    export = (FOLDER / "paper_l1net.yaml").read_text()
    (folder / "export.yaml").write_text(export.replace("\nconfig:", "\nconfg:"))
    (folder / "starts.yaml").write_text("start_with: [{study: first, best: 1}]\n")
    return folder


@pytest.fixture(scope="module")
def answers(folder: Path) -> dict[str, Any]:
    unset = ("HPSEARCH_STORAGE", "HPSEARCH_TOKEN")
    done = subprocess.run(
        [sys.executable, "-c", IN_ONE_PROCESS],
        cwd=folder,
        env={name: text for name, text in os.environ.items() if name not in unset},
        input=json.dumps([HEAVY, list(MISTAKES)]),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return dict(json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_before_anything_heavy_is_imported(
    mistake: str, answers: dict[str, Any]
) -> None:
    code, said, printed, loaded = answers[mistake]
    assert (code, printed) == (2, "")
    assert MISTAKES[mistake] in said
    assert said.startswith("hpsearch: ") and said.count("\n") == 1
    assert loaded == []


def test_nothing_is_written_for_a_mistake(answers: dict[str, Any], folder: Path) -> None:
    written = {path.name for path in folder.iterdir()}
    assert written == {"export.yaml", "key.yaml", "large.yaml", "starts.yaml", "value.yaml"}
