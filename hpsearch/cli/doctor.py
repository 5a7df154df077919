"""``hpsearch doctor``: check this machine."""

from __future__ import annotations

from pathlib import Path

import click

from hpsearch.cli.inputs import runs_folder, url_of
from hpsearch.cli.options import example, storage_option
from hpsearch.cli.output import print_json, terminal_columns
from hpsearch.errors import HpsearchError


@click.command(epilog=example("hpsearch doctor"))
@storage_option
@click.option(
    "--runs",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Folder of the checkpoints; default as for launch.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON list, for scripts.")
def doctor(storage: str | None, runs: Path | None, as_json: bool) -> None:
    """Say what this machine can do and what is wrong.

    Each trouble comes with its mend. Looked at are cores, memory, GPUs, the molecules, the store,
    disks and versions. The exit code is 1 where something keeps a launch from working.
    """
    url, folder = url_of(storage), runs_folder(storage, runs)

    from hpsearch.doctor import examine
    from hpsearch.terminal.columns import hanging

    found = []
    for finding in examine(url, folder):
        found.append(finding)
        if not as_json:
            mark = {"good": "ok", "warning": "mind", "bad": "BAD"}[finding.state]
            said = [(f"{mark:5}{finding.what:13}", finding.said)]
            said += [(f"{'':18}-> ", finding.fix)] if finding.fix else []
            for start, text in said:
                for line in hanging(start, text, terminal_columns()):
                    click.echo(line)
    if as_json:
        print_json([finding.to_dict() for finding in found])
    wrong = [finding.what for finding in found if finding.state == "bad"]
    if wrong:
        raise HpsearchError(f"a launch would fail: {', '.join(wrong)}")
