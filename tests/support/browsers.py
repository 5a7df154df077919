"""A real browser without a window."""

import contextlib
import shutil

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
SWITCHES = ["--no-sandbox", "--disable-background-networking", "--enable-unsafe-swiftshader"]


@contextlib.contextmanager
def started_browser():
    """A real browser without a window; without one nothing that a person sees has been tested."""
    if BROWSER is None:
        pytest.fail("the tests need chromium on the PATH; `apt-get install chromium` brings it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=SWITCHES)
        yield started
        started.close()
