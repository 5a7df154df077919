"""One contract for every store, and what each kind promises beside it."""

from __future__ import annotations

import math
import multiprocessing
import pickle
import re
import sqlite3
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from support.store_examples import CONFIG, FACTS, metrics, new_database

from hpsearch.runs.messages import Completion, Failure
from hpsearch.store import (
    DEFAULT_URL,
    Store,
    address,
    check_name,
    default_url,
    experiment_folder,
    schema,
)
from hpsearch.store.address import Address
from hpsearch.system.errors import HpsearchError, InputError

SECRET = "s3{cr}et"
DONE = Completion(2, 1, 3.0, test_loss=4.0, test_maes={"mu": 0.1, "U0": 20.0})


# --- Contract -------------------------------------------------------------------------------------


def test_what_is_recorded_is_read_back(store: Store) -> None:
    experiment = store.begin_experiment("study", "first", {"space": {"trials": 2}})
    run = store.record_run(experiment.id, "0", CONFIG, "/runs/0")
    store.record_facts(run.id, FACTS)
    store.record_epoch(run.id, metrics(1, 3.0))
    store.record_epoch(run.id, metrics(2, 2.0, seconds=4.0))

    assert store.run(experiment.id, "0") == run
    assert store.run(experiment.id, "1") is None
    curve = store.curve(run.id)
    assert (curve.epochs, curve.best_epoch, curve.best_validation_loss) == (2, 2, 2.0)
    assert curve.seconds_per_epoch == 3.0

    assert store.experiments().loc[0, "provenance"] == {"space": {"trials": 2}}
    row = store.runs(experiment.id).iloc[0]
    assert row["configuration"] == CONFIG.to_dict()
    assert (row["key"], row["weights"], row["host"], row["zero_output_loss"]) == (
        "0",
        1234,
        "host-1",
        12.5,
    )
    assert store.epochs()["validation_loss"].tolist() == [3.0, 2.0]
    errors = store.target_errors(experiment.id).set_index(["epoch", "target"])
    assert errors.loc[(2, "U0"), "mae"] == 200.0
    assert len(errors) == 4


def test_residuals_are_read_back_as_recorded(store: Store) -> None:
    experiment = store.begin_experiment("ablation", "a", {})
    first = store.record_run(experiment.id, "L1Net/mu/0", CONFIG, "d")
    second = store.record_run(experiment.id, "L1Net/mu/1", CONFIG, "d")
    residuals = {"mu": [0.25, -1.5, 3e-8], "U0": [-12_345.678]}
    store.record_result(first.id, replace(DONE, test_residuals=residuals))
    store.record_result(second.id, DONE)  # as before they were recorded
    read = store.test_residuals(experiment.id).set_index(["key", "target"])["residuals"]
    assert set(read.index) == {("L1Net/mu/0", "U0"), ("L1Net/mu/0", "mu")}
    assert read["L1Net/mu/0", "mu"] == pytest.approx(residuals["mu"], rel=1e-7)
    assert read["L1Net/mu/0", "U0"] == pytest.approx(residuals["U0"], rel=1e-7)


def test_a_schema_without_residuals_is_read_as_having_none(store: Store) -> None:
    experiment = store.begin_experiment("ablation", "a", {})
    run = store.record_run(experiment.id, "L1Net/mu/0", CONFIG, "d")
    store.record_result(run.id, DONE)
    with store._writer.begin() as connection:
        command.downgrade(schema.configuration(connection), "0002")
    assert store.test_residuals(experiment.id).empty
    assert store.test_errors(experiment.id)["mae"].tolist() == [20.0, 0.1]


def test_frames_have_their_columns_when_empty(store: Store) -> None:
    for frame in (store.runs(), store.epochs(), store.target_errors(), store.results()):
        assert frame.empty
        assert list(frame.columns[:3]) == ["kind", "experiment", "key"]
    assert store.test_errors().columns.tolist() == ["kind", "experiment", "key", "target", "mae"]
    assert store.experiments().empty


