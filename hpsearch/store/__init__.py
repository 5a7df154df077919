"""The SQL store: experiments, runs, epochs and results beside Optuna's tables in one database.

The only package that imports sqlalchemy. SQLite serves one machine, PostgreSQL several.
"""

from hpsearch.store.address import DEFAULT_URL, default_url
from hpsearch.store.lease import Holder, LeaseHeld, LeaseLost
from hpsearch.store.records import (
    Curve,
    Experiment,
    Kind,
    Ledger,
    LedgerRun,
    LedgerTrial,
    StoredRun,
    TrialState,
    check_name,
    experiment_folder,
)
from hpsearch.store.store import Store

__all__ = [
    "DEFAULT_URL",
    "Curve",
    "Experiment",
    "Holder",
    "Kind",
    "LeaseHeld",
    "LeaseLost",
    "Ledger",
    "LedgerRun",
    "LedgerTrial",
    "Store",
    "StoredRun",
    "TrialState",
    "check_name",
    "default_url",
    "experiment_folder",
]
