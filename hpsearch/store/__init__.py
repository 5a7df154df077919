"""The SQL database: experiments, runs, epochs and results, next to Optuna's tables.

No other package imports sqlalchemy. SQLite serves one machine, PostgreSQL several.
"""

from typing import TYPE_CHECKING, Any

from hpsearch.store.address import DEFAULT_URL, default_url
from hpsearch.store.records import (
    ORIGIN,
    PAUSED,
    STAGE,
    ChangedRun,
    Curve,
    Decision,
    DecisionKind,
    Experiment,
    Kind,
    Ledger,
    LedgerTrial,
    LedgerVerdict,
    OpenTrials,
    RecordedRun,
    StoredRun,
    TrialRecord,
    TrialState,
    check_name,
    experiment_folder,
    normal_form,
)

if TYPE_CHECKING:
    from hpsearch.store.reader import StoreReader
    from hpsearch.store.writer import Store

__all__ = [
    "DEFAULT_URL",
    "ORIGIN",
    "PAUSED",
    "STAGE",
    "ChangedRun",
    "Curve",
    "Decision",
    "DecisionKind",
    "Experiment",
    "Kind",
    "Ledger",
    "LedgerTrial",
    "LedgerVerdict",
    "OpenTrials",
    "RecordedRun",
    "Store",
    "StoreReader",
    "StoredRun",
    "TrialRecord",
    "TrialState",
    "check_name",
    "default_url",
    "experiment_folder",
    "normal_form",
]


if not TYPE_CHECKING:  # a type checker would otherwise accept any attribute of this module

    def __getattr__(name: str) -> Any:
        """Return a class that is imported on first use, because it loads SQLAlchemy and pandas."""
        if name == "StoreReader":
            from hpsearch.store.reader import StoreReader

            return StoreReader
        if name == "Store":
            from hpsearch.store.writer import Store

            return Store
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
