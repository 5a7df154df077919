"""The inputs that commands and functions share: a store, a folder, a configuration, molecules.

A mistake in them is reported before anything heavy is imported.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpsearch.system.errors import InputError, unwritable

if TYPE_CHECKING:
    from hpsearch.config.run import DataConfig
    from hpsearch.data.molecule import Molecules
    from hpsearch.store import Kind


def url_of(given: str | None) -> str:
    """Return the given URL, else the environment's, else the default."""
    from hpsearch.store.address import default_url

    return default_url() if given is None else given


def again_command(command: str, storage: str | None) -> str:
    """Return the command on the same store, for messages; a password in the URL is left out."""
    if storage is None:
        return f"hpsearch {command}"
    from hpsearch.store.address import Address

    address = Address(storage)
    url = f"{'sqlite:///' if address.path else ''}{address.label}"
    return f"hpsearch {command} --storage {shlex.quote(url)}"


def require_store(url: str | None) -> str:
    """Return the URL of a store, after the checks that are possible without opening it.

    Raises:
        InputError: it is no URL of a store, or names a SQLite file that does not exist.
    """
    from hpsearch.store.address import Address, require_file

    chosen = url_of(url)
    require_file(Address(chosen))
    return chosen


def runs_folder(url: str | None, given: Path | None) -> Path:
    """Return the folder of the checkpoints: the given one, else ``runs`` next to the SQLite file.

    Raises:
        InputError: the store's URL is wrong.
    """
    from hpsearch.store.address import Address

    database = Address(url_of(url)).path
    if given is not None:
        return given
    return Path("storage/runs") if database is None else database.parent / "runs"


def check_before_writing(url: str | None, runs: Path | None, name: str | None, kind: Kind) -> Path:
    """Check the name and the folder before the store is created.

    Args:
        url: of the store.
        runs: the folder of the checkpoints; ``None`` for the one next to the store.
        name: of the experiment; ``None`` for the default.
        kind: of the experiment.

    Returns:
        The folder of the checkpoints.

    Raises:
        InputError: the name cannot be stored, or the folder cannot be written into.
    """
    if name is not None:
        _check_name(url, name, kind)
    folder = runs_folder(url, runs)
    require_writable(folder)
    return folder


def _check_name(url: str | None, name: str, kind: Kind) -> None:
    """Refuse a name that a new experiment may not have, unless it is in the store."""
    from hpsearch.store import check_name

    try:
        check_name(name, kind)
    except InputError as refused:
        if not _is_stored(url, name, kind):
            raise refused from None


def _is_stored(url: str | None, name: str, kind: Kind) -> bool:
    try:
        stored_at = require_store(url)
        # Imported only if there may be a store, because it loads SQLAlchemy.
        from hpsearch.store import StoreReader

        with StoreReader.open(stored_at) as store:
            return store.experiment(kind, name) is not None
    except InputError:
        return False


def require_writable(folder: Path) -> None:
    """Refuse a folder that cannot be created or written into, by trying; no file stays."""
    existing = folder.absolute()
    try:
        while not existing.exists():
            existing = existing.parent
        Path(tempfile.mkdtemp(prefix=".hpsearch-", dir=existing)).rmdir()
    except OSError as error:
        raise unwritable(folder, error) from None


def load_molecules(data: DataConfig, say: Callable[[str], None]) -> Molecules:
    """Load the molecules from this machine's cache, and print what own molecules have.

    Args:
        data: the declaration; QM9 without one.
        say: called with lines about the labels of own molecules, and about long steps.
    """
    from hpsearch.data import own

    molecules = own.load(data, say)
    for line in own.label_lines(molecules, data):
        say(line)
    return molecules


def check_molecules(molecules: Molecules, config: DataConfig, file: Path | None) -> dict[str, Any]:
    """Refuse sizes, split files and references that do not fit, before anything is started.

    Args:
        molecules: the whole data set.
        config: the sizes, the seed and the split file.
        file: the search space's file, for errors; ``None`` if options have changed the data.

    Returns:
        The hashes of the data and the split, and for own molecules those of the columns.
    """
    from hpsearch.config.yaml_file import read_yaml
    from hpsearch.data.check import require_sound_references
    from hpsearch.data.split import make_split

    try:
        split = make_split(molecules, config)
        if config.is_own:
            require_sound_references(molecules, split, config.all_targets.names)
    except InputError as error:
        if file is None:
            raise
        raise read_yaml(file).error(("data",), str(error), key=True) from None
    hashes: dict[str, Any] = {"data_hash": molecules.content_hash, "split_hash": split.hash}
    if config.is_own:
        # They say what has changed, if the molecules have.
        hashes["columns"] = molecules.column_hashes()
    return hashes
