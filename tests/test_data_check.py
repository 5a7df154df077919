"""``hpsearch data check`` and ``data prepare`` as a person types them, in this process."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from support.commands import QUICK
from support.exports import make_winner

from hpsearch.cli import program
from hpsearch.data import qm9
from hpsearch.report.molecules import number
from hpsearch.system.errors import InputError

NAMES = ["CH4", "H2O", "NH3", "C2H6", "CH3OH", "C2H4", "C2H2", "HCN", "CH3CH2OH", "CH3OCH3"]
ATOM_EV = {1: -13.6, 6: -1030.0, 7: -1486.0, 8: -2040.0}
DECLARATION = """data:
  molecules: {path: mine.extxyz, identifier: name, group: smiles}
  targets:
    energy: {unit: eV, report_in: meV, references: fit}
    mu: {unit: D, extensive: false}
"""
LEAKING = DECLARATION.replace(", group: smiles", "")


def extxyz(atoms: Atoms, **values: object) -> str:
    facts = " ".join(f"{key}={value}" for key, value in values.items())
    rows = "\n".join(f"{atom.symbol} {atom.x:.6f} {atom.y:.6f} {atom.z:.6f}" for atom in atoms)
    return f"{len(atoms)}\nProperties=species:S:1:pos:R:3 {facts}\n{rows}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with three geometries of each of ten molecules, and their declaration."""
    random = np.random.default_rng(0)
    written = []
    for name in NAMES:
        for geometry in range(3):
            atoms = molecule(name)
            atoms.positions += random.normal(0, 0.02, atoms.positions.shape)
            energy = sum(ATOM_EV[z] for z in atoms.numbers) - 4 * len(atoms) + random.normal()
            facts = {"energy": energy, "mu": abs(random.normal()), "smiles": name}
            written.append(extxyz(atoms, name=f"{name}-{geometry}", **facts))
    (tmp_path / "mine.extxyz").write_text("".join(written))
    (tmp_path / "mine.yaml").write_text(DECLARATION)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HPSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


def typed(*arguments: str) -> None:
    program.cli.main(list(arguments), standalone_mode=False)


