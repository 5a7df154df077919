"""The winner of a search as a YAML file that a user can read, edit and train again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, Field

from hpsearch.config.declaration import Declaration, Strict
from hpsearch.config.run import DataConfig, NetworkConfig, TrainingConfig, TrialConfig
from hpsearch.config.yaml_errors import validate
from hpsearch.config.yaml_file import Document, read_yaml, yaml_number
from hpsearch.system.errors import InputError, nearest, one_line, unwritable
from hpsearch.system.files import write_atomically
from hpsearch.system.installation import find_space

FORMAT = "hpsearch-winner/1"


class MeanAbsoluteError(Strict):
    """A validation error with its unit, so that nobody mistakes meV for eV.

    Attributes:
        mae: mean absolute error on the validation molecules, in ``unit``.
        unit: the target's reporting unit.
    """

    mae: Annotated[float, Field(ge=0)]
    unit: str


class Provenance(Strict):
    """The origin of an exported configuration.

    Attributes:
        study: name of the study.
        trial: number of its winner.
        selected_on: molecules on which the winner was chosen; after ``test`` the test errors are
            not an honest estimate.
        validation_loss: loss of that trial (Eq. 18).
        zero_output_loss: loss of a network that outputs zero, on the same molecules.
        validation_maes: errors of the same epoch, by target.
        data_hash: hash of the molecules' content.
        split_hash: hash of the three sets of molecules.
        space_name: name of the search space.
        space_hash: hash of its content.
        versions: versions of hpsearch, Python and the packages that decide the result.
        git_commit: commit of the code, if it ran from a checkout.
        created: time of the export, ISO 8601.
        edited: whether the configuration has been changed since; the errors above then belong to
            the unedited one.
    """

    study: str
    trial: Annotated[int, Field(ge=0)]
    selected_on: Literal["validation", "test"] = "validation"
    validation_loss: Annotated[float, Field(ge=0)]
    zero_output_loss: Annotated[float, Field(ge=0)]
    validation_maes: dict[str, MeanAbsoluteError]
    data_hash: str
    split_hash: str
    space_name: str
    space_hash: str
    versions: dict[str, str]
    git_commit: str | None = None
    created: str
    edited: bool = False


_SECTIONS: dict[str, type[BaseModel]] = {
    "network": NetworkConfig,
    "training": TrainingConfig,
    "data": DataConfig,
}
_CONFIG_FIELDS = (
    "targets",
    *(
        f"{section}.{name}"
        for section, model in _SECTIONS.items()
        for name in model.model_fields
        # Of the data, what a source may leave open is the split.
        if name not in (*Declaration.model_fields, "fractions", "split_by")
    ),
)


def _config_field(name: str) -> str:
    if name not in _CONFIG_FIELDS:
        raise ValueError(
            f"must be a field of config, got '{one_line(name)}'; {nearest(name, _CONFIG_FIELDS)}"
        )
    return name


_Name = Annotated[str, Field(min_length=1)]
_Assumed = Annotated[tuple[Annotated[str, AfterValidator(_config_field)], ...], Field(strict=False)]


class Winner(Strict):
    """A configuration to train, with its origin.

    Attributes:
        name: the study's name, or another name of the configuration.
        config: the configuration.
        assumed: fields of ``config`` that its source does not state, such as
            ``network.embedding_size``.
        provenance: the search it comes from; ``None`` for a configuration written by hand.
    """

    name: _Name
    config: TrialConfig
    assumed: _Assumed = ()
    provenance: Provenance | None = None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the configuration."""
        return self.config.fingerprint

    @property
    def data_hash(self) -> str | None:
        """Hash of the molecules of its search; ``None`` without a search."""
        return None if self.provenance is None else self.provenance.data_hash

    @property
    def split_hash(self) -> str | None:
        """Hash of the split of its search; ``None`` without a search."""
        return None if self.provenance is None else self.provenance.split_hash

    @property
    def untouched(self) -> bool:
        """Whether it comes from a search and has not been edited since."""
        return self.provenance is not None and not self.provenance.edited

    @classmethod
    def read(cls, path: str | Path) -> Winner:
        """The winner in the file at ``path``.

        If the fingerprint was deleted, the provenance is marked as edited. A relative
        ``split_file`` is resolved against the folder of the file.

        Raises:
            InputError: the file is not an export, or its configuration does not match its
                fingerprint.
        """
        winner = _from_document(read_yaml(path))
        data = winner.config.data.in_folder(Path(path).parent)
        return winner.model_copy(update={"config": winner.config.model_copy(update={"data": data})})

    def with_data(self, data: DataConfig) -> Winner:
        """This configuration for the molecules and all targets of ``data``, without its origin."""
        config = self.config.model_copy(update={"data": data, "targets": data.all_targets.names})
        return self.model_copy(update={"config": config, "provenance": None})

    def resolved(self, total: int, elements: tuple[int, ...]) -> Winner:
        """This configuration with sizes and elements from the molecules."""
        data = self.config.data.resolved(total, elements)
        return self.model_copy(update={"config": self.config.model_copy(update={"data": data})})

    def write(self, path: str | Path) -> None:
        """Write the file at ``path`` atomically; an older file is replaced.

        Raises:
            InputError: ``path`` is a folder, or its folder does not exist.
            HpsearchError: the disk is full.
        """
        _replace(Path(path), self.to_yaml())

    def to_yaml(self) -> str:
        """The file's text, with units as comments."""
        return "".join(f"{line}\n" for line in _lines(self))


class _File(Strict):
    """The layout of the file: the fields of :class:`Winner`, and two keys that protect it."""

    format: Literal["hpsearch-winner/1"]
    name: _Name
    fingerprint: str | None = None
    assumed: _Assumed = ()
    config: TrialConfig
    provenance: Provenance | None = None


