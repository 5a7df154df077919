"""Pictures for the documentation, of a real search as it runs and afterwards: `make screenshots`.

A launch of the quick space on a pseudo-terminal, the dashboard beside it in a browser, and the
report that comes out, as PNG and (the terminal) SVG files of docs/images/.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from conftest import started_browser
from rich.console import Console
from rich.text import Text
from test_board import Terminal
from test_cli import HPSEARCH, Process, free_port, get

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
SIZE = {"width": 1180, "height": 700}
PAGES = ("learning_curves", "parallel", "importance", "features")
COLUMNS = 100


def picture_of(terminal: Terminal) -> str:
    """What stands on the screen, as SVG."""
    console = Console(record=True, width=COLUMNS, file=Path(os.devnull).open("w"))  # noqa: SIM115
    lines = [line.rstrip() for line in terminal.screen.display]
    console.print(Text("\n".join(lines).rstrip()))
    return console.export_svg(title="hpsearch launch search_spaces/quick.yaml")


def shoot(context: Any, address: str, name: str, ready: str) -> None:
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector(ready)
    page.wait_for_timeout(2500)  # what fades in has done so
    page.screenshot(path=IMAGES / f"{name}.png")
    page.close()


def main() -> None:
    """Search, look, write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10)
    given = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="hs", dir="/tmp"))
    port = free_port()
    command = (HPSEARCH, "launch", "quick.yaml", "--trials", str(given.trials))
    terminal = Terminal(folder, COLUMNS, *command)
    try:
        half = f"{given.trials // 2} of {given.trials} done"
        assert terminal.until(lambda: terminal.shows(half) and terminal.shows("/7 "), 900)
        (IMAGES / "launch.svg").write_text(picture_of(terminal))
        dashboard = Process(folder, HPSEARCH, "dashboard", "--port", str(port), temporary=folder)
        with dashboard, started_browser() as browser:
            context = browser.new_context(viewport=SIZE)
            get(port, "/pages")
            address = f"http://127.0.0.1:{port}"
            shoot(context, f"{address}/dashboard/studies/1", "optuna", "text=Intermediate")
            terminal.until(lambda: False, 900)
            assert terminal.process.wait(60) == 0
            for name in PAGES:
                shoot(context, f"{address}/pages/{name}?name=quick", name, "#figure .main-svg")
            subprocess.run([HPSEARCH, "report", "-o", "report"], cwd=folder, check=True)
            report = (folder / "report" / "report.html").as_uri()
            shoot(context, report, "report", "table")
    finally:
        terminal.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
