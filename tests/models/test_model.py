"""A model's folder, its predictions, and its ASE calculator."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.small_models import DATA, TARGETS, config

from hpsearch.cli.output import Output
from hpsearch.cli.train import _leave_model
from hpsearch.data import own
from hpsearch.data.molecule import Molecules
from hpsearch.data.split import make_split, unused_rows
from hpsearch.models.build import KeptRun, build_model
from hpsearch.models.folder import CARD, WEIGHTS, read_description, read_model, write_model
from hpsearch.models.model import Model
from hpsearch.models.ranges import Geometries
from hpsearch.runs.messages import Completion
from hpsearch.runs.training import Training
from hpsearch.system.errors import HpsearchError, InputError

Trained = dict[int, tuple[KeptRun, Completion]]


def geometries(molecules: Molecules, rows: Any) -> Geometries:
    chosen = molecules.select(rows)
    numbers = np.array(chosen.elements)[chosen.element_indices]
    return Geometries(numbers, chosen.positions, chosen.atom_counts)


def test_the_test_errors_of_the_training_come_out_of_predict(
    single: Model, trained: Trained, molecules: Molecules
) -> None:
    split = make_split(molecules, DATA)
    found = single.predict_geometries(geometries(molecules, split.test)).values
    names = molecules.target_table.names
    for place, name in enumerate(TARGETS):
        target = molecules.target_table[name]
        known = molecules.targets[split.test, names.index(name)] * target.reporting_factor
        mae = np.abs(found[:, place] - known).mean()
        assert mae == pytest.approx(trained[0][1].test_maes[name], rel=1e-5)
        assert single.description.tested[name].mae == pytest.approx(mae, rel=1e-5)


def test_an_ensemble_is_the_mean_of_its_networks(
    ensemble: Model, trained: Trained, molecules: Molecules
) -> None:
    some = geometries(molecules, np.arange(50))
    alone = [
        build_model("x", [trained[seed][0]]).predict_geometries(some).values for seed in (0, 1)
    ]
    together = ensemble.predict_geometries(some)
    np.testing.assert_allclose(together.values, (alone[0] + alone[1]) / 2, rtol=1e-12)
    by_hand = np.abs(alone[0] - alone[1]) / 2
    np.testing.assert_allclose(together.spreads, by_hand, rtol=1e-7, atol=1e-9)
    calibrated = ensemble.description.calibration.targets["mu"]
    assert calibrated.spread.kind == "ensemble"
    half = calibrated.quantiles["95"] * (together.spreads[:, 0] + calibrated.spread.floor)
    np.testing.assert_allclose(together.halves[0.95][:, 0], half)


def test_the_order_of_the_molecules_does_not_matter(single: Model, molecules: Molecules) -> None:
    rows = np.random.default_rng(0).permutation(150)
    straight = single.predict_geometries(geometries(molecules, np.arange(150)))
    mixed = single.predict_geometries(geometries(molecules, rows))
    # Other batches round otherwise.
    np.testing.assert_allclose(mixed.values, straight.values[rows], rtol=1e-6)
    assert mixed.flags == [straight.flags[row] for row in rows]


def test_intervals_cover_what_they_say(single: Model) -> None:
    """Of 2,000 calibration molecules and 120 test molecules: within four standard errors."""
    assert single.description.calibration.molecules == "unused"
    for name in TARGETS:
        coverage = single.description.tested[name].coverage
        for level in (0.68, 0.95):
            error = 4 * np.sqrt(level * (1 - level) / DATA.test_size)
            assert coverage[f"{100 * level:g}"] == pytest.approx(level, abs=error)


def test_calibration_molecules_are_used_for_nothing_else(molecules: Molecules) -> None:
    split = make_split(molecules, DATA)
    unused = unused_rows(molecules, split, DATA)
    used = np.concatenate([split.train, split.validation, split.test])
    assert not np.intersect1d(unused, used).size
    assert len(unused) + len(used) == len(molecules)
    larger = make_split(molecules, DATA.model_copy(update={"train_size": 50_000}))
    # The last ones are the last to become training molecules of a larger split.
    assert not np.intersect1d(unused[-2_000:], larger.train).size


def test_a_level_without_enough_molecules_is_refused(single: Model, molecules: Molecules) -> None:
    with pytest.raises(InputError, match="must be one of 50, 68, 80, 90, 95, 99 %, got 93"):
        single.predict_geometries(geometries(molecules, [0]), (0.93,))
    calibration = single.description.calibration
    few = calibration.targets["mu"].model_copy(update={"quantiles": {"50": 1.0}, "molecules": 10})
    targets = {**calibration.targets, "mu": few}
    changed = calibration.model_copy(update={"targets": targets})
    description = single.description.model_copy(update={"calibration": changed})
    with pytest.raises(InputError, match=r"at least 19 calibration molecules, .*10 for mu"):
        Model(description, single.members).predict_geometries(geometries(molecules, [0]), (0.95,))


def test_an_unknown_element_has_no_value(single: Model) -> None:
    numbers, positions = np.array([8, 1, 1, 17, 1]), np.zeros((5, 3))
    positions[:, 0] = [0, 0.96, -0.96, 0, 1.3]
    found = single.predict_geometries(Geometries(numbers, positions, np.array([3, 2])))
    assert found.known.tolist() == [True, False]
    assert np.isfinite(found.values[0]).all()
    assert np.isnan(found.values[1]).all()
    assert "unknown element Cl" in found.flags[1]


def test_some_targets_only(single: Model, molecules: Molecules) -> None:
    some = geometries(molecules, np.arange(5))
    chosen = single.select(["U0"])
    assert [target.name for target in chosen.targets] == ["U0"]
    np.testing.assert_array_equal(
        chosen.predict_geometries(some).values[:, 0], single.predict_geometries(some).values[:, 1]
    )
    with pytest.raises(InputError, match="a target must be one of mu, U0; got 'gap'"):
        single.select(["gap"])


# --- The folder ----------------------------------------------------------------------------------


def test_a_folder_is_read_as_it_was_written(
    single: Model, single_folder: Path, molecules: Molecules, tmp_path: Path
) -> None:
    description = write_model(single, tmp_path / "moved")
    again = read_model(tmp_path / "moved")
    assert again.description == description
    some = geometries(molecules, np.arange(20))
    np.testing.assert_array_equal(
        again.predict_geometries(some).values, single.predict_geometries(some).values
    )
    text = (single_folder / CARD).read_text()
    assert "| mu | D | 120 |" in text
    assert "300" in text


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("model.json", lambda b: b.replace(b'"name": "single"', b'"name": "better"'), "digest"),
        ("model.json", lambda b: b.replace(b"hpsearch-model/1", b"hpsearch-model/9"), "version"),
        ("model.json", lambda b: b[:-30], "must be the description of a model"),
        ("model.json", lambda b: b"\xff\xfe", "must be readable"),
        (WEIGHTS, lambda b: b[:-1] + bytes([b[-1] ^ 1]), "another hash"),
        (WEIGHTS, None, "No such file"),
        ("model.json", None, "must be a folder with model.json"),
    ],
)
def test_a_damaged_folder_is_refused(
    single_folder: Path, tmp_path: Path, file: str, change: Any, message: str
) -> None:
    for path in single_folder.iterdir():
        data = path.read_bytes()
        if path.name == file:
            if change is None:
                continue
            assert change(data) != data
            data = change(data)
        (tmp_path / path.name).write_bytes(data)
    with pytest.raises(InputError, match=message) as error:
        read_model(tmp_path)
    assert "\n" not in str(error.value)


def test_what_was_written_names_the_run(single_folder: Path, trained: Trained) -> None:
    network = read_description(single_folder).networks[0]
    assert network.origin.key == "0"
    assert network.origin.epoch == trained[0][1].best_epoch
    assert len(network.origin.epoch_digest or "") == 64
    content = json.loads((single_folder / "model.json").read_text())
    assert content["networks"][0]["statistics"]["targets"] == list(TARGETS)


def test_lost_weights_are_said(trained: Trained, tmp_path: Path) -> None:
    origin = trained[0][0].origin
    with pytest.raises(HpsearchError, match="the weights of tests, 0 must be in"):
        build_model("lost", [KeptRun(origin, tmp_path)])


# --- The calculator ------------------------------------------------------------------------------


def atoms() -> Any:
    from ase import Atoms

    return Atoms("OCH2", [[0, 0, 1.2], [0.03, 0, 0], [0, 0.94, -0.59], [0, -0.94, -0.62]])


def test_forces_are_the_derivative_of_the_energy(ensemble: Model) -> None:
    molecule, step = atoms(), 1e-5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        molecule.calc = ensemble.double().calculator()
        forces = molecule.get_forces()
        energies = []
        for sign in (1, -1):
            moved = molecule.copy()
            moved.positions[1, 2] += sign * step
            moved.calc = molecule.calc
            energies.append(moved.get_potential_energy())
    assert forces[1, 2] == pytest.approx(-(energies[0] - energies[1]) / (2 * step), abs=1e-6)
    np.testing.assert_allclose(forces.sum(axis=0), 0, atol=1e-9)
    assert energies[0] < -3000  # eV


def test_the_calculator_warns_once_and_has_every_target(single: Model) -> None:
    molecule = atoms()
    molecule.calc = single.calculator()
    with pytest.warns(UserWarning, match="no potential for dynamics"):
        molecule.get_potential_energy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        molecule.positions[0, 2] += 0.01
        energy = molecule.get_potential_energy()
    results = molecule.calc.results
    assert results["U0"] == pytest.approx(energy * 1000)  # meV
    assert results["mu_95"] > 0
    assert "flags" in results


def test_a_cell_is_refused(single: Model) -> None:
    molecule = atoms()
    molecule.pbc = True
    molecule.calc = single.calculator()
    with pytest.raises(InputError, match="no periodic cell"):
        molecule.get_potential_energy()


def test_the_energy_must_be_an_energy(single: Model) -> None:
    with pytest.raises(InputError, match=r"extensive energy of the model \(U0\), got 'mu'"):
        single.calculator("mu")


def test_the_networks_are_in_evaluation_mode(single: Model) -> None:
    assert not any(member.network.training for member in single.members)
    assert isinstance(single.members[0].network, torch.nn.Module)


WATER = ([8, 1, 1], [[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]])


def test_molecules_in_memory_are_predicted_as_those_of_a_file(
    single: Model, molecules: Molecules, tmp_path: Path
) -> None:
    import ase
    import ase.io

    some = molecules.select(np.arange(20, 26))
    atoms = [
        ase.Atoms(some.molecule(row).atomic_numbers, some.molecule(row).positions)
        for row in range(6)
    ]
    ase.io.write(tmp_path / "some.xyz", atoms, format="extxyz")
    of_file = single.predict(tmp_path / "some.xyz", levels=[95])
    assert list(of_file) == [
        *("molecule", "atoms", "mu [D]", "mu ±95% [D]", "U0 [meV]", "U0 ±95% [meV]"),
        *("flags", "status"),
    ]
    of_atoms = single.predict(atoms, levels=[95])
    of_pairs = single.predict([(each.numbers, each.positions) for each in atoms], levels=[95])
    of_table = single.predict(some, levels=[95])
    for name in of_file.select_dtypes("number"):
        np.testing.assert_allclose(of_atoms[name], of_pairs[name], rtol=0)
        np.testing.assert_allclose(of_atoms[name], of_table[name], rtol=1e-6)
        np.testing.assert_allclose(of_atoms[name], of_file[name], rtol=1e-5)
    assert of_table["molecule"].tolist() == [some.name_of(row) for row in range(6)]
    assert of_atoms["molecule"].tolist() == ["0", "1", "2", "3", "4", "5"]
    [alone] = single.predict(atoms[3], levels=[95])["U0 [meV]"]
    assert alone == pytest.approx(of_atoms["U0 [meV]"][3], rel=1e-6)
    in_half = single.select(["mu"]).predict(WATER, levels=[68])
    assert list(in_half) == ["molecule", "atoms", "mu [D]", "mu ±68% [D]", "flags", "status"]


def test_values_and_intervals_are_reported_in_other_units(single: Model) -> None:
    as_trained = single.predict(WATER, levels=[95]).iloc[0]
    other = single.predict(WATER, levels=[95], units={"U0": "Hartree"}).iloc[0]
    for part in ("", " ±95%"):
        in_hartree = other[f"U0{part} [Hartree]"] * 27_211.386
        assert in_hartree == pytest.approx(as_trained[f"U0{part} [meV]"], rel=1e-6)
    assert other["mu [D]"] == as_trained["mu [D]"]
    with pytest.raises(InputError, match="the unit meV cannot be converted into D; it can be"):
        single.predict(WATER, units={"U0": "D"})
    with pytest.raises(InputError, match="a target must be one of mu, U0; got 'gap'"):
        single.predict(WATER, units={"gap": "eV"})


def test_a_molecule_that_cannot_be_predicted_has_a_status(single: Model) -> None:
    found = single.predict([WATER, ([26], [[0.0, 0.0, 0.0]])])
    assert found["status"].tolist() == ["predicted", "the model does not know Fe"]
    assert found["mu [D]"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("missing.xyz", "the molecules must be a file or a folder, got 'missing.xyz'"),
        (5, "molecules must be a file, or each an ase.Atoms, or a pair of atomic numbers [N]"),
        ([[8, 1, 1]], "molecule 0 must be an ase.Atoms, or a pair"),
        ([WATER, "H2O"], "molecule 1 must be an ase.Atoms, or a pair"),
        (([8, 1], WATER[1]), "got shapes [2] and [3, 3]"),
        (([8.5, 1, 1], WATER[1]), "must be whole numbers from 1 to 118, got [8.5, 1.0, 1.0]"),
        (([8, 1, 0], WATER[1]), "must be whole numbers from 1 to 118, got [8, 1, 0]"),
        (([8], [[0.0, np.nan, 0.0]]), "the positions of molecule 0 must be finite numbers"),
        ([], "there must be at least one molecule to predict, got none"),
    ],
)
def test_bad_molecules_are_refused_in_one_line(single: Model, given: Any, words: str) -> None:
    with pytest.raises(InputError) as refused:
        single.predict(given)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_periodic_molecule_is_refused(single: Model) -> None:
    import ase

    atoms = ase.Atoms("O", [[0, 0, 0]], cell=[5, 5, 5], pbc=True)
    with pytest.raises(InputError, match="molecule 0 must have no periodic cell"):
        single.predict(atoms)


def test_train_loads_no_molecules_for_its_model(
    trained: Trained,
    single: Model,
    molecules: Molecules,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "u0"
    shutil.copytree(trained[0][0].directory, folder)
    training = Training.begin(config(0), molecules, folder)
    monkeypatch.setattr(own, "load", lambda *given: pytest.fail("loaded again"))
    _leave_model(folder, training, Output(lambda line: None))
    made = read_model(folder).description
    for name in ("data", "data_hash", "split_hash", "ranges", "calibration", "tested"):
        assert getattr(made, name) == getattr(single.description, name), name
