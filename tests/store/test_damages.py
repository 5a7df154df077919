"""The damages of an attack on a study's rows, and which of them `verify` notices."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support.damaged import Rows, fill

from hpsearch.runs import checkpoint
from hpsearch.search.verify import require_sound
from hpsearch.store import Store, StoreReader
from hpsearch.system.errors import HpsearchError


def of_epoch(change: str, trial: int, epoch: int | None = None) -> str:
    only = "" if epoch is None else f" AND epoch = {epoch}"
    return f"UPDATE hpsearch_epochs SET {change} WHERE run_id = {{R{trial}}}{only}"


def of_errors(change: str, trial: int, epoch: int | None = None) -> str:
    return of_epoch(change, trial, epoch).replace("hpsearch_epochs", "hpsearch_target_errors")


def of_run(change: str, trial: int) -> str:
    return f"UPDATE hpsearch_runs SET {change} WHERE id = {{R{trial}}}"


def of_attribute(change: str, trial: int, key: str) -> str:
    return (
        f"UPDATE trial_user_attributes SET {change} WHERE trial_id = {{T{trial}}} AND key = '{key}'"
    )


def of_experiment(old: str, new: str) -> str:
    return f"UPDATE hpsearch_experiments SET provenance = replace(provenance, '{old}', '{new}')"


def exchanged(column: str, epoch: int) -> str:
    """The values of the two targets, exchanged."""
    return (
        f"UPDATE hpsearch_target_errors AS a SET {column} = (SELECT b.{column} FROM "
        "hpsearch_target_errors b WHERE b.run_id = a.run_id AND b.epoch = a.epoch AND "
        f"b.target <> a.target) WHERE a.run_id = {{R4}} AND a.epoch = {epoch}"
    )


NO_DIGESTS = of_epoch("digest = NULL", 4)
COPY_OF_0 = (
    "UPDATE hpsearch_runs SET (configuration, fingerprint, digest) = (SELECT configuration, "
    "fingerprint, digest FROM hpsearch_runs WHERE id = {R0}) WHERE id = {R4}",
    "UPDATE hpsearch_epochs AS a SET (learning_rate, training_loss, validation_loss, digest) = "
    "(SELECT learning_rate, training_loss, validation_loss, digest FROM hpsearch_epochs b "
    "WHERE b.run_id = {R0} AND b.epoch = a.epoch) WHERE a.run_id = {R4}",
    "UPDATE hpsearch_target_errors AS a SET (loss, mae) = (SELECT loss, mae FROM "
    "hpsearch_target_errors b WHERE b.run_id = {R0} AND b.epoch = a.epoch AND "
    "b.target = a.target) WHERE a.run_id = {R4}",
    "UPDATE trial_params AS a SET param_value = (SELECT param_value FROM trial_params b WHERE "
    "b.trial_id = {T0} AND b.param_name = a.param_name) WHERE a.trial_id = {T4}",
    "UPDATE trial_user_attributes AS a SET value_json = (SELECT value_json FROM "
    "trial_user_attributes b WHERE b.trial_id = {T0} AND b.key = a.key) WHERE a.trial_id = {T4}",
    "UPDATE trial_intermediate_values AS a SET intermediate_value = (SELECT intermediate_value "
    "FROM trial_intermediate_values b WHERE b.trial_id = {T0} AND b.step = a.step) "
    "WHERE a.trial_id = {T4}",
    "UPDATE trial_values SET value = (SELECT value FROM trial_values WHERE trial_id = {T0}) "
    "WHERE trial_id = {T4}",
)
SCALED = (
    of_epoch("validation_loss = validation_loss / 2", 4),
    of_errors("loss = loss / 2", 4),
    "UPDATE trial_intermediate_values SET intermediate_value = intermediate_value / 2 "
    "WHERE trial_id = {T4}",
    "UPDATE trial_values SET value = value / 2 WHERE trial_id = {T4}",
)
LAST_EPOCH_GONE = (
    "DELETE FROM hpsearch_target_errors WHERE run_id = {R4} AND epoch = 5",
    "DELETE FROM hpsearch_epochs WHERE run_id = {R4} AND epoch = 5",
    "DELETE FROM trial_intermediate_values WHERE trial_id = {T4} AND step = 5",
    "UPDATE trial_values SET value = 13.0 WHERE trial_id = {T4}",
    of_attribute("value_json = '4'", 4, "best_epoch"),
)

DAMAGES: dict[str, tuple[str, ...]] = {
    "configuration": (of_run("configuration = replace(configuration, '0.', '0.1')", 4),),
    "fingerprint": (of_run("fingerprint = 'f' || substr(fingerprint, 2) || 'x'", 4),),
    "epochs wanted": (of_run("configuration = replace(configuration, 's\": 5', 's\": 50')", 4),),
    "parameter": (
        "UPDATE trial_params SET param_value = param_value * 1.5 "
        "WHERE trial_id = {T4} AND param_name = 'learning_rate'",
    ),
    "parameter deleted": (
        "DELETE FROM trial_params WHERE trial_id = {T4} AND param_name = 'learning_rate'",
    ),
    "all parameters deleted": ("DELETE FROM trial_params WHERE trial_id = {T4}",),
    "distribution": ("UPDATE trial_params SET distribution_json = '{{}}' WHERE trial_id = {T4}",),
    "direction": ("UPDATE study_directions SET direction = 'MAXIMIZE'",),
    "errors of an epoch": (of_errors("mae = mae / 100", 4, 5),),
    "errors of all epochs": (of_errors("mae = mae / 100", 4),),
    "no errors": (of_errors("mae = NULL", 4, 5),),
    "an error as text": (of_errors("mae = 'low'", 4, 5),),
    "two targets' losses exchanged": (
        of_errors("loss = loss * 1.5", 4, 2) + " AND target = 'mu'",
        of_errors("loss = loss * 0.5", 4, 2) + " AND target = 'U0'",
    ),
    "two targets' errors exchanged": (exchanged("mae", 2),),
    "best epoch": (of_attribute("value_json = '2'", 4, "best_epoch"),),
    "no best epoch": (
        "DELETE FROM trial_user_attributes WHERE trial_id = {T4} AND key = 'best_epoch'",
    ),
    "a copy of another trial": COPY_OF_0,
    "fewer wanted": (of_experiment('"trials": 4', '"trials": 3'),),
    "more wanted": (of_experiment('most": 4', 'most": 9'),),
    "the space's hash": (of_experiment('"hash": "', '"hash": "0'),),
    "the space's text": (of_experiment("batch_size", "batch_sizes"),),
    "a recorded version": (of_experiment('"torch": "', '"torch": "9'),),
    "losses and values scaled": SCALED,
    "a digest deleted": (of_epoch("digest = NULL", 4, 3),),
    "digests of epochs deleted": (NO_DIGESTS,),
    "the run's digest deleted": (of_run("digest = NULL", 4),),
    "all digests of a run deleted": (NO_DIGESTS, of_run("digest = NULL", 4)),
    "the study's digest deleted": ("UPDATE hpsearch_experiments SET digest = NULL",),
    "learning rate": (of_epoch("learning_rate = 0.5", 4, 1),),
    "training loss": (of_epoch("training_loss = 1", 4, 1),),
    "no training loss": (of_epoch("training_loss = NULL", 4, 1),),
    "loss of predicting zero": (of_run("zero_output_loss = 99", 4),),
    "number of weights": (of_run("weights = 99", 4),),
    "molecules": (of_run(f"data_hash = '{'e' * 64}'", 4),),
    "split": (of_run(f"split_hash = '{'e' * 64}'", 4),),
    "the last epoch deleted": LAST_EPOCH_GONE,
    "the last epoch of a pruned trial": (
        "DELETE FROM hpsearch_target_errors WHERE run_id = {R3}",
        "DELETE FROM hpsearch_epochs WHERE run_id = {R3}",
        "DELETE FROM trial_intermediate_values WHERE trial_id = {T3}",
    ),
    "an epoch added": (
        "INSERT INTO hpsearch_epochs SELECT run_id, 6, learning_rate, seconds, training_loss, "
        "validation_loss, digest, created_at, sequence FROM hpsearch_epochs WHERE run_id = {R4} "
        "AND epoch = 5",
    ),
    "a loss as text": (of_epoch("validation_loss = 'low'", 4, 2),),
    "configuration no JSON": (of_run("configuration = '{{'", 4),),
    "configuration a list": (of_run("configuration = '[]'", 4),),
    "attribute no JSON": (of_attribute("value_json = '{{'", 4, "config"),),
    "attribute changed": (of_attribute("value_json = '{{}}'", 4, "config"),),
    "facts no JSON": ("UPDATE hpsearch_experiments SET provenance = '{{'",),
    "facts empty": ("UPDATE hpsearch_experiments SET provenance = '{{}}'",),
}

NOT_NOTICED: dict[str, tuple[str, ...]] = {
    # Two trainings with the same numbers have the same digests, so these are not part of them.
    "seconds": (of_epoch("seconds = 1", 4),),
    "host": (of_run("host = 'another'", 4),),
    # A text for people.
    "reason": (of_attribute("value_json = '\"another\"'", 1, "failure_reason"),),
}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store with a signed study, to be copied."""
    path = tmp_path_factory.mktemp("signed") / "store.db"
    with Store.create(f"sqlite:///{path}") as store:
        fill(store, path.parent, signed=True)
    return path