def _from_document(document: Document) -> Winner:
    if "format" not in document.data and "parameters" in document.data:
        raise document.error(
            (), "the file must be an exported configuration, got a search space; launch it instead"
        )
    file = validate(_File, document)
    if file.provenance is not None:
        _check_units(file.provenance, file.config, document)
    actual = file.config.fingerprint
    if file.fingerprint is not None and file.fingerprint != actual:
        raise document.error(
            ("fingerprint",),
            f"fingerprint must be that of config, {actual[:12]}…, got "
            f"{one_line(file.fingerprint, longest=13)}: config was edited, or another version "
            "wrote it; to use it anyway, delete the line fingerprint:",
            key=True,
        )
    origin = file.provenance
    if origin is not None and file.fingerprint is None:
        origin = origin.model_copy(update={"edited": True})
    return Winner(name=file.name, config=file.config, assumed=file.assumed, provenance=origin)


def _check_units(origin: Provenance, config: TrialConfig, document: Document) -> None:
    """Raise an error unless every validation error has its target's unit."""
    place = ("provenance", "validation_maes")
    targets = config.data.all_targets
    for name, error in origin.validation_maes.items():
        try:
            unit = targets[name].unit
        except InputError as unknown:
            raise document.error(place, f"{'.'.join(place)}: {unknown}") from None
        if error.unit != unit:
            got = one_line(error.unit)
            raise document.error(
                place, f"{'.'.join(place)}: {name}.unit must be {unit}, got {got}; export it again"
            )


# Writing ----------------------------------------------------------------------------------------

_UNITS = {
    "network.radial_maximum_angstrom": "Å",
    "training.batch_size": "molecules",
    "training.early_stopping_patience": "epochs",
    "training.plateau_patience": "epochs",
    "data.train_size": "molecules",
    "data.validation_size": "molecules",
    "data.test_size": "molecules; null takes all that follow the validation molecules",
    "provenance.validation_loss": "Eq. 18: squared normalised errors, summed over the targets",
    "provenance.edited": "whether config was edited after the export",
    "provenance.zero_output_loss": "the loss of predicting zero, that is the mean",
}


def find_configuration(text: str) -> Winner:
    """The configuration that ``text`` names: a path, or the name of a shipped configuration.

    Raises:
        InputError: there is no such file, or it is not an export.
    """
    try:
        path = find_space(text)
    except InputError:
        raise InputError(
            "a configuration must be a file that export-best wrote, or paper_l1net, got "
            f"'{one_line(text, longest=300)}', which is no file; write one with: "
            "hpsearch export-best -o best.yaml"
        ) from None
    return Winner.read(path)


def _lines(winner: Winner) -> Iterator[str]:
    yield f"format: {FORMAT}"
    yield f"name: {_scalar(winner.name)}"
    yield "# The hash of config. If you edit config, delete this line."
    yield f"fingerprint: {_scalar(winner.fingerprint)}"
    if winner.assumed:
        yield "# Fields of config that its source does not state."
        yield from _value("assumed", list(winner.assumed), "", "assumed")
    yield ""
    yield from _value("config", winner.config.to_dict(), "", "")
    if winner.provenance is not None:
        yield ""
        yield from _value("provenance", winner.provenance.model_dump(mode="json"), "", "provenance")


def _value(key: str, value: Any, indent: str, place: str) -> Iterator[str]:
    """The lines of ``key`` and its value; ``place`` is its dotted name in :data:`_UNITS`."""
    head = f"{indent}{_scalar(key)}:"
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        yield head
        yield from (f"{indent}  - {_inline(item)}" for item in value)
    elif isinstance(value, Mapping) and value and not _is_flat(value):
        yield head
        for name, inner in value.items():
            yield from _value(name, inner, f"{indent}  ", f"{place}.{name}".removeprefix("."))
    else:
        comment = f"  # {_UNITS[place]}" if place in _UNITS else ""
        yield f"{head} {_inline(value)}{comment}"


def _is_flat(value: Mapping[str, Any]) -> bool:
    """Whether the value is an error with its unit, which is written on one line."""
    return set(value) == {"mae", "unit"}


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_scalar(k)}: {_inline(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(_inline(item) for item in value)}]"
    return _scalar(value)


def _scalar(value: bool | int | float | str | None) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return yaml_number(value)
    return str(value) if isinstance(value, int) else _text(value)


_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*", re.ASCII)
_SAFE = re.compile(r"[ !#-\[\]-~\xa1-\u1fff]")


def _text(value: str) -> str:
    """``value`` plain if YAML reads the same text back, else quoted with escapes."""
    if _PLAIN.fullmatch(value) and value.lower() not in yaml.SafeLoader.bool_values | {"null": 0}:
        return value
    return f'"{"".join(c if _SAFE.fullmatch(c) else _escaped(c) for c in value)}"'


def _escaped(character: str) -> str:
    return f"\\U{ord(character):08x}" if character not in '"\\' else f"\\{character}"


def _replace(path: Path, text: str) -> None:
    """Write ``path``, with errors that tell the user what to do."""
    shown = one_line(str(path), longest=300)
    try:
        if path.is_dir():
            raise InputError(f"{shown} must be a file, got a folder; name a file in it")
        if not path.parent.is_dir():
            raise InputError(
                f"{shown} must lie in a folder that exists, got none; create the folder"
            )
        write_atomically(path, text)
    except ValueError as error:  # a NUL in the path
        raise InputError(f"{shown} must be a path, got: {error}; rename it") from None
    except OSError as error:
        raise unwritable(shown, error) from None
