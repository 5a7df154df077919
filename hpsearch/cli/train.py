"""The commands without a store: train, dipoles, data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hpsearch.cli.drive import make_progress
from hpsearch.cli.inputs import load_molecules, read_data, require_writable
from hpsearch.cli.options import (
    at_least,
    complete_export,
    data_option,
    epochs_option,
    example,
    output_folder_option,
    schedule_option,
    size_options,
    targets_option,
)
from hpsearch.cli.output import Output, print_json
from hpsearch.errors import InputError


def _check_device(context: click.Context, option: click.Parameter, name: str) -> str:
    """Callback that checks the device's name without torch, whose import takes seconds."""
    if name.partition(":")[0] in ("cpu", "cuda"):
        return name
    raise InputError(f"the device must be cpu or cuda (cuda:1 for the second GPU), got '{name}'")


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
@click.option(
    "--device",
    callback=_check_device,
    metavar="NAME",
    default="cpu",
    show_default=True,
    help="cpu or cuda.",
)
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
    training runs in this process, on all CPU cores. The same command again resumes it. The weights
    of the best epoch are in the folder, as safetensors.
    """
    from hpsearch.config.export import find_configuration
    from hpsearch.config.run import Overrides

    winner = find_configuration(str(file))
    if data is not None:
        winner = winner.with_data(read_data(data))
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
    progress = make_progress(out, "run", alone, compares=False)
    with progress:
        progress.started(output.name, training.facts)
        while not training.finished:
            progress.epoch(output.name, training.run_epoch())
        progress.finished(output.name, training.complete(evaluate_test=True))
    [weights] = output.glob(f"{BEST}-{training.best_epoch:05d}-*")
    out.say(f"weights: {weights}")


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
    """Prepare and describe the molecules."""


@data.command(epilog=example("hpsearch data prepare"))
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
def prepare(archive: Path | None, uncharacterized: Path | None) -> None:
    """Create the cache of QM9 that all runs on this machine share."""
    if archive is None and uncharacterized is not None:
        raise InputError(
            "--uncharacterized must come with --archive, got it alone; the package already leaves "
            "these molecules out"
        )
    from hpsearch.data import qm9

    if archive is None:
        molecules = qm9.load(say=click.echo)
    else:
        molecules = qm9.prepare(archive, uncharacterized, say=click.echo)
    click.echo(
        f"{len(molecules):,} molecules in {qm9.cache_directory()}, hash {molecules.content_hash}"
    )


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
    """Print the molecules' counts, split, statistics, naive errors."""
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
