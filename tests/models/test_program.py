"""The export of networks as a program of torch alone, and its comparison with the networks."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hpsearch.config.run import NetworkConfig
from hpsearch.config.targets import Target, Targets
from hpsearch.data.molecule import Molecules
from hpsearch.data.statistics import TargetStatistics
from hpsearch.models import program as exports
from hpsearch.models.program import Program, compare, export_program, read_metadata
from hpsearch.nn import MultiTargetNetwork
from hpsearch.system.errors import HpsearchError, InputError

pytestmark = pytest.mark.slow  # an export takes many seconds

TINY = {
    "embedding_size": 3,
    "featurization_scalars": 3,
    "featurization_blocks": 1,
    "radial_functions": 5,
    "radial_maximum_angstrom": 3.0,
    "radial_mlp_layers": 1,
    "radial_mlp_neurons": 3,
    "output_mlp_layers": 1,
    "output_mlp_neurons": 3,
}
TABLE = Targets(
    [
        Target("energy", "E", "meV", "Hartree", "E", {1: -0.51, 6: -38.1, 8: -75.1},
               reporting_factor=27211.4),
        Target("gap", "ε", "meV", "Hartree", "gap", extensive=False, reporting_factor=27211.4),
        Target("size", "⟨R²⟩", "a0^2", "a0^2", "size"),
    ]
)  # fmt: skip
ELEMENTS = (1, 6, 8)


def molecules_of(sizes, seed=0):
    """Atoms on a lattice with distances of about 1.4 Å."""
    random = np.random.default_rng(seed)
    lattice = np.stack(np.meshgrid(*[np.arange(8)] * 3), -1).reshape(-1, 3) * 1.4
    atoms = sum(sizes)
    numbers = random.choice(ELEMENTS, atoms)
    positions = np.concatenate([lattice[:size] for size in sizes])
    references = np.array([-0.51, -38.1, -75.1])[np.searchsorted(ELEMENTS, numbers)]
    energies = np.add.reduceat(references, np.cumsum([0, *sizes[:-1]]))
    noise = random.normal(0, 0.01, (len(sizes), 3))
    targets = noise + np.stack([energies - 0.1 * np.array(sizes), *np.zeros((2, len(sizes)))], 1)
    return Molecules.assemble(
        np.arange(len(sizes)), sizes, numbers, positions + random.normal(0, 0.1, (atoms, 3)),
        targets, elements=ELEMENTS, target_table=TABLE,
    )  # fmt: skip


def member(molecules, targets, seed, vectors):
    torch.manual_seed(seed)
    statistics = TargetStatistics.fit(molecules, np.arange(len(molecules)), targets)
    config = NetworkConfig(radial_basis="cosine", featurization_vectors=vectors, **TINY)
    network = MultiTargetNetwork(config, len(targets), len(ELEMENTS), statistics.extensive)
    batch = molecules.batch(np.arange(len(molecules)))
    network.calibrate(batch.elements, batch.positions, batch.counts)
    return network, statistics


@pytest.fixture(scope="module")
def molecules():
    return molecules_of([3, 1, 12, 7, 7, 2, 5, 12])


@pytest.fixture(scope="module")
def members(molecules):
    """Two networks that share one target, in different columns."""
    first = member(molecules, ("energy", "gap"), seed=1, vectors=2)
    return [first, member(molecules, ("size", "energy"), seed=2, vectors=0)]


@pytest.fixture(scope="module")
def exported(members):
    """An export takes seconds, so these tests share one."""
    return exports._exported(Program(members))


@pytest.fixture
def once(exported, monkeypatch):
    monkeypatch.setattr(exports, "_exported", lambda program: exported)


@pytest.fixture(scope="module")
def written(members, molecules, exported, tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exports, "_exported", lambda program: exported)
        return path, export_program(members, molecules, path, {"run": "näme"})


@pytest.fixture(scope="module")
def loaded(written):
    return torch.export.load(written[0]).module()


def inputs(molecules):
    """Atomic numbers and positions, with one atom of padding."""
    return exports._padded(molecules)


def test_predictions_are_the_mean_of_the_networks_in_reporting_units(loaded, members, molecules):
    predictions, spread = loaded(*inputs(molecules))
    assert predictions.dtype == spread.dtype == torch.float64
    rows = np.arange(len(molecules))
    batch = molecules.batch(rows)
    with torch.no_grad():
        first, second = (
            statistics.restore(
                network(batch.elements, batch.positions, batch.counts).numpy(), molecules, rows
            )
            for network, statistics in members
        )
    both = np.stack([first[:, 0], second[:, 1]]) * 27211.4
    expected = np.stack([both.mean(0), first[:, 1] * 27211.4, second[:, 0]], 1)
    assert predictions.numpy() == pytest.approx(expected, rel=1e-10, abs=1e-2)
    assert spread[:, 0].numpy() == pytest.approx(both.std(0), rel=1e-4, abs=1e-3)
    assert (spread[:, 0] > 0.1).all()
    assert (spread[:, 1:] == 0).all()


def test_deviations_are_those_of_rounding(written, loaded, members, molecules):
    deviation = written[1]
    assert (deviation.molecules, deviation.fewest_atoms, deviation.most_atoms) == (8, 1, 12)
    assert deviation.largest < 1e-5
    assert compare(loaded, members, molecules) == deviation


def test_any_number_of_atoms_and_molecules(loaded, members):
    for sizes in ([1], [1, 1, 1], [2], [500], [1, 4, 30, 500, 2]):
        assert compare(loaded, members, molecules_of(sizes)).largest < 1e-5
    # Exactly as many atoms as needed, without padding.
    whole = loaded(*inputs(molecules_of([1])))[0]
    numbers, positions = inputs(molecules_of([1]))
    assert torch.allclose(loaded(numbers[:, :1], positions[:, :1])[0], whole)


def test_numbers_and_positions_of_other_types(loaded, molecules):
    numbers, positions = inputs(molecules)
    expected = loaded(numbers, positions)[0]
    assert torch.equal(loaded(numbers.int(), positions.float())[0], expected)


def test_a_molecule_that_cannot_be_predicted_has_nan(loaded, molecules):
    numbers, positions = inputs(molecules)
    expected, _ = loaded(numbers, positions)
    numbers[0, 0] = 9  # not among the elements
    numbers[1] = 0  # no atoms
    positions[2, 0, 0] = torch.inf
    positions[3, -1] = torch.nan  # padding
    numbers[4, 0] = -1
    got, spread = loaded(numbers, positions)
    wrong = [0, 1, 2, 4]
    assert got[wrong].isnan().all() and spread[wrong].isnan().all()
    right = [3, 5, 6, 7]
    assert torch.equal(got[right], expected[right])


def test_forces_through_the_loaded_program(loaded, members, molecules):
    numbers, positions = inputs(molecules)
    positions.requires_grad_()

    def forces(program):
        return torch.autograd.grad(program(numbers, positions)[0].sum(), positions)[0]

    precise = [(copy.deepcopy(network).double(), own) for network, own in members]
    expected = forces(Program(precise))
    assert (forces(loaded) - expected).abs().max() < 1e-5 * expected.abs().max()
    step = torch.zeros_like(positions)
    step[2, 3, 1] = 1e-5
    with torch.no_grad():
        above, below = (Program(precise)(numbers, positions + s)[0].sum() for s in (step, -step))
    # The sum has numbers of 1e8 meV, of which float64 resolves 1e-8.
    assert (above - below).item() / 2e-5 == pytest.approx(expected[2, 3, 1].item(), abs=2e-2)


ALONE = """
import json, sys
sys.path.append({packages!r})
try:
    import hpsearch
