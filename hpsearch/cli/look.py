"""The commands that read a store: status, verify, replay, report, export-best, dashboard."""

from __future__ import annotations

import functools
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Literal

import click

from hpsearch.api.inputs import again_command, require_store, require_writable
from hpsearch.cli.options import (
    complete_choice,
    complete_experiment,
    example,
    output_folder_option,
    pages_option,
    parse_formats,
    storage_option,
)
from hpsearch.cli.output import Output, print_json, say_on_stderr, terminal_columns
from hpsearch.system.errors import HpsearchError, InputError


@click.command(epilog=example("hpsearch status --json"))
@click.argument("name", required=False, shell_complete=complete_experiment("study", "ablation"))
@storage_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
@click.option(
    "--traceback",
    "with_traceback",
    is_flag=True,
    help="Print the traceback of the first failed run; --json has all tracebacks.",
)
def status(name: str | None, storage: str | None, as_json: bool, with_traceback: bool) -> None:
    """Show the progress of a study or an ablation.

    NAME is a study or an ablation; the default is the one launched last. During a launch, the
    command shows the same as the launch: counts, the time left, the best trial, and the running
    runs with epoch, loss, seconds and device.
    """
    if as_json and with_traceback:
        raise InputError("--traceback must come without --json, which has all tracebacks")
    url = require_store(storage)
    from hpsearch.results.status import read_status
    from hpsearch.store import StoreReader
    from hpsearch.terminal.status import status_lines, traceback_lines

    with StoreReader.open(url, say=say_on_stderr) as store:
        experiment = read_status(store, name, complete=as_json)
        if as_json:
            print_json(experiment.to_dict())
            return
        if with_traceback:
            lines = traceback_lines(experiment)
        else:
            again = again_command(f"status {shlex.quote(experiment.name)}", storage)
            lines = status_lines(experiment, store.label, again, terminal_columns())
        for line in lines:
            click.echo(line)


@click.command(epilog=example("hpsearch verify"))
@click.argument("name", required=False, shell_complete=complete_experiment("study", "ablation"))
@storage_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
def verify(name: str | None, storage: str | None, as_json: bool) -> None:
    """Check that all stored rows are as recorded.

    It checks that the right number of trials is finished, that none is lost or counted twice, that
    every trial has ended, and that all numbers agree with each other and with their digests. Each
    breach is printed on a line; the exit code is then 1. NAME is a study or an ablation; the
    default is the one launched last. NAME may also be the folder of a model or a file of
    predictions. Then every link from the molecules to it is made again and compared.
    """
    if name is not None and _is_model_or_predictions(Path(name)):
        _verify_path(Path(name), storage, as_json)
        return
    url = require_store(storage)
    from dataclasses import asdict

    from hpsearch.ablation.verify import AblationVerification, verify_ablation
    from hpsearch.search.verify import Verification
    from hpsearch.search.verify import verify as verify_study
    from hpsearch.store import StoreReader

    checked: Verification | AblationVerification
    with StoreReader.open(url, say=say_on_stderr) as store:
        experiment = store.find(name)
        check = verify_study if experiment.kind == "study" else verify_ablation
        checked = check(store, experiment.name)
        what = f"{experiment.kind} {experiment.name} in {store.label}: {checked}"
        if as_json:
            print_json(asdict(checked))
        else:
            for breach in checked.breaches:
                click.echo(str(breach))
            for breach in checked.in_progress:
                click.echo(f"in progress: {breach}")
        if checked.breaches:
            raise HpsearchError(what)
        if not as_json:
            click.echo(what)


def _is_model_or_predictions(path: Path) -> bool:
    try:
        known = path.is_dir() or path.is_file()
    except OSError:  # a name too long for a path
        return False
    if not known:
        return False
    from hpsearch.models.audit import is_checked_here

    return is_checked_here(path)