def test_every_write_may_be_repeated(store: Store) -> None:
    for _ in range(2):
        experiment = store.begin_experiment("ablation", "a", {"n": 1})
        run = store.record_run(experiment.id, "L1Net/mu/0", CONFIG, "/runs/x")
        store.record_facts(run.id, FACTS)
        store.record_epoch(run.id, metrics(1, 3.0))
        store.record_result(run.id, DONE)
    assert [len(f) for f in (store.experiments(), store.runs(), store.epochs())] == [1, 1, 1]
    assert [len(f) for f in (store.target_errors(), store.results())] == [2, 1]
    assert len(store.test_errors()) == 2


def test_a_repeated_epoch_takes_the_later_numbers(store: Store) -> None:
    run = store.record_run(store.begin_experiment("study", "s", {}).id, "0", CONFIG, "d")
    store.record_epoch(run.id, metrics(1, 3.0))
    store.record_epoch(run.id, metrics(1, 5.0))
    assert store.epochs()["validation_loss"].tolist() == [5.0]
    assert set(store.target_errors()["mae"]) == {2.5, 500.0}


def test_an_epoch_and_its_targets_stand_or_fall_together(store: Store) -> None:
    run = store.record_run(store.begin_experiment("study", "s", {}).id, "0", CONFIG, "d")
    with pytest.raises(HpsearchError):
        store.record_epoch(run.id, metrics(1, 3.0, target_maes={None: 1.0}))
    with pytest.raises(HpsearchError, match="failed"):
        store.record_epoch(run.id + 1, metrics(1, 3.0))  # no such run
    assert store.epochs().empty


def test_no_minimum_is_ever_nan(store: Store) -> None:
    run = store.record_run(store.begin_experiment("study", "s", {}).id, "0", CONFIG, "d")
    store.record_epoch(run.id, metrics(1, math.nan))
    store.record_epoch(run.id, metrics(2, math.inf))
    assert store.curve(run.id).best_validation_loss is None
    store.record_epoch(run.id, metrics(3, 7.0))
    assert store.curve(run.id).best_validation_loss == 7.0


def test_a_failure_may_be_replaced_and_a_completion_not(store: Store) -> None:
    run = store.record_run(store.begin_experiment("ablation", "a", {}).id, "k", CONFIG, "d")
    store.record_result(run.id, Failure("exception", "bad \0 byte", "Traceback", epoch=1, step=9))
    row = store.results().iloc[0]
    assert (row["state"], row["failure_kind"], row["failure_step"]) == ("failed", "exception", 9)
    store.record_result(run.id, DONE)
    store.record_result(run.id, Failure("worker_lost", "late"))
    row = store.results().iloc[0]
    assert (row["state"], row["test_loss"]) == ("complete", 4.0)
    assert row["failure_kind"] is None
    assert store.test_errors()["mae"].tolist() == [20.0, 0.1]


def test_a_run_keeps_its_configuration(store: Store) -> None:
    experiment = store.begin_experiment("study", "s", {})
    store.record_run(experiment.id, "0", CONFIG, "d")
    other = CONFIG.model_copy(update={"targets": ("mu",)})
    with pytest.raises(InputError, match="another configuration"):
        store.record_run(experiment.id, "0", other, "d")


def test_the_first_to_settle_wins(store: Store) -> None:
    experiment = store.begin_experiment("study", "s", {"split_hash": None})
    assert store.fill_provenance(experiment.id, split_hash="a")["split_hash"] == "a"
    assert store.fill_provenance(experiment.id, split_hash="b", data_hash="c") == {
        "split_hash": "a",
        "data_hash": "c",
    }
    assert store.update_provenance(experiment.id, split_hash="d")["split_hash"] == "d"


def test_the_latest_study_is_the_one_launched_last(store: Store) -> None:
    with pytest.raises(InputError, match="has no study"):
        store.find(None, "study")
    for name in ("one", "two", "one"):
        store.begin_experiment("study", name, {})
    store.begin_experiment("ablation", "three", {})
    assert store.find(None, "study").name == "one"
    assert store.latest("ablation") == "three"


