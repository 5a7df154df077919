import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.browsers import started_browser

# Tiny networks gain nothing from a second thread, and lose much where processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell without job control starts what runs in its background with SIGINT ignored, and so would
# be every command that the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this run of pytest share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="module")
def browser():
    with started_browser() as started:
        yield started


@pytest.fixture(autouse=True)
def denormal_numbers() -> Iterator[None]:
    """Training flushes denormal numbers to zero, for the whole process; the next test has them."""
    yield
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_flush_denormal(False)


NEED_MORE = {"browser", "postgresql", "older_processor"}
"""Fixtures that start a browser or PostgreSQL, or compile the kernels once more."""

LONGEST = (
    *("test_tune", "test_cli", "test_quote", "test_wheel", "test_gpu_cluster", "test_python"),
    *("test_dashboard_pages", "test_faults", "test_board", "test_status", "test_kernels"),
    *("test_program", "test_browser", "test_contract", "test_before", "test_secrets"),
    *("test_slurm", "test_network", "test_table3"),
)
"""Modules of the second tier that take longest. They start first, so that no process ends alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave to `make test-rest` whatever needs one of these fixtures."""
    for item in items:
        values = item.callspec.params.values() if hasattr(item, "callspec") else ()
        if NEED_MORE & set(item.fixturenames) or "postgresql" in values:
            item.add_marker(pytest.mark.slow)
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
