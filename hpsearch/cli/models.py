"""The commands about trained models: model export, model show, predict."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from hpsearch.api.inputs import require_store, require_writable
from hpsearch.cli.options import complete_experiment, device_option, example, storage_option
from hpsearch.cli.output import Output, print_json, say_on_stderr, terminal_columns
from hpsearch.system.errors import InputError, one_line

if TYPE_CHECKING:
    from hpsearch.models.model import Model
    from hpsearch.models.predict import Advance, Progress

_SILENT_SECONDS = 10.0


@click.group()
def model() -> None:
    """Make a model of trained networks, and look at one."""


@model.command(epilog=example("hpsearch model export -o u0/ --run L1Net/U0"))
@click.argument("name", required=False, shell_complete=complete_experiment("study", "ablation"))
@storage_option
@click.option(
    "--run",
    "keys",
    multiple=True,
    metavar="KEY",
    help="A trial's number, or a cell such as L1Net/U0/0. L1Net/U0 takes all repeats, an ensemble; "
    "L1Net takes all targets. Several are allowed. Default: the winner of a study.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    required=True,
    help="The folder of the model; with --format torch-export, a file that ends with .pt2.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["folder", "torch-export"]),
    default="folder",
    show_default=True,
    help="torch-export writes a program that runs with torch alone.",
)
@click.option("--overwrite", is_flag=True, help="Replace a model that is there.")
def export(
    name: str | None,
    storage: str | None,
    keys: tuple[str, ...],
    output: Path,
    kind: Literal["folder", "torch-export"],
    overwrite: bool,
) -> None:
    """Make a model of the kept weights of runs.

    A model is a folder with weights, units, intervals and ranges. It needs neither the store nor
    the molecules, and may be moved. NAME is a study or an ablation; the default is the one launched
    last. For --format torch-export it may also be the folder of a model.
    """
    if kind == "torch-export":
        _require_new_program(output, overwrite)
        _export_program(_made(name, storage, keys, output.stem), output)
        return
    from hpsearch.models.description import require_free

    require_free(output, overwrite)
    require_writable(output)
    from hpsearch.models.folder import write_model
    from hpsearch.terminal.models import model_lines

    description = write_model(_made(name, storage, keys, output.resolve().name), output)
    for line in model_lines(description, terminal_columns()):
        click.echo(line)
    click.echo(f"next: hpsearch predict {shlex.quote(str(output))} FILE -o predictions.csv")


def _made(name: str | None, storage: str | None, keys: tuple[str, ...], called: str) -> Model:
    """Return the model in the folder ``name``, or make one of the runs of an experiment."""
    from hpsearch.models.folder import is_model, read_model

    if name is not None and not keys and is_model(Path(name)):
        return read_model(Path(name))
    url = require_store(storage)
    from hpsearch.models.build import build_model, runs_of
    from hpsearch.store import StoreReader

    with StoreReader.open(url, say=say_on_stderr) as store:
        runs = runs_of(store, name, keys)
    from hpsearch.system.hardware import cores
    from hpsearch.system.process import prepare_worker

    prepare_worker(cores())
    return build_model(called, runs, click.echo)


def _require_new_program(output: Path, overwrite: bool) -> None:
    if output.suffix != ".pt2" or output.is_dir():
        raise InputError(
            f"a program must be a file that ends with .pt2, got '{one_line(str(output))}'"
        )
    _require_new(output, overwrite)
    require_writable(output.absolute().parent)


def _require_new(output: Path, overwrite: bool) -> None:
    if output.exists() and not overwrite:
        raise InputError(
            f"the output must be a new file, got {one_line(str(output))}, which exists; choose "
            "another name, or add --overwrite"
        )


def _export_program(made: Model, output: Path) -> None:
    """Write the program, and say how much it deviates from the networks."""
    from hpsearch.data import own
    from hpsearch.models.program import export_program

    # They are needed to compare the program with the networks.
    molecules = own.load(made.description.data, click.echo)
    click.echo("exporting the networks, and comparing the program with them")
    about = {"model": made.description.model_dump(mode="json")}
    deviation = export_program(made.members, molecules, output, about)
    click.echo(
        f"compared on {deviation.molecules} molecules of {deviation.fewest_atoms} to "
        f"{deviation.most_atoms} atoms: the largest deviation is {deviation.largest:.1e} of the "
        "targets' standard deviation (values, rotations, translations, orders of atoms)"
    )
    targets = ", ".join(f"{target.name} [{target.unit}]" for target in made.targets)
    click.echo(f"written: {output}, {output.stat().st_size / 1e6:.1f} MB, predicts {targets}")


@model.command(epilog=example("hpsearch model show u0/"))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
def show(folder: Path, as_json: bool) -> None:
    """Print what a model predicts, how well, and its data."""
    from hpsearch.models.folder import read_description
    from hpsearch.terminal.models import model_lines

    description = read_description(folder)
    if as_json:
        print_json(description.model_dump(mode="json"))
        return
    for line in model_lines(description, terminal_columns()):
        click.echo(line)


@click.command(epilog=example("hpsearch predict u0/ molecules.xyz -o predictions.csv"))
@click.argument("folder", metavar="MODEL", type=click.Path(path_type=Path))
@click.argument("molecules", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    required=True,
    help="The file to write: .csv, .parquet or .extxyz.",
)
@click.option("--targets", metavar="NAMES", help="Predict only these, separated by commas.")
@click.option(
    "--unit",
    "units",
    multiple=True,
    metavar="TARGET=UNIT",
    help="Another unit of a target, such as U0=kcal/mol. Several are allowed.",
)
@click.option(
    "--level",
    "levels",
    multiple=True,
    type=float,
    default=(68, 95),
    show_default=True,
    metavar="PERCENT",
    help="Level of an interval: 50, 68, 80, 90, 95 or 99. Several are allowed.",
)
@click.option(
    "--on-error",
    type=click.Choice(["skip", "stop"]),
    default="skip",
    show_default=True,
    help="What to do with a molecule that cannot be predicted, such as one with an unknown "
    "element: skip gives it a status and no values.",
)
@device_option
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
def predict(
    folder: Path,
    molecules: Path,
    output: Path,
    targets: str | None,
    units: tuple[str, ...],
    levels: tuple[float, ...],
    on_error: Literal["skip", "stop"],
    device: str,
    overwrite: bool,
) -> None:
    """Predict molecules with a model.

    MOLECULES is a file of molecules in any format that a declaration reads, or a declaration (YAML)
    that names one. The output has a row for each molecule: for each target the value with its unit
    and half of each interval's width, then the flags and a status. A flag says what of the
    molecule lies outside the training molecules. The same command goes on after a kill.
    """
    from hpsearch.models.inputs import source_of
    from hpsearch.models.predict import Done, Job, predict_file

    source = source_of(molecules)
    chosen = tuple(sorted(level / 100 for level in levels))
    job = Job(source, output, folder, chosen, on_error, dict(map(_unit, units)))
    assert job.format
    _require_new(output, overwrite)
    require_writable(output.absolute().parent)
    from hpsearch.models.folder import read_model
    from hpsearch.system.hardware import cores
    from hpsearch.system.process import prepare_worker

    prepare_worker(cores())
    loaded = read_model(folder)
    if targets is not None:
        loaded = loaded.select(targets.split(","))
    out = Output()
    done: Done = predict_file(loaded.to(device), job, out.say, _progress(out))
    out.say(
        f"written: {output}, {done.predicted:,} of {done.molecules:,} molecules predicted, "
        f"{done.flagged:,} of them with flags, {done.seconds:.1f} s"
    )


def _progress(out: Output) -> Progress:
    """Return a function that prints a line every ten seconds."""
    import time

    said = time.monotonic()

    def progress(advance: Advance) -> None:
        nonlocal said
        if time.monotonic() - said > _SILENT_SECONDS:
            said = time.monotonic()
            out.say(advance_text(advance))

    return progress


def advance_text(advance: Advance) -> str:
    """Return how far a prediction is: ``predicted 24,000 of about 96,000 molecules, …``."""
    from hpsearch.report.text import duration

    of = "" if advance.total is None else f" of about {advance.total:,}"
    text = f"predicted {advance.molecules:,}{of} molecules, {advance.speed:,.0f} per second"
    seconds = advance.seconds_left
    return f"{text}, about {duration(seconds)} left" if seconds else text


def _unit(text: str) -> tuple[str, str]:
    """Return the target and the unit of ``--unit``."""
    name, _, unit = text.partition("=")
    if not name or not unit:
        raise InputError(f"--unit must be TARGET=UNIT, such as U0=kcal/mol, got '{one_line(text)}'")
    return name, unit
