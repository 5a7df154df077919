"""Compare speed, memory and accuracy of a training step with e3nn's form of the same network.

    make bench                       # or: python benchmarks/step.py --json FILE

Both sides have the same weights, real molecules, process settings and optimizer. They alternate in
one process. A step is the forward pass, the backward pass and Adam. The fraction of the matrix peak
is the number of operations of the cheapest order of contractions, without recomputation, relative
to the fastest square product measured in the same run.
"""

# A atoms, M molecules, P unordered pairs, T targets

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from hpsearch.system import hardware
from hpsearch.system.process import prepare_worker, worker_environment

SETTINGS = worker_environment(hardware.cores())
if any(os.environ.get(name) != value for name, value in SETTINGS.items()):
    # The allocator and OpenMP read them when the process starts.
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **SETTINGS})

import numpy as np
import torch
from e3nn_form import e3nn_form
from machine import machine
from schnet import SchNet
from torch import Tensor, nn

from hpsearch.config.run import DataConfig, NetworkConfig
from hpsearch.data import qm9
from hpsearch.data.molecule import Molecules
from hpsearch.data.split import make_split
from hpsearch.data.statistics import TargetStatistics
from hpsearch.nn import MultiTargetNetwork, Neighbourhoods
from hpsearch.nn.loss import multi_target_loss
from hpsearch.kernels.products import onednn_is_faster, product
from hpsearch.config.targets import TARGET_NAMES
from hpsearch.config.architecture import count_work

COMMON = {
    "embedding_size": 128,
    "featurization_scalars": 64,
    "featurization_vectors": 21,
    "featurization_blocks": 2,
    "radial_basis": "cosine",
    "radial_functions": 84,
    "radial_maximum_angstrom": 11.1,
    "radial_mlp_layers": 1,
    "radial_mlp_neurons": 100,
    "output_mlp_layers": 2,
    "output_mlp_neurons": 96,
}
C2 = {
    "embedding_size": 112,
    "featurization_scalars": 56,
    "featurization_vectors": 19,
    "featurization_blocks": 3,
    "radial_functions": 62,
    "radial_mlp_layers": 2,
    "radial_mlp_neurons": 112,
    "output_blocks": 2,
    "output_scalars": 48,
    "output_vectors": 16,
}
CONFIGURATIONS: dict[str, tuple[dict[str, Any], int, int]] = {
    "C1": ({}, 12, 16),
    "C2": (C2, 12, 16),
    "L0": ({"featurization_scalars": 127, "featurization_vectors": 0}, 12, 16),
    "V": ({"featurization_scalars": 2, "featurization_vectors": 42}, 12, 16),
    "C1-one-target": ({}, 1, 16),
    "C1-one-target-batch-8": ({}, 1, 8),
}
"""Name to changes of ``COMMON``, targets, molecules a batch."""


class Case:
    """One configuration with a batch of real molecules and its normalised targets."""

    def __init__(self, name: str, molecules_at_most: int = 64) -> None:
        changes, targets, size = CONFIGURATIONS[name]
        size = min(size, molecules_at_most)
        self.config = NetworkConfig(**{**COMMON, **changes})
        self.targets = targets
        molecules = qm9.load()
        split = make_split(molecules, DataConfig(train_size=1_000, test_size=1_000))
        names = TARGET_NAMES[:targets] if targets > 1 else ("U0",)
        statistics = TargetStatistics.fit(molecules, split.train, names)
        rows = split.train[:size]
        self.assembly_seconds = _assembly_seconds(molecules, split.train, size)
        batch = molecules.batch(rows)
        self.inputs = (batch.elements, batch.positions, batch.counts)
        self.normalised = torch.from_numpy(statistics.normalise(molecules, rows)).float()

    def network(self, dtype: torch.dtype = torch.float32) -> MultiTargetNetwork:
        elements, positions, counts = self.inputs
        torch.set_default_dtype(dtype)  # of the constants too, e3nn's among them
        torch.manual_seed(0)
        network = MultiTargetNetwork(self.config, self.targets)
        network.calibrate(elements, positions.to(dtype), counts)
        return network

    def stepper(self, network: nn.Module) -> Callable[[], None]:
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)

        def step() -> None:
            loss = multi_target_loss(network(*self.inputs), self.normalised)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        return step

    def flops(self) -> float:
        """Floating-point operations of a step in the cheapest order of contractions."""
        pairs = Neighbourhoods.of(
            self.inputs[1], self.inputs[2], self.config.radial_maximum_angstrom
        )
        atoms, count = len(pairs.pair), len(pairs.distance)
        return count_work(self.config, self.targets, atoms, count).flops


