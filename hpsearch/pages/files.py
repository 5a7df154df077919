"""Finds the pages' files, in ``dashboards/`` and in a folder of the user's, and runs them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from hpsearch.pages.old_names import keep_old_names
from hpsearch.pages.page import KINDS, Page, PageError, in_one_line
from hpsearch.system import installation


def folder() -> Path:
    """Where the pages are, in the checkout or in the wheel."""
    return installation.folder("dashboards")


def page_files(own: Path | None = None) -> list[Path]:
    """The pages' files by name; a leading underscore or dot hides one.

    Args:
        own: a folder of the user's pages, beside the shipped ones; of two of one name its own is
            the page.
    """
    folders = (folder(),) if own is None else (folder(), own)
    files = {path.name: path for each in folders for path in each.glob("*.py")}
    return [files[name] for name in sorted(files) if not name.startswith(("_", "."))]


def load_page(path: Path) -> Page:
    """Runs the file at ``path`` and takes its title and its figure.

    Raises:
        PageError: the file fails, or lacks ``TITLE`` or ``figure``.
    """
    module = _run(path)
    title, function = getattr(module, "TITLE", None), getattr(module, "figure", None)
    if not isinstance(title, str):
        raise PageError(f"{path}: a page needs a text TITLE, e.g. TITLE = 'Learning curves'")
    if not callable(function):
        raise PageError(f"{path}: a page needs a function figure(store, name=None)")
    kind = getattr(module, "KIND", None)
    if kind not in (None, *KINDS):
        raise PageError(f"{path}: a page's KIND must be 'study' or 'ablation', got {kind!r}")
    for optional in ("frame", "tables"):
        if not callable(getattr(module, optional, function)):
            raise PageError(f"{path}: a page's {optional} must be a function of (store, name)")
    return Page(path.stem, title, path, module, kind, tuple(getattr(module, "BESIDE", ())))


def load_pages(own: Path | None = None) -> tuple[list[Page], list[str]]:
    """Every page that loads, and one line for each that does not; ``own`` as `page_files`."""
    pages: list[Page] = []
    problems: list[str] = []
    for path in page_files(own):
        try:
            pages.append(load_page(path))
        except PageError as error:
            problems.append(str(error))
    return pages, problems


def _run(path: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(f"hpsearch_page_{path.stem}", path)
    if specification is None or specification.loader is None:
        raise PageError(f"{path}: a page must be a Python file")
    module = importlib.util.module_from_spec(specification)
    keep_old_names()
    try:
        specification.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise PageError(in_one_line(path, error)) from error
    return module