def _verify_path(path: Path, storage: str | None, as_json: bool) -> None:
    """Check a model or predictions, and print its links."""
    from dataclasses import asdict

    from hpsearch.models.audit import check_path
    from hpsearch.store import StoreReader

    out = Output.beside_json(as_json)
    store: StoreReader | None = None
    with suppress(InputError):
        store = StoreReader.open(require_store(storage), say=say_on_stderr)
    try:
        links = check_path(path, store, out.say)
    finally:
        if store is not None:
            store.close()
    broken = [link for link in links if link.state == "broken"]
    if as_json:
        print_json({"path": str(path), "links": [asdict(link) for link in links]})
    else:
        for link in links:
            out.say(f"{link.state}: {link.name} {link.value}: {link.detail}".replace(" :", ":"))
    if broken:
        raise HpsearchError(f"{path}: the first broken link is {broken[0].name}")


@click.command(epilog=example("hpsearch replay quick --plan 2,4/2"))
@click.argument("name", required=False, shell_complete=complete_experiment("study"))
@storage_option
@click.option(
    "--curves",
    "file",
    metavar="FILE",
    help="Replay the curves of a file instead of a study: a curves.json that -o wrote, or the "
    "shipped table3_log.",
)
@click.option(
    "--plan",
    "texts",
    multiple=True,
    metavar="EPOCHS/REDUCTION",
    help="Another plan, such as 1,3/3: pause after the epochs 1 and 3, one of 3 goes on.",
)
@click.option(
    "--workers",
    multiple=True,
    type=int,
    default=(1, 16),
    show_default=True,
    metavar="N",
    help="Number of trials at a time; several are allowed.",
)
@click.option(
    "--replays",
    type=int,
    default=200,
    show_default=True,
    metavar="N",
    help="Number of replays of each plan.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Also write a page with pictures, the JSON object and the curves into this folder.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
def replay(
    name: str | None,
    storage: str | None,
    file: str | None,
    texts: tuple[str, ...],
    workers: tuple[int, ...],
    replays: int,
    output: Path | None,
    as_json: bool,
) -> None:
    """Say what early stopping would have saved, and lost.

    It plays plans of early stopping on a study that was trained to its end. It says how many epochs
    each plan would have trained, and how much worse its winner would have been. Nothing is trained.
    Each replay draws the trials again, with replacement, in a random order. NAME is a study; the
    default is the one launched last.
    """
    for what, values in (("--workers", workers), ("--replays", (replays,))):
        if min(values) < 1:
            raise InputError(f"{what} must be at least 1, got {min(values)}")
    if file is not None and (name is not None or storage is not None):
        raise InputError("--curves must come without a study or --storage: it names a file")
    from hpsearch.results.curves import read_curves, recorded_curves
    from hpsearch.results.replay import Replay, parse_plan
    from hpsearch.store import StoreReader
    from hpsearch.system.installation import find_curves
    from hpsearch.terminal.replay import replay_lines

    out = Output.beside_json(as_json)
    own = [parse_plan(text) for text in texts]
    if output is not None:
        require_writable(output)
    if file is not None:
        curves = read_curves(find_curves(file))
    else:
        with StoreReader.open(require_store(storage), say=say_on_stderr) as store:
            curves = recorded_curves(store, name)
    found = Replay.of(curves, own, workers, replays)
    if as_json:
        print_json(found.to_dict())
    for line in () if as_json else replay_lines(found, terminal_columns()):
        out.say(line)
    if output is not None:
        from hpsearch.pages.replay import documents
        from hpsearch.report.write import write_files

        for path in write_files(output, documents(found)):
            out.say(f"written: {path}")


@click.command(epilog=example("hpsearch dashboard --port 8080"))
@storage_option
@click.option(
    "--host", metavar="NAME", default="127.0.0.1", show_default=True, help="Address to listen on."
)
@click.option(
    "--port", type=int, metavar="N", default=8080, show_default=True, help="Port to listen on."
)
@click.option("--read-only", is_flag=True, help="Refuse all requests that change something.")
@pages_option
def dashboard(
    storage: str | None, host: str, port: int, read_only: bool, own_pages: Path | None
) -> None:
    """Serve the Optuna dashboard and more pages on the store.

    The pages are under /pages. Without --read-only, everyone who can open the dashboard can create,
    rename and delete studies with their trials, end running trials with any value, and write notes
    and attributes.

    Without a token, only this machine can open it. To allow other machines, set the environment
    variable HPSEARCH_TOKEN to a token of at least 16 characters and choose a --host. Then every
    browser must open /?token=TOKEN once (or send the header Authorization: Bearer TOKEN). The
    connection is not encrypted: use a proxy with TLS, or ssh -L.
    """
    from hpsearch.pages.access import check_host, token_from_environment

    token = token_from_environment()
    check_host(host, port, token)
    url = require_store(storage)
    from hpsearch.pages.server import serve
    from hpsearch.store import Store, StoreReader

    opened = StoreReader.open if read_only else Store.open
    # Ctrl-C is the normal way to stop the server.
    with opened(url) as store, suppress(KeyboardInterrupt):
        serve(store, host, port, click.echo, token=token, read_only=read_only, own_pages=own_pages)


@click.command("export-best", epilog=example("hpsearch export-best -o best.yaml"))
@click.argument("study", required=False, shell_complete=complete_experiment("study"))
@storage_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The YAML file to write.",
)
@click.option(
    "--select-on",
    type=click.Choice(["validation", "test"]),
    default="validation",
    show_default=True,
    help="test: choose as the paper did; then the test errors are too low.",
)
def export_best(
    study: str | None,
    storage: str | None,
    output: Path,
    select_on: Literal["validation", "test"],
) -> None:
    """Write a study's best configuration to a YAML file.

    The file also records its origin: study, trial, errors, hashes of the data and the split. STUDY
    defaults to the study launched last.
    """
    url = require_store(storage)
    from hpsearch.report.text import compared_loss
    from hpsearch.search.study import Study
    from hpsearch.search.verify import require_sound
    from hpsearch.store import StoreReader

    with StoreReader.open(url, say=say_on_stderr) as store:
        winner = Study.open(store, study).winner(select_on=select_on)
        origin = winner.provenance
        assert origin is not None
        require_sound(store, origin.study, origin.trial)
    winner.write(output)
    click.echo(f"trial {origin.trial} of {origin.study}, chosen on {select_on} molecules: {output}")
    loss = compared_loss(origin.validation_loss, origin.zero_output_loss)
    click.echo(f"validation loss {loss}")
    file = shlex.quote(str(output))
    click.echo(f"next: {again_command('ablate', storage)} {file}, or hpsearch train {file}")


