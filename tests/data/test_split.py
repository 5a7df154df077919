from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpsearch.config.run import DataConfig
from hpsearch.data.molecule import Molecules
from hpsearch.data.split import Split, make_split, read_split, save_split, validation_anchor
from hpsearch.system.errors import InputError


def made(molecules: Molecules, **values: object) -> Split:
    return make_split(molecules, DataConfig.model_validate(values))


def test_default_sizes(split: Split) -> None:
    sizes = [len(rows) for rows in (split.train, split.validation, split.test)]
    assert sizes == [109_000, 1_000, 20_831]
    assert {rows.dtype for rows in (split.train, split.validation, split.test)} == {
        np.dtype(np.int64)
    }


def test_the_default_sets_are_disjoint_and_whole(split: Split) -> None:
    every = np.concatenate([split.train, split.validation, split.test])
    np.testing.assert_array_equal(np.sort(every), np.arange(130_831))


def test_smaller_sets_lie_within_larger_ones(molecules: Molecules) -> None:
    small = made(molecules, train_size=1_000, test_size=500)
    large = made(molecules, train_size=50_000, test_size=10_000)
    assert set(small.train) < set(large.train)
    assert set(small.test) < set(large.test)
    assert set(small.validation) == set(large.validation)


def test_no_test_molecule_is_seen_at_another_size(molecules: Molecules) -> None:
    search = made(molecules, train_size=1_000, test_size=500)
    ablation = made(molecules, train_size=100_000, validation_size=2_000, test_size=20_000)
    seen = set(search.train) | set(search.validation)
    assert not seen & set(ablation.test)
    assert not set(search.test) & (set(ablation.train) | set(ablation.validation))


def test_validation_molecules_of_a_small_search_never_train(molecules: Molecules) -> None:
    """They chose the winner: no ablation of another size may train on them."""
    search = made(molecules, train_size=1_000, validation_size=500, test_size=500)
    for sizes in ({"train_size": 109_000, "validation_size": 1_000}, {"train_size": 50_000}):
        ablation = made(molecules, **sizes)
        assert set(search.validation) <= set(ablation.validation)
        assert not set(search.validation) & (set(ablation.train) | set(ablation.test))


def test_validation_begins_at_109_000(molecules: Molecules) -> None:
    small = made(molecules, train_size=1_000)
    assert (len(small.train), len(small.validation), len(small.test)) == (1_000, 1_000, 20_831)
    assert validation_anchor(130_831) == 109_000
    assert [validation_anchor(n) for n in (0, 1, 20, 133_885)] == [0, 0, 16, 111_544]


TOTAL = 200
ANCHOR = validation_anchor(TOTAL)


@pytest.fixture(scope="module")
def few(molecules: Molecules) -> Molecules:
    return molecules.select(np.arange(TOTAL))


SIZES = st.fixed_dictionaries(
    {
        "train_size": st.integers(2, TOTAL),
        "validation_size": st.integers(1, TOTAL),
        "test_size": st.none() | st.integers(1, TOTAL),
    }
).filter(lambda s: s["train_size"] + s["validation_size"] + (s["test_size"] or 1) <= TOTAL)
UNMOVED = SIZES.filter(
    lambda s: (
        s["train_size"] <= ANCHOR and ANCHOR + s["validation_size"] + (s["test_size"] or 1) <= TOTAL
    )
)


@given(sizes=SIZES)
def test_any_sizes_that_fit_are_disjoint_and_as_asked_for(few: Molecules, sizes: Any) -> None:
    split = made(few, **sizes)
    every = np.concatenate([split.train, split.validation, split.test])
    assert len(set(every)) == len(every)
    assert (len(split.train), len(split.validation)) == (
        sizes["train_size"],
        sizes["validation_size"],
    )
    assert len(split.test) == sizes["test_size"] or (sizes["test_size"] is None and len(split.test))


@given(one=UNMOVED, other=UNMOVED)
def test_sizes_that_fit_are_nested_and_never_train_on_what_another_kept_back(
    few: Molecules, one: Any, other: Any
) -> None:
    a, b = made(few, **one), made(few, **other)
    for name in ("train", "validation", "test"):
        small, large = sorted((set(getattr(a, name)), set(getattr(b, name))), key=len)
        assert small <= large
    assert not set(a.train) & (set(b.validation) | set(b.test))


