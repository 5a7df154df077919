"""Writes and reads the folder of a model: model.json, weights.safetensors and README.md.

Nothing in the folder is executed when it is read. The folder is complete: it may be moved, and
needs neither the store nor the molecules.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from hpsearch.data.statistics import TargetStatistics
from hpsearch.models.card import card
from hpsearch.models.description import FILE_NAME, FORMAT, Description, Network
from hpsearch.models.model import Member, Model
from hpsearch.nn import MultiTargetNetwork
from hpsearch.system.errors import InputError, one_line, unwritable
from hpsearch.system.files import write_together

DESCRIPTION, WEIGHTS, CARD = FILE_NAME, "weights.safetensors", "README.md"

_LONGEST_DESCRIPTION = 50_000_000


def write_model(model: Model, folder: Path) -> Description:
    """Write the model's folder and return its signed description.

    Raises:
        InputError: the folder cannot be written.
    """
    from safetensors.torch import save

    tensors = {
        f"{place}.{name}": value.contiguous().cpu()
        for place, member in enumerate(model.members)
        for name, value in member.network.state_dict().items()
    }
    weights = save(tensors)
    signed = model.description.signed(hashlib.sha256(weights).hexdigest())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The description comes last: a folder with one is complete.
        files = {WEIGHTS: weights, CARD: card(signed), DESCRIPTION: signed.to_json()}
        write_together(folder, files)
    except OSError as error:
        raise unwritable(folder, error) from None
    return signed


def is_model(path: Path) -> bool:
    """Return whether ``path`` is the folder of a model."""
    return (path / DESCRIPTION).is_file()


def read_model(folder: Path) -> Model:
    """Read a model.

    Raises:
        InputError: the folder has no model, one of another version, or one that was damaged or
            edited.
    """
    description = read_description(folder)
    tensors = _read_weights(folder, description)
    members = tuple(
        _member(folder, description, network, tensors, f"{place}.")
        for place, network in enumerate(description.networks)
    )
    return Model(description, members, description.digest)


def read_description(folder: Path) -> Description:
    """Read what the folder says about its model.

    Raises:
        InputError: as for :func:`read_model`.
    """
    path = folder / DESCRIPTION
    try:
        if path.stat().st_size > _LONGEST_DESCRIPTION:
            raise InputError(f"{path} must be the description of a model, got a larger file")
        text = path.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"a model must be a folder with {DESCRIPTION}, got '{one_line(str(folder))}'; "
            "'hpsearch model export' makes one"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} must be readable: {one_line(str(error))}") from None
    try:
        description = Description.model_validate_json(text)
    except ValidationError as error:
        raise _not_valid(path, text, error) from None
    if description.computed_digest() != description.digest:
        raise InputError(
            f"{path} must be as it was written, got other content than its digest says: it was "
            "edited or damaged; export the model again"
        )
    return description


def _not_valid(path: Path, text: str, error: ValidationError) -> InputError:
    first = error.errors()[0]
    if first["loc"] == ("format",) and '"hpsearch-model/' in text:
        return InputError(
            f"{path}: format must be {FORMAT}, got {one_line(str(first['input']))}; another "
            "version of hpsearch wrote this model: read it with that version"
        )
    where = ".".join(map(str, first["loc"]))
    return InputError(
        f"{path} must be the description of a model; {where + ': ' if where else ''}"
        f"{one_line(first['msg'])}"
    )


def _read_weights(folder: Path, description: Description) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = folder / WEIGHTS
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} must be readable: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != description.weights_hash:
        raise InputError(
            f"{path} must have the weights of {DESCRIPTION}, got a file with another hash: it was "
            "damaged or belongs to another model; export the model again"
        )
    try:
        tensors: dict[str, Tensor] = load(data)
        return tensors
    except SafetensorError as error:
        raise InputError(f"{path} must be a safetensors file: {one_line(str(error))}") from None


def _member(
    folder: Path,
    description: Description,
    of: Network,
    tensors: dict[str, Tensor],
    prefix: str,
) -> Member:
    elements = description.atomic_numbers
    table = description.data.all_targets
    statistics = TargetStatistics.from_dict(of.statistics, table, elements)
    network = MultiTargetNetwork(of.config, len(of.targets), len(elements), statistics.extensive)
    own = {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
    try:
        network.load_state_dict(own)
    except RuntimeError:
        raise InputError(
            f"{folder / WEIGHTS} must have the weights of {DESCRIPTION}, got others; export the "
            "model again"
        ) from None
    return Member(network.eval(), statistics)
