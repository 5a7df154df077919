"""Names for the shell from a store in PostgreSQL."""

from __future__ import annotations

from typing import Any

from support.store_examples import drop_database, new_database

from hpsearch.cli import completion
from hpsearch.store import Store


def test_names_come_from_postgresql_too(postgresql: Any) -> None:
    url = new_database(postgresql)
    try:
        assert completion.experiments(url, ["study"]) == []
        with Store.create(url) as store:
            for kind, name in (("study", "first"), ("ablation", "arms"), ("study", "second")):
                store.begin_experiment(kind, name, {})
        assert completion.experiments(url, ["study"]) == ["second", "first"]
        named = url.replace("postgresql:", "postgresql+psycopg:")
        assert completion.experiments(named, ["ablation", "study"]) == ["second", "arms", "first"]
    finally:
        drop_database(postgresql, url)
