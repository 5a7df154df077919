"""Show that flagged molecules have larger errors: molecules that are bent or enlarged on purpose.

    python benchmarks/flags.py AMONS_EXTXYZ [--epochs N] [--json FILE]

All labels are energies and dipoles of GFN1-xTB by tblite, for training and for the changed
molecules alike. A network is trained on amons through `hpsearch train`. Then the test molecules are
enlarged by 2 to 10 %, and their atoms are displaced at random by 0.02 to 0.2 Å. `hpsearch predict`
predicts them all. For each change, and for flagged and unflagged molecules, the mean absolute
errors and the part inside the 95 % interval are printed.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import read, write
from machine import conclude, machine

EH_IN_EV = 27.211386245988
BOHR = 0.529177210903
SCALES = (1.02, 1.05, 1.10)
SHAKES = (0.02, 0.05, 0.1, 0.2)
TARGETS = {"energy": "meV", "mu": "D"}

DECLARATION = """\
data:
  molecules: {path: train.extxyz, identifier: name, group: smiles}
  method: GFN1-xTB
  targets:
    energy: {column: xtb_energy, unit: eV, report_in: meV, references: fit}
    mu: {column: xtb_dipole, unit: D, extensive: false}
  train_size: 1000
  validation_size: 150
  test_size: 150
"""

WINNER = """\
format: hpsearch-winner/1
name: flags
config:
  targets: [energy, mu]
  network:
    embedding_size: 54
    featurization_scalars: 29
    featurization_vectors: 9
    featurization_blocks: 2
    radial_basis: bessel
    radial_functions: 40
    radial_maximum_angstrom: 6.0
    radial_mlp_layers: 1
    radial_mlp_neurons: 34
    output_mlp_layers: 1
    output_mlp_neurons: 37
  training:
    batch_size: 20
    learning_rate: 0.008
    epochs: 20
    schedule: cosine
    minimum_learning_rate: 1.0e-5
"""


def main() -> int:
    """Label, train, change, predict, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("amons", type=Path, help="the extxyz of docs/own_molecules.md")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = experiment(given.amons, given.epochs, Path(folder))
    header = ("change", "flagged", "molecules", "energy meV", "inside", "mu D", "inside")
    print(("{:<14}{:>8}{:>11}" + "{:>12}" * 4).format(*header))
    for row in found:
        print(
            f"{row['change']:<14}{'yes' if row['flagged'] else 'no':>8}{row['molecules']:>11}"
            + "".join(
                f"{row[f'{name}_mae']:>12.4g}{100 * row[f'{name}_inside']:>10.0f} %"
                for name in TARGETS
            )
        )
    changed = [row for row in found if row["change"] == "all changed"]
    no, yes = (next(row for row in changed if row["flagged"] is is_) for is_ in (False, True))
    missed = [name for name in TARGETS if yes[f"{name}_mae"] <= no[f"{name}_mae"]]
    return conclude(given.json, machine(), found, missed)


def experiment(amons: Path, epochs: int, folder: Path) -> list[dict[str, Any]]:
    """The errors for each change, of flagged and of unflagged molecules."""
    molecules = list(read_amons(amons))
    write(folder / "train.extxyz", [labelled(*one) for one in molecules], format="extxyz")
    (folder / "winner.yaml").write_text(WINNER + indent(DECLARATION, "  "))
    run(folder, "train", "winner.yaml", "--epochs", str(epochs), "-o", "model")
    tested = test_molecules(folder, molecules)
    random = np.random.default_rng(0)
    rows = []
    for change, change_one in changes(random):
        changed = [labelled(change_one(atoms), name, smiles) for atoms, name, smiles in tested]
        kept = [atoms for atoms in changed if atoms is not None]
        rows += predicted(folder, change, kept)
    found = [summed(rows, change) for change in dict.fromkeys(row["change"] for row in rows)]
    changed_rows = [{**row, "change": "all changed"} for row in rows if row["change"] != "none"]
    return [*(one for both in found for one in both), *summed(changed_rows, "all changed")]


