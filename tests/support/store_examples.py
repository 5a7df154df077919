"""A run's configuration, facts and epochs, an empty PostgreSQL database, and copies of stores."""

from __future__ import annotations

import functools
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from hpsearch.config.run import DataConfig, TrainingConfig, TrialConfig
from hpsearch.runs.messages import EpochMetrics, RunFacts
from hpsearch.store import Store
from support.networks import tiny_network

CONFIG = TrialConfig(
    targets=("mu", "U0"),
    network=tiny_network(radial_functions=3),
    training=TrainingConfig(batch_size=2, learning_rate=1e-3),
    data=DataConfig(train_size=10, validation_size=4, test_size=4),
)
FACTS = RunFacts(1234, "host-1", "cpu", "d" * 64, "s" * 64, 12.5)


def metrics(epoch: int, loss: float, **changes: Any) -> EpochMetrics:
    values = {
        "epoch": epoch,
        "learning_rate": 1e-3,
        "seconds": 2.0,
        "training_loss": loss + 1,
        "validation_loss": loss,
        "target_losses": {"mu": loss / 2, "U0": loss / 2},
        "target_maes": {"mu": 0.5 * loss, "U0": 100.0 * loss},
    }
    return EpochMetrics(**{**values, **changes})


def store_file(fill: Callable[[Store], Any] = lambda store: None) -> bytes:
    """The file of a new SQLite store that ``fill`` has written into, to be copied by tests."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.db"
        with Store.create(f"sqlite:///{path}") as store:
            fill(store)
        assert list(Path(folder).iterdir()) == [path], "a part of the store is in another file"
        return path.read_bytes()


empty_store_file = functools.cache(store_file)
"""The same of an empty store. To make its tables takes longer than most tests."""


def new_database(server: Any, template: str = "template1") -> str:
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
    return str(server.get_uri(database=name))


def drop_database(server: Any, url: str) -> None:
    name = url.partition("?")[0].rpartition("/")[2]
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def new_url(kind: str, folder: Path, request: pytest.FixtureRequest) -> str:
    """URL of a store that does not exist yet, on ``sqlite`` or ``postgresql``."""
    if kind == "sqlite":
        return f"sqlite:///{folder}/folder/store.db"
    return new_database(request.getfixturevalue("postgresql"))
