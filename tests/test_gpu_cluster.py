"""An ablation over a Ray cluster of several nodes with declared GPUs, one of which is killed.

The nodes are Ray's own, made by its cluster utility on this machine; the GPUs are declared, so the
runs compute on the CPU (``--device cpu``) and are placed as they would be on real ones.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpsearch.ablation.cells import cell_table
from hpsearch.config.export import Winner
from hpsearch.config.run import DataConfig, NetworkConfig, TrainingConfig, TrialConfig
from hpsearch.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

NODES = 3
CELLS = ("L1Net/mu/0", "L1Net/mu/1", "L1Net/mu/2", "L0Net/mu/0", "L0Net/mu/1", "L0Net/mu/2")

NETWORK = NetworkConfig(
    embedding_size=16,
    featurization_scalars=12,
    featurization_vectors=8,
    featurization_blocks=1,
    radial_basis="cosine",
    radial_functions=16,
    radial_maximum_angstrom=6.0,
    radial_mlp_layers=1,
    radial_mlp_neurons=16,
    output_mlp_layers=1,
    output_mlp_neurons=16,
)


@pytest.fixture
def winner(tmp_path: Path) -> Path:
    """Runs of some seconds, with several epochs to lose a node in."""
    config = TrialConfig(
        targets=("mu",),
        network=NETWORK,
        training=TrainingConfig(batch_size=8, learning_rate=1e-3, epochs=8),
        data=DataConfig(train_size=200, validation_size=20, test_size=50),
    )
    path = tmp_path / "winner.yaml"
    Winner(name="by-hand", config=config).write(path)
    return path


@pytest.fixture(scope="module", autouse=True)
def as_started_anew() -> Iterator[None]:
    """A cluster that an earlier test ran in this process has had Ray ask for tokens ever since."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_AUTH_MODE", raising=False)
        yield


class Cluster:
    """A cluster in a process of its own, see `support/ray_cluster.py`."""

    def __init__(self) -> None:
        self._own = subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).with_name("support") / "ray_cluster.py"),
                str(NODES),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.address = self._answer()

    def _answer(self) -> str:
        assert self._own.stdout is not None
        line = self._own.stdout.readline().strip()
        if not line:
            pytest.fail(f"the cluster has ended with {self._own.wait()}")
        return line

    def kill_a_node(self) -> None:
        """SIGKILL to the last node's processes."""
        assert self._own.stdin is not None
        self._own.stdin.write("kill\n")
        self._own.stdin.flush()
        assert self._answer() == "killed"

    def end(self) -> None:
        """Shut it down."""
        self._own.communicate(timeout=120)


@pytest.fixture(scope="module")
def cluster(as_started_anew: None) -> Iterator[Cluster]:
    """For all tests; the last of them kills a node."""
    made = Cluster()
    try:
        yield made
    finally:
        made.end()


def command(folder: Path, winner: Path, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "hpsearch.cli", "ablate", str(winner)),
        *("--storage", f"sqlite:///{folder}/store.db", "--name", "placed", "--targets", "mu"),
        *("--variants", "L1Net,L0Net", "--repeats", "3", "--gpus-per-run", "1", *options),
    ]


def cells(folder: Path) -> dict[str, float]:
    with Store.open(f"sqlite:///{folder}/store.db") as store:
        experiment = store.experiment("ablation", "placed")
        assert experiment is not None
        table = cell_table(store, experiment.id)
    assert set(table["state"]) == {"complete"}
    return table.set_index("key")["test_mae"].to_dict()


def test_a_gpu_without_cuda_ends_in_words_and_no_cell_fails(
    cluster: Cluster, winner: Path, tmp_path: Path
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    done = subprocess.run(
        command(tmp_path, winner, "--address", cluster.address),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert "the run was given a GPU, but torch sees no CUDA device" in done.stderr
    assert "--device cpu" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "failed (" not in done.stdout


def test_every_run_has_a_gpu_of_its_own_and_a_killed_node_changes_no_number(
    cluster: Cluster, winner: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cluster"
    folder.mkdir()
    said: list[str] = []
    devices: dict[str, str] = {}
    running: set[str] = set()
    most, killed = 0, False
    with subprocess.Popen(
        command(folder, winner, "--device", "cpu", "--address", cluster.address),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as launch:
        assert launch.stdout is not None
        for line in launch.stdout:
            said.append(line)
            if started := re.match(r"run (\S+): started, .* on (cpu, GPU \S+ of node \w+)", line):
                running.add(started[1])
                devices[started[1]] = started[2]
                taken = {devices[key] for key in running}
                assert len(taken) == len(running), (devices, running)
                most = max(most, len(taken))
            if ended := re.match(r"run (\S+): (complete|failed|worker_lost)", line):
                running.discard(ended[1])
            if len(running) == NODES and not killed and "epoch 2" in line:
                cluster.kill_a_node()
                killed = True
    text = "".join(said)
    assert launch.returncode == 0, text
    assert killed, text
    assert most == NODES, text
    assert "worker_lost" in text, text
    with_a_loss = cells(folder)
    assert set(with_a_loss) == set(CELLS)

    alone = tmp_path / "alone"
    alone.mkdir()
    plain = [part for part in command(alone, winner) if part not in ("--gpus-per-run", "1")]
    subprocess.run(plain, check=True, capture_output=True, timeout=300)
    assert cells(alone) == with_a_loss
