"""What a report reads of its store: each table once."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine
from support import whole_chain
from support.made_up import ERRORS

import hpsearch.report
from hpsearch.pages.figures import draw_pages
from hpsearch.report.write import write_report
from hpsearch.results.comparison import interval_table
from hpsearch.results.findings import AblationFindings, Findings, SearchFindings
from hpsearch.search.study import Study
from hpsearch.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A search and an ablation of two repeats."""
    path = tmp_path_factory.mktemp("store") / "store.db"
    with Store.create(f"sqlite:///{path}") as store:
        whole_chain.ablate(store, whole_chain.search(store).winner(), repeats=2)
    with Store.open(f"sqlite:///{path}") as store:
        yield store


@contextmanager
def reads() -> Iterator[Counter[tuple[str, str]]]:
    """How often each query is asked inside, by its text and its values."""
    asked: Counter[tuple[str, str]] = Counter()

    def note(_connection, _cursor, statement, parameters, *_):
        if statement.startswith("SELECT"):
            asked[statement, repr(parameters)] += 1

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def rows_asked(asked: Counter[tuple[str, str]]) -> Counter[str]:
    """How often the rows of each table are asked for, all those of one experiment at a time."""
    found: Counter[str] = Counter()
    for (statement, parameters), times in asked.items():
        table = re.search(r"FROM (\w+)", statement)[1]
        if " JOIN hpsearch_experiments " in statement:
            found[f"{table} of {parameters}"] += times
        elif table.startswith("trial"):
            found[f"{table}: {hash(statement)} of {parameters}"] += times
    return found


@pytest.mark.parametrize("pages", [None, draw_pages], ids=["tables", "tables and pages"])
@pytest.mark.parametrize("kind", ["study", "ablation"])
def test_a_report_reads_each_table_of_an_experiment_once(kind, pages, store, tmp_path):
    write_report(store, tmp_path, store.latest(kind), pages=pages)  # opens Optuna's storage
    with reads() as asked:
        write_report(store, tmp_path, store.latest(kind), pages=pages)
    found = rows_asked(asked)
    tables = {name.split()[0] for name in found}
    assert {f"hpsearch_{name}" for name in ("runs", "epochs", "target_errors", "results")} <= tables
    assert {"trials:", "trial_params:", "trial_user_attributes:"} <= tables
    # Verdicts and their errors, and the residuals beside them, are two frames of one table.
    assert found.pop("hpsearch_test_errors of (2,)") == 2
    assert set(found.values()) == {1}, found


def test_a_second_reading_would_be_counted(store):
    with reads() as asked:
        AblationFindings.read(store)
        AblationFindings.read(store)
    assert rows_asked(asked)["hpsearch_runs of (2,)"] == 2


def test_a_page_that_changes_its_rows_changes_no_other_page_s(store):
    snapshot, experiment = store.snapshot(), store.find(None, "ablation")
    rows = snapshot.epochs(experiment.id)
    rows["seconds"] = 0.0
    rows.loc[:, "epoch"] = -1
    assert snapshot.epochs(experiment.id).equals(store.epochs(experiment.id))


def test_what_was_read_answers_without_the_store(store):
    findings = SearchFindings.read(store)
    live = Study.open(store)
    with reads() as asked:
        study = findings.study
        counts, trials, losses = study.counts(), study.trials(), study.target_losses()
        assert study.provenance["space"]
        assert study.quote_accuracy() is None
    assert not asked
    assert counts == live.counts()
    assert trials.equals(live.trials())
    assert losses.equals(live.target_losses())


def test_findings_are_of_one_moment(tmp_path):
    with Store.create(f"sqlite:///{tmp_path}/store.db") as store:
        before = Findings.read(store, whole_chain.search(store).name)
        whole_chain.ablate(store, Study.open(store).winner())
        assert before.ablation is None
        after = Findings.read(store)
        assert after.about.study == before.about.study
        assert set(after.ablation.cells["variant"]) == set(ERRORS)


# --- Doors for pages


def test_the_doors_for_pages_read_by_name(store):
    name, study = store.latest("ablation"), Study.open(store)
    findings = AblationFindings.read(store, name)
    assert hpsearch.report.interval_table(store, name).equals(interval_table(findings))
    assert list(hpsearch.report.table1(store, name).index) == ["mu", "U0"]
    assert list(hpsearch.report.search_table(study)["state"]) == ["complete"] * 2
    sections = [
        *hpsearch.report.table1_sections(store, name),
        *hpsearch.report.comparison_sections(store, name),
    ]
    assert all(isinstance(section, hpsearch.report.Section) for section in sections)


def test_importing_the_report_is_cheap():
    code = "import sys, hpsearch.report; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert not {"pandas", "scipy", "numpy", "sqlalchemy", "optuna"} & set(loaded)