@given(one=SIZES, other=SIZES)
def test_training_and_testing_are_nested_whatever_was_moved(
    few: Molecules, one: Any, other: Any
) -> None:
    a, b = made(few, **one), made(few, **other)
    for name in ("train", "test"):
        small, large = sorted((set(getattr(a, name)), set(getattr(b, name))), key=len)
        assert small <= large


def test_the_split_is_the_seeds(molecules: Molecules, split: Split) -> None:
    again = made(molecules)
    assert again.hash == split.hash
    np.testing.assert_array_equal(again.train, split.train)
    assert made(molecules, split_seed=1).hash != split.hash
    made(molecules, split_seed=2**70)


def test_the_permutation_stays_what_it_is(molecules: Molecules, split: Split) -> None:
    """A changed stream of random numbers would silently mix old test molecules into training."""
    assert molecules.identifiers[split.train[:5]].tolist() == TRAIN
    assert molecules.identifiers[split.validation[:5]].tolist() == VALIDATION
    assert molecules.identifiers[split.test[-5:]].tolist() == TEST
    assert split.hash == HASH


TRAIN = [73658, 52795, 122351, 104448, 15910]
VALIDATION = [11440, 73236, 101885, 84496, 16697]
TEST = [133659, 133513, 121020, 4480, 61699]
HASH = "5bbcf8908d5f25ec09793cb873c69e50602bfec09f74944b7822cbd056b5d319"


def test_sets_are_random_samples(molecules: Molecules, split: Split) -> None:
    for rows in (split.train, split.validation, split.test, split.train[:1_000]):
        assert molecules.atom_counts[rows].mean() == pytest.approx(18.03, abs=0.4)


def test_hash_ignores_the_order_within_a_set(molecules: Molecules, split: Split) -> None:
    other = Split.of(molecules, split.train[::-1], np.sort(split.validation), split.test)
    assert other.hash == split.hash
    moved = Split.of(molecules, split.train, split.test, split.validation)
    assert moved.hash != split.hash


def test_hash_and_sets_ignore_the_tables_order(molecules: Molecules) -> None:
    rows = np.random.default_rng(0).permutation(500)
    table, shuffled = molecules.select(np.arange(500)), molecules.select(rows)
    sizes = {"train_size": 100, "validation_size": 50, "test_size": 20}
    one, other = made(table, **sizes), made(shuffled, **sizes)
    assert one.hash == other.hash
    np.testing.assert_array_equal(table.identifiers[one.train], shuffled.identifiers[other.train])


def test_hash_ignores_molecules_outside_the_split(molecules: Molecules) -> None:
    rows = [np.array(numbers) for numbers in ([1, 2], [3], [4])]
    assert (
        Split.of(molecules, *rows).hash == Split.of(molecules.select([0, 1, 2, 3, 4]), *rows).hash
    )


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"train_size": 130_000}, "largest --train-size that fits is 129,830"),
        ({"train_size": 129_831}, "129,831 + 1,000 + at least 1; the largest --train-size"),
        ({"test_size": 20_832}, "109,000 + 1,000 + 20,832; the largest --train-size that fits"),
        ({"train_size": 2, "test_size": 130_000}, "largest --validation-size that fits is 829"),
        ({"train_size": 2, "test_size": 131_000}, "largest --test-size that fits is 129,829"),
        ({"train_size": 131_000, "test_size": 131_000}, "lower more than one of --train-size"),
    ],
)
def test_more_molecules_than_there_are(
    molecules: Molecules, sizes: dict[str, int], words: str
) -> None:
    with pytest.raises(InputError, match="130,831 molecules") as error:
        made(molecules, **sizes)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_every_molecule_may_be_used(molecules: Molecules) -> None:
    split = made(molecules, train_size=129_830)
    assert len(split.test) == 1


def test_saved_split_is_read_as_it_was(molecules: Molecules, tmp_path: Path) -> None:
    split = made(molecules, train_size=300, validation_size=20, test_size=40)
    path = tmp_path / "split.json"
    save_split(split, molecules, path)
    # The sizes of the configuration are its defaults here, and the file's hold.
    again = made(molecules, split_file=str(path))
    assert again.hash == split.hash
    np.testing.assert_array_equal(again.train, split.train)
    assert len(again.test) == 40


