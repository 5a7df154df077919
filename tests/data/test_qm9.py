from __future__ import annotations

import csv
import errno
import json
import shutil
import tarfile
import threading
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpsearch.cli import examination as doctor
from hpsearch.config.targets import TARGETS
from hpsearch.data import cache, qm9
from hpsearch.data.molecule import Molecules
from hpsearch.system.errors import HpsearchError, InputError

COLUMNS = ("element_indices", "positions", "offsets", "targets", "identifiers")


@pytest.fixture
def small(molecules: Molecules) -> Molecules:
    return molecules.select(range(50))


@pytest.fixture
def small_package(small: Molecules, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The package cut down to 50 molecules; the list grows by one with every reading."""
    readings: list[str] = []

    def read(say: object) -> Molecules:
        readings.append("read")
        return small

    monkeypatch.setattr(qm9, "read_package", read)
    return readings


# --- the cache ------------------------------------------------------------------------------------


def test_second_load_reads_no_csv(
    tmp_path: Path, small_package: list[str], small: Molecules
) -> None:
    first = qm9.load(tmp_path)
    second = qm9.load(tmp_path)
    assert small_package == ["read"]
    assert first.content_hash == second.content_hash == small.content_hash
    assert second.computed_hash() == small.content_hash
    assert [p.name for p in tmp_path.iterdir()] == ["qm9"]


def test_the_shared_cache_holds_what_was_written(molecules: Molecules) -> None:
    assert molecules.computed_hash() == molecules.content_hash


def test_columns_are_mapped_and_read_only(tmp_path: Path, small_package: list[str]) -> None:
    table = qm9.load(tmp_path)
    for name in COLUMNS:
        column = getattr(table, name)
        assert type(column) is np.ndarray
        assert isinstance(column.base, np.memmap)
        assert not column.flags.writeable


def damage_truncated(folder: Path) -> None:
    with (folder / "positions.npy").open("r+b") as file:
        file.truncate(1000)


def damage_longer(folder: Path) -> None:
    with (folder / "positions.npy").open("ab") as file:
        file.write(b"\x00")


def damage_missing(folder: Path) -> None:
    (folder / "targets.npy").unlink()


def damage_header(folder: Path) -> None:
    path = folder / "identifiers.npy"
    path.write_bytes(b"\x00" * path.stat().st_size)


def damage_type(folder: Path) -> None:
    path = folder / "identifiers.npy"
    path.write_bytes(path.read_bytes().replace(b"<i4", b"<f4"))


def damage_offsets(folder: Path) -> None:
    offsets = np.load(folder / "offsets.npy")
    np.save(folder / "offsets.npy", offsets[::-1])


def damage_first_offset(folder: Path) -> None:
    offsets = np.load(folder / "offsets.npy")
    offsets[0] = 1
    np.save(folder / "offsets.npy", offsets)


def damage_meta(folder: Path) -> None:
    (folder / "meta.json").write_text('{"format": 1')


def damage_meta_missing(folder: Path) -> None:
    (folder / "meta.json").unlink()


def damage_format(folder: Path) -> None:
    change_meta(folder, format=0)


def damage_units(folder: Path) -> None:
    change_meta(folder, units={})


def damage_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("no folder")


def damage_a_number(folder: Path) -> None:
    path = folder / "targets.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def damage_order(folder: Path) -> None:
    np.save(folder / "targets.npy", np.load(folder / "targets.npy")[::-1])


def damage_scale(folder: Path) -> None:
    np.save(folder / "positions.npy", np.load(folder / "positions.npy") * np.float32(1.01))


def change_meta(folder: Path, **values: object) -> None:
    path = folder / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


DAMAGES = [value for name, value in sorted(globals().items()) if name.startswith("damage_")]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_cache_is_rebuilt(
    tmp_path: Path, small_package: list[str], small: Molecules, damage: Any
) -> None:
    qm9.load(tmp_path)
    damage(tmp_path / "qm9")
    said: list[str] = []
    assert qm9.load(tmp_path, said.append).computed_hash() == small.content_hash
    assert small_package == ["read", "read"]
    assert "damaged" in said[0]
    assert "\n" not in said[0]
    assert qm9.load(tmp_path).computed_hash() == small.content_hash
    assert small_package == ["read", "read"]
    assert [p.name for p in tmp_path.iterdir()] == ["qm9"]


def test_doctor_reports_changed_numbers(
    tmp_path: Path, small_package: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPSEARCH_CACHE", str(tmp_path))
    qm9.load()
    damage_order(tmp_path / "qm9")
    states = []
    for _ in range(2):
        checks = doctor.examine("sqlite:///store.db", tmp_path)
        found = next(check for check in checks if check.what == "molecules")
        states.append((found.state, "do not have the recorded hash" in found.said))
    assert states == [("warning", True), ("good", False)]


def test_a_full_disk_leaves_nothing(
    tmp_path: Path, small_package: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = np.save
    calls: list[Path] = []

    def fail_at_the_third(path: Path, *rest: Any, **more: Any) -> None:
        calls.append(path)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(path, *rest, **more)

    monkeypatch.setattr(np, "save", fail_at_the_third)
    with pytest.raises(HpsearchError, match=r"No space left on device; free space") as error:
        qm9.load(tmp_path / "cache")
    assert "\n" not in str(error.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_many_processes_may_make_the_cache_at_once(tmp_path: Path, small: Molecules) -> None:
    folder = tmp_path / "qm9"
    start = threading.Barrier(8)
    failures: list[BaseException] = []

    def make() -> None:
        start.wait()
        try:
            for _ in range(5):
                cache.write_table(small, folder, "qm9pack")
                assert cache.open_table(folder).computed_hash() == small.content_hash
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [p.name for p in tmp_path.iterdir()] == ["qm9"]


def test_open_tables_outlive_a_replacement(tmp_path: Path, molecules: Molecules) -> None:
    folder = tmp_path / "qm9"
    cache.write_table(molecules.select(range(10)), folder, "one")
    old = cache.open_table(folder)
    cache.write_table(molecules.select(range(20)), folder, "two")
    assert len(cache.open_table(folder)) == 20
    assert old.computed_hash() == old.content_hash


def test_cache_directory_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPSEARCH_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert qm9.cache_directory() == tmp_path / "own"
    monkeypatch.delenv("HPSEARCH_CACHE")
    assert qm9.cache_directory() == tmp_path / "xdg" / "hpsearch"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert qm9.cache_directory() == tmp_path / ".cache" / "hpsearch"


# --- the package ----------------------------------------------------------------------------------


def test_missing_package_says_the_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(InputError, match=r"pip install qm9pack==1\.0\.3") as error:
        qm9.load(tmp_path)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def package_files() -> list[Path]:
    files = metadata.distribution("qm9pack").files or []
    return sorted(Path(str(f.locate())) for f in files if f.match("qm9_part*.csv"))


@pytest.fixture(scope="module")
def records() -> list[dict[str, str]]:
    """The first 230 rows of the package, as text; number 212 has an exponent."""
    with package_files()[0].open() as file:
        return [row for row, _ in zip(csv.DictReader(file), range(230), strict=False)]


def fake_package(folder: Path, rows: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "qm9_part1.csv"
    with path.open("w") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)

    class File(str):
        __slots__ = ()

        name = "qm9_part1.csv"

        def match(self, pattern: str) -> bool:
            return Path(self).match(pattern)

        def locate(self) -> Path:
            return path

    class Package:
        version = "0"
        files = (File("qm9_part1.csv"),)

    monkeypatch.setattr(metadata, "distribution", lambda name: Package)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("Elements", "['C','S','H','H','H']", "got 'S'"),
        ("Elements", "['C','H','H','H']", "N_atoms entries"),
        ("XYZ_Ang", "[[0.,1.,2.],[0.,1.,2.]]", "N_atoms entries"),
        ("XYZ_Ang", "[[0.,1.],[2.],[3.],[4.],[5.]]", "three numbers"),
        ("XYZ_Ang", "[[x,1.,2.],[1.],[2.],[3.],[4.]]", "must be a table"),
        ("Elements", "", "must not be empty"),
        ("HOMO_au", "", "could not convert"),
        ("Index", "x", "could not convert"),
    ],
)
def test_a_strange_table_is_refused(
    tmp_path: Path,
    records: list[dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    column: str,
    value: str,
    words: str,
) -> None:
    fake_package(tmp_path, [{**records[0], column: value}, *records[1:5]], monkeypatch)
    with pytest.raises(InputError) as error:
        qm9.read_package()
    assert words in str(error.value)
    assert "qm9_part1.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_column_is_named(
    tmp_path: Path, records: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{k: v for k, v in row.items() if k != "HOMO_au"} for row in records[:3]]
    fake_package(tmp_path, rows, monkeypatch)
    with pytest.raises(InputError, match="HOMO_au"):
        qm9.read_package()


@pytest.mark.slow
def test_the_whole_package_is_what_it_was(molecules: Molecules) -> None:
    """Studies of different machines are told apart by this hash; a cache may be an older code's."""
    lines: list[str] = []
    assert qm9.read_package(lines.append).content_hash == CONTENT
    assert molecules.content_hash == CONTENT
    assert len(lines) == len(package_files())


CONTENT = "f5aa777a92c2c183bf5c1fc715e047fbe0083d7520799d1ce613367eb8934d6f"


def test_conversion_of_rows_in_any_order_is_the_cache(
    tmp_path: Path,
    records: list[dict[str, str]],
    molecules: Molecules,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_package(tmp_path, records[::-1], monkeypatch)
    expected = molecules.select(range(len(records)))
    assert qm9.read_package().content_hash == expected.content_hash


# --- the archive ----------------------------------------------------------------------------------


def published(row: dict[str, str]) -> str:
    """The file of one molecule as the authors wrote it: tabs, and exponents such as ``*^-6``."""

    def listed(column: str) -> list[str]:
        return row[column].strip("[]").replace("'", "").split(",")

    def written(number: str) -> str:
        return number.replace("E", "*^")

    positions = [written(number.strip("[]")) for number in listed("XYZ_Ang")]
    properties = [row[f"Rot{axis}_GHz"] for axis in "ABC"]
    properties += [row[target.column] for target in TARGETS]
    atoms = [
        "\t".join([element, *(x.rjust(13) for x in positions[3 * i : 3 * i + 3]), charge])
        for i, (element, charge) in enumerate(
            zip(listed("Elements"), listed("Mulliken_pop"), strict=True)
        )
    ]
    return "\n".join(
        [
            row["N_atoms"],
            f"gdb {row['Index']}\t" + "\t".join(map(written, properties)) + "\t",
            *atoms,
            "\t".join(listed("Harmonic_Freq_cmi")),
            f"{row['SMILES']}\t{row['SMILES']}\t",
            f"{row['InChi']}\t{row['InChi']}",
            "",
        ]
    )


@pytest.fixture(scope="module")
def folder(records: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("xyz")
    for row in records:
        (folder / row["XYZ_file"]).write_text(published(row))
    assert any("*^-6" in path.read_text() for path in folder.iterdir())
    return folder


@pytest.fixture(scope="module")
def archive(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "dsgdb9nsd.xyz.tar.bz2"
    with tarfile.open(path, "w:bz2") as tar:
        for file in sorted(folder.iterdir(), reverse=True):
            tar.add(file, arcname=file.name)
    return path


UNCHARACTERIZED = """\
List of molecules which failed the consistency check.

 Index   GDB17 SMILES   SMILES from the relaxed geometry
----------------------------------------------------------
       3    O    O=O
     212\tCC\tC.C
---------
2 compounds
"""


def test_archive_and_folder_equal_the_package(
    folder: Path, archive: Path, records: list[dict[str, str]], molecules: Molecules
) -> None:
    expected = molecules.select(range(len(records)))
    for source in (folder, archive):
        read = qm9.read_archive(source)
        np.testing.assert_array_equal(read.positions, expected.positions)
        np.testing.assert_array_equal(read.targets, expected.targets)
        assert read.content_hash == expected.content_hash


def test_uncharacterized_molecules_are_left_out(archive: Path, tmp_path: Path) -> None:
    listed = tmp_path / "uncharacterized.txt"
    listed.write_text(UNCHARACTERIZED)
    every, kept = qm9.read_archive(archive), qm9.read_archive(archive, listed)
    assert set(every.identifiers) - set(kept.identifiers) == {3, 212}
    listed.write_text("3\n212\n")
    assert qm9.read_archive(archive, listed).content_hash == kept.content_hash


@pytest.mark.parametrize("text", ["", "nothing\n", "0 C\n", "133886 C\n"])
def test_a_strange_list_is_refused(archive: Path, tmp_path: Path, text: str) -> None:
    listed = tmp_path / "uncharacterized.txt"
    listed.write_text(text)
    with pytest.raises(InputError, match=r"uncharacterized\.txt' must list"):
        qm9.read_archive(archive, listed)


def test_prepare_makes_the_cache_from_the_archive(archive: Path, tmp_path: Path) -> None:
    read = qm9.prepare(archive, cache=tmp_path)
    assert read.content_hash == qm9.read_archive(archive).content_hash
    assert qm9.load(tmp_path).content_hash == read.content_hash


def test_a_damaged_cache_from_an_archive_is_not_replaced_by_the_package(
    archive: Path, tmp_path: Path, small_package: list[str]
) -> None:
    qm9.prepare(archive, cache=tmp_path)
    damage_a_number(tmp_path / "qm9")
    with pytest.raises(HpsearchError, match=r"prepare it again from '.*dsgdb9nsd"):
        qm9.load(tmp_path)
    damage_truncated(tmp_path / "qm9")
    with pytest.raises(HpsearchError, match=r"prepare it again from '.*dsgdb9nsd"):
        qm9.load(tmp_path)
    assert small_package == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("gdb 1\t", "gdb one\t", "'one'"),
        ("gdb 1\t", "1\t", "line 2 must be"),
        ("C\t", "S\t", "got 'S'"),
        ("5\n", "50\n", "must have 50 atoms"),
        ("5\n", "five\n", "'five'"),
        ("-0.0126981359", "nonsense", "'nonsense'"),
        ("-0.0126981359", "inf", "finite positions"),
    ],
)
def test_a_strange_file_is_refused(
    tmp_path: Path, records: list[dict[str, str]], old: str, new: str, words: str
) -> None:
    text = published(records[0])
    assert old in text
    (tmp_path / "dsgdb9nsd_000001.xyz").write_text(text.replace(old, new, 1))
    with pytest.raises(InputError) as error:
        qm9.read_archive(tmp_path)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_the_same_molecule_twice_is_refused(tmp_path: Path, records: list[dict[str, str]]) -> None:
    for name in ("a.xyz", "b.xyz"):
        (tmp_path / name).write_text(published(records[0]))
    with pytest.raises(InputError, match="molecule 1 must have a unique identifier"):
        qm9.read_archive(tmp_path)


def test_a_truncated_archive_is_refused(tmp_path: Path, archive: Path) -> None:
    broken = tmp_path / "dsgdb9nsd.xyz.tar.bz2"
    broken.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"must be dsgdb9nsd\.xyz\.tar\.bz2") as error:
        qm9.read_archive(broken)
    assert "\n" not in str(error.value)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    (tmp_path / "empty").mkdir()
    for name in ("text", "absent", "empty"):
        with pytest.raises(InputError) as error:
            qm9.read_archive(tmp_path / name)
        assert name in str(error.value)
