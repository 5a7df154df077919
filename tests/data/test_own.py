"""Own molecules: what is read is what was written, and mistakes are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.db import connect
from ase.io import write
from support.small_models import NETWORK

from hpsearch.ablation.molecules import checked_split
from hpsearch.config.export import Winner
from hpsearch.config.run import DataConfig, TrainingConfig, TrialConfig
from hpsearch.config.targets import TARGET_NAMES, TARGETS
from hpsearch.data import cache, own, qm9
from hpsearch.data.baselines import baselines
from hpsearch.data.molecule import Molecules
from hpsearch.data.split import make_split, save_split
from hpsearch.data.statistics import TargetStatistics
from hpsearch.runs.training import Training
from hpsearch.system.errors import InputError

COUNT = 1_000
ELEMENTS = ["H", "C", "N", "O", "F"]


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of caches for each test; QM9 is loaded before from the usual one."""
    qm9.load()
    folder = tmp_path / "caches"
    monkeypatch.setenv("HPSEARCH_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def first() -> Molecules:
    return qm9.load().select(range(COUNT))


def frames(molecules: Molecules) -> list[Atoms]:
    made = []
    for row in range(len(molecules)):
        molecule = molecules.molecule(row)
        info = {"index": molecule.identifier}
        info |= dict(zip(TARGET_NAMES, molecules.targets[row].tolist(), strict=True))
        made.append(Atoms(molecule.atomic_numbers, molecule.positions, info=info))
    return made


def write_npz(molecules: Molecules, path: Path) -> None:
    numbers = np.array(molecules.elements)[molecules.element_indices]
    labels = dict(zip(TARGET_NAMES, molecules.targets.T, strict=True))
    np.savez(
        path,
        positions=molecules.positions,
        numbers=numbers,
        counts=molecules.atom_counts,
        index=molecules.identifiers,
        **labels,
    )


def write_parquet(molecules: Molecules, path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    made = frames(molecules)
    columns: dict[str, Any] = {name: [a.info[name] for a in made] for name in TARGET_NAMES}
    columns["index"] = [a.info["index"] for a in made]
    columns["positions"] = [a.positions.tolist() for a in made]
    columns["numbers"] = [a.numbers.tolist() for a in made]
    parquet.write_table(pa.table(columns), path)


def write_db(molecules: Molecules, path: Path) -> None:
    with connect(path) as database:
        for atoms in frames(molecules):
            # Names of the database's own columns are not free as keys.
            database.write(Atoms(atoms.numbers, atoms.positions), data=atoms.info)


def write_frames(molecules: Molecules, path: Path) -> None:
    write(path, frames(molecules))


EXACT: dict[str, Callable[[Molecules, Path], None]] = {
    "mine.npz": write_npz,
    "mine.parquet": write_parquet,
    "mine.db": write_db,
    "mine.traj": write_frames,
}


def declaration(path: Path, **changes: Any) -> DataConfig:
    """QM9's targets as a user would declare them, for the molecules in ``path``."""
    with_references = ("U0", "U", "H", "G", "Cv")
    targets = {
        target.name: {
            "unit": target.native_unit,
            "report_in": target.unit,
            "references": "table2" if target.name in with_references else "none",
        }
        for target in TARGETS
    }
    given = {
        "molecules": {"path": str(path), "identifier": "index"},
        "targets": targets,
        "elements": ELEMENTS,
        **changes,
    }
    return DataConfig.model_validate(given)


# --- The formats ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXACT)
def test_the_first_thousand_of_qm9_come_back_with_their_hash(
    first: Molecules, tmp_path: Path, name: str
) -> None:
    EXACT[name](first, tmp_path / name)
    found = own.load(declaration(tmp_path / name))
    assert found.computed_hash() == first.content_hash
    assert found.names is None


def test_extxyz_keeps_eight_decimals_and_every_label(first: Molecules, tmp_path: Path) -> None:
    write_frames(first, tmp_path / "mine.extxyz")
    found = own.load(declaration(tmp_path / "mine.extxyz"))
    np.testing.assert_array_equal(found.targets, first.targets)
    np.testing.assert_array_equal(found.element_indices, first.element_indices)
    np.testing.assert_allclose(found.positions, first.positions, rtol=0, atol=6e-9 + 1e-7)
    assert np.abs(found.positions - first.positions).max() > 0


def config(data: DataConfig, targets: tuple[str, ...] = ("mu", "U0")) -> TrialConfig:
    return TrialConfig(
        targets=targets,
        network=NETWORK,
        training=TrainingConfig(batch_size=16, learning_rate=1e-3, epochs=2),
        data=data,
    )


def trained(config: TrialConfig, molecules: Molecules, folder: Path) -> Training:
    training = Training.begin(config, molecules, folder)
    while not training.finished:
        training.run_epoch()
    return training


def test_they_train_to_the_same_bits(first: Molecules, tmp_path: Path) -> None:
    write_npz(first, tmp_path / "mine.npz")
    sizes = {"train_size": 48, "validation_size": 16, "test_size": 16}
    data = declaration(tmp_path / "mine.npz", **sizes)
    found = own.load(data)
    mine = trained(config(data.resolved(len(found), found.elements)), found, tmp_path / "a")
    usual = trained(config(DataConfig(**sizes)), first, tmp_path / "b")
    assert mine.split.hash == usual.split.hash
    assert [e.validation_loss for e in mine.history] == [e.validation_loss for e in usual.history]
    assert mine.complete(True).test_maes == usual.complete(True).test_maes
    # A configuration with own molecules is another one, whatever they are.
    assert mine.config.fingerprint != usual.config.fingerprint


# --- The declaration ------------------------------------------------------------------------------

WATER = Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
CORNERS = np.array([(0, 0, 0), (1, 1, 1), (-1, -1, 1), (-1, 1, -1), (1, -1, -1)])
METHANE = Atoms("CH4", 0.63 * CORNERS)


def some(path: Path, count: int = 20, **missing: set[int]) -> None:
    """Stretched water and methane with an energy and a gap; ``missing`` names molecules."""
    random = np.random.default_rng(0)
    made = []
    for number in range(count):
        atoms = (WATER if number % 2 else METHANE).copy()
        atoms.positions *= 1 + 0.1 * random.random()
        info = {
            "energy": -10.0 * len(atoms) + random.normal(),
            "gap": 5.0 + random.normal(),
            "kind": f"kind {number % 15}",
            "name": f"molecule {number}",
        }
        atoms.info = {k: v for k, v in info.items() if number not in missing.get(k, ())}
        made.append(atoms)
    write(path, made)


def mine(path: Path, **changes: Any) -> DataConfig:
    targets = {
        "energy": {"unit": "eV", "references": "fit"},
        "gap": {"unit": "eV", "extensive": False},
    }
    return DataConfig.model_validate({"molecules": str(path), "targets": targets, **changes})


def test_elements_and_sizes_come_from_the_molecules(tmp_path: Path) -> None:
    some(tmp_path / "mine.extxyz")
    data = mine(tmp_path / "mine.extxyz")
    found = own.load(data)
    assert found.elements == (1, 6, 8)
    resolved = data.resolved(len(found), found.elements)
    assert resolved.elements == ("H", "C", "O")
    sizes = (resolved.train_size, resolved.validation_size, resolved.test_size)
    assert sizes == (16, 2, 2)
    assert own.load(resolved).computed_hash() == found.content_hash
    assert DataConfig.model_validate(resolved.model_dump(mode="json")) == resolved


def test_declared_elements_that_no_molecule_has_get_a_row(tmp_path: Path) -> None:
    some(tmp_path / "mine.extxyz")
    found = own.load(mine(tmp_path / "mine.extxyz", elements=["Cl", "O", "C", "H"]))
    assert found.elements == (1, 6, 8, 17)
    np.testing.assert_array_equal(found.molecule(1).atomic_numbers, [8, 1, 1])
    with pytest.raises(InputError, match=r"molecule 0 must have elements among H, O, got C \(10 "):
        own.load(mine(tmp_path / "mine.extxyz", elements=["O", "H"]))


def test_units_of_lengths_are_converted(tmp_path: Path) -> None:
    path = tmp_path / "mine.extxyz"
    some(path)
    plain = own.load(mine(path))
    bohr = own.load(mine(path, molecules={"path": str(path), "length_unit": "a0"}))
    np.testing.assert_allclose(bohr.positions, plain.positions * 0.529177, rtol=1e-5)


def test_an_intensive_target_is_normalised_as_a_molecule_s(tmp_path: Path) -> None:
    some(tmp_path / "mine.extxyz")
    found = own.load(mine(tmp_path / "mine.extxyz"))
    rows = np.arange(len(found))
    statistics = TargetStatistics.fit(found, rows, ("energy", "gap"))
    gaps = found.targets[:, 1]
    assert statistics.mean[1] == pytest.approx(gaps.mean())
    assert statistics.deviation[1] == pytest.approx(gaps.std())
    normalised = statistics.normalise(found, rows)
    np.testing.assert_allclose(normalised[:, 1], (gaps - gaps.mean()) / gaps.std())
    restored = statistics.restore(normalised, found, rows)
    np.testing.assert_allclose(restored, found.targets)
    # The references of the energy are fitted to the composition.
    counts = found.element_counts(rows).astype(float)
    fit = np.linalg.lstsq(counts, found.targets[:, 0], rcond=None)[0]
    np.testing.assert_allclose(statistics.references[0], fit)
    assert not statistics.references[1].any()
    again = TargetStatistics.from_dict(
        json.loads(json.dumps(statistics.to_dict())), found.target_table, found.elements
    )
    np.testing.assert_array_equal(again.normalise(found, rows), normalised)


# --- Unknown values -------------------------------------------------------------------------------


def test_a_missing_label_is_refused_or_left_out(tmp_path: Path) -> None:
    some(tmp_path / "mine.extxyz", gap={3, 4})
    data = mine(tmp_path / "mine.extxyz")
    with pytest.raises(InputError, match=r"gap must be known .* no value for 2, .* molecule 3;"):
        own.load(data)
    masked = mine(tmp_path / "mine.extxyz", missing="mask")
    found = own.load(masked)
    assert own.missing_counts(found) == {"energy": 0, "gap": 2}
    statistics = TargetStatistics.fit(found, np.arange(20), ("energy", "gap"), masked=True)
    known = found.targets[~np.isnan(found.targets[:, 1]), 1]
    assert statistics.mean[1] == pytest.approx(known.mean())
    np.testing.assert_allclose(statistics.loss_weights, [1.0, 20 / 18])


def test_unknown_values_change_neither_the_gradients_nor_the_errors_of_others(
    tmp_path: Path,
) -> None:
    """The loss of two targets is that of each alone; a molecule without a gap adds no gap."""
    some(tmp_path / "mine.extxyz", count=40, gap=set(range(0, 40, 3)))
    data = mine(tmp_path / "mine.extxyz", missing="mask", split={"train": 20, "validation": 10})
    found = own.load(data)
    data = data.resolved(len(found), found.elements)
    training = trained(config(data, ("energy", "gap")), found, tmp_path / "run")
    rows = training.split.validation
    known = ~np.isnan(found.targets[rows, 1])
    assert 0 < known.sum() < len(rows)
    normalised = training.validation_targets
    differences = training.evaluator.differences(rows, normalised)
    errors = training.evaluator.errors(differences)
    of_known = differences[known, 1]
    assert errors.target_losses["gap"] == pytest.approx(float(of_known.square().mean()))
    scale = training.evaluator.statistics.reporting_scale[1]
    assert errors.target_maes["gap"] == pytest.approx(float(of_known.abs().mean()) * scale)
    assert errors.loss == pytest.approx(sum(errors.target_losses.values()))
    done = training.complete(evaluate_test=True)
    assert np.isfinite(done.best_validation_loss)


# --- Groups ---------------------------------------------------------------------------------------


def test_a_group_never_straddles_a_split(tmp_path: Path) -> None:
    some(tmp_path / "mine.extxyz", count=60)
    source = {"path": str(tmp_path / "mine.extxyz"), "group": "kind", "identifier": "name"}
    for seed in range(8):
        data = mine(tmp_path, molecules=source, split={"train": 32, "validation": 12, "seed": seed})
        found = own.load(data)
        assert found.groups is not None
        split = make_split(found, data.resolved(len(found), found.elements))
        sets = [set(found.groups[rows]) for rows in (split.train, split.validation, split.test)]
        assert all(sets)
        assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
        repeated = data.resolved(60, found.elements).model_copy(update={"training_seed": 5})
        again = make_split(found, repeated)
        np.testing.assert_array_equal(again.test, split.test)
        trains = set(found.groups[again.train])
        assert not trains & (set(found.groups[again.test]) | set(found.groups[again.validation]))
    small = mine(tmp_path, molecules=source, split={"train": 3, "validation": 4, "test": 4})
    with pytest.raises(InputError, match=r"the train molecules must be whole groups, .* has 4;"):
        make_split(found, small)
    apart = mine(tmp_path, molecules=source, split={"train": 4, "validation": 4, "by": "molecule"})
    assert len(make_split(found, apart.resolved(60, found.elements)).train) == 4


def test_a_split_file_may_list_names(tmp_path: Path) -> None:
    some(tmp_path / "mine.extxyz")
    source = {"path": str(tmp_path / "mine.extxyz"), "identifier": "name"}
    data = mine(tmp_path, molecules=source)
    found = own.load(data)
    assert found.name_of(7) == "molecule 7"
    split = make_split(found, data.resolved(20, found.elements))
    save_split(split, found, tmp_path / "split.json")
    lists = json.loads((tmp_path / "split.json").read_text())
    assert sorted(chain.from_iterable(lists.values())) == sorted(f"molecule {n}" for n in range(20))
    from_file = mine(tmp_path, molecules=source, split={"file": str(tmp_path / "split.json")})
    assert make_split(found, from_file).hash == split.hash
    lists["test"].append("nobody")
    (tmp_path / "split.json").write_text(json.dumps(lists))
    with pytest.raises(InputError, match="got 'nobody', which is none"):
        make_split(found, from_file)


# --- The cache ------------------------------------------------------------------------------------


def test_a_file_is_converted_once_and_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.extxyz"
    some(path)
    data = mine(path)
    first = own.load(data)
    read: list[Path] = []
    parts = own.read_parts
    monkeypatch.setattr(own, "read_parts", lambda *given: read.append(path) or parts(*given))
    assert own.load(data).content_hash == first.content_hash
    path.touch()
    hashed: list[list[Path]] = []
    hashes = own._hashes
    monkeypatch.setattr(own, "_hashes", lambda files: hashed.append(files) or hashes(files))
    for _ in range(2):
        assert own.load(data).content_hash == first.content_hash
    assert not read, "the content is the same"
    assert len(hashed) == 1, "the new time is remembered"
    path.write_text(path.read_text().replace("energy=-", "energy=-1"))
    changed = own.load(data)
    assert read
    assert changed.content_hash != first.content_hash
    other_unit = mine(path, targets={"energy": {"unit": "meV"}, "gap": {"unit": "eV"}})
    assert own.load(other_unit).content_hash != changed.content_hash


def test_a_damaged_cache_is_made_again(tmp_path: Path, caches: Path) -> None:
    some(tmp_path / "mine.extxyz")
    data = mine(tmp_path / "mine.extxyz")
    first = own.load(data)
    [folder] = caches.glob("molecules-*")
    targets = np.load(folder / "targets.npy")
    np.save(folder / "targets.npy", targets[::-1])
    said: list[str] = []
    again = own.load(data, said.append)
    np.testing.assert_array_equal(again.targets, targets)
    assert again.content_hash == first.content_hash
    assert "made again" in said[0]
    assert cache.read_record(folder)["hashes"]


# --- Mistakes -------------------------------------------------------------------------------------


def test_two_atoms_at_one_place_are_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.extxyz"
    some(path)
    lines = path.read_text().splitlines()
    lines[3] = lines[2].replace("C", "H", 1)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"mine\.extxyz, .*: two atoms must be at least 0\.3 Å"):
        own.load(mine(path))


def test_an_identifier_twice_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.extxyz"
    some(path)
    path.write_text(path.read_text().replace('"molecule 4"', '"molecule 2"'))
    with pytest.raises(InputError, match="molecule 4: an identifier must be used once, got 'mol"):
        own.load(mine(path, molecules={"path": str(path), "identifier": "name"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": {"energy": {"unit": "eVV"}}}, "did you mean eV?"),
        ({"targets": {"energy": {"unit": "eV", "report_in": "D"}}}, "cannot be converted into D"),
        ({"targets": {"energy": {"unit": "eV/atom"}}}, "must have extensive: false"),
        ({"targets": {"gap": {"unit": "eV", "extensive": False, "references": "fit"}}}, "none for"),
        ({"targets": {"x" * 65: {"unit": "eV"}}}, "at most 64 characters, got 65"),
        ({"targets": {"a/b": {"unit": "eV"}}}, "must not contain '/'"),
        ({"targets": {"a\u202eb": {"unit": "eV"}}}, "must not contain"),
        ({"targets": {"all": {"unit": "eV"}}}, "reserved name"),
        ({"targets": {"E": {"unit": "eV"}, "e": {"unit": "eV"}}}, "differ in more than case"),
        ({"targets": {"mu": {"unit": "D", "references": "table3"}}}, "references"),
        ({"targets": {"x": {"unit": "eV", "references": "table2"}}}, "target of Table 2"),
        ({"targets": {}}, "at least 1"),
        ({"targets": None}, "targets must be given beside molecules"),
        ({"molecules": None}, "molecules must be given beside targets"),
        ({"elements": ["h"]}, "did you mean H?"),
        ({"elements": ["H", "H"]}, "every element once"),
        ({"split": {"train": 0.9, "validation": 0.2}}, "at most 1, got 1.2"),
        ({"split": {"training": 0.9}}, "only the keys train"),
        ({"split": {"by": "group"}}, "needs the name of the column"),
        ({"molecules": {"path": "x.npz", "length_unit": "eV"}}, "must be a length"),
        ({"molecules": {"paht": "x.npz"}}, "paht"),
    ],
)
def test_a_wrong_declaration_says_what_must_hold(change: dict[str, Any], message: str) -> None:
    given = {"molecules": "mine.extxyz", "targets": {"energy": {"unit": "eV"}}, **change}
    with pytest.raises(ValueError) as caught:
        DataConfig.model_validate(given)
    assert message in str(caught.value)


def test_the_mean_is_that_above_fitted_references(tmp_path: Path) -> None:
    """A mean of total energies would be off by the size of the molecules."""
    some(tmp_path / "mine.extxyz", count=40)
    found = own.load(mine(tmp_path / "mine.extxyz"))
    train, test = np.arange(30), np.arange(30, 40)
    errors = baselines(found, train, test, ("energy", "gap"))
    fit = TargetStatistics.fit(found, train, ("energy",)).references[0]
    above = found.targets[:, 0] - found.element_counts(np.arange(40)) @ fit
    expected = np.abs(above[test] - above[train].mean()).mean()
    assert errors["mean"]["energy"] == pytest.approx(expected)
    assert errors["mean"]["energy"] < 3
    gaps = found.targets[:, 1]
    assert errors["mean"]["gap"] == pytest.approx(np.abs(gaps[test] - gaps[train].mean()).mean())


def test_references_of_other_labels_are_refused_before_an_ablation(tmp_path: Path) -> None:
    some(tmp_path / "mine.extxyz", count=40)
    wrong = {"energy": {"unit": "eV", "references": {"H": 900.0, "C": -1e5, "O": 3e4}}}
    data = mine(tmp_path / "mine.extxyz", targets=wrong)
    found = own.load(data)
    data = data.resolved(len(found), found.elements)
    winner = Winner(name="x", config=config(data, ("energy",)))
    with pytest.raises(InputError, match=r"references of energy .* set references: fit or none"):
        checked_split(found, winner, data)