def alternate(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each side's steps, alternating, after one step that does not count."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            # A short step is repeated, so that both sides are sampled over a similar time.
            for _ in range(1 if name == "e3nn" else 5):
                started = time.perf_counter()
                step()
                if number:
                    times[name].append(time.perf_counter() - started)
    return times


def agreement(name: str, dtype: torch.dtype) -> float:
    """Largest difference of outputs and gradients, relative to the largest entry of each.

    On four molecules: in float64 e3nn's form of C2 needs over 20 GB for sixteen.
    """
    case = Case(name, molecules_at_most=4)
    elements, positions, counts = case.inputs
    results: list[list[Tensor]] = []
    network = case.network(dtype)
    for each in (network, e3nn_form(network)):
        outputs = each(elements, positions.to(dtype), counts)
        multi_target_loss(outputs, case.normalised.to(dtype)).backward()
        gradients = [p.grad for p in each.parameters() if p.grad is not None and p.numel()]
        results.append([outputs.detach(), *gradients])
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*results, strict=True))


def matrix_peak() -> dict[str, float]:
    """Return the GFLOP/s of a square float32 product with each available library."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    peaks = {}
    for name, multiply in (("matmul", torch.mm), ("product", product)):
        times = []
        for _ in range(12):
            started = time.perf_counter()
            multiply(a, b)
            times.append(time.perf_counter() - started)
        peaks[name] = 2 * 2048**3 / min(times) / 1e9
    return peaks


def memory_beyond_the_model(name: str, side: str) -> float:
    """GB above weights, gradients and Adam's moments, at the peak of three steps."""
    case = Case(name)
    network: nn.Module = case.network()
    if side == "e3nn":
        network = e3nn_form(network)  # type: ignore[arg-type]
    step = case.stepper(network)
    model = 4 * sum(
        parameter.numel() * parameter.element_size() for parameter in network.parameters()
    )
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before = _resident()
    for _ in range(3):
        step()
    # Weights were resident before; gradients and moments were allocated during the steps.
    return (_peak() - before - 0.75 * model) / 1e9


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024  # type: ignore[index]


def _measure_memory(name: str, side: str) -> float:
    command = [sys.executable, __file__, "--memory", name, side]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _assembly_seconds(molecules: Molecules, rows: Any, size: int) -> float:
    """Return the median over the first batches of an epoch, in random order as in training."""
    order = np.random.default_rng(0).permutation(rows)[: 50 * size]
    times = []
    for start in range(0, len(order), size):
        started = time.perf_counter()
        molecules.batch(order[start : start + size])
        times.append(time.perf_counter() - started)
    return median(times)


def measure(name: str, rounds: int) -> dict[str, Any]:
    case = Case(name)
    exact = {
        str(d).removeprefix("torch."): agreement(name, d) for d in (torch.float64, torch.float32)
    }
    network = case.network()
    form = e3nn_form(network)
    steps = {"ours": case.stepper(network), "e3nn": case.stepper(form)}
    if name == "C1-one-target":
        steps["schnet"] = case.stepper(SchNet())
    times = alternate(steps, rounds)
    medians = {side: median(values) for side, values in times.items()}
    return {
        "configuration": name,
        "weights": network.weights,
        "medians": medians,
        "ratio": medians["e3nn"] / medians["ours"],
        "agreement": exact,
        "assembly_seconds": case.assembly_seconds,
        "gflop": case.flops() / 1e9,
        "memory_gb": {side: _measure_memory(name, side) for side in ("ours", "e3nn")},
        "seconds": times,
    }


def line(result: dict[str, Any], peak: float) -> str:
    medians, memory = result["medians"], result["memory_gb"]
    text = (
        f"{result['configuration']:22} {medians['ours'] * 1e3:7.1f} ms  "
        f"e3nn {medians['e3nn'] * 1e3:8.0f} ms  {result['ratio']:5.1f}x  "
        f"{result['gflop'] / medians['ours'] / peak:5.0%} of peak  "
        f"memory {memory['ours']:.2f} / {memory['e3nn']:.2f} GB  "
        f"agreement {result['agreement']['float32']:.0e} / {result['agreement']['float64']:.0e}"
    )
    text += f"  data {result['assembly_seconds'] / medians['ours']:.2%}"
    if "schnet" in medians:
        text += f"  SchNet {medians['schnet'] * 1e3:.1f} ms"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configurations", nargs="*", help=", ".join(CONFIGURATIONS))
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--json", type=Path, help="write every raw time to this file")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    prepare_worker(hardware.cores())
    if arguments.memory:
        print(memory_beyond_the_model(*arguments.memory))
        return
    about = {**machine(), "onednn": onednn_is_faster(), "gflops": matrix_peak()}
    peak = max(about["gflops"].values())
    print(
        f"{about['cpu']}, {about['threads']} threads, torch {about['torch']}; square product "
        + ", ".join(f"{name} {value:.0f} GFLOP/s" for name, value in about["gflops"].items())
    )
    print(
        "a step of ours, of e3nn's form, their ratio; memory beyond the model (ours / e3nn's); "
        "largest relative difference of outputs and gradients (float32 / float64); share of a step "
        "that assembling its batch takes"
    )
    results = []
    for name in arguments.configurations or CONFIGURATIONS:
        results.append(measure(name, arguments.rounds))
        print(line(results[-1], peak), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": about, "results": results}, indent=1))


if __name__ == "__main__":
    main()
