"""``hpsearch doctor``: check this machine."""

from __future__ import annotations

from pathlib import Path

import click

from hpsearch.api.inputs import runs_folder, url_of
from hpsearch.cli.options import example, storage_option
from hpsearch.cli.output import print_json, terminal_columns
from hpsearch.system.errors import HpsearchError


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
    """Check this machine and say how to fix what is wrong.

    It checks cores, memory, GPUs, the molecules, the store, disks and versions. The exit code is 1
    if a launch would fail.
    """
    url, folder = url_of(storage), runs_folder(storage, runs)

    from hpsearch.cli.examination import examine
    from hpsearch.terminal.columns import hanging

    findings = []
    for finding in examine(url, folder):
        findings.append(finding)
        if not as_json:
            mark = {"good": "ok", "warning": "warn", "bad": "BAD"}[finding.state]
            said = [(f"{mark:5}{finding.what:13}", finding.said)]
            said += [(f"{'':18}-> ", finding.fix)] if finding.fix else []
            for start, text in said:
                for line in hanging(start, text, terminal_columns()):
                    click.echo(line)
    if as_json:
        print_json([finding.to_dict() for finding in findings])
    wrong = [finding.what for finding in findings if finding.state == "bad"]
    if wrong:
        raise HpsearchError(f"a launch would fail: {', '.join(wrong)}")