def changes(random: np.random.Generator) -> Iterator[tuple[str, Any]]:
    """The changes by name, as functions of a molecule."""
    yield "none", lambda atoms: atoms
    for scale in SCALES:
        yield f"enlarged {100 * (scale - 1):.0f} %", lambda atoms, s=scale: enlarged(atoms, s)
    for shake in SHAKES:
        yield f"bent {shake} Å", lambda atoms, s=shake: bent(atoms, s, random)


def enlarged(atoms: Atoms, scale: float) -> Atoms:
    moved = atoms.copy()
    moved.positions *= scale
    return moved


def bent(atoms: Atoms, shake: float, random: np.random.Generator) -> Atoms:
    moved = atoms.copy()
    moved.positions += random.normal(scale=shake, size=moved.positions.shape)
    return moved


def read_amons(file: Path) -> Iterator[tuple[Atoms, str, str]]:
    """The molecules, each with name and SMILES."""
    for atoms in read(file, ":"):
        yield atoms, str(atoms.info["name"]), str(atoms.info["smiles"])


def labelled(atoms: Atoms, name: str, smiles: str) -> Atoms | None:
    """The molecule with its energy in eV and the length of its dipole in D; None without one."""
    from tblite.interface import Calculator

    calculator = Calculator("GFN1-xTB", atoms.numbers, atoms.positions / BOHR)
    calculator.set("verbosity", 0)
    try:
        result = calculator.singlepoint()
    except RuntimeError:  # it did not converge
        return None
    found = Atoms(atoms.numbers, positions=atoms.positions)
    found.info = {
        "name": name,
        "smiles": smiles,
        "xtb_energy": float(result.get("energy")) * EH_IN_EV,
        "xtb_dipole": float(np.linalg.norm(result.get("dipole"))) * 2.541746473,
    }
    return found


def test_molecules(
    folder: Path, molecules: list[tuple[Atoms, str, str]]
) -> list[tuple[Atoms, str, str]]:
    """The molecules that neither trained the network nor chose its epoch."""
    from hpsearch.data import own
    from hpsearch.data.split import make_split
    from hpsearch.models.folder import read_description

    data = read_description(folder / "model").data
    table = own.load(data)
    split = make_split(table, data)
    names = {table.name_of(int(row)) for row in split.test}
    return [one for one in molecules if one[1] in names]


def predicted(folder: Path, change: str, molecules: list[Atoms]) -> list[dict[str, Any]]:
    """Errors and flags of the changed molecules."""
    write(folder / "changed.extxyz", molecules, format="extxyz")
    words = ("model", "changed.extxyz", "-o", "out.csv", "--overwrite")
    run(folder, "predict", *words)
    with (folder / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = []
    for row, atoms in zip(rows, molecules, strict=True):
        if row["status"] != "predicted":
            continue
        known = {"energy": atoms.info["xtb_energy"] * 1000, "mu": atoms.info["xtb_dipole"]}
        entry: dict[str, Any] = {"change": change, "flagged": bool(row["flags"])}
        for name, unit in TARGETS.items():
            error = abs(float(row[f"{name} [{unit}]"]) - known[name])
            entry[f"{name}_error"] = error
            entry[f"{name}_inside"] = error <= float(row[f"{name} ±95% [{unit}]"])
        found.append(entry)
    return found


def summed(rows: list[dict[str, Any]], change: str) -> list[dict[str, Any]]:
    """The means for unflagged and for flagged molecules."""
    found = []
    for flagged in (False, True):
        those = [row for row in rows if row["change"] == change and row["flagged"] is flagged]
        if those:
            means = {
                key: float(np.mean([row[f"{name}_{what}"] for row in those]))
                for name in TARGETS
                for what, key in (("error", f"{name}_mae"), ("inside", f"{name}_inside"))
            }
            found.append({"change": change, "flagged": flagged, "molecules": len(those), **means})
    return found


def run(folder: Path, *words: str) -> None:
    """Run a command of hpsearch, and end with its error if it fails."""
    code = "from hpsearch.cli.program import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=folder, text=True,
                          capture_output=True, check=False)  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    print("\n".join(done.stdout.splitlines()[-6:]), file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