def test_an_experiment_is_found_by_its_name_or_as_the_one_launched_last(store: Store) -> None:
    for kind, name in (("study", "both"), ("ablation", "arms"), ("ablation", "both")):
        store.begin_experiment(kind, name, {})
    store.begin_experiment("study", "last", {})
    assert store.find() == store.find("last") == store.find(None, "study", "ablation")
    assert (store.find("both").kind, store.find("both", "study").kind) == ("ablation", "study")
    assert store.find(None, "ablation").name == "both"
    assert store.experiment("ablation") == store.find(None, "ablation")
    assert (store.experiment(None), store.experiment(None, "both")) == (
        store.find(),
        store.find("both"),
    )
    assert store.experiment("ablation", "last") is None


def test_a_name_that_is_not_there_is_answered_with_those_that_are(store: Store) -> None:
    with pytest.raises(InputError, match=r"has no study; `hpsearch launch` makes one$"):
        store.find("quick")
    for kind, name in (("study", "quick"), ("study", "long"), ("ablation", "arms")):
        store.begin_experiment(kind, name, {})
    where = re.escape(f"in the store {store.label}: ")
    said = {
        ("quack", "study"): f"^a study must be .* {where}quick, long; got 'quack'; .* 'quick'\\?$",
        ("x", "ablation"): f"^an ablation must be one of those {where}arms; got 'x'$",
        ("x",): f"^a study or an ablation must be .* {where}quick, long, arms; got 'x'$",
    }
    for asked, pattern in said.items():
        with pytest.raises(InputError, match=pattern):
            store.find(*asked)


@pytest.mark.parametrize(
    "name",
    [
        "x'; DROP TABLE hpsearch_runs; --",
        "Ångström 分子 🧪",
        "../../etc",
        "%s {0}",
        "a" * 200,
        # Persian, Hindi and an emoji are spelled with joiners.
        "می\u200cخواهم",
        "क्\u200dष",
        "\U0001f469\u200d\U0001f52c",
    ],
)
def test_names_are_stored_literally(store: Store, name: str) -> None:
    experiment = store.begin_experiment("study", name, {})
    assert store.experiment("study", name) == experiment
    assert store.find(None, "study").name == name
    assert store.runs().empty


@pytest.mark.parametrize("name", ["", "  ", "a" * 201, "a\0b", "a\nb", "a\x1b[2J", "\ud800"])
def test_names_that_cannot_be_stored_are_refused(store: Store, name: str) -> None:
    with pytest.raises(InputError, match="the name of a study must"):
        store.begin_experiment("study", name, {})
    assert store.experiments().empty


@pytest.mark.parametrize(
    ("name", "character"),
    [
        ("gpj.exe\u202e", "202E"),
        ("\ufeffa", "FEFF"),
        ("a\u200bb", "200B"),
        ("a\u2066b", "2066"),
        # Joiners that no script needs.
        ("a\u200db", "200D"),
        ("ab\u200c", "200C"),
        ("\u200cab", "200C"),
        ("分\u200da", "200D"),
    ],
)
def test_a_new_name_has_no_invisible_characters(name: str, character: str) -> None:
    with pytest.raises(InputError, match=f"invisible; got U\\+{character}; leave it out$"):
        check_name(name)


COMPOSED, DECOMPOSED = "\u00c5ngstr\u00f6m", "A\u030angstro\u0308m"


def test_names_that_look_the_same_are_one_name(store: Store) -> None:
    made = store.begin_experiment("study", DECOMPOSED, {})
    assert made.name == COMPOSED
    assert store.begin_experiment("study", COMPOSED, {}).id == made.id
    assert store.find(DECOMPOSED) == store.find(COMPOSED)


