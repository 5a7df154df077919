"""The exported winner: written whole, read strictly, the same after a round trip."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.exports import make_winner

from hpsearch.config.export import Winner
from hpsearch.system.errors import HpsearchError, InputError

SPACES = Path(__file__).resolve().parents[1] / "search_spaces"


def test_a_round_trip_is_the_identity(tmp_path: Path) -> None:
    winner = make_winner()
    path = tmp_path / "winner.yaml"
    winner.write(path)
    assert Winner.read(path) == winner
    text = path.read_text("utf-8")
    Winner.read(path).write(path)
    assert path.read_text("utf-8") == text
    assert list(tmp_path.iterdir()) == [path]


@given(
    st.text(
        st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=30
    ),
    st.floats(min_value=0, allow_nan=False, allow_infinity=False),
)
def test_any_name_and_number_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, name: str, loss: float
) -> None:
    winner = make_winner(name, split_file=f"/{name}")
    assert winner.provenance is not None
    provenance = winner.provenance.model_copy(update={"validation_loss": loss})
    winner = winner.model_copy(update={"provenance": provenance})
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    winner.write(path)
    assert Winner.read(path) == winner


@pytest.mark.parametrize(
    "name", ["yes", "NO", "null", "~", "1e-6", "1:30", "a: b", "- x", "#", " "]
)
def test_a_name_that_yaml_would_misread(tmp_path: Path, name: str) -> None:
    make_winner(name).write(tmp_path / "w.yaml")
    assert Winner.read(tmp_path / "w.yaml").name == name


def test_the_file_says_its_units(tmp_path: Path) -> None:
    path = tmp_path / "winner.yaml"
    make_winner().write(path)
    text = path.read_text("utf-8")
    assert "radial_maximum_angstrom: 5.123456789012345  # Å" in text
    assert "    homo: {mae: 0.3333333333333333, unit: meV}" in text
    assert "train_size: 1000  # molecules" in text
    # Any YAML reader gets the same configuration.
    assert yaml.safe_load(text)["config"] == make_winner().config.to_dict()


def test_an_edited_configuration_is_used_only_on_purpose(tmp_path: Path) -> None:
    path = tmp_path / "winner.yaml"
    winner = make_winner()
    winner.write(path)
    edited = path.read_text("utf-8").replace("batch_size: 16", "batch_size: 17")
    path.write_text(edited)
    with pytest.raises(InputError) as caught:
        Winner.read(path)
    assert str(caught.value).startswith(f"{path}:4: fingerprint must be that of config")
    assert "delete the line fingerprint:" in str(caught.value)
    path.write_text("".join(x for x in edited.splitlines(True) if not x.startswith("fingerprint")))
    read = Winner.read(path)
    assert read.config.training.batch_size == 17
    assert not read.untouched
    assert read.provenance is not None
    assert read.provenance.edited
    # What the search saw stays known, and the mark outlives being written again.
    assert (read.data_hash, read.split_hash) == (winner.data_hash, winner.split_hash)
    read.write(path)
    assert Winner.read(path) == read


def test_only_a_search_s_export_is_untouched() -> None:
    winner = make_winner()
    assert winner.untouched
    assert not winner.model_copy(update={"provenance": None}).untouched


def test_a_relative_split_file_lies_beside_the_configuration(tmp_path: Path) -> None:
    winner = make_winner(split_file="splits/mine.json")
    (tmp_path / "sub").mkdir()
    winner.write(tmp_path / "sub" / "winner.yaml")
    read = Winner.read(os.path.relpath(tmp_path / "sub" / "winner.yaml"))
    assert read.config.data.split_file == str(tmp_path / "sub" / "splits" / "mine.json")
    assert read.untouched


def test_hashes_are_those_of_the_search() -> None:
    winner = make_winner()
    assert (winner.data_hash, winner.split_hash) == ("0" * 64, "1e5")
    bare = Winner(name="x", config=winner.config)
    assert (bare.data_hash, bare.split_hash) == (None, None)


def test_another_export_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "winner.yaml"
    make_winner("first").write(path)
    make_winner("second").write(path)
    assert Winner.read(path).name == "second"


def test_a_fault_in_writing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "winner.yaml"
    make_winner("first").write(path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HpsearchError, match="No space left on device"):
        make_winner("second").write(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_is_none(tmp_path: Path) -> None:
    for path, message in [
        (tmp_path, "must be a file, got a folder"),
        (tmp_path / "none" / "w.yaml", "must lie in a folder that exists"),
        (Path("a\0b"), "must be a path"),
        (tmp_path / ("x" * 300), "must be writable"),
    ]:
        with pytest.raises(HpsearchError) as caught:
            make_winner().write(path)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "format: hpsearch-winner/1",
            "format: hpsearch-winner/9",
            ":1: format must be hpsearch-win",
        ),
        ("  trial: 5", "  trial: five", "provenance.trial must be an integer, got the text 'five'"),
        (
            "  trial: 5",
            "  trail: 5",
            "provenance.trail must be a known key, got trail; did you mean",
        ),
        ("unit: meV", "unit: eV", "homo.unit must be meV, got eV; export it again"),
        ("    mu: {", "    muh: {", "validation_maes: a target must be one of"),
        ("    residual:", "    residul:", "config.network.residul must be a known key"),
        ("learning_rate: 0.30000000000000004", "learning_rate: 3e-1", "write 0.3"),
        ("radial_basis: bessel", "radial_basis: besel", "did you mean bessel?"),
        ("featurization_scalars: 30", "featurization_scalars: -1", "must be at least 0, got -1"),
        ("output_scalars: 0", "output_scalars: 4", "config.network: output_scalars and output_vec"),
        ("\nconfig:", "\nassumed: [network.x]\nconfig:", "assumed[0] must be a field of config"),
        ("\nconfig:", "\nassumed: !!python/name:os.x []\nconfig:", "assumed must have no tag"),
    ],
)
def test_a_fault_is_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "winner.yaml"
    make_winner().write(path)
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        Winner.read(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}:")
    assert "\n" not in str(caught.value)


def test_a_space_is_no_winner() -> None:
    with pytest.raises(InputError, match=r"quick.yaml:1: .* got a search space; launch it"):
        Winner.read(SPACES / "quick.yaml")


def test_the_paper_s_l1net() -> None:
    """Sections 2, 2.1 and 4.3; what they do not state is listed as assumed."""
    winner = Winner.read(SPACES / "paper_l1net.yaml")
    network, training, data = winner.config.network, winner.config.training, winner.config.data
    assert (network.featurization_vectors, network.featurization_blocks) == (29, 2)
    assert (network.output_blocks, network.residual) == (1, True)
    assert (network.radial_basis, network.radial_functions) == ("cosine", 84)
    assert network.radial_maximum_angstrom == 11.1
    assert training.learning_rate == 6.53e-3
    assert (training.schedule, training.plateau_factor) == ("plateau", 0.5)
    assert (training.plateau_patience, training.minimum_learning_rate) == (5, 1e-7)
    assert (training.epochs, training.early_stopping_patience) == (200, 50)
    assert (data.train_size, data.validation_size, data.test_size) == (109_000, 1_000, None)
    assert winner.provenance is None
    assert set(winner.assumed) == {
        "targets",
        "network.embedding_size",
        "network.featurization_scalars",
        "network.radial_mlp_layers",
        "network.radial_mlp_neurons",
        "network.output_mlp_layers",
        "network.output_mlp_neurons",
        "network.softplus_beta",
        "training.batch_size",
        "training.seed",
        "data.split_seed",
    }


def test_assumed_fields_survive(tmp_path: Path) -> None:
    winner = Winner.read(SPACES / "paper_l1net.yaml")
    winner.write(tmp_path / "w.yaml")
    assert Winner.read(tmp_path / "w.yaml") == winner
