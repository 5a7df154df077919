"""Rows that are drawn and annotated in one transaction each."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest
from optuna.trial import Trial
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from hpsearch.config.space import SearchSpace
from hpsearch.search.samplers import SeededPerTrial
from hpsearch.search.trials import TrialRows
from hpsearch.store import Store
from hpsearch.system import installation

TABLE3 = SearchSpace.load(installation.folder("search_spaces") / "table3.yaml")


@pytest.fixture
def rows(store: Store) -> TrialRows:
    return TrialRows(store, "s", SeededPerTrial(TABLE3))


def params(rows: TrialRows, trial: Trial) -> dict[str, Any]:
    row = rows.read(trial._trial_id)
    assert row is not None
    return row.params


def test_a_row_is_drawn_by_one_commit(store: Store, rows: TrialRows) -> None:
    trial = rows.ask(enqueued=False)
    stored = []
    event.listen(
        store.optuna_storage.engine,
        "commit",
        lambda connection: stored.append(
            connection.exec_driver_sql("SELECT count(*) FROM trial_params").scalar()
        ),
    )
    assert rows.draw(trial, TABLE3.suggest) is not None
    assert stored == [len(trial.params)]
    assert params(rows, trial) == trial.params


def test_a_draw_that_was_rolled_back_is_drawn_again(store: Store, rows: TrialRows) -> None:
    trial = rows.ask(enqueued=False)
    failures = []

    def fail_once(connection: object) -> None:
        if not failures:
            busy = sqlite3.OperationalError("database is locked")
            busy.sqlite_errorcode = sqlite3.SQLITE_BUSY
            failures.append(busy)
            raise OperationalError("COMMIT", {}, busy)

    event.listen(store.optuna_storage.engine, "commit", fail_once)
    drawn: list[Trial] = []

    def suggest(trial: Trial) -> Any:
        drawn.append(trial)
        return TABLE3.suggest(trial)

    config = rows.draw(trial, suggest)
    assert len(failures) == 1
    assert len(drawn) == 2
    assert params(rows, trial) == drawn[1].params == drawn[0].params
    assert config == TABLE3.suggest(drawn[1])


def test_a_refused_draw_is_stored(rows: TrialRows) -> None:
    trial = rows.ask(enqueued=False)

    def refuse(trial: Trial) -> None:
        trial.suggest_int("x", 1, 1)
        raise ValueError("not this")

    with pytest.raises(ValueError, match="not this"):
        rows.draw(trial, refuse)
    assert params(rows, trial) == {"x": 1}


def test_annotations_stand_or_fall_together(rows: TrialRows) -> None:
    trial = rows.ask(enqueued=False)
    with pytest.raises(TypeError):
        rows.annotate(trial._trial_id, {"a": 1, "b": object()})
    row = rows.read(trial._trial_id)
    assert row is not None
    assert row.user_attrs == {}
    rows.annotate(trial._trial_id, {"a": 1, "b": [2]})
    row = rows.read(trial._trial_id)
    assert row is not None
    assert row.user_attrs == {"a": 1, "b": [2]}