@pytest.mark.parametrize("old", ["gpj.exe\u202e", DECOMPOSED])
def test_a_name_from_before_these_rules_stays_usable(store: Store, old: str) -> None:
    made = store.begin_experiment("study", "new", {})
    names = sa.text("UPDATE hpsearch_experiments SET name = :name")
    with store._database.engine.begin() as connection:
        connection.execute(names, {"name": old})
    assert store.find(old).id == made.id
    again = store.begin_experiment("study", old, {})
    assert (again.id, again.name) == (made.id, old)
    with pytest.raises(InputError):
        store.begin_experiment("ablation", "gpj.exe\u202e", {})


def test_the_exact_name_is_found_before_one_that_looks_the_same(store: Store) -> None:
    made = {}
    for name in (COMPOSED, "other"):
        made[name] = store.begin_experiment("study", name, {})
    with store._database.engine.begin() as connection:
        rename = "UPDATE hpsearch_experiments SET name = :name WHERE id = :id"
        connection.execute(sa.text(rename), {"name": DECOMPOSED, "id": made["other"].id})
    assert store.find(COMPOSED).id == made[COMPOSED].id
    assert store.find(DECOMPOSED).id == made["other"].id


@pytest.mark.parametrize("text", ["\ud800", "a\0b", "x" * 10_000])
def test_a_text_that_cannot_be_stored_names_nothing(store: Store, text: str) -> None:
    store.begin_experiment("study", "kept", {})
    assert store.experiment(None, text) is None


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "..", "分子", "a/b\\c", "x" * 200])
def test_folders_stay_inside_their_root(name: str) -> None:
    folder = experiment_folder(name, "id")
    assert Path(folder).name == folder
    assert not folder.startswith(".")
    assert len(folder) < 60
    assert folder != experiment_folder(name, "other")


# --- Several processes ----------------------------------------------------------------------------


