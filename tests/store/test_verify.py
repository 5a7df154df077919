"""Every rule of `verify`, by damage done to the rows of a real study, on both stores."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import make_url
from support.damaged import SPACE, Rows, fill
from support.store_examples import FACTS, drop_database, new_database

from hpsearch.search.launch import launch_study
from hpsearch.search.study import Study
from hpsearch.search.verify import RULES, verify
from hpsearch.store import Store, schema
from hpsearch.system import installation
from hpsearch.system.errors import InputError


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store with the study, to be copied."""
    path = tmp_path_factory.mktemp("filled") / "store.db"
    with Store.create(f"sqlite:///{path}") as store:
        fill(store, path.parent)
    return path


@pytest.fixture(scope="module")
def filled_database(postgresql: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of a PostgreSQL database with the study, to be copied."""
    url = new_database(postgresql)
    with Store.create(url) as store:
        fill(store, tmp_path_factory.mktemp("filled"))
    name = make_url(url).database
    assert name is not None
    return name


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a store of its own, with the study."""
    if request.param == "sqlite":
        path = tmp_path / "store.db"
        shutil.copy(request.getfixturevalue("filled"), path)
        yield f"sqlite:///{path}"
        return
    template = request.getfixturevalue("filled_database")
    server = request.getfixturevalue("postgresql")
    url = new_database(server, template)
    yield url
    drop_database(server, url)  # dozens of them would take the server long to close


@pytest.fixture
def rows(url: str, created: Any) -> Rows:
    return Rows(created(url))


# --- What is in order -----------------------------------------------------------------------------


def test_a_whole_study_has_no_breach(rows: Rows) -> None:
    found = rows.verify()
    assert found.breaches == found.in_progress == ()
    assert (found.study, found.trials, found.verdicts, found.failed) == ("quick", 5, 4, 1)
    assert str(found) == ("5 trials checked, 4 of 4 finished, 1 failed, 17 epochs: no breaches")
    assert verify(rows.store) == found


def test_other_studies_do_not_matter(rows: Rows, tmp_path: Path) -> None:
    fill(rows.store, tmp_path, "another")
    launch_study(rows.store, SPACE, "third", tmp_path).next()
    assert rows.broken() == set()
    rows.damage("DELETE FROM trial_user_attributes WHERE trial_id = {T1}")
    assert rows.broken() == {("reason", 1)}
    assert verify(rows.store, "another").breaches == ()


def test_a_study_that_is_not_there_is_refused(rows: Rows) -> None:
    with pytest.raises(InputError, match=r"must be one of those .* quick; got 'quack'"):
        verify(rows.store, "quack")


def test_later_launches_may_want_fewer_or_more(rows: Rows, tmp_path: Path) -> None:
    launch_study(rows.store, SPACE.with_overrides(trials=2), "quick", tmp_path)
    assert rows.broken() == set()
    launch_study(rows.store, SPACE.with_overrides(trials=3), "quick", tmp_path)
    assert rows.broken() == set()
    launch_study(rows.store, SPACE.with_overrides(trials=6), "quick", tmp_path)
    assert rows.broken() == {("count", None)}


def test_a_study_of_before_counts_by_its_last_launch(rows: Rows, tmp_path: Path) -> None:
    older = "UPDATE hpsearch_experiments SET digest = NULL, provenance = replace(provenance, "
    rows.damage(older + "'\"trials_wanted_most\": 4', '\"x\": 4')")
    assert rows.broken() == set()
    launch_study(rows.store, SPACE.with_overrides(trials=3), "quick", tmp_path)
    assert rows.broken() == set()  # this launch knows what the one before it wanted


def test_what_a_launch_still_has_to_do_is_no_breach_while_it_runs(
    rows: Rows, tmp_path: Path
) -> None:
    launch_study(rows.store, SPACE.with_overrides(trials=5), "quick", tmp_path).next()
    driven = rows.verify()
    assert driven.breaches == ()
    assert [str(breach) for breach in driven.in_progress] == [
        "count: the study has 4 finished trials of 5 wanted",
        "terminal: trial 5 has not ended",
    ]
    rows.damage("DELETE FROM trial_user_attributes WHERE trial_id = {T1}")
    assert [breach.rule for breach in rows.verify().breaches] == ["reason"]
    assert rows.broken() == {("reason", 1), ("count", None), ("terminal", 5)}
    assert "launch it again" in str(rows.verify().breaches[0])


# --- Damage ---------------------------------------------------------------------------------------

EPOCH = "WHERE run_id = {{R{0}}} AND epoch = {1}"


def without_epoch(trial: int, epoch: int) -> tuple[str, ...]:
    return (
        f"DELETE FROM hpsearch_target_errors WHERE run_id = {{R{trial}}} AND epoch = {epoch}",
        f"DELETE FROM hpsearch_epochs WHERE run_id = {{R{trial}}} AND epoch = {epoch}",
        f"DELETE FROM trial_intermediate_values WHERE trial_id = {{T{trial}}} AND step = {epoch}",
    )


def without_trial(trial: int, values: bool = True) -> tuple[str, ...]:
    tables = ["params", "user_attributes", "intermediate_values", *(["values"] if values else [])]
    deleted = [f"DELETE FROM trial_{name} WHERE trial_id = {{T{trial}}}" for name in tables]
    return (*deleted, f"DELETE FROM trials WHERE trial_id = {{T{trial}}}")


def wants(trials: int, most: int) -> str:
    changed = f"replace(provenance, '\"trials\": 4', '\"trials\": {trials}')"
    changed = f"replace({changed}, 'most\": 4', 'most\": {most}')"
    return f"UPDATE hpsearch_experiments SET digest = NULL, provenance = {changed}"


COPIED_RUN = (
    "INSERT INTO hpsearch_runs (id, experiment_id, key, configuration, fingerprint, directory, "
    "created_at) SELECT 99, experiment_id, '{0}', configuration, fingerprint, directory, "
    "created_at FROM hpsearch_runs WHERE id = {{R4}}"
)
COPIED_TRIAL = (
    "INSERT INTO trials (trial_id, number, study_id, state) "
    "SELECT 99, number, study_id, state FROM trials WHERE trial_id = {{T{0}}}"
)
REASON = (
    "INSERT INTO trial_user_attributes (trial_user_attribute_id, trial_id, key, value_json) "
    "VALUES (9999, {0}, 'failure_reason', '\"told by hand\"')"
)

DAMAGE: dict[str, tuple[tuple[str, ...], set[tuple[str, int | None]]]] = {
    "renamed": (("UPDATE studies SET study_name = 'x'",), {("study", None)}),
    "a verdict lost": (
        ("UPDATE trials SET state = 'FAIL' WHERE trial_id = {T4}", REASON.format("{T4}")),
        {("count", None)},
    ),
    "fewer than wanted": ((wants(5, 5),), {("count", None), ("provenance", None)}),
    "fewer than the last launch wanted": ((wants(5, 9),), {("count", None), ("provenance", None)}),
    "more than ever wanted": ((wants(3, 3),), {("count", None), ("provenance", None)}),
    "running": (("UPDATE trials SET state = 'RUNNING' WHERE trial_id = {T1}",), {("terminal", 1)}),
    "waiting": (("UPDATE trials SET state = 'WAITING' WHERE trial_id = {T1}",), {("terminal", 1)}),
    "deleted": (without_trial(1, values=False), {("numbers", 1)}),
    "deleted with its run": (
        ("DELETE FROM hpsearch_runs WHERE id = {R1}", *without_trial(1, values=False)),
        {("numbers", 1)},
    ),
    "the last one deleted": (without_trial(4), {("numbers", 4), ("count", None)}),
    "a run of no trial": ((COPIED_RUN.format("9"),), {("numbers", 9)}),
    "a run of no number": ((COPIED_RUN.format("x"),), {("numbers", None)}),
    "a number twice": ((COPIED_TRIAL.format(1), REASON.format(99)), {("twice", 1)}),
    "no run": (("DELETE FROM hpsearch_runs WHERE id = {R4}",), {("run", 4)}),
    "no run of a pruned trial": (("DELETE FROM hpsearch_runs WHERE id = {R3}",), {("run", 3)}),
    "no weights": (("UPDATE hpsearch_runs SET weights = NULL WHERE id = {R4}",), {("facts", 4)}),
    "other data": (("UPDATE hpsearch_runs SET data_hash = 'x' WHERE id = {R4}",), {("facts", 4)}),
    "no split": (("UPDATE hpsearch_runs SET split_hash = NULL WHERE id = {R0}",), {("facts", 0)}),
    "an epoch missing": (without_epoch(4, 3), {("epochs", 4)}),
    "the first epoch missing": (without_epoch(4, 1), {("epochs", 4)}),
    "no epochs": ((*without_epoch(3, 1), *without_epoch(3, 2)), {("epochs", 3)}),
    "an epoch before the first": (
        (
            "INSERT INTO hpsearch_epochs (run_id, epoch, validation_loss, created_at) "
            "SELECT run_id, 0, validation_loss, created_at FROM hpsearch_epochs "
            "WHERE run_id = {R4} AND epoch = 1",
            "INSERT INTO hpsearch_target_errors SELECT run_id, 0, target, loss, mae "
            "FROM hpsearch_target_errors WHERE run_id = {R4} AND epoch = 1",
            "UPDATE trial_intermediate_values SET step = 0 WHERE trial_id = {T4} AND step = 1",
            "UPDATE hpsearch_epochs SET validation_loss = NULL WHERE run_id = {R4} AND epoch = 1",
        ),
        {("epochs", 4)},
    ),
    "ended too early": (
        (
            *without_epoch(4, 5),
            "UPDATE trial_values SET value = 13 WHERE trial_id = {T4}",
        ),
        {("length", 4), ("value", 4)},
    ),
    "stopped too early": (without_epoch(2, 4), {("length", 2)}),
    "trained too long": (
        (
            "UPDATE hpsearch_runs SET configuration = "
            "replace(configuration, '\"epochs\": 5', '\"epochs\": 4') WHERE id = {R4}",
        ),
        {("length", 4), ("fingerprint", 4), ("parameters", 4)},
    ),
    "another loss in Optuna": (
        (
            "UPDATE trial_intermediate_values SET intermediate_value = 15.5 "
            "WHERE trial_id = {T4} AND step = 2",
        ),
        {("reported", 4)},
    ),
    "a loss not in Optuna": (
        ("DELETE FROM trial_intermediate_values WHERE trial_id = {T3} AND step = 2",),
        {("reported", 3)},
    ),
    "a loss only in Optuna": (
        ("UPDATE hpsearch_epochs SET validation_loss = NULL WHERE run_id = {R4} AND epoch = 2",),
        {("reported", 4)},
    ),
    "a target missing": (
        ("DELETE FROM hpsearch_target_errors WHERE run_id = {R4} AND epoch = 2 AND target = 'U0'",),
        {("targets", 4)},
    ),
    "another target": (
        (
            "UPDATE hpsearch_target_errors SET target = 'gap' "
            "WHERE run_id = {R4} AND epoch = 2 AND target = 'U0'",
        ),
        {("targets", 4)},
    ),
    "a target without a loss": (
        (
            "UPDATE hpsearch_target_errors SET loss = NULL "
            "WHERE run_id = {R4} AND epoch = 2 AND target = 'U0'",
        ),
        {("targets", 4)},
    ),
    "targets that do not sum": (
        (
            "UPDATE hpsearch_target_errors SET loss = loss + 0.0001 "
            "WHERE run_id = {R4} AND epoch = 2 AND target = 'U0'",
        ),
        {("targets", 4)},
    ),
    "another value": (
        ("UPDATE trial_values SET value = 12.0000000001 WHERE trial_id = {T4}",),
        {("value", 4)},
    ),
    "no value": (("DELETE FROM trial_values WHERE trial_id = {T4}",), {("value", 4)}),
    "an infinite value": (
        ("UPDATE trial_values SET value = NULL, value_type = 'INF_POS' WHERE trial_id = {T4}",),
        {("value", 4)},
    ),
    "a lower epoch": (
        (
            "UPDATE hpsearch_epochs SET validation_loss = 11.5 WHERE run_id = {R4} AND epoch = 4",
            "UPDATE hpsearch_target_errors SET loss = 5.75 WHERE run_id = {R4} AND epoch = 4",
            "UPDATE trial_intermediate_values SET intermediate_value = 11.5 "
            "WHERE trial_id = {T4} AND step = 4",
        ),
        {("value", 4)},
    ),
    "the best one pruned": (
        ("UPDATE trials SET state = 'PRUNED' WHERE trial_id = {T0}",),
        {("best", 0)},
    ),
    "another one best by its value": (
        ("UPDATE trial_values SET value = 5.0 WHERE trial_id = {T4}",),
        {("best", 0), ("value", 4)},
    ),
    "no reason": (
        ("DELETE FROM trial_user_attributes WHERE trial_id = {T1} AND key = 'failure_reason'",),
        {("reason", 1)},
    ),
    "an empty reason": (
        (
            "UPDATE trial_user_attributes SET value_json = '\"\"' "
            "WHERE trial_id = {T1} AND key = 'failure_reason'",
        ),
        {("reason", 1)},
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_and_nothing_else(rows: Rows, damage: str) -> None:
    statements, expected = DAMAGE[damage]
    rows.damage(*statements)
    assert rows.broken() == expected


def test_a_run_twice_is_named(rows: Rows, url: str) -> None:
    # No row can be so while the constraint stands.
    twice = COPIED_RUN.format("1").format(R4="(SELECT id FROM hpsearch_runs WHERE key = '4')")
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.execute("CREATE TABLE copied AS SELECT * FROM hpsearch_runs")
            connection.execute("DROP TABLE hpsearch_runs")
            connection.execute("ALTER TABLE copied RENAME TO hpsearch_runs")
            connection.execute(twice)
            connection.commit()
    else:
        rows.damage(
            "ALTER TABLE hpsearch_runs DROP CONSTRAINT uq_hpsearch_runs_experiment_id_key", twice
        )
    assert rows.broken() == {("twice", 1)}


NEED_MORE = {"digest", "readable", "rungs"}
"""Rules that only test_damages.py and test_verify_rungs.py break."""


def test_every_rule_is_seen_broken() -> None:
    assert {rule for _, broken in DAMAGE.values() for rule, _ in broken} == set(RULES) - NEED_MORE


# --- Reading --------------------------------------------------------------------------------------


def test_a_larger_study_takes_no_more_queries(rows: Rows, tmp_path: Path) -> None:
    def queries() -> int:
        rows.store.leave()
        seen: list[str] = []

        def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
            seen.append(statement)

        sa.event.listen(rows.store._database.engine, "before_cursor_execute", note)
        rows.verify()
        sa.event.remove(rows.store._database.engine, "before_cursor_execute", note)
        return len(seen)

    before = queries()
    launch_study(rows.store, SPACE.with_overrides(trials=8), "quick", tmp_path).next()
    assert queries() == before < 26


def test_nothing_is_written(filled: Path, tmp_path: Path) -> None:
    copy = tmp_path / "store.db"
    shutil.copy(filled, copy)
    before = copy.read_bytes()
    copy.chmod(0o400)
    with Store.open(f"sqlite:///{copy}") as store:
        assert verify(store).breaches == ()
    assert copy.read_bytes() == before


@pytest.fixture
def newer_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A step behind the newest one, as a later hpsearch will have; its revision."""
    folder = tmp_path / "steps"
    shutil.copytree(
        installation.folder("storage"), folder, ignore=shutil.ignore_patterns("runs", "*.db")
    )
    before = max(path.name[:4] for path in (folder / "versions").glob("0*.py"))
    (folder / "versions" / "9000_a_later_step.py").write_text(
        f'"""A later step."""\nrevision = "9000"\ndown_revision = "{before}"\n'
        "branch_labels = depends_on = None\n"
        "def upgrade():\n    pass\ndef downgrade():\n    pass\n"
    )
    monkeypatch.setattr(schema, "folder", lambda name: folder)
    yield before


def test_readers_take_a_store_of_before(rows: Rows, url: str, newer_code: str) -> None:
    with rows.store._writer.begin() as connection:
        command.downgrade(schema.configuration(connection), "0001")
        assert schema.current(connection) == "0001"
    with Store.open(url) as store:
        assert verify(store).breaches == ()
        study = Study.open(store)
        assert study.counts().complete == 3
        origin = study.winner().provenance
        assert origin is not None and origin.trial == 0
        assert len(study.trials()) == 5
        with store._database.engine.connect() as connection:
            assert schema.current(connection) == "0001"  # and none of them changed it
    with Store.create(url) as store, store._database.engine.connect() as connection:
        assert schema.current(connection) == "9000"


def test_readers_refuse_a_store_that_they_could_not_read(
    rows: Rows, url: str, newer_code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "READABLE", frozenset())
    with pytest.raises(InputError, match=r"has the older schema .* upgrades it to 9000"):
        Store.open(url)


def test_the_files_of_the_steps_begin_with_their_versions(rows: Rows) -> None:
    with rows.store._database.engine.connect() as connection:
        scripts = ScriptDirectory.from_config(schema.configuration(connection))
    steps = [step.revision for step in scripts.walk_revisions()]
    assert schema.versions() == steps[::-1]
    assert set(steps) >= schema.READABLE


def test_facts_of_other_data_end_a_launch_and_are_named(rows: Rows, tmp_path: Path) -> None:
    search = launch_study(rows.store, SPACE.with_overrides(trials=5), "quick", tmp_path)
    assignment = search.next()
    assert assignment is not None
    with pytest.raises(InputError):
        search.started(assignment.key, replace(FACTS, data_hash="e" * 64))
    assert rows.broken() == {("count", None), ("terminal", 5)}
    rows.damage("UPDATE trials SET state = 'PRUNED' WHERE trial_id = {T5}")
    assert rows.broken() == {("facts", 5), ("epochs", 5)}