@pytest.fixture
def url(filled: Path, tmp_path: Path) -> str:
    return f"sqlite:///{shutil.copy(filled, tmp_path / 'store.db')}"


@pytest.fixture
def rows(url: str, created: Any) -> Rows:
    return Rows(created(url))


def noticed(rows: Rows) -> bool:
    """Whether `verify` names the damage, on one line."""
    rows.store.leave()
    try:
        breaches = rows.verify().breaches
    except HpsearchError as error:
        assert "\n" not in str(error)
        return True
    assert all("\n" not in str(breach) for breach in breaches)
    return bool(breaches)


def test_a_signed_study_has_no_breach(rows: Rows) -> None:
    assert rows.verify().breaches == ()


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed(rows: Rows, damage: str) -> None:
    rows.damage(*DAMAGES[damage])
    assert noticed(rows)


@pytest.mark.parametrize("damage", NOT_NOTICED)
def test_what_no_digest_covers_is_known(rows: Rows, damage: str) -> None:
    rows.damage(*NOT_NOTICED[damage])
    assert not noticed(rows)


def test_digests_deleted_everywhere_differ_from_the_kept_weights(
    rows: Rows, tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    with rows.store._writer.begin() as connection:
        signed = connection.exec_driver_sql(
            "SELECT e.digest FROM hpsearch_epochs e JOIN hpsearch_runs r ON r.id = run_id "
            "WHERE key = '4' ORDER BY epoch"
        ).scalars()
        digests = list(signed)
    checkpoint.write(folder, checkpoint.BEST, 5, {"w": torch.ones(1)}, {"digests": digests})
    rows.damage(of_run(f"directory = '{folder}'", 4))
    assert not noticed(rows)
    rows.damage(NO_DIGESTS, of_run("digest = NULL", 4))
    rows.damage("DELETE FROM trial_user_attributes WHERE key = 'digest' AND trial_id = {T4}")
    assert rows.broken() == {("digest", 4)}


def test_export_refuses_changed_rows(rows: Rows) -> None:
    require_sound(rows.store, "quick", 0)
    rows.damage(of_errors("mae = mae / 100", 0))
    with pytest.raises(HpsearchError, match=r"trial 0 has other numbers .* hpsearch verify"):
        require_sound(rows.store, "quick", 0)


def test_a_changed_configuration_is_not_used(rows: Rows) -> None:
    rows.damage(of_run("configuration = replace(configuration, 's\": 5', 's\": 50')", 0))
    experiment = rows.store.find("quick")
    with pytest.raises(HpsearchError, match="must have the recorded fingerprint"):
        rows.store.run(experiment.id, "0")


@pytest.mark.parametrize("table", ["hpsearch_runs", "trial_user_attributes", "trial_params"])
def test_an_unreadable_row_is_named(rows: Rows, url: str, table: str) -> None:
    column = {
        "hpsearch_runs": "configuration",
        "trial_user_attributes": "value_json",
        "trial_params": "distribution_json",
    }[table]
    rows.damage(f"UPDATE {table} SET {column} = '{{{{'")
    with (
        pytest.raises(HpsearchError, match=rf"readable, but {column} of .* {table} is '\{{'"),
        StoreReader.open(url),
    ):
        raise json.JSONDecodeError("as a library does", "", 0)
    with pytest.raises(ZeroDivisionError), StoreReader.open(url):
        raise ZeroDivisionError
