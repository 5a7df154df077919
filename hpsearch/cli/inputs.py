"""What a user names in a command: a store, a folder, a configuration, molecules.

A mistake in them is answered before anything heavy is imported.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hpsearch.errors import InputError, unwritable

if TYPE_CHECKING:
    from hpsearch.config.export import Winner
    from hpsearch.config.run import DataConfig
    from hpsearch.data.molecule import Molecules


def url_of(given: str | None) -> str:
    """The URL that was given, else the environment's, else the default."""
    from hpsearch.store.address import default_url

    return default_url() if given is None else given


def require_store(url: str | None) -> str:
    """The URL of a store that is there, as far as that can be seen without opening it.

    Raises:
        InputError: it is no URL of a store, or names a SQLite file that does not exist.
    """
    from hpsearch.store.address import Address, require_file

    found = url_of(url)
    require_file(Address(found))
    return found


def runs_folder(url: str | None, given: Path | None) -> Path:
    """The folder of the checkpoints: the one given, else beside the SQLite file.

    Raises:
        InputError: the store's URL is wrong.
    """
    from hpsearch.store.address import Address

    database = Address(url_of(url)).path
    if given is not None:
        return given
    return Path("storage/runs") if database is None else database.parent / "runs"


def check_before_writing(url: str | None, runs: Path | None, name: str | None, what: str) -> Path:
    """Refuse what would otherwise only be refused after the store was made.

    Args:
        url: of the store.
        runs: the folder of the checkpoints; ``None`` for the one beside the store.
        name: of the experiment; ``None`` for the default.
        what: the experiment's kind.

    Returns:
        The folder of the checkpoints.

    Raises:
        InputError: the name cannot be stored, or the folder cannot be written into.
    """
    from hpsearch.store import check_name

    if name is not None:
        check_name(name, what)
    folder = runs_folder(url, runs)
    require_writable(folder)
    return folder


def require_writable(folder: Path) -> None:
    """Refuse a folder that could not be made or written into, by trying; nothing is left."""
    there = folder.absolute()
    try:
        while not there.exists():
            there = there.parent
        Path(tempfile.mkdtemp(prefix=".hpsearch-", dir=there)).rmdir()
    except OSError as error:
        raise unwritable(folder, error) from None


def load_molecules(say: Callable[[str], None]) -> Molecules:
    """QM9 as this machine keeps it; ``say`` is called about what lasts longer than a second."""
    from hpsearch.data import qm9

    return qm9.load(say=say)


def check_molecules(molecules: Molecules, config: DataConfig, file: Path | None) -> dict[str, str]:
    """Refuse sizes and split files that do not fit, before anything is written or started.

    Args:
        molecules: the whole data set.
        config: what decides the molecules.
        file: the space that it stands in; ``None`` where options have changed it.

    Returns:
        The hashes of data and split.
    """
    from hpsearch.config.yaml_file import read_yaml
    from hpsearch.data.split import make_split

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
