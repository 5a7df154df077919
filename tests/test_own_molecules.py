"""Own molecules, from the file to the report, and the page about them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import test_tutorial as tutorial
from ase.collections import g2
from ase.io import read, write
from support.commands import HPSEARCH, ONE, hpsearch, run
from tblite.interface import Calculator

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "own_molecules.md"
NAMES = [
    *("H2O", "CH4", "NH3", "PH3", "SH2", "HCl", "CH3Cl", "CH3SH", "CH3OH", "C2H6", "C2H4", "HCN"),
    *("CO2", "H2CO", "N2H4", "H2O2", "SO2", "CS2", "H3CNH2", "H2CCl2"),
]
DECLARATION = """
data:
  molecules: {path: mine.extxyz, group: molecule}
  method: GFN2-xTB
  targets:
    energy: {unit: Hartree, report_in: eV, references: fit}
    HOMO-LUMO gap: {column: gap, unit: Hartree, report_in: eV, extensive: false}
  missing: mask
"""


def write_molecules(path: Path) -> None:
    """Distorted molecules of H, C, N, O, P, S and Cl; energies and gaps are computed with xTB."""
    random, made = np.random.default_rng(0), []
    for name in NAMES:
        for copy in range(4):
            atoms = g2[name]
            atoms.positions += 0.03 * random.normal(size=atoms.positions.shape)
            xtb = Calculator("GFN2-xTB", atoms.numbers, atoms.positions / 0.529177)
            xtb.set("verbosity", 0)
            result = xtb.singlepoint()
            levels, filled = result["orbital-energies"], result["orbital-occupations"] > 0.5
            atoms.info = {"energy": result["energy"], "molecule": name}
            if copy:
                atoms.info["gap"] = levels[~filled].min() - levels[filled].max()
            made.append(atoms)
    write(path, made)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with molecules, a declaration, a search of one trial and its ablation."""
    made = tmp_path_factory.mktemp("own")
    write_molecules(made / "mine.extxyz")
    (made / "mine.yaml").write_text(DECLARATION)
    return made


@pytest.mark.slow
def test_from_the_file_to_the_report(folder: Path) -> None:
    search = ["launch", "quick", "--data", "mine.yaml", "--trials", "1", "--epochs", "1", *ONE]
    said = hpsearch(folder, *search)
    assert "molecules: 80 of mine.extxyz, elements H C N O P S Cl\n" in said
    assert "  energy: 80 labels in Hartree, reported in eV, extensive\n" in said
    assert "  HOMO-LUMO gap: 60 labels in Hartree, reported in eV, intensive\n" in said
    assert re.search(r"^HOMO-LUMO gap +\S+ +\S+ +\S+ +eV$", said, re.MULTILINE)
    assert "no breaches" in hpsearch(folder, "verify")
    hpsearch(folder, "export-best", "-o", "best.yaml")
    exported = (folder / "best.yaml").read_text()
    assert "elements: [H, C, N, O, P, S, Cl]" in exported
    compare = ["ablate", "best.yaml", "--variants", "L0Net", "--epochs", "1", *ONE]
    said = hpsearch(folder, *compare, "--targets", "HOMO-LUMO gap")
    assert re.search(r"^run L0Net/HOMO-LUMO gap/0: complete .* test MAE HOMO-LUMO gap ", said, re.M)
    assert "no breaches" in hpsearch(folder, "verify")
    hpsearch(folder, "report", "-o", "report")
    report = (folder / "report" / "report.md").read_text()
    assert "QM9" not in report
    assert "HOMO-LUMO gap" in report

    # What was trained does not mix with other labels, units or molecules.
    text = (folder / "mine.yaml").read_text()
    (folder / "mine.yaml").write_text(text.replace("report_in: eV, ref", "report_in: meV, ref"))
    refused = run(folder, HPSEARCH, *search)
    assert refused.returncode == 2
    assert "data.targets.energy.report_in: 'eV' -> 'meV'" in refused.stderr
    (folder / "mine.yaml").write_text(text)
    frames = read(folder / "mine.extxyz", ":")
    frames[3].info["gap"] += 0.01
    write(folder / "mine.extxyz", frames)
    refused = run(folder, HPSEARCH, *search)
    assert refused.returncode == 2
    assert re.search(r"labels of HOMO-LUMO gap: \w{12} -> \w{12};", refused.stderr)
    assert "labels of energy" not in refused.stderr
    refused = run(folder, HPSEARCH, *compare, "--targets", "energy")
    assert refused.returncode == 2
    assert "the molecules must be those of the search" in refused.stderr
    status = json.loads(hpsearch(folder, "status", "quick", "--json"))
    assert status["counts"]["complete"] == 1


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)


def test_the_declarations_of_the_page_are_valid(tmp_path: Path) -> None:
    from hpsearch.config.run import DataConfig

    for text in blocks("yaml"):
        (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
        assert DataConfig.read(tmp_path / "mine.yaml").is_own


@pytest.mark.acceptance
def test_the_example_goes_as_it_is_written(tmp_path: Path) -> None:
    script, *_ = blocks("python")
    (tmp_path / "make.py").write_text(script, encoding="utf-8")
    [declared] = [text for text in blocks("yaml") if "GFN2-xTB" in text]
    (tmp_path / "mine.yaml").write_text(declared, encoding="utf-8")
    shutil.copytree(ROOT / "search_spaces", tmp_path / "search_spaces")
    page = PAGE.read_text(encoding="utf-8")
    taken = list(tutorial.steps(page[page.index("## An example") :]))
    assert len(taken) > 4
    for step in taken:
        code, printed = tutorial.run(step, tmp_path)
        said = "\n".join([f"$ {step.command}", *printed])
        missing = tutorial.unsaid(step.shown, printed)
        assert (code, missing) == (0, None), f"no line '{missing}' in:\n{said}"
