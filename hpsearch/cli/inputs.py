"""What a user names in a command: a store, a folder, a configuration, molecules."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hpsearch.cli.output import say
from hpsearch.errors import InputError, unwritable

if TYPE_CHECKING:
    from hpsearch.config.export import Winner
    from hpsearch.config.run import DataConfig
    from hpsearch.data.molecule import Molecules
    from hpsearch.executor import Placement
    from hpsearch.store import Store, StoreReader


def url_of(given: str | None) -> str:
    """The URL that was given, else the environment's, else the default."""
    from hpsearch.store import default_url

    return default_url() if given is None else given


def create_store(url: str | None) -> Store:
    """Open the store at ``url`` for writing; make or upgrade it where needed."""
    from hpsearch.store import Store

    return Store.create(url_of(url))


def open_store(url: str | None) -> StoreReader:
    """Open the store at ``url``, which must exist, to look into it."""
    from hpsearch.store import StoreReader

    return StoreReader.open(url_of(url))


def open_store_to_change(url: str | None) -> Store:
    """Open the store at ``url``, which must exist, to write into it."""
    from hpsearch.store import Store

    return Store.open(url_of(url))


def check_before_writing(
    url: str | None, runs: Path | None, name: str | None, what: str, placement: Placement
) -> tuple[Path, int]:
    """Refuse what would only be refused after the store was made.

    Returns:
        The folder of the runs, and how many of them go on side by side.
    """
    from hpsearch import executor
    from hpsearch.store import check_name

    if name is not None:
        check_name(name, what)
    root = runs_root(url, runs)
    require_writable(root)
    return root, executor.count_places(placement)


def runs_root(url: str | None, given: Path | None) -> Path:
    """The folder of the checkpoints: the one given, else beside the SQLite file."""
    from hpsearch.store.address import Address

    if given is not None:
        return given
    database = Address(url_of(url)).path
    return Path("storage/runs") if database is None else database.parent / "runs"


def require_writable(folder: Path) -> None:
    """Refuse a folder that could not be made or written into, by trying; nothing is left."""
    there = folder.absolute()
    try:
        while not there.exists():
            there = there.parent
        Path(tempfile.mkdtemp(prefix=".hpsearch-", dir=there)).rmdir()
    except OSError as error:
        raise unwritable(folder, error) from None


def load_molecules() -> Molecules:
    """QM9 as this machine keeps it."""
    from hpsearch.data import qm9

    return qm9.load(say=say)


def check_molecules(config: DataConfig, file: Path | None) -> dict[str, str]:
    """Refuse sizes and split files that do not fit, before anything is written or started.

    Args:
        config: what decides the molecules.
        file: the space that it stands in; ``None`` where options have changed it.

    Returns:
        The hashes of data and split.
    """
    from hpsearch.config.yaml_file import read_yaml
    from hpsearch.data.split import make_split

    molecules = load_molecules()
    try:
        split = make_split(molecules, config)
    except InputError as error:
        if file is None:
            raise
        raise read_yaml(file).error(("data",), str(error), key=True) from None
    return {"data_hash": molecules.content_hash, "split_hash": split.hash}


def read_winner(file: Path) -> Winner:
    """Read the configuration in ``file``, which may be the name of a shipped one."""
    from hpsearch.config.export import Winner
    from hpsearch.errors import one_line
    from hpsearch.system.installation import find_space

    try:
        path = find_space(str(file))
    except InputError:
        raise InputError(
            "a configuration must be a file that export-best wrote, or paper_l1net, got "
            f"'{one_line(str(file), longest=300)}', which is no file; write one with: "
            "hpsearch export-best -o best.yaml"
        ) from None
    return Winner.read(path)
