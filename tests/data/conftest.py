from __future__ import annotations

import pytest

from hpsearch.config.run import DataConfig
from hpsearch.data import qm9
from hpsearch.data.molecule import Molecules
from hpsearch.data.split import Split, make_split


@pytest.fixture(scope="session")
def molecules() -> Molecules:
    return qm9.load()


@pytest.fixture(scope="session")
def split(molecules: Molecules) -> Split:
    return make_split(molecules, DataConfig())
