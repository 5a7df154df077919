"""A reader has no method that writes, and what it opens stays as it is."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from sqlalchemy.exc import DBAPIError
from support.store_examples import CONFIG, FACTS, metrics

from hpsearch.runs.messages import Completion
from hpsearch.search.verify import verify
from hpsearch.store import Store, StoreReader
from hpsearch.store.address import Address
from hpsearch.store.engine import Database

READS = {
    *("label", "open", "close", "wait", "optuna_reader", "holder", "revision"),
    *("best_target_errors", "distributions", "maes", "recorded_runs", "study_id", "trial_records"),
    *("find", "experiment", "launch_name", "latest", "run", "curve", "ledger", "once", "snapshot"),
    *(
        "attribute_values",
        "open_trials",
        "running_attributes",
        "trial_states",
        "count_refused",
        "count_paused",
        "best_trials",
        "decisions",
        "run_id",
    ),
    *("experiments", "runs", "epochs", "target_errors", "results", "test_errors", "test_residuals"),
}
"""All that a reader offers. A name that joins them must not write."""

WRITES = {
    *("reader", "create", "drive", "leave", "optuna_storage", "optuna_by_hand", "one_transaction"),
    *("begin_experiment", "update_provenance", "fill_provenance", "forget_epochs"),
    *("record_run", "record_facts", "record_epoch", "record_result", "record_decision"),
    "rename_study",
}


def public(of: object) -> set[str]:
    return {name for name in dir(of) if not name.startswith("_")}


@pytest.fixture
def filled(store: Store) -> Store:
    """A store with a study, a trial of it and an ablation's result."""
    study = optuna.create_study(study_name="s", storage=store.optuna_storage)
    study.ask()
    content = {"space": {"content": {"trials": 1}}}
    run = store.record_run(store.begin_experiment("study", "s", content).id, "0", CONFIG, "d")
    store.record_facts(run.id, FACTS)
    store.record_epoch(run.id, metrics(1, 3.0))
    cell = store.record_run(store.begin_experiment("ablation", "a", {}).id, "k", CONFIG, "d")
    store.record_result(cell.id, Completion(2, 1, 3.0, 4.0, {"mu": 0.1}, {"mu": [0.5]}))
    return store


def look(store: StoreReader) -> None:
    """Call all that reads."""
    for experiment in (store.find("s"), store.find("a")):
        frames = (store.runs, store.epochs, store.target_errors, store.results, store.test_errors)
        assert any(len(frame(experiment.id)) for frame in frames)
        store.test_residuals(experiment.id)
        store.ledger(experiment)
        assert store.holder(experiment.id) is None
    assert (len(store.experiments()), store.latest("ablation")) == (2, "a")
    found = store.run(store.find("s").id, "0")
    assert found is not None and store.curve(found.id).epochs == 1
    assert len(store.trial_states("s") or []) == 1
    opened = store.open_trials("s")
    assert opened is not None
    assert opened.running is not None
    assert [row.trial_id for row in opened.running] == [
        row.trial_id for row in store.trial_states("s") or [] if row.state == "RUNNING"
    ]
    expected = store.open_trials("s", [row.trial_id for row in opened.running])
    assert expected is not None
    assert (expected.counts, expected.running) == (opened.counts, None)
    assert store.open_trials("nothing") is None
    assert store.running_attributes("s", ["weights"]) == {}
    assert store.attribute_values("s", "origin") == {}
    assert (store.count_refused("s"), store.best_trials("s", 5)) == (0, set())
    assert store.optuna_reader.get_all_studies()[0].study_name == "s"
    assert {breach.rule for breach in verify(store).breaches} == {"count", "provenance", "terminal"}
    assert store.revision() == store.revision()


def test_a_reader_has_these_public_names_and_no_others(filled: Store, url: str) -> None:
    with StoreReader.open(url) as reader:
        assert public(reader) == READS
        for name in WRITES:
            assert not hasattr(reader, name)
    assert public(filled) == READS | WRITES
    assert public(filled.reader) == READS


def test_looking_leaves_the_file_as_it_was(tmp_path: Path, filled: Store, url: str) -> None:
    filled.close()
    path = Address(url).path
    if path is None:
        pytest.skip("a file is SQLite's")
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    for opened in (StoreReader.open, Store.open):
        with opened(url) as reader:
            look(reader)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == before
        assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_reader_s_own_optuna_storage_refuses_to_write(filled: Store, url: str) -> None:
    with StoreReader.open(url) as reader:
        storage = reader.optuna_reader
        with pytest.raises(optuna.exceptions.StorageInternalError) as error:
            storage.create_new_trial(storage.get_study_id_from_name("s"))
        assert isinstance(error.value.__cause__, DBAPIError)
        assert len(reader.trial_states("s") or []) == 1
    filled.optuna_by_hand.create_new_trial(1)
    assert len(filled.trial_states("s") or []) == 2


def test_only_create_makes_a_store(tmp_path: Path) -> None:
    database = Database(Address(f"sqlite:///{tmp_path}/s.db"), create=True, patience_seconds=0.0)
    Store(database).close()
    assert list(tmp_path.iterdir()) == []


def test_closing_twice_closes_what_was_opened_in_between(filled: Store, url: str) -> None:
    with StoreReader.open(url) as reader:
        assert reader.optuna_reader.get_all_studies()
        reader.close()
        look(reader)
    assert reader._database.engine.pool.checkedin() == 0  # type: ignore[attr-defined]
    assert reader.optuna_reader.engine.pool.checkedin() == 0  # type: ignore[attr-defined]


LIGHT = ["from hpsearch.store.address import Address", "from hpsearch.store import check_name"]


@pytest.mark.parametrize("statement", [*LIGHT, "from hpsearch.store import default_url"])
def test_an_address_and_a_name_are_checked_without_the_database_s_libraries(statement: str) -> None:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"sqlalchemy", "optuna", "pandas", "alembic"} & set(done.stdout.split())


def test_the_package_has_no_other_names() -> None:
    import hpsearch.store as package

    with pytest.raises(AttributeError, match="no attribute 'Stores'"):
        _: Any = package.Stores  # type: ignore[attr-defined]