def test_identifiers_are_not_rows(molecules: Molecules, tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_text('{"train": [133885, 1], "validation": [2], "test": [133884]}')
    split = read_split(path, molecules)
    assert split.train.tolist() == [130_830, 0]
    assert split.test.tolist() == [130_829]


GOOD: dict[str, list[int]] = {"train": [1, 2, 3], "validation": [4], "test": [5, 6]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "must be JSON"),
        (b"\xff\xfe{", "must be JSON"),
        ([1], "exactly train, validation, test; got list"),
        ({**GOOD, "holdout": [9]}, "got 'train', 'validation', 'test', 'holdout'"),
        ({"train": [1, 2]}, "exactly"),
        ({**GOOD, "train": "1, 2"}, "'train' must be a list of whole numbers or names"),
        ({**GOOD, "train": [1.0, 2.0]}, "'train' must be a list of whole numbers"),
        ({**GOOD, "train": [True, 2]}, "'train' must be a list of whole numbers"),
        ({**GOOD, "train": [1, 2, 2]}, "2 is listed twice in 'train'"),
        ({**GOOD, "test": [5, 1]}, "1 is listed in 'train' and in 'test'"),
        ({**GOOD, "validation": [6]}, "6 is listed in 'validation' and in 'test'"),
        ({**GOOD, "test": [133_886]}, "got 133886, which is none"),
        ({**GOOD, "test": [-1]}, "got -1, which is none"),
        ({**GOOD, "test": [2**70]}, "above 64 bits"),
        ({**GOOD, "test": []}, "'test' must have at least 1"),
        ({**GOOD, "train": [1]}, "'train' must have at least 2"),
    ],
)
def test_a_strange_file_is_refused(
    molecules: Molecules, tmp_path: Path, content: object, words: str
) -> None:
    path = tmp_path / "mine.json"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError) as error:
        made(molecules, split_file=str(path))
    assert words in str(error.value)
    assert "mine.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_absent_file_is_named(molecules: Molecules, tmp_path: Path) -> None:
    for name in ("absent.json", "absent.npz"):
        with pytest.raises(InputError, match=name):
            read_split(tmp_path / name, molecules)
    with pytest.raises(InputError, match="cannot be written"):
        split = made(molecules, train_size=2, validation_size=1, test_size=1)
        save_split(split, molecules, tmp_path / "absent" / "split.json")


def test_npz_of_rows(molecules: Molecules, tmp_path: Path) -> None:
    path = tmp_path / "split.npz"
    np.savez(path, train_idx=[0, 1, 2], val_idx=[3], test_idx=np.array([130_830], dtype=np.uint32))
    split = read_split(path, molecules)
    assert split.train.tolist() == [0, 1, 2]
    assert split.validation.tolist() == [3]
    assert molecules.identifiers[split.test].tolist() == [133_885]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"test_idx": [130_831]}, "rows from 0 to 130830; got 130831"),
        ({"test_idx": [-1]}, "got -1"),
        ({"test_idx": [0.5]}, "'test_idx' must be a list of whole numbers"),
        ({"test_idx": [[7]]}, "'test_idx' must be a list of whole numbers"),
        ({"test_idx": np.array([None])}, "must be an .npz file"),
        ({"test_idx": [3]}, "4 is listed in 'validation' and in 'test'"),
    ],
)
def test_a_strange_npz_is_refused(
    molecules: Molecules, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    path = tmp_path / "mine.npz"
    arrays = {"train_idx": [0, 1, 2], "val_idx": [3], "test_idx": [4], **changes}
    np.savez(path, **arrays)  # type: ignore[arg-type]
    with pytest.raises(InputError) as error:
        read_split(path, molecules)
    assert words in str(error.value)
    assert "mine.npz" in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_npz_is_refused(molecules: Molecules, tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    path.write_text("text")
    with pytest.raises(InputError, match=r"must be an \.npz file"):
        read_split(path, molecules)
    np.savez(path, train_idx=[0, 1])
    with pytest.raises(InputError, match="must have train_idx, val_idx, test_idx; got train_idx"):
        read_split(path, molecules)
