"""Old import names of modules and functions that have moved, so that users' pages still work."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from hpsearch.store import RecordedRun, StoreReader


def keep_old_names() -> None:
    """Register the old module names next to the new ones, without replacing an existing module."""
    moved, names = _moved_modules(), _moved_names()
    for old, module in moved.items():
        _keep(old, module)
    for old, values in names.items():
        module = sys.modules.get(old) or ModuleType(old, "Old names; see hpsearch.pages.")
        for value in values:
            if not hasattr(module, value.__name__):
                setattr(module, value.__name__, value)
        _keep(old, module)


def _keep(old: str, module: ModuleType) -> None:
    package, _, leaf = old.rpartition(".")
    setattr(sys.modules[package], leaf, sys.modules.setdefault(old, module))


def _moved_modules() -> dict[str, ModuleType]:
    from hpsearch.config import targets, units
    from hpsearch.results import published, significance
    from hpsearch.system import errors

    return {
        "hpsearch.errors": errors,
        "hpsearch.published": published,
        "hpsearch.significance": significance,
        "hpsearch.targets": targets,
        "hpsearch.units": units,
    }


def recorded_runs(store: StoreReader, experiment_id: int) -> dict[str, RecordedRun]:
    """Return the runs of an experiment by their keys."""
    return store.recorded_runs(experiment_id)


def _moved_names() -> dict[str, tuple[Any, ...]]:
    from hpsearch.config.run import DataConfig, NetworkConfig, TrainingConfig, TrialConfig
    from hpsearch.report import search_table, table1
    from hpsearch.results.tables import arms_of
    from hpsearch.search.failures import Breakdown, shape
    from hpsearch.search.study import Study

    return {
        "hpsearch.recorded": (recorded_runs,),
        "hpsearch.config": (DataConfig, NetworkConfig, TrainingConfig, TrialConfig),
        "hpsearch.report.tables": (arms_of, search_table, table1),
        "hpsearch.study": (Study,),
        "hpsearch.study.failures": (Breakdown, shape),
    }