@click.command(epilog=example("hpsearch report -o report/ --format html,csv"))
@click.argument("name", required=False, shell_complete=complete_experiment("study", "ablation"))
@storage_option
@output_folder_option
@click.option(
    "--format",
    "formats",
    default="html,csv,md,latex",
    callback=parse_formats,
    shell_complete=complete_choice("FORMATS", several=True),
    show_default=True,
    metavar="NAMES",
    help="Formats, separated by commas.",
)
@click.option(
    "--distinct-targets",
    is_flag=True,
    help="Count U0, U, H and G as one target in the tests over targets.",
)
@pages_option
def report(
    name: str | None,
    storage: str | None,
    output: Path,
    formats: tuple[str, ...],
    distinct_targets: bool,
    own_pages: Path | None,
) -> None:
    """Write a report: Table 1, learning curves, the trials.

    NAME is a study or an ablation; the default is the one launched last.
    """
    url = require_store(storage)
    require_writable(output)
    from hpsearch.pages.figures import draw_pages
    from hpsearch.report.write import write_report
    from hpsearch.store import StoreReader
    from hpsearch.terminal.lines import section_lines

    pages = functools.partial(draw_pages, own=own_pages)
    with StoreReader.open(url, say=say_on_stderr) as store:
        written = write_report(store, output, name, formats, pages, distinct=distinct_targets)
    for section in written.table1:
        for line in section_lines(section, terminal_columns()):
            click.echo(line)
        click.echo()
    for path in written.paths:
        click.echo(str(path))
    for problem in written.problems:
        click.echo(f"page left out: {problem}", err=True)
