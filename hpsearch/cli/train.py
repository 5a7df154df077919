"""The commands without a store: train, dipoles, data."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpsearch.api.inputs import load_molecules, require_writable
from hpsearch.cli.options import (
    at_least,
    complete_export,
    complete_space,
    data_option,
    device_option,
    epochs_option,
    example,
    output_folder_option,
    schedule_option,
    size_options,
    targets_option,
)
from hpsearch.cli.output import Output, make_voice, print_json, terminal_columns
from hpsearch.system.errors import InputError, one_line

if TYPE_CHECKING:
    from hpsearch.config.run import DataConfig
    from hpsearch.runs.training import Training


@click.command(epilog=example("hpsearch train best.yaml --targets U0 -o u0/"))
@click.argument("file", type=click.Path(path_type=Path), shell_complete=complete_export)
@targets_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Folder of the weights and checkpoints; default: FILE's name with -train.",
)
@epochs_option
@schedule_option
@data_option
@size_options
@device_option
def train(
    file: Path,
    targets: tuple[str, ...],
    output: Path | None,
    data: Path | None,
    device: str,
    **overrides: Any,
) -> None:
    """Train the configuration in FILE unchanged, and test it once.

    FILE comes from export-best, or is the shipped paper_l1net. Its targets, epochs and sizes are
    used unless an option replaces them. An export has the number of epochs of its search. The
    training runs in this process, on all CPU cores. The same command again resumes it. At the end
    the folder is a model: see hpsearch predict.
    """
    from hpsearch.config.export import find_configuration
    from hpsearch.config.run import DataConfig, Overrides

    winner = find_configuration(str(file))
    if data is not None:
        winner = winner.with_data(DataConfig.read(data))
    config = Overrides(**overrides).apply_to_run(winner.config, targets)
    output = output or Path(f"{file.stem}-train")
    require_writable(output)
    molecules = load_molecules(config.data, click.echo)
    resolved = config.data.resolved(len(molecules), molecules.elements)
    config = config.model_copy(update={"data": resolved})
    from hpsearch.ablation.molecules import checked_split

    split = checked_split(molecules, winner, config.data)
    from hpsearch.system.hardware import cores
    from hpsearch.system.process import prepare_worker

    prepare_worker(cores())
    from hpsearch.cost.estimate import TimeLeft
    from hpsearch.report.text import ZERO_OUTPUT_LEGEND
    from hpsearch.runs.checkpoint import BEST
    from hpsearch.runs.training import Training

    training = Training.begin(config, molecules, output.absolute(), device)
    out = Output.with_table()
    out.say(
        f"{', '.join(config.targets)} for at most {config.training.epochs} epochs; "
        f"{len(split.train):,} training, {len(split.validation):,} validation, "
        f"{len(split.test):,} test molecules"
    )
    out.say(ZERO_OUTPUT_LEGEND)
    alone = TimeLeft([(output.name, config.training.epochs, 1.0)])
    known = config.data.all_targets
    progress = make_voice(out).make_progress("run", alone, compares=False, targets=known)
    with progress:
        progress.started(output.name, training.facts)
        while not training.finished:
            progress.epoch(output.name, training.run_epoch())
        progress.finished(output.name, training.complete(evaluate_test=True))
    [weights] = output.glob(f"{BEST}-{training.best_epoch:05d}-*")
    out.say(f"weights: {weights}")
    _leave_model(output, training, out)


def _leave_model(output: Path, training: Training, out: Output) -> None:
    """Make a model of the trained weights in the same folder, unless it is there already."""
    from hpsearch.models.build import KeptRun, build_model
    from hpsearch.models.description import FILE_NAME, Origin
    from hpsearch.models.folder import read_description, write_model
    from hpsearch.terminal.models import model_lines

    name, epoch = output.resolve().name, training.best_epoch
    fingerprint = training.config.fingerprint
    origin = Origin(kind="train", experiment=name, key=name, fingerprint=fingerprint, epoch=epoch)
    description = read_description(output) if (output / FILE_NAME).exists() else None
    known = None if description is None else description.networks[0].origin
    if (
        description is None
        or known is None
        or (known.fingerprint, known.epoch)
        != (
            fingerprint,
            epoch,
        )
    ):
        loaded = training.evaluator.molecules, training.split
        model = build_model(name, [KeptRun(origin, output)], out.say, loaded)
        description = write_model(model, output)
    for line in model_lines(description, terminal_columns()):
        out.say(line)
    out.say(f"next: hpsearch predict {shlex.quote(str(output))} FILE -o predictions.csv")


@click.command(epilog=example("hpsearch dipoles -o dipoles/"))
@output_folder_option
@click.option(
    "--steps",
    type=int,
    callback=at_least(1),
    metavar="N",
    default=800,
    show_default=True,
    help="Training steps per network.",
)
@click.option(
    "--seeds",
    type=int,
    callback=at_least(1),
    metavar="N",
    default=3,
    show_default=True,
    help="Trainings per network, with different seeds.",
)
def dipoles(output: Path, steps: int, seeds: int) -> None:
    """Show on two dipoles what a network without vectors misses.

    It tests the paper's argument (Figure 2, Eq. 4): networks with and without rotating features
    estimate |p1 + p2|², first from two given vectors, then from four point charges. The errors are
    printed in units of Eq. 4's bound, and written as HTML, SVG, Markdown and CSV. The command takes
    minutes. It needs no molecules and no store.
    """
    from hpsearch.system.process import prepare_worker

    require_writable(output)
    # The networks are too small for a second thread.
    prepare_worker(1)
    from hpsearch.dipoles import documents, run, table
    from hpsearch.report.render import plain
    from hpsearch.report.write import write_files

    click.echo("test MSE after training, in units of the bound:")
    experiment = run(steps, seeds, click.echo)
    click.echo(f"\n{plain(table(experiment))}")
    for path in write_files(output, documents(experiment)):
        click.echo(str(path))


@click.group()
def data() -> None:
    """Check, prepare and describe the molecules."""


@data.command(epilog=example("hpsearch data check mine.yaml -o check/"))
@click.argument("file", shell_complete=complete_space)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Also write a page with pictures, and the JSON object, into this folder.",
)
@size_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
def check(file: str, output: Path | None, as_json: bool, **sizes: Any) -> None:
    """Check the molecules of FILE before anything is trained.

    FILE is a declaration of molecules, a search space or an exported configuration. The check says
    what was found for each target, whether values and references are plausible for their units,
    which molecules occur twice or on both sides of the split, and which errors a network must beat.
    Give the sizes that the launch will have. Without own molecules it checks QM9.
    """
    from hpsearch.config.run import Overrides, option
    from hpsearch.data import own

    out = Output.beside_json(as_json)
    subject = _read_subject(file)
    data = Overrides(**sizes).apply(subject.data)
    if output is not None:
        require_writable(output)
    molecules = own.load(data, out.say)
    from hpsearch.data.check import DataCheck
    from hpsearch.terminal.molecules import check_lines

    config = data.resolved(len(molecules), molecules.elements)
    checked = DataCheck.of(molecules, config, subject.radii)
    if as_json:
        print_json(checked.to_dict())
    else:
        for line in check_lines(checked, terminal_columns()):
            out.say(line)
    if output is not None:
        from hpsearch.pages.molecules import documents
        from hpsearch.report.write import write_files

        for path in write_files(output, documents(checked)):
            out.say(f"written: {path}")
    given = [f" {option(name)} {size}" for name, size in sizes.items() if size is not None]
    out.say(f"next: hpsearch {subject.next}{''.join(given)}")


@dataclass(frozen=True)
class _Subject:
    """What is checked: the declaration, radii in Å for neighbours, and the next command."""

    data: DataConfig
    radii: Sequence[float]
    next: str


def _read_subject(text: str) -> _Subject:
    """Read the file that ``text`` names: a path, or the name of a shipped file.

    Raises:
        InputError: the file is none of the three kinds, or is not valid.
    """
    from hpsearch.config.run import DataConfig
    from hpsearch.config.space import SearchSpace
    from hpsearch.config.yaml_file import read_yaml
    from hpsearch.data.check import RADII_ANGSTROM
    from hpsearch.system.installation import find_space

    try:
        path = find_space(text)
    except InputError:
        # Also a folder, or a file that is missing: the error should not ask for a search space.
        path = Path(text)
    content, name = read_yaml(path).data, shlex.quote(text)
    field = "radial_maximum_angstrom"
    if "parameters" in content:
        space = SearchSpace.load(path)
        parameter = space.parameters.get(field)
        ends = parameter.ends.values() if parameter else [space.network[field]]
        radii = sorted({float(end) for end in ends})
        return _Subject(space.data, radii, f"launch {name}")
    if "config" in content:
        from hpsearch.config.export import Winner

        config = Winner.read(path).config
        return _Subject(config.data, [config.network.radial_maximum_angstrom], f"train {name}")
    return _Subject(DataConfig.read(path), RADII_ANGSTROM, f"launch quick --data {name}")


@data.command(epilog=example("hpsearch data prepare mine.yaml"))
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option(
    "--archive",
    type=click.Path(path_type=Path),
    help="QM9's original archive (dsgdb9nsd.xyz.tar.bz2) or a folder of its files; default: the "
    "installed package.",
)
@click.option(
    "--uncharacterized",
    type=click.Path(path_type=Path),
    help="QM9's uncharacterized.txt; its molecules are left out.",
)
def prepare(file: Path | None, archive: Path | None, uncharacterized: Path | None) -> None:
    """Convert the molecules into the cache of this machine.

    FILE has a data section that declares own molecules; without it, the molecules are QM9. Every
    command converts what is missing, so this is only needed to do it at another time.
    """
    if archive is None and uncharacterized is not None:
        raise InputError(
            "--uncharacterized must come with --archive, got it alone; the package already leaves "
            "these molecules out"
        )
    if archive is not None and file is not None:
        raise InputError(
            f"--archive is QM9's and must be given without a file, got '{one_line(str(file))}'"
        )
    from hpsearch.config.run import DataConfig
    from hpsearch.data import own, qm9

    config = DataConfig() if file is None else DataConfig.read(file)
    if archive is None:
        molecules = load_molecules(config, click.echo)
    else:
        molecules = qm9.prepare(archive, uncharacterized, say=click.echo)
    folder = own.cache_folder(config) if config.is_own else qm9.cache_directory()
    click.echo(f"{len(molecules):,} molecules in {folder}, hash {molecules.content_hash}")


@data.command(epilog=example("hpsearch data describe"))
@size_options
@click.option(
    "--split-seed",
    type=int,
    callback=at_least(0),
    metavar="N",
    default=0,
    show_default=True,
    help="Seed of the random split.",
)
@click.option(
    "-o",
    "--output",
    "split_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also write the split as JSON, for a space's split_file.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
def describe(split_seed: int, split_file: Path | None, as_json: bool, **sizes: Any) -> None:
    """Print QM9's counts, split and statistics; see data check.

    It can also write the split as a file. Everything else about any molecules is in data check.
    """
    from hpsearch.config.run import DataConfig
    from hpsearch.data.split import make_split, save_split

    out = Output.beside_json(as_json)
    molecules = load_molecules(DataConfig(), out.say)
    given = {name: size for name, size in sizes.items() if size is not None}
    data = DataConfig(split_seed=split_seed, **given)
    split = make_split(molecules, data)
    if split_file is not None:
        save_split(split, molecules, split_file)
    from hpsearch.terminal.lines import molecule_facts, molecule_lines

    if as_json:
        print_json(molecule_facts(molecules, data))
        return
    for line in molecule_lines(molecules, data):
        out.say_folded(line)
    if split_file is not None:
        out.say(
            f"\nwritten: {split_file}; to use it, set split_file in the data section of a space"
        )
