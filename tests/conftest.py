import contextlib
import os
import shutil
import signal

import pytest

# Tiny networks gain nothing from a second thread, and lose much where processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell without job control starts what runs in its background with SIGINT ignored, and so would
# be every command that the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

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


@pytest.fixture(scope="module")
def browser():
    with started_browser() as started:
        yield started
