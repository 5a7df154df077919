"""Compare `hpsearch predict` with the bare forward pass on the same molecules.

    python benchmarks/predict.py [--molecules N] [--turns N] [--json FILE]

Untrained networks are enough: the time does not depend on the weights. The bare pass has the same
batches, and the tensors are made before the clock starts. The rest of the command is measured with
it: reading extxyz, references, intervals, flags and writing. They take turns in one process on all
cores. The memory is the largest of the process, beyond that of the loaded model.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from machine import conclude, machine

from hpsearch.config.declaration import MoleculeSource
from hpsearch.config.export import find_configuration
from hpsearch.config.run import DataConfig, NetworkConfig
from hpsearch.config.targets import QM9_TARGETS, SYMBOLS
from hpsearch.data import qm9
from hpsearch.data.molecule import Molecules
from hpsearch.data.statistics import TargetStatistics
from hpsearch.models.description import Description, Network, Origin, Tested
from hpsearch.models.intervals import LEVELS, Calibration, Spread, TargetIntervals, level_name
from hpsearch.models.model import Member, Model, batches_by_size
from hpsearch.models.predict import Job, predict_file
from hpsearch.models.ranges import TrainingRanges
from hpsearch.nn import MultiTargetNetwork
from hpsearch.system import hardware
from hpsearch.system.process import prepare_worker

LEAST = 0.9
"""The goal: the command has this part of the speed of the bare pass."""

CASES = (("paper_l1net", ("mu",)), ("paper_l1net", QM9_TARGETS.names))


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--molecules", type=int, default=4_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    prepare_worker(hardware.cores())
    molecules = qm9.load()
    rows = np.random.default_rng(0).permutation(len(molecules))[: given.molecules]
    chosen = molecules.select(np.sort(rows))
    found = [measured(name, targets, chosen, given.turns) for name, targets in CASES]
    for case in found:
        print(
            f"{case['network']}, {case['targets']} targets, {given.molecules:,} molecules: bare "
            f"pass {case['bare_seconds']:.1f} s, predict {case['predict_seconds']:.1f} s, "
            f"{100 * case['speed']:.1f} % of the speed"
        )
    slow = [case for case in found if case["speed"] < LEAST]
    missed = [f"{case['targets']} targets: {100 * case['speed']:.1f} %" for case in slow]
    return conclude(given.json, machine(), found, missed)


def measured(
    name: str, targets: tuple[str, ...], molecules: Molecules, turns: int
) -> dict[str, Any]:
    """The median seconds of both, in turn, and their ratio."""
    config = find_configuration(name).config.network
    model = untrained(config, targets, molecules)
    bare, whole = [], []
    with tempfile.TemporaryDirectory() as folder:
        file = written(molecules, Path(folder) / "molecules.xyz")
        batches = [molecules.batch(rows) for rows in batches_by_size(molecules.atom_counts)]
        for turn in range(turns):
            started = time.perf_counter()
            with torch.no_grad():
                for batch in batches:
                    model.members[0].network(batch.elements, batch.positions, batch.counts)
            bare.append(time.perf_counter() - started)
            job = Job(MoleculeSource(path=str(file)), Path(folder) / f"{turn}.csv", Path(folder))
            whole.append(predict_file(model, job).seconds)
    return {
        "network": name,
        "targets": len(targets),
        "bare_seconds": median(bare),
        "predict_seconds": median(whole),
        "speed": median(b / w for b, w in zip(bare, whole, strict=True)),
        "largest_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def untrained(config: NetworkConfig, targets: tuple[str, ...], molecules: Molecules) -> Model:
    """A model with random weights."""
    rows = np.arange(len(molecules))
    statistics = TargetStatistics.fit(molecules, rows, targets)
    torch.manual_seed(0)
    network = MultiTargetNetwork(config, len(targets), len(molecules.elements)).eval()
    batch = molecules.batch(rows[:64])
    network.calibrate(batch.elements, batch.positions, batch.counts)
    intervals = TargetIntervals(
        spread=Spread(kind="size", floor=1.0),
        molecules=2_000,
        quantiles={level_name(level): 1.0 for level in LEVELS},
    )
    training = find_configuration("paper_l1net").config.training
    origin = Origin(kind="train", experiment="none", key="none", fingerprint="", epoch=0)
    description = Description(
        name="untrained",
        created="",
        elements=tuple(SYMBOLS[number] for number in molecules.elements),
        data=DataConfig(),
        networks=(
            Network(
                config=config,
                training=training,
                targets=targets,
                statistics=statistics.to_dict(),
                origin=origin,
            ),
        ),
        ranges=TrainingRanges.of(molecules, rows, dict.fromkeys(targets, np.array([-1e9, 1e9]))),
        calibration=Calibration(
            molecules="unused", optimistic=False, targets=dict.fromkeys(targets, intervals)
        ),
        tested=dict.fromkeys(targets, Tested(molecules=0, mae=0.0, coverage={})),
        data_hash="",
        split_hash="",
        code={},
    )
    return Model(description, (Member(network, statistics),))


def written(molecules: Molecules, path: Path) -> Path:
    """The molecules as plain xyz."""
    with path.open("w") as file:
        for row in range(len(molecules)):
            molecule = molecules.molecule(row)
            file.write(f"{len(molecule.atomic_numbers)}\n\n")
            for number, (x, y, z) in zip(
                molecule.atomic_numbers, molecule.positions.tolist(), strict=True
            ):
                file.write(f"{SYMBOLS[number]} {x:.6f} {y:.6f} {z:.6f}\n")
    return path


if __name__ == "__main__":
    raise SystemExit(main())
