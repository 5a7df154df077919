"""Variants declared in a user's YAML file: named changes to the winner's configuration.

::

    variants:
      ShortSighted:
        from: L1Net                        # default; any of the five
        description: pairs within 5 Å only
        network:
          radial_maximum_angstrom: 5.0
      L0NetSlow:
        from: L0Net
        training:
          learning_rate: 0.002
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from hpsearch.ablation.variants import VARIANTS, Variant
from hpsearch.config.declaration import Strict
from hpsearch.config.export import Winner
from hpsearch.config.yaml_errors import validate
from hpsearch.config.yaml_file import Document, read_yaml
from hpsearch.system.errors import InputError, nearest, one_line

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}", re.ASCII)
_COLUMN = re.compile(
    r"target|symbol|unit|train_molecules|mean|composition|(paper|relative|delta)_.*|.*_(weights|runs)"
)
_KNOWN = {variant.name: variant for variant in VARIANTS}
_OF_THE_REPEATS = "seed"

_Changes = Annotated[dict[str, bool | int | float | str], Field(strict=True)]


class _Declaration(Strict):
    base: Annotated[str, Field(alias="from")] = "L1Net"
    description: str = ""
    network: _Changes = Field(default_factory=dict)
    training: _Changes = Field(default_factory=dict)


class _VariantsFile(Strict):
    variants: Annotated[dict[str, _Declaration], Field(min_length=1)]


def declared_variants(path: str | Path, winner: Winner) -> tuple[Variant, ...]:
    """Return the variants in the file at ``path``, in its order, after a check with ``winner``.

    Raises:
        InputError: the file cannot be read, a name is taken or not allowed, a field does not exist,
            or a value is not allowed. The message names the file and the line.
    """
    document = read_yaml(path)
    declared = validate(_VariantsFile, document).variants
    variants: list[Variant] = []
    for name, declaration in declared.items():
        _check_name(document, name, [variant.name for variant in variants])
        _check_declaration(document, name, declaration, winner)
        variants.append(_variant(name, declaration))
        try:
            variants[-1].network_of(winner.config.network)
            variants[-1].training_of(winner.config.training)
        except InputError as error:
            raise document.error(("variants", name), str(error), key=True) from None
    return tuple(variants)


def _variant(name: str, declaration: _Declaration) -> Variant:
    changes = {**declaration.network, **declaration.training}
    listed = ", ".join(f"{field} {value}" for field, value in changes.items())
    return Variant(
        name=name,
        description=declaration.description or f"{declaration.base} with {listed}",
        derive=_KNOWN[declaration.base].derive,
        network=declaration.network,
        training=declaration.training,
    )


def _check_name(document: Document, name: str, before: list[str]) -> None:
    if not _NAME.fullmatch(name):
        raise document.error(
            ("variants", name),
            "a variant's name must be up to 40 letters, digits, _ and -, beginning with a letter, "
            f"got '{one_line(name)}'; rename it",
            key=True,
        )
    taken = {known.lower() for known in (*_KNOWN, *before, "all")}
    if _COLUMN.fullmatch(name):
        raise document.error(
            ("variants", name),
            f"a variant's name must not be one of Table 1's columns, got '{name}'; rename it",
            key=True,
        )
    if name.lower() in taken:
        raise document.error(
            ("variants", name),
            f"a variant's name must be new, ignoring case, got '{name}'; rename it",
            key=True,
        )


def _check_declaration(
    document: Document, name: str, declaration: _Declaration, winner: Winner
) -> None:
    if declaration.base not in _KNOWN:
        raise document.error(
            ("variants", name, "from"),
            f"from must be one of {', '.join(_KNOWN)}, got '{one_line(declaration.base)}'; "
            f"{nearest(declaration.base, _KNOWN)}",
        )
    if not declaration.network and not declaration.training:
        raise document.error(
            ("variants", name),
            "a variant must change something in network or training, got nothing; add a change",
            key=True,
        )
    parts: dict[str, tuple[dict[str, Any], type[BaseModel]]] = {
        "network": (declaration.network, type(winner.config.network)),
        "training": (declaration.training, type(winner.config.training)),
    }
    for part, (changes, model) in parts.items():
        fields = [field for field in model.model_fields if field != _OF_THE_REPEATS]
        for field in changes:
            if field not in fields:
                why = ", which the repeats set" if field == _OF_THE_REPEATS else ""
                raise document.error(
                    ("variants", name, part, field),
                    f"{part} must contain only fields of the configuration, got "
                    f"'{one_line(field)}'{why}; {nearest(field, fields)}",
                    key=True,
                )
