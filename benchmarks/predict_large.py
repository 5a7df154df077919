"""Predict a file of a million molecules: peak memory, speed, and going on after a kill.

    python benchmarks/predict_large.py [--molecules N] [--fewer N] [--inputs NAMES] [--json FILE]

The molecules are QM9's, repeated. The model is small, and was trained for a moment: memory and
reading do not depend on the weights.

1. Every input format is read as `predict` reads it, all molecules.
2. The first one is predicted into CSV, all molecules. The command is killed (SIGKILL) when half of
   them are done, and run again.
3. Fewer molecules are predicted from every input format into CSV, and from the first one into every
   output format. They are killed and continued, too, and the bytes must be those of a command that
   was not killed.

Each is a process of its own, which reads its VmHWM at its end. From it that of a process is taken
that does the same with one part of the molecules.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from machine import conclude, machine

from hpsearch.config.declaration import MoleculeSource
from hpsearch.config.run import DataConfig, NetworkConfig, TrainingConfig, TrialConfig
from hpsearch.config.targets import SYMBOLS
from hpsearch.data import qm9
from hpsearch.data.molecule import Molecules
from hpsearch.formats import Wanted, read_parts
from hpsearch.formats.part import MOLECULES_PER_PART
from hpsearch.system.hardware import cores

MOST_BYTES = 1e9
"""The goal: the memory beyond that of a process that predicts one part."""

OUTPUTS = ("csv", "parquet", "extxyz")

_NETWORK = NetworkConfig(
    embedding_size=8,
    featurization_scalars=6,
    featurization_vectors=2,
    featurization_blocks=1,
    radial_basis="cosine",
    radial_functions=12,
    radial_maximum_angstrom=4.0,
    radial_mlp_layers=1,
    radial_mlp_neurons=8,
    output_mlp_layers=1,
    output_mlp_neurons=8,
)
_CONFIG = TrialConfig(
    targets=("U0",),
    network=_NETWORK,
    training=TrainingConfig(batch_size=30, learning_rate=0.01, epochs=2, seed=0),
    data=DataConfig(train_size=300, validation_size=100, test_size=120),
)


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--molecules", type=int, default=1_000_000)
    parser.add_argument("--fewer", type=int, default=50_000)
    parser.add_argument("--inputs", default="parquet,npz,extxyz", help=", ".join(WRITERS))
    parser.add_argument("--folder", type=Path, help="For the files; default: a temporary one.")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--read", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    parser.add_argument("--predict", nargs=3, metavar="PATH", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.read:
        return with_peak(lambda: read(given.read))
    if given.predict:
        return with_peak(lambda: predict(*given.predict))
    about = machine()
    about["threads"] = cores()
    found = []
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        model = trained(qm9.load(), Path(folder) / "model")
        for case in cases(Path(folder), model, given.inputs.split(","), given):
            print(text_of(case), flush=True)
            found.append(case)
            if given.json:
                # What is measured is kept if the rest takes too long.
                given.json.write_text(json.dumps({"machine": about, "results": found}, indent=1))
    missed = [
        f"{case['what']} {case['input']}: {case['beyond_bytes'] / 1e9:.2f} GB"
        for case in found
        if case["beyond_bytes"] > MOST_BYTES
    ]
    missed += [f"other bytes from {case['input']}" for case in found if case.get("same") is False]
    return conclude(given.json, about, found, missed)


def cases(
    folder: Path, model: Path, inputs: list[str], given: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """The cases in their order."""
    molecules = qm9.load()
    for name in inputs:
        one, few, all_ = (
            WRITERS[name](molecules, number, folder / f"{number}.{name}")
            for number in (MOLECULES_PER_PART, given.fewer, given.molecules)
        )
        about = {"input": name, "molecules": given.molecules, "input_bytes": all_.stat().st_size}
        least = run("--read", one)
        yield beyond({"what": "read", **about, **run("--read", all_)}, least)
        csv = folder / "out.csv"
        if name == inputs[0]:
            least = run("--predict", model, one, csv)
            case = {"what": "predict", **about, "output": "csv", "killed": True}
            yield beyond(case | killed(model, all_, csv, given.molecules), least)
        all_.unlink()
        about |= {"molecules": given.fewer, "input_bytes": few.stat().st_size}
        for output in OUTPUTS if name == inputs[0] else OUTPUTS[:1]:
            path = folder / f"out.{output}"
            least = run("--predict", model, one, path)
            case = {"what": "predict", **about, "output": output}
            yield beyond(case | {"killed": False} | run("--predict", model, few, path), least)
            expected = path.rename(folder / f"expected.{output}")
            found = killed(model, few, path, given.fewer)
            found["same"] = path.read_bytes() == expected.read_bytes()
            yield beyond(case | {"killed": True} | found, least)


def beyond(case: dict[str, Any], least: dict[str, Any]) -> dict[str, Any]:
    """The case with its memory beyond that of one part."""
    return case | {
        "part_bytes": least["peak_bytes"],
        "beyond_bytes": case["peak_bytes"] - least["peak_bytes"],
    }


def killed(model: Path, file: Path, output: Path, total: int) -> dict[str, Any]:
    """Kill a prediction half way, and measure the process that goes on.

    The peak is the larger one of both.
    """
    parts = output.with_name(f"{output.name}.parts")
    half = total // MOLECULES_PER_PART // 2
    command = [sys.executable, "-m", "hpsearch.cli", *words(model, file, output)]
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None and finished(parts) < half:
        time.sleep(0.05)
    peak = peak_bytes(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    seconds = time.monotonic() - started
    kept = finished(parts)
    done = run("--predict", model, file, output, parts=parts, kept=kept)
    return done | {
        "seconds": round(seconds + done["seconds"], 1),
        "seconds_after_the_kill": done["seconds"],
        "kept_molecules": kept * MOLECULES_PER_PART,
        "peak_bytes": max(peak, done["peak_bytes"]),
        "killed_peak_bytes": peak,
    }


def finished(parts: Path) -> int:
    """Number of finished parts; the file of the job lies there too."""
    return len(list(parts.glob("0*.json")))


def run(*words: str | Path, parts: Path | None = None, kept: int = 0) -> dict[str, Any]:
    """Seconds and peak memory of a process of this program.

    With ``parts``, also the seconds until it has added a part to the ``kept`` ones.
    """
    started = time.monotonic()
    found: dict[str, Any] = {}
    command = [sys.executable, __file__, *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    if parts is not None:
        while process.poll() is None and finished(parts) <= kept:
            time.sleep(0.02)
        found["seconds_to_the_next_part"] = round(time.monotonic() - started, 1)
    text, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    *lines, last = text.splitlines()
    for line in lines[-3:-1]:
        print(f"    {line}", flush=True)
    return found | {"seconds": round(time.monotonic() - started, 1), **json.loads(last)}


def with_peak(do: Callable[[], None]) -> int:
    """Do something in this process, and print its peak memory."""
    do()
    print(json.dumps({"peak_bytes": peak_bytes(os.getpid())}))
    return 0


def peak_bytes(process: int) -> int:
    """VmHWM of a process."""
    text = Path(f"/proc/{process}/status").read_text()
    [line] = [line for line in text.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def read(file: Path) -> None:
    """Read a file as the command does, without a model."""
    source = MoleculeSource(path=str(file))
    for _ in read_parts(source, Wanted((), None, None, labels=False, skip=True)):
        pass


def predict(model: str, file: str, output: str) -> None:
    """Run the command in this process."""
    from hpsearch.cli.program import cli

    cli.main(words(Path(model), Path(file), Path(output)), standalone_mode=False)


def text_of(case: dict[str, Any]) -> str:
    """The line about a case."""
    new = case["molecules"]
    text = f"{case['what']} {new:,} molecules from {case['input']}"
    text += f" ({case['input_bytes'] / 1e6:,.0f} MB)"
    if "output" in case:
        text += f" to {case['output']}"
    if case.get("killed"):
        text += (
            f", killed after {case['kept_molecules']:,}, the next part "
            f"{case['seconds_to_the_next_part']} s after the new start"
        )
        if "same" in case:
            text += f", {'the same' if case['same'] else 'OTHER'} bytes"
    return (
        f"{text}: {case['seconds']:.0f} s, {new / case['seconds']:,.0f} per second, "
        f"{case['beyond_bytes'] / 1e6:.0f} MB beyond the {case['part_bytes'] / 1e6:.0f} MB of one "
        "part"
    )


def words(model: Path, file: Path, output: Path) -> list[str]:
    """The words of the command."""
    return ["predict", str(model), str(file), "-o", str(output), "--overwrite"]


# --- The model and the files ---------------------------------------------------------------------


def trained(molecules: Molecules, folder: Path) -> Path:
    """A model of a small network, trained for a moment."""
    from hpsearch.models.build import KeptRun, build_model
    from hpsearch.models.description import Origin
    from hpsearch.models.folder import write_model
    from hpsearch.runs.training import Training

    run = folder.with_name("run")
    training = Training.begin(_CONFIG, molecules, run)
    while not training.finished:
        training.run_epoch()
    training.complete(evaluate_test=False)
    origin = Origin(
        kind="train",
        experiment="predict_large",
        key="small",
        fingerprint=_CONFIG.fingerprint,
        epoch=0,
    )
    write_model(build_model("small", [KeptRun(origin, run)]), folder)
    return folder


def chunks(molecules: Molecules, total: int) -> Iterator[Molecules]:
    """``total`` molecules, those of the table again and again, some thousands at a time."""
    for begin in range(0, total, 20_000):
        rows = np.arange(begin, min(begin + 20_000, total)) % len(molecules)
        yield molecules.select(rows)


def numbers_of(chosen: Molecules) -> np.ndarray[Any, Any]:
    """The atomic numbers of all atoms."""
    return np.array(chosen.elements, dtype=np.uint8)[chosen.element_indices]


def write_extxyz(molecules: Molecules, total: int, path: Path) -> Path:
    """As ASE writes it, without labels."""
    with path.open("w") as file:
        for chosen in chunks(molecules, total):
            symbols = [SYMBOLS[number] for number in numbers_of(chosen)]
            lines = [
                f"{symbol} {x:.6f} {y:.6f} {z:.6f}\n"
                for symbol, (x, y, z) in zip(symbols, chosen.positions.tolist(), strict=True)
            ]
            begin = 0
            for count in chosen.atom_counts.tolist():
                file.write(f'{count}\nProperties=species:S:1:pos:R:3 pbc="F F F"\n')
                file.writelines(lines[begin : begin + count])
                begin += count
    return path


def write_sdf(molecules: Molecules, total: int, path: Path) -> Path:
    """Mol blocks without bonds."""
    with path.open("w") as file:
        for chosen in chunks(molecules, total):
            symbols = [SYMBOLS[number] for number in numbers_of(chosen)]
            lines = [
                f"{x:10.4f}{y:10.4f}{z:10.4f} {symbol:<3} 0  0  0  0  0  0  0  0  0  0  0  0\n"
                for symbol, (x, y, z) in zip(symbols, chosen.positions.tolist(), strict=True)
            ]
            begin = 0
            for count in chosen.atom_counts.tolist():
                file.write(f"\n     none          3D\n\n{count:3d}  0  0  0  0  0  0  0  0  0999 ")
                file.write("V2000\n")
                file.writelines(lines[begin : begin + count])
                file.write("M  END\n$$$$\n")
                begin += count
    return path


def write_npz(molecules: Molecules, total: int, path: Path) -> Path:
    """Concatenated arrays, not compressed, as numpy.savez writes them."""
    parts = list(chunks(molecules, total))
    np.savez(
        path,
        positions=np.concatenate([part.positions for part in parts]).astype(np.float64),
        numbers=np.concatenate([numbers_of(part) for part in parts]),
        counts=np.concatenate([part.atom_counts for part in parts]),
    )
    return path


def write_padded(molecules: Molecules, total: int, path: Path) -> Path:
    """Padded arrays, compressed."""
    most = int(molecules.atom_counts.max())
    positions = np.zeros((total, most, 3), dtype=np.float32)
    numbers = np.zeros((total, most), dtype=np.uint8)
    begin = 0
    for chosen in chunks(molecules, total):
        count = len(chosen.atom_counts)
        inside = np.arange(most) < chosen.atom_counts[:, None]
        positions[begin : begin + count][inside] = chosen.positions
        numbers[begin : begin + count][inside] = numbers_of(chosen)
        begin += count
    np.savez_compressed(path, positions=positions, numbers=numbers)
    return path


def write_parquet(molecules: Molecules, total: int, path: Path) -> Path:
    """One table, with pyarrow's own size of the groups of rows: a million."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for chosen in chunks(molecules, total):
        ends = np.concatenate([[0], np.cumsum(chosen.atom_counts)])
        flat = pa.array(chosen.positions.astype(np.float64).reshape(-1))
        tables.append(
            pa.table(
                {
                    "positions": pa.ListArray.from_arrays(pa.array(3 * ends, pa.int32()), flat),
                    "numbers": pa.ListArray.from_arrays(
                        pa.array(ends, pa.int32()), pa.array(numbers_of(chosen))
                    ),
                }
            )
        )
    pq.write_table(pa.concat_tables(tables), path)
    return path


def write_database(molecules: Molecules, total: int, path: Path) -> Path:
    """A database of ASE."""
    from ase import Atoms
    from ase.db import connect

    with connect(str(path)) as database:
        for chosen in chunks(molecules, total):
            numbers, begin = numbers_of(chosen), 0
            for count in chosen.atom_counts.tolist():
                where = slice(begin, begin + count)
                database.write(Atoms(numbers[where], chosen.positions[where]))
                begin += count
    return path


WRITERS: dict[str, Callable[[Molecules, int, Path], Path]] = {
    "npz": write_npz,
    "parquet": write_parquet,
    "extxyz": write_extxyz,
    "sdf": write_sdf,
    "padded.npz": write_padded,
    "db": write_database,
}
"""Writes a file in each input format, by the ending of its name."""


if __name__ == "__main__":
    raise SystemExit(main())