except ImportError:
    import torch
    program = torch.export.load({path!r}).module()
    predictions, spread = program(torch.tensor({numbers}), torch.tensor({positions}))
    assert not any(name.startswith("hpsearch") for name in sys.modules)
    print(json.dumps(predictions.tolist()))
"""


def test_it_runs_where_hpsearch_cannot_be_imported(written, loaded, molecules, tmp_path):
    numbers, positions = inputs(molecules.select([0]))
    code = ALONE.format(
        packages=str(Path(torch.__file__).parents[1]), path=str(written[0]),
        numbers=numbers.tolist(), positions=positions.tolist(),
    )  # fmt: skip
    # -S: no file of the installed packages adds to the path of modules.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-W", "ignore", "-c", code],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = loaded(numbers, positions.float())[0]
    assert np.array(json.loads(done.stdout)) == pytest.approx(expected.numpy(), rel=1e-12)


def test_the_file_describes_itself(written):
    path, deviation = written
    found = read_metadata(path)
    assert found["targets"] == ["energy", "gap", "size"]
    assert found["units"] == ["meV", "meV", "a0^2"]
    assert found["extensive"] == [True, False, True]
    assert found["networks"] == [2, 1, 1]
    assert found["elements"] == ["H", "C", "O"]
    assert found["deviation"]["rotated"] == deviation.rotated
    assert found["about"] == {"run": "näme"}
    files = {"hpsearch.json": ""}
    torch.export.load(path, extra_files=files)
    assert json.loads(files["hpsearch.json"]) == found


def test_the_file_has_no_paths_of_this_machine(written):
    with zipfile.ZipFile(written[0]) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert b"plain.py" not in content
    assert str(Path(torch.__file__).parent).encode() not in content


def test_a_damaged_export_is_refused(members, molecules, exported, monkeypatch, tmp_path):
    path = tmp_path / "model.pt2"
    path.write_text("before")
    monkeypatch.setattr(exports, "_exported", lambda program: exported)
    save = torch.export.save

    def damaged(program, file, **options):
        name = "members.1.network.output_blocks.atom_wise.0.weight"
        weight = program.state_dict[name]
        before = weight.clone()
        weight[0, 0, 0] += 0.05
        save(program, file, **options)
        weight.copy_(before)

    monkeypatch.setattr(torch.export, "save", damaged)
    with pytest.raises(HpsearchError, match="must agree with the networks within 1e-04") as refused:
        export_program(members, molecules, path)
    assert "\n" not in str(refused.value)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


DEFECTS = {
    "translated": lambda numbers, positions: positions[:, 0],
    "rotated": lambda numbers, positions: positions[:, 0] - positions[:, 1],
    "permuted": lambda numbers, positions: numbers[:, :3],
}


@pytest.mark.parametrize("seen", DEFECTS)
def test_a_program_without_a_symmetry_is_seen(loaded, members, seen):
    molecules = molecules_of([4, 6, 9])
    before = DEFECTS[seen](*inputs(molecules))

    def wrong(numbers, positions):
        predictions, spread = loaded(numbers, positions)
        return predictions + DEFECTS[seen](numbers, positions) - before, spread

    deviation = compare(wrong, members, molecules)
    assert deviation.values < exports.MOST_DEVIATION < getattr(deviation, seen)


@pytest.mark.parametrize("defect", [1.0, torch.nan])
@pytest.mark.parametrize("output", [0, 1])
def test_wrong_predictions_and_spreads_are_seen(loaded, members, molecules, defect, output):
    def wrong(numbers, positions):
        outputs = list(loaded(numbers, positions))
        outputs[output][-1, -1] += defect
        return outputs

    deviation = compare(wrong, members, molecules)
    assert not deviation.values <= exports.MOST_DEVIATION
    assert not deviation.largest <= exports.MOST_DEVIATION


def test_a_file_that_cannot_be_written(members, molecules, once, tmp_path):
    with pytest.raises(InputError, match="must be writable"):
        export_program(members, molecules, tmp_path / "missing" / "model.pt2")


def test_a_file_that_is_no_export(tmp_path):
    (tmp_path / "text").write_text("text")
    for name in ("text", "missing"):
        with pytest.raises(InputError, match="must be an exported program"):
            read_metadata(tmp_path / name)


def test_networks_that_cannot_be_one_program(members):
    with pytest.raises(InputError, match="at least one network"):
        Program([])
    network, statistics = members[0]
    table = Targets([replace(TABLE["energy"], unit="eV"), TABLE["gap"]])
    other = replace(statistics, target_table=table)
    with pytest.raises(InputError, match=r"energy must have one unit .* meV and eV"):
        Program([members[0], (network, other)])


@pytest.mark.parametrize("name", ["values", "rotated", "translated", "permuted"])
def test_the_largest_deviation_is_nan_if_one_is(written, name):
    assert np.isnan(replace(written[1], **{name: np.nan}).largest)


def test_no_molecules_to_compare(loaded, members, molecules):
    with pytest.raises(InputError, match="at least one molecule"):
        compare(loaded, members, molecules.select([]))


def test_molecules_of_every_size_are_compared():
    sizes = [4] * 500 + [3, 8] + [5] * 500
    molecules = molecules_of(sizes)
    rows = exports.rows_to_compare(molecules, most=10)
    assert len(rows) <= 14
    assert set(molecules.atom_counts[rows]) == {3, 4, 5, 8}