def _ask_and_tell(url: str, tell: list[int]) -> tuple[list[int], int]:
    """Ask eight trials, tell those in ``tell``: the numbers, and how many were accepted."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    accepted = 0
    with Store.create(url) as store:
        study = optuna.load_study(study_name="shared", storage=store.optuna_storage)
        values = []
        for _ in range(8):
            trial = store.wait(study.ask)
            values.append(trial.suggest_int("x", 0, 1000))
        for number in tell:
            try:
                study.tell(number, 1.0)
                accepted += 1
            except (ValueError, RuntimeError):
                pass
    return values, accepted


def test_processes_share_one_study_without_repeats(url: str) -> None:
    with Store.create(url) as store:
        study = optuna.create_study(study_name="shared", storage=store.optuna_storage)
        for x in range(32):
            study.enqueue_trial({"x": x})
        told = [study.ask().number for _ in range(10)]
        for x in range(32, 42):
            study.enqueue_trial({"x": x})
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        answers = pool.starmap(_ask_and_tell, [(url, told)] * 4)
    values = [value for values, _ in answers for value in values]
    assert sorted(values) == list(range(10, 42))
    assert sum(accepted for _, accepted in answers) == len(told)
    with Store.open(url) as store:
        states = store.trial_states("shared")
        assert states is not None
        assert [row.number for row in states] == list(range(42))
        assert Counter(row.state for row in states) == {"COMPLETE": 10, "RUNNING": 32}


def _create(url: str) -> str:
    with Store.create(url) as store:
        return store.begin_experiment("study", "shared", {}).identity


def test_processes_may_create_a_store_at_once(url: str) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert len(set(pool.map(_create, [url] * 4))) == 1


# --- Waiting --------------------------------------------------------------------------------------


def test_a_locked_file_is_waited_for(
    tmp_path: Path, created: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(address, "BUSY_SECONDS", 0.05)
    store = created(f"sqlite:///{tmp_path}/s.db")
    other = sqlite3.connect(tmp_path / "s.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.6, lambda: other.execute("COMMIT"))
    release.start()
    begun = time.monotonic()
    store.begin_experiment("study", "s", {})
    assert time.monotonic() - begun > 0.4
    release.join()
    other.execute("BEGIN IMMEDIATE")
    store._database.patience_seconds = 0.2
    with pytest.raises(HpsearchError, match="could not be used for 0 s: database is locked"):
        store.begin_experiment("study", "s", {})
    with pytest.raises(HpsearchError, match="database is locked"):
        store.wait(lambda: optuna.create_study(study_name="o", storage=store.optuna_storage))
    other.close()
    store.begin_experiment("study", "s", {})


def test_a_restarting_server_is_waited_for(postgresql: Any, created: Any) -> None:
    store = created(new_database(postgresql))
    study = store.wait(lambda: optuna.create_study(storage=store.optuna_storage, study_name="s"))
    experiment = store.begin_experiment("study", "s", {})
    postgresql.stop()
    start = threading.Timer(1.0, postgresql.ensure_postgres_running)
    start.start()
    try:
        run = store.record_run(experiment.id, "0", CONFIG, "d")
        assert store.wait(study.ask).number == 0
    finally:
        start.join()
    assert store.run(experiment.id, "0") == run


def test_a_long_wait_is_reported_with_its_end(
    url: str, created: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpsearch.store.address.LOCK_SECONDS", 1)
    said: list[str] = []
    store = created(url, say=said.append)
    experiment = store.begin_experiment("study", "s", {})
    assert said == []
    monkeypatch.setattr("hpsearch.store.engine.SILENT_SECONDS", 0.3)
    # A row that a session holds, on SQLite the whole file.
    engine = sa.create_engine(Address(url).bare_url, creator=Address(url).connector(create=False))
    with engine.connect() as other:
        if engine.dialect.name == "sqlite":
            other.exec_driver_sql("BEGIN IMMEDIATE")
        other.exec_driver_sql("UPDATE hpsearch_experiments SET name = name")
        release = threading.Timer(2.0, other.rollback)
        release.start()
        store.fill_provenance(experiment.id, data_hash="x")
        release.join()
    engine.dispose()
    *before, waiting, answers = said
    # PostgreSQL says only when the statement gives up that a lock was in its way.
    assert before in ([], [f"the store {store.label} takes long to answer"])
    assert waiting.startswith(f"waiting for the store {store.label} for 120 s at most: ")
    assert "lock" in waiting.rpartition(": ")[2]
    assert re.fullmatch(r"the store answers again, after [12] s", answers)


def test_a_row_that_stays_locked_ends_in_words(
    postgresql: Any, created: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpsearch.store.address.LOCK_SECONDS", 1)
    store = created(new_database(postgresql), patience_seconds=1.5)
    experiment = store.begin_experiment("study", "s", {})
    with store._database.engine.connect() as other:
        other.exec_driver_sql("SELECT 1 FROM hpsearch_experiments FOR UPDATE")
        with pytest.raises(HpsearchError, match=r"could not be used for 2 s: .* lock timeout"):
            store.fill_provenance(experiment.id, data_hash="x")
    store.fill_provenance(experiment.id, data_hash="x")


def test_a_server_that_only_reads_for_a_while_is_waited_for(postgresql: Any, created: Any) -> None:
    store = created(url := new_database(postgresql))
    name = url.partition("?")[0].rpartition("/")[2]
    experiment = store.begin_experiment("study", "s", {})

    def only_reads(value: str) -> None:
        with psycopg.connect(postgresql.get_uri(), autocommit=True) as connection:
            setting = f"ALTER DATABASE {name} SET default_transaction_read_only = {value}"
            connection.execute(setting.encode())
        store._database.engine.dispose()  # later connections have the setting

    only_reads("on")
    promoted = threading.Timer(1.0, only_reads, ["off"])
    promoted.start()
    run = store.record_run(experiment.id, "0", CONFIG, "d")
    assert not promoted.is_alive()
    assert store.run(experiment.id, "0") == run


def test_a_cancelled_statement_is_repeated(postgresql: Any, created: Any) -> None:
    store = created(new_database(postgresql))
    seconds = [60, 0]

    def sleep() -> int:
        with store._database.engine.connect() as connection:
            connection.exec_driver_sql("SET LOCAL statement_timeout = '100ms'")
            connection.exec_driver_sql(f"SELECT pg_sleep({seconds.pop(0)})")
        return len(seconds)

    assert store.wait(sleep) == 0


@pytest.mark.parametrize("limit", ["idle_in_transaction_session_timeout", "idle_session_timeout"])
def test_a_session_that_the_server_ended_is_replaced(
    postgresql: Any, created: Any, limit: str
) -> None:
    store = created(new_database(postgresql))
    pauses = [0.5, 0.0]

    def slow() -> int:
        with store._database.engine.connect() as connection:
            connection.exec_driver_sql(f"SET {limit} = '100ms'")
            if limit == "idle_session_timeout":
                connection.commit()
            time.sleep(pauses.pop(0))
            connection.exec_driver_sql("SELECT 1")
        return len(pauses)

    assert store.wait(slow) == 0


def test_backends_that_are_terminated_all_the_time_cost_no_record(
    postgresql: Any, created: Any
) -> None:
    store = created(url := new_database(postgresql))
    name = url.partition("?")[0].rpartition("/")[2]
    run = store.record_run(store.begin_experiment("study", "s", {}).id, "0", CONFIG, "d")
    ended, killed = threading.Event(), []

    def storm() -> None:
        with psycopg.connect(postgresql.get_uri(), autocommit=True) as connection:
            while not ended.wait(0.02):
                these = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
                killed.extend(connection.execute(these, [name]).fetchall())

    thread = threading.Thread(target=storm)
    thread.start()
    try:
        for epoch in range(1, 31):
            store.record_epoch(run.id, metrics(epoch, 1.0 / epoch))
            time.sleep(0.02)
    finally:
        ended.set()
        thread.join()
    assert len(killed) > 5
    assert list(store.epochs()["epoch"]) == list(range(1, 31))
    assert len(store.target_errors()) == 60


def test_a_server_that_would_lose_commits_is_told_not_to(postgresql: Any, created: Any) -> None:
    url = new_database(postgresql)
    name = url.partition("?")[0].rpartition("/")[2]
    with psycopg.connect(postgresql.get_uri(), autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off".encode())
    store = created(url)
    for engine in (store._database.engine, store.optuna_storage.engine):
        with engine.connect() as opened:
            assert opened.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"


def test_a_lasting_error_is_not_waited_for(store: Store) -> None:
    begun = time.monotonic()
    with pytest.raises(HpsearchError, match="failed"):
        store.record_epoch(999, metrics(1, 1.0))
    assert time.monotonic() - begun < 5


# --- Opening --------------------------------------------------------------------------------------


def test_opening_never_makes_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        Store.open(DEFAULT_URL)
    assert str(error.value) == (
        f"no study store at {tmp_path}/storage/hpsearch.db; `hpsearch launch` makes one"
    )
    assert list(tmp_path.iterdir()) == []


def test_only_a_store_is_opened(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database" * 100)
    (tmp_path / "empty.db").touch()
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE t (x)").connection.close()
    for name in ("text.db", "empty.db", "other.db"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(InputError, match="is not a study store"):
            Store.open(f"sqlite:///{tmp_path}/{name}")
        assert (tmp_path / name).read_bytes() == before
    with pytest.raises(InputError, match="not a SQLite database"):
        Store.create(f"sqlite:///{tmp_path}/text.db")
    with pytest.raises(InputError, match="cannot be made"):
        Store.create(f"sqlite:///{tmp_path}/text.db/below/store.db")


def test_a_deleted_file_does_not_come_back(tmp_path: Path, created: Any) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    created(url).close()
    with Store.open(url) as reader:
        reader._database.engine.dispose()
        for path in tmp_path.iterdir():
            path.unlink()
        with pytest.raises(HpsearchError, match="unable to open"):
            reader.experiments()
    assert list(tmp_path.iterdir()) == []


def test_odd_folders_are_fine(tmp_path: Path, created: Any, monkeypatch: Any) -> None:
    folder = tmp_path / "a b?c#d%20e{x}é"
    folder.mkdir()
    monkeypatch.chdir(folder)
    store = created("sqlite:///storage/s.db")
    assert store.label == str(folder / "storage" / "s.db")
    optuna.create_study(storage=store.optuna_storage, study_name="x")
    assert (folder / "storage" / "s.db").is_file()
    monkeypatch.chdir(tmp_path)
    assert store.trial_states("x") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("storage/hpsearch.db", "a SQLite file is written sqlite:///storage/hpsearch.db"),
        ("", "must be a URL"),
        ("sqlite://", "a SQLite store must be a file"),
        ("sqlite:///:memory:", "a SQLite store must be a file"),
        ("mysql://u@h/d", "begins with 'mysql:'"),
        ("postgresql+asyncpg://u@h/d", "begins with 'postgresql\\+asyncpg:'"),
    ],
)
def test_urls_that_are_no_store(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Store.create(text)


def test_the_environment_names_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HPSEARCH_STORAGE", raising=False)
    assert default_url() == DEFAULT_URL
    monkeypatch.setenv("HPSEARCH_STORAGE", "postgresql://h/d")
    assert default_url() == "postgresql://h/d"


# --- Passwords ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://user:{SECRET}@127.0.0.1:1/d",
        f"postgresql://user@127.0.0.1:1/d?password={SECRET}",
        f"postgresql://user:{SECRET}@127.0.0.1:port/d",
        f"postgresql://user:{SECRET}@127.0.0.1:1/d?nonsense={SECRET}",
        f"mysql://user:{SECRET}@127.0.0.1/d",
        f"user:{SECRET}@127.0.0.1/d",
    ],
)
def test_errors_hide_the_password(text: str) -> None:
    for opened in (Store.create, Store.open):
        with pytest.raises(InputError) as error:
            opened(text)
        assert SECRET not in str(error.value)
        assert "\n" not in str(error.value)
        assert error.value.__cause__ is None


def test_a_password_with_braces_connects_and_stays_hidden(postgresql: Any, created: Any) -> None:
    plain = new_database(postgresql)
    store = created(plain.replace("postgres:@", f"postgres:{SECRET}@"))
    study = optuna.create_study(storage=store.optuna_storage, study_name="s")
    assert study.ask().number == 0
    shown = [store.label, repr(store), repr(store._database.engine), repr(store._database.address)]
    shown += [store.optuna_storage.url, repr(vars(store.optuna_storage))]
    assert not any(SECRET in text for text in shown)
    assert "***" in store.label
    store._database.patience_seconds = 0.0
    postgresql.stop()
    try:
        with pytest.raises(HpsearchError) as error:
            store.experiments()
    finally:
        postgresql.ensure_postgres_running()
    assert SECRET not in str(error.value)


def test_a_store_cannot_be_pickled(store: Store) -> None:
    with pytest.raises(TypeError, match="workers never open the database"):
        pickle.dumps(store)


# --- SQLite ---------------------------------------------------------------------------------------


def test_settings_hold_on_every_connection(tmp_path: Path, created: Any) -> None:
    store = created(f"sqlite:///{tmp_path}/s.db")
    for engine in (store._database.engine, store.optuna_storage.engine, store.optuna_reader.engine):
        with engine.connect() as connection:
            values = [
                connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            ]
        assert values == ["wal", 2, 1, 10_000]


def test_readers_do_not_wait_for_a_writer(tmp_path: Path, created: Any) -> None:
    store = created(f"sqlite:///{tmp_path}/s.db", patience_seconds=0.0)
    optuna.create_study(storage=store.optuna_storage, study_name="s")
    with store._writer.begin():
        assert store.experiments().empty
        assert store.optuna_reader.get_study_id_from_name("s") == 1
