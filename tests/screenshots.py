"""Pictures for the documentation, of a real search as it runs and afterwards: `make screenshots`.

A launch of the quick space on a pseudo-terminal, the dashboard beside it in a browser, a small
ablation of the winner and the report that comes out, as PNG files of docs/images/.
"""

from __future__ import annotations

import argparse
import html
import os
import re
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text
from support.browsers import started_browser
from support.commands import HPSEARCH, Process, environment, free_port, get
from support.terminals import Terminal

from hpsearch.store import Store

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
SIZE = {"width": 1180, "height": 780}
SCALES = (0.8, 0.7, 0.6)
"""Of a picture to the page in it; the first that is small enough."""

COLUMNS = 120
COLOURS = {"default": None, "brown": "yellow"}
"""What pyte calls other than rich."""

LARGEST = 150_000
"""Bytes of a picture: they are kept in the repository."""

OF_STUDY = {"learning_curves": "dark", "parallel": "light", "importance": "light"}
OF_STUDY |= {"features": "dark"}
"""Pages, and whether they are shown as on a dark screen."""

ABLATION = (
    *("--targets", "mu,U0", "--variants", "L1Net,L0Net,L0NetDeep", "--repeats", "3"),
    *("--epochs", "6", "--train-size", "500", "--validation-size", "100", "--test-size", "500"),
)


def drawn(screen: pyte.Screen, names: dict[str, str]) -> Text:
    """The screen with its colours; what is a key of ``names`` is called otherwise in it."""
    whole = Text()
    for row in range(screen.lines):
        line = Text()
        for column in range(screen.columns):
            seen = screen.buffer[row][column]
            line.append(seen.data, Style(color=COLOURS.get(seen.fg, seen.fg), bold=seen.bold))
        line.rstrip()
        for name, other in names.items():
            if found := re.search(rf"{re.escape(name)}\b", line.plain):
                line = Text.assemble(line[: found.start()], other, line[found.end() :])
        whole.append_text(line).append("\n")
    whole.rstrip()
    return whole


class Camera:
    """Takes pictures of what a browser shows."""

    def __init__(self, browser: Any) -> None:
        """Of pages in ``browser``."""
        self._browser = browser

    def shoot(
        self, address: str, name: str, ready: str, scheme: str = "light", part: str | None = None
    ) -> None:
        """A picture of the page at ``address``, or of its ``part``, once ``ready`` is in it."""
        path = IMAGES / f"{name}.png"
        for scale in SCALES:
            page = self._browser.new_page(
                viewport=SIZE, color_scheme=scheme, device_scale_factor=scale
            )
            page.goto(address)
            page.wait_for_selector(ready)
            page.wait_for_timeout(3000)  # what fades in has done so
            (page if part is None else page.locator(part)).screenshot(path=path)
            page.close()
            if path.stat().st_size <= LARGEST:
                return
        raise SystemExit(f"{path.name} must have at most {LARGEST:,} bytes")

    def shoot_terminal(self, terminal: Terminal, folder: Path, name: str) -> None:
        """A picture of the terminal's screen, without the names of this machine and its folders."""
        text = drawn(terminal.screen, {str(folder): "~/molecules", socket.gethostname(): "laptop"})
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            console = Console(record=True, width=COLUMNS, file=nowhere)
            console.print(text)
        title = html.escape("hpsearch launch search_spaces/quick.yaml")
        page = self._browser.new_page(viewport={"width": 960, "height": 600})
        page.set_content(f"<body style='margin: 0'>{console.export_svg(title=title)}")
        page.wait_for_timeout(500)
        clip = page.locator("svg").bounding_box()
        page.screenshot(path=IMAGES / f"{name}.png", clip=clip)
        page.close()


def watch(camera: Camera, folder: Path, port: int) -> None:
    """Pictures of a launch while it runs, and wait for its end."""
    terminal = Terminal(folder, COLUMNS, HPSEARCH, "launch", "quick.yaml")
    try:
        half = "5 of 9 done"
        assert terminal.until(lambda: terminal.shows(half) and terminal.shows("/7 "), 1800)
        terminal.until(lambda: False, 3)  # the table has caught up with the line above it
        camera.shoot_terminal(terminal, folder, "launch")
        address = f"http://127.0.0.1:{port}/dashboard/studies/1"
        camera.shoot(address, "optuna", "text=Intermediate")
        terminal.until(lambda: False, 1800)
        assert terminal.process.wait(60) == 0
    finally:
        terminal.close()


def replay(camera: Camera, folder: Path) -> None:
    """Pictures of the shipped curves, replayed, for docs/search.md."""
    command = [HPSEARCH, "replay", "--curves", "table3_log", "-o", "replay"]
    subprocess.run(command, cwd=folder, env=environment(), check=True)
    address = (folder / "replay" / "replay.html").as_uri()
    for name in ("plans", "curves"):
        camera.shoot(address, f"replay_{name}", f"#{name} .main-svg", part=f"#{name}")


def main() -> None:
    """Search, look, ablate, write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="of a search that has been made already")
    parser.add_argument("--replay", action="store_true", help="only the pictures of the replay")
    given = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="hs", dir="/tmp"))
    if given.folder is None:
        Store.create(f"sqlite:///{folder}/storage/hpsearch.db").close()
    if given.replay:
        with started_browser() as browser:
            replay(Camera(browser), folder)
        return
    port = free_port()
    dashboard = (HPSEARCH, "dashboard", "--port", str(port))
    try:
        with started_browser() as browser, Process(folder, *dashboard, temporary=folder):
            camera = Camera(browser)
            get(port, "/pages")
            replay(camera, folder)
            if given.folder is None:
                watch(camera, folder, port)
            pages = f"http://127.0.0.1:{port}/pages"
            for name, scheme in OF_STUDY.items():
                camera.shoot(f"{pages}/{name}?study=quick", name, "#figure .main-svg", scheme)
            for words in (
                ("export-best", "-o", "best.yaml"),
                ("ablate", "best.yaml", "--name", "vectors", *ABLATION),
                ("report", "-o", "report"),
            ):
                subprocess.run([HPSEARCH, *words], cwd=folder, env=environment(), check=True)
            camera.shoot(f"{pages}/ablation?ablation=vectors", "ablation", "#figure .main-svg")
            camera.shoot((folder / "report" / "report.html").as_uri(), "report", "table")
    finally:
        if given.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
