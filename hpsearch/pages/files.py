"""The files of the pages, in ``dashboards/`` and in the user's folder, and how they are loaded."""

from __future__ import annotations

import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from hpsearch.pages.old_names import keep_old_names
from hpsearch.pages.page import KINDS, Page, PageError, in_one_line
from hpsearch.system import installation


def folder() -> Path:
    """Return the folder of the shipped pages, in the checkout or in the wheel."""
    return installation.folder("dashboards")


def page_files(own: Path | None = None) -> list[Path]:
    """Return the files of all pages, sorted by name, except those that begin with "_" or ".".

    Args:
        own: a folder of the user's pages, in addition to the shipped ones; a file in it replaces a
            shipped page of the same name.
    """
    folders = (folder(),) if own is None else (folder(), own)
    files = {path.name: path for parent in folders for path in parent.glob("*.py")}
    return [files[name] for name in sorted(files) if not name.startswith(("_", "."))]


def load_page(path: Path) -> Page:
    """Run the file at ``path`` and return its page.

    Raises:
        PageError: the file fails, or lacks ``TITLE`` or ``figure``.
    """
    module = _run(path)
    title, function = getattr(module, "TITLE", None), getattr(module, "figure", None)
    if not isinstance(title, str):
        raise PageError(f"{path}: a page needs a text TITLE, for example TITLE = 'My curves'")
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
    """Return every page that loads, and a line for each file that fails; see `page_files`."""
    pages: list[Page] = []
    problems: list[str] = []
    for path in page_files(own):
        try:
            pages.append(load_page(path))
        except PageError as error:
            problems.append(str(error))
    return pages, problems


class _FromSource(SourceFileLoader):
    """Loads a page without Python's cached bytecode, which misses an edit within one second."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _run(path: Path) -> ModuleType:
    name = f"hpsearch_page_{path.stem}"
    specification = importlib.util.spec_from_loader(name, _FromSource(name, str(path)))
    if specification is None or specification.loader is None:
        raise PageError(f"{path}: a page must be a Python file")
    module = importlib.util.module_from_spec(specification)
    keep_old_names()
    try:
        specification.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise PageError(in_one_line(path, error)) from error
    return module
