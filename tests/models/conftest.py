"""Three small networks, trained for a moment on real molecules, and a model of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.small_models import config

from hpsearch.data import qm9
from hpsearch.data.molecule import Molecules
from hpsearch.models.build import KeptRun, build_model
from hpsearch.models.description import Origin
from hpsearch.models.folder import read_model, write_model
from hpsearch.models.model import Model
from hpsearch.runs.messages import Completion
from hpsearch.runs.training import Training


@pytest.fixture(scope="session")
def molecules() -> Molecules:
    return qm9.load()


@pytest.fixture(scope="session")
def trained(
    molecules: Molecules, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, tuple[KeptRun, Completion]]:
    """The runs by seed, with what each reported at its end."""
    runs = {}
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp(f"run{seed}")
        training = Training.begin(config(seed), molecules, folder)
        while not training.finished:
            training.run_epoch()
        done = training.complete(evaluate_test=True)
        origin = Origin(
            kind="train",
            experiment="tests",
            key=str(seed),
            fingerprint=config(seed).fingerprint,
            epoch=0,
        )
        runs[seed] = KeptRun(origin, folder), done
    return runs


@pytest.fixture(scope="session")
def single_folder(
    trained: dict[int, tuple[KeptRun, Completion]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a model of one network for mu and U0."""
    folder = tmp_path_factory.mktemp("models") / "single"
    write_model(build_model("single", [trained[0][0]]), folder)
    return folder


@pytest.fixture(scope="session")
def ensemble_folder(
    trained: dict[int, tuple[KeptRun, Completion]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of an ensemble of two networks."""
    folder = tmp_path_factory.mktemp("models") / "ensemble"
    write_model(build_model("ensemble", [trained[seed][0] for seed in (0, 1)]), folder)
    return folder


@pytest.fixture
def single(single_folder: Path) -> Model:
    return read_model(single_folder)


@pytest.fixture
def ensemble(ensemble_folder: Path) -> Model:
    return read_model(ensemble_folder)
