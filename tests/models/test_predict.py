"""Predictions into files: formats, interruptions, molecules that cannot be predicted, the audit."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from support.mounts import mounted
from support.small_models import write_extxyz

from hpsearch.cli.models import advance_text
from hpsearch.cli.program import cli
from hpsearch.config.declaration import MoleculeSource
from hpsearch.data.molecule import Molecules
from hpsearch.formats import extxyz, part
from hpsearch.models import predict
from hpsearch.models.audit import check_path
from hpsearch.models.model import Model
from hpsearch.models.predict import PREDICTED, Advance, Job, predict_file
from hpsearch.models.program import read_metadata
from hpsearch.models.ranges import Geometries
from hpsearch.system.errors import HpsearchError, InputError
from hpsearch.system.files import PARTIAL

ROWS = np.arange(0, 50_000, 1_000)
HYDROGEN_CHLORIDE = "2\nProperties=species:S:1:pos:R:3\nH 0 0 0\nCl 0 0 1.27\n"


@pytest.fixture
def file(molecules: Molecules, tmp_path: Path) -> Path:
    """Fifty molecules of QM9, read in parts of twenty."""
    return write_extxyz(molecules, ROWS, tmp_path / "some.extxyz")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part, "MOLECULES_PER_PART", 20)


def job(file: Path, folder: Path, name: str = "out.csv", **options: Any) -> Job:
    return Job(MoleculeSource(path=str(file)), file.parent / name, folder, **options)


def expected(model: Model, molecules: Molecules) -> np.ndarray:
    chosen = molecules.select(ROWS)
    numbers = np.array(chosen.elements)[chosen.element_indices]
    return model.predict_geometries(
        Geometries(numbers, chosen.positions, chosen.atom_counts)
    ).values


def test_every_format_has_the_same_values(
    single: Model, single_folder: Path, molecules: Molecules, file: Path
) -> None:
    values = expected(single, molecules)
    for name in ("out.csv", "out.parquet", "out.extxyz"):
        done = predict_file(single, job(file, single_folder, name))
        assert (done.molecules, done.predicted) == (50, 50)
    table = pd.read_csv(file.parent / "out.csv")
    columns = ["mu [D]", "mu ±68% [D]", "mu ±95% [D]", "U0 [meV]", "U0 ±68% [meV]", "U0 ±95% [meV]"]
    assert list(table) == ["molecule", "atoms", *columns, "flags", "status"]
    np.testing.assert_allclose(table[["mu [D]", "U0 [meV]"]], values, rtol=1e-6)
    assert (table["status"] == PREDICTED).all()
    stored = pd.read_parquet(file.parent / "out.parquet")
    np.testing.assert_allclose(stored[columns], table[columns], rtol=1e-9)
    from ase.io import read

    frames = read(file.parent / "out.extxyz", ":")
    np.testing.assert_allclose([a.info["predicted_mu"] for a in frames], values[:, 0], rtol=1e-6)
    positions = molecules.select([ROWS[7]]).positions
    np.testing.assert_allclose(frames[7].positions, positions, atol=1e-7)
    assert frames[7].info["status"] == PREDICTED
    assert not list(file.parent.glob(f"*{PARTIAL}")) + list(file.parent.glob("*.parts"))


def test_a_killed_command_goes_on_after_its_last_part(
    single: Model, single_folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict_file(single, job(file, single_folder, "whole.csv"))

    def kill(advance: Advance) -> None:
        if advance.molecules == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_file(single, job(file, single_folder), progress=kill)
    assert not (file.parent / "out.csv").exists()
    (file.parent / "out.csv.parts" / "000001.csv.json").unlink()  # killed between the two writes
    predicted, real = [], predict.part_rows

    def counted(*arguments: Any) -> Any:
        predicted.append(arguments[3])
        return real(*arguments)

    monkeypatch.setattr(predict, "part_rows", counted)
    said: list[str] = []
    predict_file(single, job(file, single_folder), said.append)
    assert predicted == [20, 40], "the first part was kept"
    assert "continuing" in said[0]
    whole, again = (file.parent / name for name in ("whole.csv", "out.csv"))
    assert whole.read_bytes() == again.read_bytes()


def test_parts_of_another_job_are_not_used(
    single: Model, single_folder: Path, file: Path, molecules: Molecules
) -> None:
    def kill(advance: Advance) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_file(single, job(file, single_folder), progress=kill)
    write_extxyz(molecules, ROWS[::-1], file)
    done = predict_file(single, job(file, single_folder))
    table = pd.read_csv(file.parent / "out.csv")
    assert done.predicted == len(table) == 50
    assert table["atoms"].tolist() == molecules.atom_counts[ROWS[::-1]].tolist()


def test_a_full_disk_keeps_the_finished_parts(
    single: Model, single_folder: Path, file: Path, tmp_path: Path
) -> None:
    with mounted(tmp_path / "small", "size=100k,mode=0777") as small:
        # A page and the record of the job fit beside it, and one part.
        (small.folder / "fill-0").write_bytes(bytes(76_000))
        where = Job(MoleculeSource(path=str(file)), small.folder / "out.csv", single_folder)
        with pytest.raises(HpsearchError, match=r"No space left.*run the same command") as error:
            predict_file(single, where)
        assert "\n" not in str(error.value)
        assert not where.output.exists()
        finished = list(where.parts.glob("*.csv"))
        assert finished
        small.free()
        said: list[str] = []
        assert predict_file(single, where, said.append).predicted == 50
        assert "continuing" in said[0]


def test_a_molecule_that_cannot_be_predicted(
    single: Model, single_folder: Path, file: Path
) -> None:
    with file.open("a") as more:
        more.write(HYDROGEN_CHLORIDE)
        more.write(HYDROGEN_CHLORIDE.replace("Cl", "H").replace("1.27", "0.01"))
    done = predict_file(single, job(file, single_folder))
    table = pd.read_csv(file.parent / "out.csv")
    assert (done.molecules, done.predicted) == (52, 50)
    assert table["status"].tolist()[-2:] == [
        "the model does not know Cl",
        "two atoms are 0.01 Å apart",
    ]
    assert table["mu [D]"].isna().tolist() == [False] * 50 + [True, True]
    with pytest.raises(InputError, match=r"some.extxyz, line \d+: the model does not know Cl"):
        predict_file(single, job(file, single_folder, "stop.csv", on_error="stop"))
    assert not (file.parent / "stop.csv").exists()


@pytest.mark.parametrize("name", ["out.csv", "out.parquet", "out.extxyz"])
def test_a_molecule_that_cannot_be_read_has_a_status(
    single: Model, single_folder: Path, molecules: Molecules, file: Path, name: str
) -> None:
    good = file.read_text()
    bad = ["2\nname=x\nH 0 0 0\nH 0 0 1,0\n", *["1\n\nH 0 0\n"] * 20]
    file.write_text("".join([good, *bad, good]))
    done = predict_file(single, job(file, single_folder, name))
    assert (done.molecules, done.predicted) == (121, 100)
    out = file.parent / name
    assert states(check_path(out)) == dict.fromkeys(
        ("predictions", "model", "molecules", "values"), "unbroken"
    )
    if name == "out.extxyz":
        from ase.io import read

        frames = read(out, ":")
        assert [len(atoms) for atoms in frames[50:71]] == [0] * 21
        values = [atoms.info.get("predicted_mu", np.nan) for atoms in frames]
        statuses = [atoms.info["status"] for atoms in frames]
    else:
        table = (pd.read_csv if name == "out.csv" else pd.read_parquet)(out)
        assert table["molecule"].astype(int).tolist() == list(range(121))
        values, statuses = table["mu [D]"].tolist(), table["status"].tolist()
    line = good.count("\n") + 4
    assert statuses[50] == f"line {line}: a position must be a finite number, got '1,0'"
    assert statuses[60].endswith(
        "an atom must have an element and three positions, got 3: 'H 0 0'; "
        "check the number of atoms and the columns"
    )
    first = expected(single, molecules)[:, 0]
    np.testing.assert_allclose(values, [*first, *[np.nan] * 21, *first], rtol=1e-6)
    stopping = job(file, single_folder, f"stop-{name}", on_error="stop")
    with pytest.raises(InputError, match=rf"some.extxyz', line {line}: a position must be"):
        predict_file(single, stopping)
    assert len(list(stopping.parts.glob("0*.json"))) == 2, "finished parts are kept"


def test_a_file_whose_next_molecule_is_lost_ends_the_command(
    single: Model, single_folder: Path, file: Path
) -> None:
    file.write_text(file.read_text() + "3\n\nH 0 0 0\nH 0 0 1\n" + HYDROGEN_CHLORIDE * 3)
    with pytest.raises(InputError, match=r"some.extxyz', line \d+: an atom must have") as error:
        predict_file(single, job(file, single_folder))
    assert "\n" not in str(error.value)
    assert len(list(job(file, single_folder).parts.glob("0*.json"))) == 2


def test_the_finished_parts_are_not_read_again(
    single: Model, single_folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(advance: Advance) -> None:
        if advance.molecules == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_file(single, job(file, single_folder), progress=kill)
    read, real = [], extxyz._molecule
    monkeypatch.setattr(extxyz, "_molecule", lambda *given: read.append(1) or real(*given))
    said: list[Advance] = []
    done = predict_file(single, job(file, single_folder), progress=said.append)
    assert len(read) == 10
    assert (done.molecules, done.predicted) == (50, 50)
    assert [(advance.molecules, advance.before[0]) for advance in said] == [(50, 40)]
    # Killed after the last part, before they were joined.
    monkeypatch.setattr(predict, "_write_record", stop)
    with pytest.raises(KeyboardInterrupt):
        predict_file(single, job(file, single_folder, "again.csv"))
    monkeypatch.undo()
    done = predict_file(single, job(file, single_folder, "again.csv"))
    assert (done.molecules, done.predicted) == (50, 50)
    assert (file.parent / "again.csv").read_bytes() == (file.parent / "out.csv").read_bytes()


def stop(*given: object) -> None:
    raise KeyboardInterrupt


def test_the_progress_has_the_speed_and_the_time_left() -> None:
    first = Advance(molecules=24_000, share=0.25, before=(0, 0.0), seconds=100.0)
    assert advance_text(first) == (
        "predicted 24,000 of about 96,000 molecules, 240 per second, about 5 min left"
    )
    # After a kill at a quarter, a half is done.
    second = Advance(molecules=48_000, share=0.5, before=(24_000, 0.25), seconds=50.0)
    assert advance_text(second) == (
        "predicted 48,000 of about 96,000 molecules, 480 per second, about 2 min left"
    )
    last = Advance(molecules=96_000, share=1.0, before=(24_000, 0.25), seconds=150.0)
    assert advance_text(last) == "predicted 96,000 molecules, 480 per second"


def test_the_command_says_how_far_it_is(
    single_folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpsearch.cli.models._SILENT_SECONDS", -1.0)
    found = run("predict", str(single_folder), str(file), "-o", str(file.parent / "out.csv"))
    lines = found.output.splitlines()
    assert re.fullmatch(
        r"predicted 20 of about 5\d molecules, [\d,]+ per second, about \d+ \S+ left", lines[0]
    )
    assert lines[2].startswith("predicted 50 molecules, ")
    assert "50 of 50 molecules predicted" in lines[3]


def test_another_unit_of_length(single: Model, single_folder: Path, file: Path) -> None:
    predict_file(single, job(file, single_folder, "first.csv"))
    lines = file.read_text().splitlines()
    scaled = [
        " ".join([words[0], *(f"{float(x) / 0.529177210903:.9f}" for x in words[1:])])
        if len(words := line.split()) == 4 and "=" not in line
        else line
        for line in lines
    ]
    file.write_text("\n".join(scaled) + "\n")
    source = MoleculeSource(path=str(file), length_unit="a0")
    predict_file(single, Job(source, file.parent / "out.csv", single_folder))
    first, second = (pd.read_csv(file.parent / name) for name in ("first.csv", "out.csv"))
    np.testing.assert_allclose(first["mu [D]"], second["mu [D]"], atol=1e-4)


# --- The audit -----------------------------------------------------------------------------------


def states(links: Any) -> dict[str, str]:
    return {link.name: link.state for link in links}


def test_a_sound_model_and_its_predictions(single: Model, single_folder: Path, file: Path) -> None:
    links = states(check_path(single_folder))
    assert links.pop("run 0") == "unknown"
    assert set(links.values()) == {"unbroken"}
    assert list(links) == ["description", "weights", "data", "split", "statistics", "test errors"]
    for name in ("out.csv", "out.parquet", "out.extxyz"):
        predict_file(single, job(file, single_folder, name))
        found = states(check_path(file.parent / name))
        assert list(found) == ["predictions", "model", "molecules", "values"]
        assert set(found.values()) == {"unbroken"}, name


def test_the_first_broken_link_is_named(
    single: Model, single_folder: Path, ensemble: Model, ensemble_folder: Path, file: Path
) -> None:
    out = file.parent / "out.csv"
    predict_file(single, job(file, single_folder))
    sound = out.read_text()
    record = json.loads((file.parent / "out.csv.hpsearch.json").read_text())

    rows = sound.splitlines()
    words = rows[3].split(",")
    words[2] = str(float(words[2]) + 0.5)
    out.write_text("\n".join([*rows[:3], ",".join(words), *rows[4:]]) + "\n")
    links = check_path(out)
    assert [link.name for link in links if link.state == "broken"] == ["predictions", "values"]
    assert "molecule 2" in links[-1].detail

    # With a record that was edited to match, the values still do not.
    record["output_hash"] = predict.file_hash(out)
    (file.parent / "out.csv.hpsearch.json").write_text(json.dumps(record))
    assert states(check_path(out)) == {
        "predictions": "unbroken",
        "model": "unbroken",
        "molecules": "unbroken",
        "values": "broken",
    }
    out.write_text(sound)
    with file.open("a") as more:
        more.write(HYDROGEN_CHLORIDE)
    assert states(check_path(out))["molecules"] == "broken"


def test_a_model_of_other_molecules_is_found(single_folder: Path, tmp_path: Path) -> None:
    """Statistics and errors that were written by hand, with a digest that fits them."""
    from hpsearch.models.folder import read_model, write_model

    model = read_model(single_folder)
    said = model.description
    network = said.networks[0]
    statistics = {**network.statistics, "mean": [0.0, 0.0]}
    tested = {**said.tested, "mu": said.tested["mu"].model_copy(update={"mae": 1e-3})}
    update = {"networks": (network.model_copy(update={"statistics": statistics}),)}
    for name, change in (("statistics", update), ("test errors", {"tested": tested})):
        shutil.rmtree(tmp_path / "m", ignore_errors=True)
        edited = Model(said.model_copy(update=change), model.members)
        write_model(edited, tmp_path / "m")
        broken = [link.name for link in check_path(tmp_path / "m") if link.state == "broken"]
        assert broken[0] == name


# --- The commands --------------------------------------------------------------------------------


def run(*words: str) -> Any:
    return CliRunner().invoke(cli, list(words))


def test_mistakes_of_predict_are_one_line(single_folder: Path, file: Path) -> None:
    model, out = str(single_folder), str(file.parent / "out.csv")
    broken = file.parent / "broken.xyz"
    broken.write_text("1\n\nO 0 0 x\n")
    for words, message in (
        ((model, str(file), "-o", str(file.parent / "out.txt")), "must end with .csv, .parquet"),
        ((str(file.parent), str(file), "-o", out), "a model must be a folder with model.json"),
        ((model, str(file.parent / "none.xyz"), "-o", out), "must be a file or a folder"),
        ((model, str(file), "-o", out, "--level", "93"), "must be one of 50, 68"),
        ((model, str(file), "-o", out, "--targets", "gap"), "must be one of mu, U0"),
        ((model, str(file), "-o", out, "--unit", "U0"), "--unit must be TARGET=UNIT, such as"),
        ((model, str(file), "-o", out, "--unit", "U0=D"), "meV cannot be converted into D"),
        ((model, str(file), "-o", out, "--unit", "gap=eV"), "must be one of mu, U0; got 'gap'"),
        ((model, str(file), "-o", out, "--device", "tpu"), "must be cpu or cuda"),
        ((model, str(file), "-o", out, "--device", "cuda:7"), "'cuda:7'"),
        ((model + "/model.json", str(file), "-o", out), "a model must be a folder"),
        (
            (model, str(broken), "-o", out, "--on-error", "stop"),
            "line 3: a position must be a finite number",
        ),
    ):
        found = run("predict", *words)
        assert isinstance(found.exception, InputError), found
        assert message in str(found.exception)
        assert "\n" not in str(found.exception)
    assert sorted(file.parent.iterdir()) == [broken, file]


def test_another_unit_of_a_target(single: Model, single_folder: Path, file: Path) -> None:
    for name, units in (("meV.csv", {}), ("eV.csv", {"U0": "eV"})):
        predict_file(single, job(file, single_folder, name, units=units))
    old, new = (pd.read_csv(file.parent / f"{unit}.csv") for unit in ("meV", "eV"))
    for ending in ("", " ±95%"):
        np.testing.assert_allclose(
            new[f"U0{ending} [eV]"] * 1000, old[f"U0{ending} [meV]"], rtol=1e-8
        )
    np.testing.assert_array_equal(new["mu [D]"], old["mu [D]"])
    assert set(states(check_path(file.parent / "eV.csv")).values()) == {"unbroken"}
    shown = run("verify", str(file.parent / "eV.csv"))
    assert "unbroken: values" in shown.output


def test_an_output_that_exists_is_kept(single_folder: Path, file: Path) -> None:
    out = file.parent / "out.csv"
    out.write_text("mine")
    words = ("predict", str(single_folder), str(file), "-o", str(out))
    found = run(*words)
    assert "add --overwrite" in str(found.exception)
    assert out.read_text() == "mine"
    assert run(*words, "--overwrite").exit_code == 0
    assert out.read_text().startswith("molecule,")
    assert run("verify", str(out)).output.splitlines()[0].startswith("unbroken: predictions")


def test_show_and_verify_of_a_model(single_folder: Path) -> None:
    found = run("model", "show", str(single_folder))
    assert found.exit_code == 0
    assert "300 molecules of" in found.output
    content = json.loads(run("model", "show", str(single_folder), "--json").output)
    assert content["ranges"]["molecules"] == 300
    found = run("verify", str(single_folder), "--json")
    assert found.exit_code == 0
    links = json.loads(found.stdout)["links"]
    assert links[0] == {
        "name": "description",
        "value": content["digest"][:12],
        "state": "unbroken",
        "detail": "it is as it was written",
    }


@pytest.mark.slow
def test_a_program_is_exported_from_a_model(
    single: Model, single_folder: Path, molecules: Molecules, tmp_path: Path
) -> None:
    file = tmp_path / "u0.pt2"
    words = ("model", "export", str(single_folder), "--format", "torch-export", "-o")
    assert "must be a file that ends with .pt2" in str(run(*words, str(tmp_path / "u0")).exception)
    found = run(*words, str(file))
    assert found.exit_code == 0, found
    assert "the largest deviation is" in found.output
    assert read_metadata(file)["about"]["model"]["digest"] == single.digest
    program = torch.export.load(str(file)).module()
    methane = molecules.molecule(0)
    numbers = torch.tensor(methane.atomic_numbers)[None]
    values, _ = program(numbers, torch.tensor(methane.positions)[None])
    geometry = Geometries(methane.atomic_numbers, methane.positions, np.array([5]))
    np.testing.assert_allclose(values[0], single.predict_geometries(geometry).values[0], rtol=1e-5)
    again = run(*words, str(file))
    assert "add --overwrite" in str(again.exception)