def test_the_text_has_everything(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed("data", "check", "mine.yaml")
    text = capsys.readouterr().out
    for line in (
        r"molecules   30 of mine.extxyz; 3 to 9 atoms, median 5\.5, 171 in all",
        r"elements    H 114 in 30, C 39 in 24, N 6 in 6, O 12 in 12 molecules",
        r"distances   474 pairs of atoms; shortest 0\.\d+ Å \([\w-]+\), .*none beyond 12.1 Å",
        r"neighbours  .* within 3 Å, at most 8; .* within 8 Å, at most 8",
        r"duplicates  no geometry twice; 10 different molecules by their bonds, 10 of them in sev",
        r"split       24 training, 3 validation, 3 test molecules; 10 groups, kept together; hash",
        r"leaks       0 of 3 test and 0 of 3 validation molecules have the bonds of",
        r"cache       .*cache/molecules-[0-9a-f]{16}",
        r"content     [0-9a-f]{64}",
        r"energy +30 +0 +-[\d,]+ +-[\d,]+ +-[\d,.]+ +[\d,.]+ +extensive +meV +eV",
        r"mu +30 +0 .* intensive +D +D",
        r"energy +fit +0\.99\d+ .* meV",
        r"energy +-1\d.* eV",
        r"energy +[\d,.]+ +[\d,.]+ +meV",
        r"nothing looks wrong",
    ):
        assert re.search(f"^{line}", text, flags=re.M), line
    assert text.endswith("next: hpsearch launch quick --data mine.yaml\n")


def test_a_narrow_terminal_gets_folded_lines(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpsearch.cli.train.terminal_columns", lambda: 80)
    typed("data", "check", "mine.yaml")
    lines = capsys.readouterr().out.splitlines()
    # The folder of the cache is never broken.
    wide = [line for line in lines if len(line) > 80 and "/cache/" not in line]
    assert not wide


def test_json_is_one_object_and_nothing_else(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed("data", "check", "mine.yaml", "--json")
    printed = capsys.readouterr()
    facts = json.loads(printed.out)
    assert (facts["molecules"], facts["split"]["by_group"]) == (30, True)
    assert [target["name"] for target in facts["targets"]] == ["energy", "mu"]
    assert facts["warnings"] == []
    assert "next: hpsearch launch" in printed.err


def test_the_page_has_the_tables_and_figures_with_data(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed("data", "check", "mine.yaml", "-o", "check")
    assert "written: check/data.html" in capsys.readouterr().out
    facts = json.loads((folder / "check" / "data.json").read_text())
    assert facts["molecules"] == 30
    page = (folder / "check" / "data.html").read_text()
    assert "The molecules of mine.extxyz" in page
    assert "Errors to beat on the test molecules" in page
    # Nothing is loaded from elsewhere.
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="', page)
    for name in ("sizes", "elements", "distances", "values", "fitted"):
        assert f'<h2 id="figure-{name}">' in page
        assert f'id="{name}"' in page


def test_the_figures_draw_the_numbers_of_the_check(folder: Path) -> None:
    from hpsearch.config.run import DataConfig
    from hpsearch.data import own
    from hpsearch.data.check import DataCheck
    from hpsearch.pages.molecules import figures

    data = DataConfig.read(folder / "mine.yaml")
    molecules = own.load(data)
    check = DataCheck.of(molecules, data.resolved(len(molecules), molecules.elements))
    drawn = {name: figure for name, _, figure in figures(check)}
    assert sum(drawn["sizes"].data[0].y) == 30
    assert list(drawn["elements"].data[0].y) == [114, 39, 6, 12]
    assert sum(drawn["distances"].data[0].y) == 474
    assert [sum(bars.y) for bars in drawn["values"].data] == [30, 30]
    # Only the energy is extensive.
    assert [sum(bars.y) for bars in drawn["fitted"].data] == [30]
    first = drawn["sizes"].data[0]
    assert dict(zip(first.x, first.y, strict=True))[9] == 6


def test_a_leak_is_said_and_mended(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mine.yaml").write_text(LEAKING)
    typed("data", "check", "mine.yaml")
    text = capsys.readouterr().out
    assert "1 thing to look at:\n  the split leaks: 3 of 3 test and 3 of 3 validation" in text
    assert "molecules: {group: NAME}" in text


@pytest.mark.parametrize(("unit", "apart"), [("a0", "0.5"), ("nm", "10.")])
def test_a_wrong_unit_of_length_is_said(
    unit: str, apart: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed("data", "check", "mine.yaml")
    assert "length_unit" not in capsys.readouterr().out
    wrong = DECLARATION.replace("{path", f"{{length_unit: {unit}, path")
    (folder / "mine.yaml").write_text(wrong)
    typed("data", "check", "mine.yaml")
    text = " ".join(capsys.readouterr().out.split())
    assert f"the nearest two atoms of a molecule are {apart}" in text
    assert "is the length_unit of the positions right?" in text


def test_sizes_are_those_of_the_launch(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed("data", "check", "mine.yaml", "--train-size", "9", "--test-size", "6")
    text = capsys.readouterr().out
    assert "9 training, 3 validation, 6 test molecules" in text
    assert text.endswith("launch quick --data mine.yaml --train-size 9 --test-size 6\n")
    with pytest.raises(InputError, match="the largest --train-size that fits is 24"):
        typed("data", "check", "mine.yaml", "--train-size", "28")


def own_space(folder: Path) -> str:
    section = DECLARATION.replace("data:\n", "")
    text = re.sub(r"^data:\n(  .*\n)+", f"data:\n{section}", QUICK, flags=re.M)
    (folder / "space.yaml").write_text(text)
    return "space.yaml"


def test_a_space_gives_the_radii_and_the_next_command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed("data", "check", own_space(folder), "--json")
    printed = capsys.readouterr()
    near = json.loads(printed.out)["pairs"]["neighbours"]
    assert [each["angstrom"] for each in near] == [4.0, 8.0]
    assert printed.err.endswith("next: hpsearch launch space.yaml\n")


def test_an_export_gives_its_radius_and_the_next_command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hpsearch.config.run import DataConfig

    winner = make_winner().with_data(DataConfig.read(folder / "mine.yaml"))
    winner.write(folder / "best.yaml")
    typed("data", "check", "best.yaml", "--json")
    printed = capsys.readouterr()
    [near] = json.loads(printed.out)["pairs"]["neighbours"]
    assert near["angstrom"] == winner.config.network.radial_maximum_angstrom
    assert printed.err.endswith("next: hpsearch train best.yaml\n")


def test_a_shipped_space_checks_qm9(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HPSEARCH_CACHE")
    some = qm9.load().select(np.arange(0, 130_831, 37))
    monkeypatch.setattr(qm9, "load", lambda *_, **__: some)
    typed("data", "check", "quick")
    text = capsys.readouterr().out
    assert f"{len(some):,} of QM9; " in text
    assert "1,000 training, 500 validation, 2,000 test molecules" in text
    assert re.search(r"^U0 +given +0\.9999\d", text, flags=re.M)
    # All targets are sums in the paper, and nobody can change that.
    assert "extensive:" not in text
    assert text.endswith("next: hpsearch launch quick\n")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "must be"),
        ("data: [", "must"),
        ("name: x\n", "must have a data section"),
        ("data: {targets: {energy: {unit: eV}}}\n", "molecules must be given"),
        (DECLARATION.replace("unit: eV", "unit: eVolt"), "a unit must be one such as"),
        (DECLARATION.replace("mine.extxyz", "other.extxyz"), "other.extxyz"),
        (DECLARATION.replace("mu:", "dipole:"), "dipole"),
        (DECLARATION + "  train_size: 300\n", "must fit the 30 molecules"),
        (QUICK.replace("trials: 9", "trials: many"), "trials"),
        ("format: hpsearch-winner/1\nname: x\nconfig: {data: {}}\n", "config"),
    ],
    ids=lambda value: None if value is None else value[:20],
)
def test_a_wrong_file_is_one_line(folder: Path, content: str | None, words: str) -> None:
    if content is not None:
        (folder / "wrong.yaml").write_text(content)
    with pytest.raises(InputError, match=re.escape(words)) as raised:
        typed("data", "check", "wrong.yaml", "-o", "check")
    assert "\n" not in str(raised.value)
    assert not (folder / "check").exists()


def test_a_folder_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="cache"):
        (folder / "cache").mkdir(exist_ok=True)
        typed("data", "check", "cache")


def test_an_output_that_cannot_be_written_is_refused_first(folder: Path) -> None:
    with pytest.raises(InputError, match=r"mine\.yaml"):
        typed("data", "check", "mine.yaml", "-o", "mine.yaml/below")
    assert not (folder / "cache").exists()


def test_own_molecules_are_prepared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed("data", "prepare", "mine.yaml")
    said = capsys.readouterr().out
    [cache] = (folder / "cache").glob("molecules-*")
    assert re.search(rf"^30 molecules in {re.escape(str(cache))}, hash [0-9a-f]{{64}}$", said, re.M)
    assert "energy: 30 labels in eV" in said
    with pytest.raises(InputError, match="--archive is QM9's"):
        typed("data", "prepare", "mine.yaml", "--archive", "qm9.tar.bz2")


class _StoppedError(Exception):
    """The launch has come to its first heavy step."""


def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    from hpsearch import executor

    def stop(placement: object) -> int:
        raise _StoppedError

    monkeypatch.setattr(executor, "count_places", stop)
    typed("launch", "quick", "--data", "mine.yaml", "--dry-run")


def test_a_launch_says_a_leak(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(_StoppedError):
        launched(monkeypatch)
    assert "the split leaks" not in capsys.readouterr().out
    (folder / "mine.yaml").write_text(LEAKING)
    with pytest.raises(_StoppedError):
        launched(monkeypatch)
    assert "the split leaks: 3 of 3 test" in capsys.readouterr().out


def test_a_launch_refuses_references_of_other_labels(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = "references: {H: 13.6, C: 1030.0, N: 1486.0, O: 2040.0}"
    (folder / "mine.yaml").write_text(DECLARATION.replace("references: fit", given))
    with pytest.raises(
        InputError, match=r"references of energy leave .* meV an atom, without them"
    ):
        launched(monkeypatch)


def test_numbers_have_four_digits() -> None:
    values = (-240933.851, 0.025920262, 1000.4, 12.0, float("nan"))
    assert [number(v) for v in values] == ["-240,934", "0.02592", "1,000", "12", ""]
