"""The check of molecules, on small ones whose numbers are worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from hpsearch.config.run import DataConfig
from hpsearch.data.check import DataCheck, leak_line, require_sound_references
from hpsearch.data.duplicates import equal_geometries, graph_keys
from hpsearch.data.molecule import Molecules
from hpsearch.data.split import Split, make_split
from hpsearch.system.errors import InputError

UNKNOWN = float("nan")


def declared(
    count: int, targets: dict[str, Any] | None = None, *, group: str | None = None, **data: Any
) -> DataConfig:
    """A declaration with a training set of all molecules but two."""
    source = {"path": "mine.extxyz"} | ({} if group is None else {"group": group})
    sizes = {} if "split_file" in data else {"train_size": count - 2, "validation_size": 1}
    sizes |= {} if "split_file" in data else {"test_size": 1}
    return DataConfig.model_validate(
        {"molecules": source, "targets": targets or {"energy": {"unit": "eV"}}, **sizes, **data}
    )


def table(
    atoms: Sequence[Atoms],
    data: DataConfig,
    labels: Sequence[Sequence[float]] | None = None,
    groups: Sequence[int] | None = None,
) -> Molecules:
    numbers = np.concatenate([each.numbers for each in atoms])
    shape = (len(atoms), len(data.all_targets))
    given = np.random.default_rng(0).normal(size=shape) if labels is None else np.transpose(labels)
    return Molecules.assemble(
        np.arange(len(atoms)),
        [len(each) for each in atoms],
        numbers,
        np.concatenate([each.positions for each in atoms]),
        given,
        elements=np.unique(numbers).tolist(),
        target_table=data.all_targets,
        names=np.array([f"m{row}".encode() for row in range(len(atoms))]),
        groups=None if groups is None else np.array(groups, dtype=np.int32),
    )


def on_a_line(symbols: str, *places: float) -> Atoms:
    return Atoms(symbols, [(x, 0, 0) for x in places])


LINES = [
    on_a_line("OCO", -1.16, 0, 1.16),
    on_a_line("N2", 0, 1.1),
    on_a_line("H2", 0, 13.0),
    on_a_line("He", 0),
]


def moved(atoms: Atoms, seed: int = 0) -> Atoms:
    """The same geometry, turned, moved and with other numbers of the atoms."""
    random = np.random.default_rng(seed)
    copy = atoms[random.permutation(len(atoms))]
    copy.rotate(float(random.uniform(20, 160)), random.normal(size=3))
    copy.positions += random.normal(size=3)
    return copy


def shaken(atoms: Atoms, size: float, seed: int = 0) -> Atoms:
    copy = atoms.copy()
    copy.positions += np.random.default_rng(seed).normal(0, size, copy.positions.shape)
    return copy


# --- Molecules and pairs -------------------------------------------------------------------------


def test_atoms_elements_and_distances_are_counted() -> None:
    data = declared(4)
    check = DataCheck.of(table(LINES, data), data, [1.2, 5.0, 20.0])
    assert (check.molecules, check.atoms, check.median_atoms) == (4, 8, 2.0)
    assert check.sizes == ((1, 1), (2, 2), (3, 1))
    assert [(e.symbol, e.molecules, e.atoms) for e in check.elements] == [
        ("H", 1, 2),
        ("He", 1, 1),
        ("C", 1, 1),
        ("N", 1, 2),
        ("O", 1, 2),
    ]
    pairs = check.pairs
    assert (pairs.number, pairs.far, pairs.sampled) == (5, 1, None)
    assert pairs.shortest is not None
    assert pairs.shortest.angstrom == pytest.approx(1.1)
    assert pairs.shortest.molecule == "m1"
    assert pairs.longest is not None
    assert (pairs.longest.angstrom, pairs.longest.molecule) == (13.0, "m2")
    # Within 1.2 Å: both bonds of CO2 and that of N2. Within 5 Å: the two O as well. Then H2.
    assert [n.mean for n in pairs.neighbours] == [6 / 8, 8 / 8, 10 / 8]
    assert [n.most for n in pairs.neighbours] == [2, 2, 2]
    assert sum(pairs.distances.counts) == 5
    assert [line for line in check.warnings if "beyond 12.1 Å" in line]


def test_neighbours_are_those_of_a_loop_over_atoms() -> None:
    names = ["CH4", "C6H6", "H2O", "CH3CH2OH", "C6H6"]
    atoms = [shaken(molecule(name), 0.1, seed) for seed, name in enumerate(names)]
    data = declared(len(atoms))
    check = DataCheck.of(table(atoms, data), data, [2.5])
    near = np.concatenate([(a.get_all_distances() < 2.5).sum(axis=1) - 1 for a in atoms])
    assert check.pairs.neighbours[0].mean == pytest.approx(near.mean())
    assert check.pairs.neighbours[0].most == near.max()


def test_neighbours_are_sampled_where_there_are_many_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpsearch.data.check._MOST_PAIRS", 400)
    data = declared(100)
    check = DataCheck.of(table([molecule("CH4")] * 100, data), data, [1.5])
    assert check.pairs.number == 1_000
    assert check.pairs.sampled == 41
    assert check.pairs.neighbours[0].mean == pytest.approx(8 / 5)
    assert sum(check.pairs.distances.counts) == 1_000


def test_single_atoms_have_no_distances() -> None:
    data = declared(5)
    check = DataCheck.of(table([Atoms("He")] * 3 + [Atoms("Ne")] * 2, data), data)
    assert (check.pairs.number, check.pairs.shortest, check.pairs.longest) == (0, None, None)
    assert json.loads(json.dumps(check.to_dict(), allow_nan=False))["pairs"]["shortest"] is None


# --- Duplicates ----------------------------------------------------------------------------------


def test_a_turned_geometry_is_found() -> None:
    ethanol = molecule("CH3CH2OH")
    atoms = [molecule("CH3OCH3"), ethanol, moved(ethanol), shaken(ethanol, 0.01), moved(ethanol, 1)]
    data = declared(5)
    first, all_compared = equal_geometries(table(atoms, data))
    assert first.tolist() == [0, 1, 1, 3, 1]
    assert all_compared


def test_a_mirror_image_has_the_same_geometry() -> None:
    chiral = Atoms("CHFClBr", [(0, 0, 0), (1.1, 0, 0), (0, 1.35, 0), (0, 0, 1.77), (-1, -1, -1.2)])
    image = chiral.copy()
    image.positions[:, 0] *= -1
    first, _ = equal_geometries(table([chiral, image], declared(4)))
    assert first.tolist() == [0, 0]


@pytest.mark.parametrize("start", np.linspace(1.1, 1.102, 9))
def test_no_boundary_of_a_rounding_hides_an_equal_geometry(start: float) -> None:
    atoms = [on_a_line("N2", 0, start), on_a_line("N2", 0, start + 9e-4)]
    assert equal_geometries(table(atoms, declared(4)))[0].tolist() == [0, 0]
    atoms = [on_a_line("N2", 0, start), on_a_line("N2", 0, start + 1.2e-3)]
    assert equal_geometries(table(atoms, declared(4)))[0].tolist() == [0, 1]


def test_equal_distances_of_other_elements_are_another_geometry() -> None:
    atoms = [on_a_line("NCO", 0, 1.2, 2.5), on_a_line("CNO", 0, 1.2, 2.5)]
    assert equal_geometries(table(atoms, declared(4)))[0].tolist() == [0, 1]


def test_equal_geometries_are_those_of_a_loop_over_pairs() -> None:
    """Many geometries of one molecule, half of them again and shaken by less than the tolerance."""
    random = np.random.default_rng(2)
    atoms = [shaken(molecule("C2H6"), 0.003, seed) for seed in range(60)]
    atoms += [shaken(moved(atoms[row], row), 1e-4, row) for row in random.permutation(60)[:30]]
    molecules = table(atoms, declared(90))
    distances = []
    for each in atoms:
        lengths = each.get_all_distances()
        carbon = each.numbers == 6
        kinds = [lengths[np.ix_(a, b)] for a in (carbon, ~carbon) for b in (carbon, ~carbon)]
        distances.append(np.concatenate([np.sort(kind.ravel()) for kind in kinds]))
    apart = np.abs(np.stack(distances)[:, None] - np.stack(distances)[None]).max(axis=2)
    expected = [int(np.flatnonzero(row <= 1e-3)[0]) for row in apart]
    assert sum(found != row for row, found in enumerate(expected)) >= 25
    assert equal_geometries(molecules)[0].tolist() == expected


def test_a_limit_on_comparisons_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpsearch.data.duplicates._MOST_COMPARISONS", 10)
    atoms = [on_a_line("NNN", 0, 1.1 + 0.002 * (place % 9), 2.3) for place in range(40)]
    data = declared(40)
    assert not DataCheck.of(table(atoms, data), data).duplicates.all_compared


def test_other_labels_of_an_equal_geometry_are_said() -> None:
    water, methane = molecule("H2O"), molecule("CH4")
    atoms = [water, moved(water), methane, moved(methane), molecule("NH3"), molecule("C2H6")]
    data = declared(6)
    energies = [-76.0, -76.0, -40.0, -39.0, -56.0, -79.0]
    check = DataCheck.of(table(atoms, data, [energies]), data)
    found = check.duplicates
    assert (found.geometries, found.different_labels) == (2, 1)
    assert (found.example, found.example_of_labels) == (("m0", "m1"), ("m2", "m3"))
    assert [line for line in check.warnings if "such as m3 and m2" in line]


def test_conformers_are_one_molecule_and_isomers_are_two() -> None:
    butane, ethanol = molecule("trans-butane"), molecule("CH3CH2OH")
    turned = butane.copy()
    carbons = np.flatnonzero(butane.numbers == 6)
    distances = butane.get_all_distances()[np.ix_(carbons, carbons)]
    inner = [int(c) for c, near in zip(carbons, distances, strict=True) if (near < 1.7).sum() == 3]
    # Everything on one side of the middle bond is turned by 120 degrees.
    axis = butane.positions[inner[1]] - butane.positions[inner[0]]
    far = [
        a
        for a in range(len(butane))
        if (butane.positions[a] - butane.positions[inner[1]]) @ axis > -1e-6 and a != inner[1]
    ]
    side = turned[far]
    side.rotate(120, axis, center=butane.positions[inner[1]])
    turned.positions[far] = side.positions
    atoms = [butane, moved(turned), molecule("isobutane"), ethanol, molecule("CH3OCH3")]
    keys = graph_keys(table(atoms, declared(5)))
    assert keys[0] == keys[1]
    assert len(set(keys.tolist())) == 4
    first, _ = equal_geometries(table(atoms, declared(5)))
    assert first.tolist() == [0, 1, 2, 3, 4]
    found = DataCheck.of(table(atoms, declared(5)), declared(5)).duplicates
    assert (found.graphs, found.in_several, found.most_geometries) == (4, 1, 2)


def test_the_element_and_not_only_the_graph_decides() -> None:
    atoms = [on_a_line("CO", 0, 1.13), on_a_line("CN", 0, 1.17), on_a_line("CO", 0, 1.2)]
    keys = graph_keys(table(atoms, declared(4)))
    assert keys[0] == keys[2] != keys[1]


# --- Leaks and the split -------------------------------------------------------------------------

NAMES = ["CH4", "H2O", "NH3", "C2H6", "CH3OH", "C2H4", "C2H2", "HCN", "CH3Cl", "SiH4"]


def conformers() -> tuple[list[Atoms], list[int]]:
    """Two geometries of each of ten molecules, and their groups."""
    atoms = [shaken(molecule(n), 0.02, seed) for seed in range(2) for n in NAMES]
    return atoms, [*range(10), *range(10)]


def write_split(path: Path, **sets: list[int]) -> str:
    named = {name: [f"m{row}" for row in rows] for name, rows in sets.items()}
    path.write_text(json.dumps(named))
    return str(path)


def test_a_split_that_leaks_is_counted(tmp_path: Path) -> None:
    atoms, _ = conformers()
    # Of the test molecules, m10 to m12 have a training molecule; m19 has its partner in validation.
    file = write_split(
        tmp_path / "split.json",
        train=[*range(8)],
        validation=[9, 18, 17],
        test=[10, 11, 12, 19],
    )
    data = declared(20, split_file=file)
    molecules = table(atoms, data)
    check = DataCheck.of(molecules, data)
    assert (check.split.leaks.test, check.split.leaks.validation) == (3, 1)
    assert check.split.leaks.test_groups is None
    assert check.split.leak is not None
    assert "3 of 4 test and 1 of 3 validation molecules" in check.split.leak
    assert check.split.leak in check.warnings
    assert leak_line(molecules, make_split(molecules, data), data) == check.split.leak


def test_a_split_by_group_does_not_leak() -> None:
    atoms, groups = conformers()
    sizes = {"train_size": 12, "validation_size": 4, "test_size": 4}
    by_molecule = declared(20, group="smiles", **sizes, split_by="molecule")
    molecules = table(atoms, by_molecule, groups=groups)
    check = DataCheck.of(molecules, by_molecule)
    split = make_split(molecules, by_molecule)
    train = {groups[row] for row in split.train}
    expected = sum(groups[row] in train for row in split.test)
    assert expected > 0
    assert check.split.leaks.test_groups == check.split.leaks.test == expected
    assert check.split.leak is not None
    assert check.split.leak.endswith("set split_by: group")
    by_group = declared(20, group="smiles", **sizes)
    check = DataCheck.of(molecules, by_group)
    assert (check.split.groups, check.split.by_group) == (10, True)
    assert (check.split.leaks.test, check.split.leaks.validation) == (0, 0)
    assert check.split.leak is None
    assert leak_line(molecules, make_split(molecules, by_group), by_group) is None


def test_groups_that_are_too_fine_leak() -> None:
    atoms, _ = conformers()
    data = declared(20, group="name", train_size=12, validation_size=4, test_size=4)
    check = DataCheck.of(table(atoms, data, groups=[*range(20)]), data)
    assert check.split.leaks.test_groups == 0
    assert check.split.leaks.test > 0
    assert check.split.leak is not None
    assert "groups are too fine" in check.split.leak


def test_geometries_of_one_molecule_are_no_leak_that_can_be_mended() -> None:
    atoms = [shaken(molecule("CH3OH"), 0.02, seed) for seed in range(6)]
    data = declared(6)
    check = DataCheck.of(table(atoms, data), data)
    assert check.split.leak is not None
    assert check.split.leak.startswith("all molecules have the same bonds")


# --- Targets -------------------------------------------------------------------------------------


def chains(count: int = 40) -> list[Atoms]:
    """Straight chains of C and O that are no molecules, of 2 to 12 atoms."""
    random = np.random.default_rng(3)
    return [
        on_a_line("".join(random.choice(["C", "O"], 2 + n % 11)), *1.3 * np.arange(2 + n % 11))
        for n in range(count)
    ]


CHAINS = chains()
SIZES = np.array([len(atoms) for atoms in CHAINS])
CARBONS = np.array([(atoms.numbers == 6).sum() for atoms in CHAINS])
NOISE = np.random.default_rng(4).normal(size=len(CHAINS))


def checked(targets: dict[str, Any], *labels: Any, **data: Any) -> DataCheck:
    config = declared(len(CHAINS), targets, **data)
    return DataCheck.of(table(CHAINS, config, labels), config)


def remarks(declaration: dict[str, Any], labels: Any) -> str:
    return " | ".join(checked({"t": declaration}, labels).targets[0].remarks)


def test_labels_are_described_in_the_declared_unit() -> None:
    values = np.where(np.arange(40) < 3, UNKNOWN, np.arange(40.0) - 10)
    target = checked({"t": {"unit": "kJ/mol", "report_in": "meV"}}, values, missing="mask")
    [t] = target.targets
    assert (t.found, t.missing, t.unit, t.report_unit) == (37, 3, "kJ/mol", "meV")
    assert (t.least, t.mean, t.most) == (-7, 11, 29)
    # The variance of 37 whole numbers in a row is (37² - 1) / 12.
    assert t.deviation == pytest.approx(np.sqrt(114))
    assert t.values is not None
    assert sum(t.values.counts) == 37


def test_a_target_without_any_label_is_said() -> None:
    check = checked(
        {"t": {"unit": "eV"}, "u": {"unit": "eV"}},
        np.full(40, UNKNOWN),
        -5.0 * SIZES + NOISE,
        missing="mask",
    )
    t, u = check.targets
    assert t.remarks == ("no molecule has a label; check column:",)
    assert (t.found, t.values, u.found) == (0, None, 40)
    assert check.to_dict()["targets"][0]["least"] is None


ENERGY = -1030.0 * CARBONS - 2040.0 * (SIZES - CARBONS) - 4 * SIZES + NOISE

IMPLAUSIBLE = {
    "an energy in kcal/mol, said to be in eV": ({"unit": "eV"}, ENERGY * 23.06, "electrons have"),
    "an energy with the wrong sign": ({"unit": "eV"}, -ENERGY, "does not hold together above 20"),
    "energies of other molecules": ({"unit": "eV"}, ENERGY + 300 * NOISE, "composition fit"),
    "a gap in meV, said to be in eV": (
        {"unit": "eV", "extensive": False},
        4_000 + 500 * NOISE,
        "energy of one electron is -50 to 50: is eV its unit?",
    ),
    "a total energy, said to be intensive": (
        {"unit": "eV", "extensive": False},
        ENERGY,
        "energy of one electron",
    ),
    "a component of a dipole": ({"unit": "D", "extensive": False}, NOISE, "take its length"),
    "a dipole in mD": ({"unit": "D", "extensive": False}, 2_000 + 100 * NOISE, "dipole is 0 to 50"),
    "a dipole of 60 D in e*Å": (
        {"unit": "e*Å", "extensive": False},
        np.where(SIZES == 12, 12.5, 2 + 0.1 * NOISE),
        "60.04 D",
    ),
    "a polarizability in Å^3, said to be in nm^3": (
        {"unit": "nm^3"},
        SIZES * (1.5 + 0.1 * NOISE),
        "a0^3 an atom",
    ),
    "a negative polarizability": ({"unit": "a0^3"}, -SIZES * (9 + NOISE), "size is not negative"),
    "a temperature in mK": ({"unit": "K", "extensive": False}, 3e5 + 1e4 * NOISE, "0 to 10,000"),
    "a heat capacity in J, said to be in cal": (
        {"unit": "kcal/(mol K)"},
        SIZES * (4 + 0.1 * NOISE),
        "heat capacity",
    ),
    "a negative length": ({"unit": "Å", "extensive": False}, NOISE, "length is at least 0"),
    "a constant": ({"unit": "D"}, np.full(40, 3.5), "all labels are 3.5"),
}
PLAUSIBLE = {
    "a total energy": ({"unit": "eV"}, ENERGY),
    "the same in Hartree": ({"unit": "Hartree"}, ENERGY / 27.2114),
    "an energy of atomization": ({"unit": "kcal/mol"}, SIZES * (95.0 + 3 * NOISE)),
    "an energy per atom": ({"unit": "eV/atom", "extensive": False}, -6 + 0.2 * NOISE),
    "a gap": ({"unit": "meV", "extensive": False}, 4_000 + 500 * NOISE),
    "a dipole": ({"unit": "D", "extensive": False}, np.abs(NOISE)),
    "a polarizability": ({"unit": "a0^3"}, SIZES * (9 + 0.3 * NOISE)),
    "a boiling point": ({"unit": "K", "extensive": False}, 350 + 30 * NOISE),
    "a heat capacity": ({"unit": "cal/(mol K)"}, SIZES * (2.5 + 0.1 * NOISE)),
    "a solubility": ({"unit": "1", "extensive": False}, -3 + NOISE),
}


@pytest.mark.parametrize("name", IMPLAUSIBLE)
def test_values_that_do_not_suit_the_unit_are_said(name: str) -> None:
    declaration, values, words = IMPLAUSIBLE[name]
    assert words in remarks(declaration, values)


@pytest.mark.parametrize("name", PLAUSIBLE)
def test_plausible_values_have_no_remark(name: str) -> None:
    assert remarks(*PLAUSIBLE[name]) == ""


def test_one_odd_molecule_is_named() -> None:
    values = np.abs(NOISE)
    values[7] = 90
    said = remarks({"unit": "D", "extensive": False}, values)
    assert said.startswith("m7 has 90 D")


def test_kinds_that_look_wrong_are_said() -> None:
    gap = 4 + 0.5 * NOISE
    assert "set extensive: false" in remarks({"unit": "eV"}, gap)
    assert "set extensive: false" not in remarks({"unit": "eV", "extensive": False}, gap)
    capacity = SIZES * (2.5 + 0.05 * NOISE)
    wrong = remarks({"unit": "cal/(mol K)", "extensive": False}, capacity)
    assert "set extensive: true" in wrong
    assert "set extensive" not in remarks({"unit": "cal/(mol K)"}, capacity)


def test_a_dipole_that_follows_the_composition_still_looks_intensive() -> None:
    # As in QM9: oxygen makes dipoles large and molecules small, so a sum over atoms fits as well.
    oxygens = np.arange(40) % 5
    atoms = [on_a_line("O" * o + "C" * (14 - 3 * o), *1.3 * np.arange(14 - 2 * o)) for o in oxygens]
    data = declared(40, {"t": {"unit": "D"}})
    [t] = DataCheck.of(table(atoms, data, [np.abs(1 + oxygens + NOISE)]), data).targets
    assert len(t.remarks) == 1
    assert t.remarks[0].startswith("looks intensive (correlation with the number of atoms -0.")


def test_equal_targets_are_said_in_any_unit() -> None:
    energy, targets = ENERGY, {"a": {"unit": "eV"}, "b": {"unit": "meV"}, "c": {"unit": "eV"}}
    a, b, c = checked(targets, energy, 1_000 * energy, energy + NOISE).targets
    assert "has the same values as a" in b.remarks
    assert not [line for t in (a, c) for line in t.remarks if "same values" in line]
    *_, last = checked(targets, NOISE, 7 * NOISE, NOISE).targets
    assert "has the same values as a" in last.remarks


# --- References ----------------------------------------------------------------------------------


def test_a_fit_finds_the_energies_of_the_atoms() -> None:
    exact = -1030.0 * CARBONS - 2040.0 * (SIZES - CARBONS)
    [t] = checked({"t": {"unit": "eV", "report_in": "meV", "references": "fit"}}, exact).targets
    assert t.references is not None
    assert t.references.kind == "fit"
    assert t.references.coefficients == pytest.approx({"C": -1030, "O": -2040})
    assert t.references.r2 == pytest.approx(1)
    assert t.references.error == pytest.approx(0, abs=1e-4)
    assert t.references.problems == ()
    assert t.mae_of_composition == pytest.approx(0, abs=1e-4)


def test_what_references_leave_is_in_the_reporting_unit() -> None:
    alternating = np.where(np.arange(40) % 2, 1.0, -1.0)
    energy = -1030.0 * CARBONS - 2040.0 * (SIZES - CARBONS) + SIZES * alternating
    given = {"unit": "eV", "report_in": "meV", "references": {"C": -1030.0, "O": -2040.0}}
    # The split leaves out two molecules, one with each sign or not; the rest is ±1 eV an atom.
    [t] = checked({"t": given}, energy).targets
    assert t.references is not None
    assert t.references.with_them == pytest.approx(1_000)
    assert t.references.sound
    assert t.references.coefficients == {"C": -1030, "O": -2040}


def sound(targets: dict[str, Any], *labels: Any) -> None:
    config = declared(len(CHAINS), targets)
    molecules = table(CHAINS, config, labels)
    require_sound_references(molecules, make_split(molecules, config), list(targets))


def test_references_of_other_labels_are_refused() -> None:
    total = {"unit": "eV", "references": {"C": -1030.0, "O": -2040.0}}
    atomization = -4.0 * SIZES + 0.3 * NOISE
    check = checked({"t": total}, atomization)
    assert check.targets[0].references is not None
    assert not check.targets[0].references.sound
    [line] = [each for each in check.warnings if "references of t leave" in each]
    assert line.endswith("they belong to other labels")
    with pytest.raises(InputError, match=r"references of t leave 1,\d\d\d eV an atom, without the"):
        sound({"t": total}, atomization)
    sound({"t": total}, ENERGY)
    sound({"t": {"unit": "eV", "references": "fit"}}, atomization)
    sound({"t": {"unit": "eV"}}, atomization)


def test_references_with_the_wrong_sign_are_refused() -> None:
    with pytest.raises(InputError, match="they belong to other labels"):
        sound({"t": {"unit": "eV", "references": {"C": 1030.0, "O": 2040.0}}}, ENERGY)


def test_references_in_another_unit_are_said() -> None:
    hartree = {"unit": "eV", "references": {"C": -37.85, "O": -75.06}}
    [line] = [each for each in checked({"t": hartree}, ENERGY).warnings if "references" in each]
    assert "are they in eV, as the labels are?" in line


def test_an_element_without_a_reference_is_said() -> None:
    check = checked({"t": {"unit": "eV", "references": {"C": -1030.0}}}, ENERGY)
    assert [line for line in check.warnings if line.endswith("have no number for O")]


def test_references_that_the_molecules_do_not_determine_are_said() -> None:
    atoms = [shaken(molecule(name), 0.02, n) for n, name in enumerate(["C2H4", "C3H6_D3h"] * 4)]
    data = declared(8, {"t": {"unit": "eV", "references": "fit"}})
    energies = [-15.0 * len(each) for each in atoms]
    lines = DataCheck.of(table(atoms, data, [energies]), data).warnings
    assert [line for line in lines if "cannot be told apart for H, C" in line]
    several = checked({"t": {"unit": "eV", "references": "fit"}}, ENERGY).warnings
    assert not [line for line in several if "told apart" in line]


def test_references_that_only_move_the_zero_are_sound() -> None:
    # Table 2 has the same reference of Cv for every element.
    sound({"Cv": {"unit": "cal/(mol K)", "references": "table2"}}, SIZES * (2.0 + 0.1 * NOISE))


def test_references_that_leave_a_constant_an_atom_are_sound() -> None:
    # They leave more than there was, but it is the same for every atom, and training removes that.
    sound({"t": {"unit": "eV", "references": {"C": -7.0, "O": -13.0}}}, 3 * (2 * CARBONS - SIZES))


def test_errors_to_beat_are_those_of_a_loop() -> None:
    config = declared(40, {"t": {"unit": "eV", "report_in": "meV"}}, train_size=20, test_size=15)
    molecules = table(CHAINS, config, [NOISE])
    split: Split = make_split(molecules, config)
    [t] = DataCheck.of(molecules, config).targets
    errors = np.abs(NOISE[split.test] - NOISE[split.train].mean())
    assert t.mae_of_mean == pytest.approx(1_000 * errors.mean())


def test_everything_is_plain_json() -> None:
    check = checked({"t": {"unit": "eV", "references": "fit"}}, ENERGY)
    read = json.loads(json.dumps(check.to_dict(), allow_nan=False))
    assert read["warnings"] == list(check.warnings)
    assert read["targets"][0]["references"]["coefficients"].keys() == {"C", "O"}
    assert read["content_hash"] == check.content_hash
