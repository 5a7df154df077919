"""What a large study costs: queries that do not grow with the epochs, and bounded figures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import optuna
import pandas as pd
import pytest
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event
from sqlalchemy.engine import Engine
from support.made_up import FACTS, metrics, run_search

from hpsearch.config.space import SearchSpace
from hpsearch.pages import thinned, thinned_note
from hpsearch.pages.files import folder, load_page
from hpsearch.results import status
from hpsearch.runs.messages import Completion
from hpsearch.search.launch import launch_study
from hpsearch.store import Store
from hpsearch.system.installation import find_space
from hpsearch.terminal.status import status_lines


def rows_fetched(store: Store) -> tuple[int, int]:
    """The number of queries of a status and of the rows that they return."""
    asked = []

    def note(connection, _cursor, statement, parameters, *_):
        if statement.startswith("SELECT"):
            counted = f"SELECT count(*) FROM ({statement})"
            raw = connection.connection.driver_connection
            asked.append(raw.execute(counted, parameters).fetchone()[0])

    event.listen(Engine, "before_cursor_execute", note)
    try:
        status.read_status(store)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    return len(asked), sum(asked)


def test_the_rows_that_a_status_reads_do_not_grow_with_the_epochs(tmp_path: Path) -> None:
    counts = []
    for epochs in (2, 30):
        with Store.create(f"sqlite:///{tmp_path}/{epochs}.db") as store:
            space = SearchSpace.load(find_space("quick")).with_overrides(trials=3)
            search = launch_study(store, space, "s", tmp_path)
            for _ in range(3):
                assignment = search.next()
                assert assignment is not None
                search.started(assignment.key, FACTS)
                for epoch in range(1, epochs + 1):
                    search.epoch(assignment.key, metrics(epoch, assignment.config))
                search.finish(assignment.key, Completion(epochs, epochs, 1.0))
            counts.append(rows_fetched(store))
    assert counts[0] == counts[1]


def test_a_person_is_shown_the_last_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "MOST_ENDED", 2)
    with Store.create(f"sqlite:///{tmp_path}/store.db") as store:
        run_search(store, 4)
        shown, every = status.read_status(store, complete=False), status.read_status(store)
    *_, third, fourth, note = status_lines(shown, "here", "again")
    assert [line.split()[0] for line in (third, fourth)] == ["3", "4"]
    assert note == "the last 2 of 5 ended trials; --json has all"
    assert len(every.rows) == 5
    assert "--json" not in "\n".join(status_lines(every, "here", "again"))
    assert (shown.best, shown.counts, shown.failures) == (every.best, every.counts, every.failures)


def values(trial: FrozenTrial) -> dict[str, str]:
    """All values of a trial as text, because NaN is not equal to itself; attributes by name."""
    attributes = ("user_attrs", "system_attrs")
    every = {**vars(trial), **{name: sorted(getattr(trial, name).items()) for name in attributes}}
    return {name.strip("_"): repr(value) for name, value in every.items()}


def test_bulk_reading_returns_what_optuna_s_own_reading_returns(tmp_path: Path) -> None:
    with Store.create(f"sqlite:///{tmp_path}/store.db") as store:
        run_search(store, 3)
        storage = store.optuna_storage
        study = optuna.load_study(study_name="made-up", storage=storage)
        study.enqueue_trial({"batch_size": 20})
        number = study.ask()
        storage.set_trial_intermediate_value(number._trial_id, 1, float("inf"))
        storage.set_trial_intermediate_value(number._trial_id, 2, float("nan"))
        study.tell(study.ask().number, float("inf"))
        for asked in (
            (None, set(), -1),
            ((TrialState.COMPLETE, TrialState.FAIL), set(), -1),
            (None, {1, 2}, 3),
            (None, set(), 3),
        ):
            ours = storage._get_trials(study._study_id, *asked)
            theirs = RDBStorage._get_trials(storage, study._study_id, *asked)
            assert ours
            assert [values(trial) for trial in ours] == [values(trial) for trial in theirs]
        with pytest.raises(KeyError):
            storage._get_trials(study._study_id + 1, None, set(), -1)


def test_a_large_frame_is_thinned_and_the_figure_says_so() -> None:
    rows = pd.DataFrame({"trial": range(10_000)})
    few = thinned(rows, 400)
    assert len(few) == 400
    assert few["trial"].tolist()[:100] == list(range(100))
    assert few["trial"].is_monotonic_increasing
    assert few["trial"].iloc[-1] == 9_999
    assert thinned(rows, 10_000) is rows
    assert thinned_note(400, 10_000) == (
        "; of 10,000 trials, the best 100 and an even sample of the rest are drawn"
    )
    assert thinned_note(10_000, 10_000) == ""


@pytest.mark.parametrize(
    ("name", "limit", "most"),
    [("features", "MOST", 8), ("search_cost", "MOST", 8), ("parallel", "MOST", 8)],
)
def test_a_page_draws_so_many_trials(tmp_path: Path, name: str, limit: str, most: int) -> None:
    page = load_page(folder() / f"{name}.py")
    setattr(page.module, limit, most)
    with Store.create(f"sqlite:///{tmp_path}/store.db") as store:
        run_search(store, 12)
        figure, frame = page.figure(store), page.frame(store)
    assert frame is not None
    assert figure is not None
    assert len(frame) == most
    assert "; of 12 trials, the best 2 and an even sample" in figure.layout.title.text


def test_learning_curves_draw_the_best_and_some_others(tmp_path: Path) -> None:
    page = load_page(folder() / "learning_curves.py")
    page.module.MOST_OTHERS = 2  # type: ignore[attr-defined]
    with Store.create(f"sqlite:///{tmp_path}/store.db") as store:
        run_search(store, 14)
        figure, frame = page.figure(store), page.frame(store)
    assert figure is not None
    assert frame is not None
    # The ten best are 5 to 14; of 1 to 4, the first and the last.
    assert set(frame["key"]) == {*map(str, range(5, 15)), "1", "4"}
    assert "at most 2 others, evenly by number" in figure.layout.title.text


def test_importances_are_computed_from_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpsearch.search.study.MOST_TRIALS", 6)
    page = load_page(folder() / "importance.py")
    with Store.create(f"sqlite:///{tmp_path}/store.db") as store:
        run_search(store, 12)
        figure = page.figure(store)
    assert figure is not None
    assert "from 6 of 12 complete trials" in figure.layout.title.text


def test_the_status_loads_only_what_it_needs(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    with Store.create(url) as store:
        run_search(store, 3)
    code = f"""
import sys
import hpsearch.terminal.status
from hpsearch.results.status import read_status
from hpsearch.store import StoreReader
with StoreReader.open({url!r}) as store:
    for complete in (False, True):
        assert read_status(store, complete=complete).rows
heavy = {{"pandas", "optuna", "numpy", "pydantic", "alembic", "sqlalchemy.dialects.postgresql"}}
print(*(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_records_have_the_parameters_that_optuna_s_own_reading_returns(tmp_path: Path) -> None:
    with Store.create(f"sqlite:///{tmp_path}/store.db") as store:
        storage = store.optuna_storage
        study = optuna.create_study(storage=storage, study_name="s")
        for _ in range(3):
            trial = study.ask()
            trial.suggest_int("whole", 1, 9)
            trial.suggest_int("logarithmic", 1, 900, log=True)
            trial.suggest_float("real", 1.0, 2.0, step=0.25)
            trial.suggest_categorical("chosen", [None, True, 3, 0.5, "text"])
            study.tell(trial, 1.0)
        trials = RDBStorage._get_trials(storage, study._study_id, None, set(), -1)
        records = store.trial_records(study._study_id)
    assert [repr(record.parameters) for record in records] == [repr(t.params) for t in trials]
