"""Damage to the rows of an ablation, and the rule of `verify` that names it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from support.exports import make_winner

from hpsearch.ablation.launch import launch_ablation
from hpsearch.ablation.molecules import DataSummary
from hpsearch.ablation.plan import AblationPlan
from hpsearch.ablation.verify import RULES, verify_ablation
from hpsearch.ablation.work import Ablation
from hpsearch.config.run import Overrides
from hpsearch.runs import record
from hpsearch.runs.messages import Completion, EpochMetrics, Failure, RunFacts
from hpsearch.store import Store

EPOCHS, FAILED = 6, "L0Net/U0/0"
RESIDUALS = [0.5, -1.5, 1.0]


def launched(store: Store, folder: Path) -> Ablation:
    winner = make_winner()
    plan = AblationPlan.make(
        winner,
        stem="best",
        targets=["mu", "U0"],
        variants=["L1Net", "L0Net"],
        overrides=Overrides(epochs=EPOCHS),
    )
    data = DataSummary(130_831, 1000, 500, 2000, "d" * 64, "s" * 64, {})
    return launch_ablation(store, winner, plan, folder, data)


def fill(store: Store, folder: Path) -> None:
    ablation = launched(store, folder)
    facts = RunFacts(1234, "host", "cpu", "d" * 64, "s" * 64, 3.0)
    while (cell := ablation.next()) is not None:
        mark, target = cell.config.fingerprint, cell.key.split("/")[1]
        ablation.started(cell.key, record.signed_facts(facts, mark))
        first = record.first_digest(mark, facts.data_hash, facts.split_hash)
        history: list[EpochMetrics] = []
        for epoch in range(1, EPOCHS + 1):
            loss = 2.0 / epoch
            measured = EpochMetrics(epoch, 1e-3, 2.5, 1.0, loss, {target: loss}, {target: 9.0})
            history.append(record.signed(measured, history, first))
            ablation.epoch(cell.key, history[-1])
        done = Completion(EPOCHS, EPOCHS, 2.0 / EPOCHS, 0.5, {target: 1.0}, {target: RESIDUALS})
        failure = Failure("diverged", "the loss of step 7 is not finite")
        ablation.finish(cell.key, failure if cell.key == FAILED else done)
    store.leave()


OF_CELL = "(SELECT id FROM hpsearch_runs WHERE key = 'L1Net/mu/0')"


def change(table: str, what: str, of: str = OF_CELL) -> str:
    column = "id" if table == "runs" else "run_id"
    return f"UPDATE hpsearch_{table} SET {what} WHERE {column} = {of}"


DAMAGES: dict[str, tuple[str, set[str]]] = {
    "facts of the ablation": (
        "UPDATE hpsearch_experiments SET provenance = replace(provenance, 'L0Net', 'L9Net')",
        {"provenance"},
    ),
    "digest of the ablation": (
        "UPDATE hpsearch_experiments SET digest = NULL",
        {"provenance"},
    ),
    "no verdict": (f"DELETE FROM hpsearch_results WHERE run_id = {OF_CELL}", {"terminal"}),
    "configuration no JSON": (
        change("runs", "configuration = '['"),
        {"readable", "targets", "length", "test"},
    ),
    "learning rate of the configuration": (
        change("runs", "configuration = replace(configuration, '0.3', '0.4')"),
        {"fingerprint"},
    ),
    "other molecules": (change("runs", "data_hash = 'x'"), {"facts", "digest"}),
    "an epoch": (change("epochs", "training_loss = 9"), {"digest"}),
    "no error": (change("target_errors", "mae = NULL"), {"targets", "digest"}),
    "the last epoch": (
        f"DELETE FROM hpsearch_epochs WHERE epoch = 6 AND run_id = {OF_CELL}",
        {"length", "verdict", "digest"},
    ),
    "the first epoch": (
        f"DELETE FROM hpsearch_epochs WHERE epoch = 1 AND run_id = {OF_CELL}",
        {"epochs", "digest"},
    ),
    "best epoch": (change("results", "best_epoch = 2"), {"verdict", "digest"}),
    "best loss": (change("results", "best_validation_loss = 0.1"), {"verdict", "digest"}),
    "test loss": (change("results", "test_loss = 0.1"), {"digest"}),
    "digest of the verdict": (change("results", "digest = NULL"), {"digest"}),
    "test error": (change("test_errors", "mae = 0.01"), {"test", "digest"}),
    "no test error": (
        f"DELETE FROM hpsearch_test_errors WHERE run_id = {OF_CELL}",
        {"test", "digest"},
    ),
    "residuals": (change("test_errors", "residuals = NULL"), {"digest"}),
    "a failure without a reason": (
        change("results", "failure_message = ''", OF_CELL.replace("L1Net/mu/0", FAILED)),
        {"reason"},
    ),
}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ablation") / "store.db"
    with Store.create(f"sqlite:///{path}") as store:
        fill(store, path.parent)
    return path


@pytest.fixture
def copied(filled: Path, tmp_path: Path, created: Any) -> Store:
    opened: Store = created(f"sqlite:///{shutil.copy(filled, tmp_path / 'store.db')}")
    return opened


def test_a_whole_ablation_has_no_breach(copied: Store) -> None:
    found = verify_ablation(copied)
    assert str(found) == "4 cells checked, 3 complete, 1 failed, 24 epochs: no breaches"
    assert found.breaches == found.in_progress == ()


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(copied: Store, damage: str) -> None:
    statement, rules = DAMAGES[damage]
    with copied._writer.begin() as connection:
        assert connection.exec_driver_sql(statement).rowcount
    breaches = verify_ablation(copied).breaches
    assert {breach.rule for breach in breaches} == rules
    assert all("\n" not in str(breach) for breach in breaches)


def test_every_rule_but_that_of_doubled_rows_is_seen_broken() -> None:
    assert {rule for _, rules in DAMAGES.values() for rule in rules} == {*RULES} - {"twice"}


def test_a_launch_that_runs_has_cells_in_progress(copied: Store, tmp_path: Path) -> None:
    with copied._writer.begin() as connection:
        connection.exec_driver_sql(f"DELETE FROM hpsearch_results WHERE run_id = {OF_CELL}")
    ablation = launched(copied, tmp_path)
    assert ablation.next() is not None
    copied.drive(ablation.experiment)
    assert [str(breach) for breach in verify_ablation(copied).in_progress] == [
        "terminal: cell L1Net/mu/0 has no verdict"
    ]
    copied.leave()
    [breach] = verify_ablation(copied).breaches
    assert str(breach) == "terminal: cell L1Net/mu/0 has no verdict: launch it again"


def test_a_verdict_from_before_digests_is_no_breach(copied: Store) -> None:
    with copied._writer.begin() as connection:
        for table in ("experiments", "runs", "epochs", "results"):
            connection.exec_driver_sql(f"UPDATE hpsearch_{table} SET digest = NULL")
    assert verify_ablation(copied).breaches == ()
