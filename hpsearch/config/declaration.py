"""Own molecules: the ``data`` section that names a file, its targets, units and references.

Without it, the molecules are QM9. The declaration says how a file is read
(:class:`MoleculeSource`) and what is learned from it (:class:`TargetDeclaration`).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)

from hpsearch.config.targets import (
    ELEMENTS,
    QM9_TARGETS,
    SYMBOLS,
    Target,
    Targets,
    atomic_number,
)
from hpsearch.config.units import conversion, parse_unit
from hpsearch.system.errors import InputError, one_line


class Strict(BaseModel):
    """A model read from a file: no unknown keys, no conversion from text, no NaN, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


FormatName = Literal["extxyz", "ase-db", "traj", "xyz", "sdf", "npz", "parquet", "qm9"]

LONGEST_NAME = 64
"""Largest number of characters of a target's name."""

MOST_TARGETS = 100
"""Largest number of targets of a declaration."""

MOST_ATOMS = 500
"""Largest number of atoms of a molecule."""

_FORBIDDEN = set("/\\,;:\"'`<>|{}[]*?$")
_RESERVED = {"all", "mean", "composition"}

_Text = Annotated[str, Field(min_length=1, max_length=1_000)]


def _unit(text: str) -> str:
    try:
        return parse_unit(text).text
    except InputError as error:
        raise ValueError(str(error)) from None


_Unit = Annotated[str, AfterValidator(_unit)]


def _symbol(text: str) -> str:
    try:
        atomic_number(text)
    except InputError as error:
        raise ValueError(str(error)) from None
    return text


Symbol = Annotated[str, AfterValidator(_symbol)]
"""The symbol of an element, such as ``Cl``."""


class MoleculeSource(Strict):
    """The file or folder of the molecules, and the names of its columns.

    Attributes:
        path: the file or folder; a relative path starts at the folder of the file that names it.
        format: the file's format; ``None`` chooses it by the end of the name.
        labels: a CSV file with the targets of the molecules of an SDF, in the same order or joined
            by ``identifier``.
        positions: name of the column of positions [atoms, 3], in npz and parquet.
        numbers: name of the column of atomic numbers or symbols [atoms], in npz and parquet.
        counts: name of the column of atom counts [n], in npz files with the atoms of all molecules
            in one column.
        length_unit: unit of the positions in the file.
        identifier: name of the column with a unique name of every molecule; ``None`` numbers them
            from 0 in the order of the file.
        group: name of the column with a molecule's group. Molecules of one group never lie on two
            sides of a split.
    """

    path: _Text
    format: FormatName | None = None
    labels: _Text | None = None
    positions: _Text | None = None
    numbers: _Text | None = None
    counts: _Text | None = None
    length_unit: _Unit = "Å"
    identifier: _Text | None = None
    group: _Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return {"path": value} if isinstance(value, str) else value

    @field_validator("length_unit")
    @classmethod
    def _is_a_length(cls, text: str) -> str:
        try:
            conversion(text, "Å")
        except InputError:
            raise ValueError(f"must be a length such as Å, a0 or nm, got {text}") from None
        return text

    @model_serializer(mode="plain")
    def _given(self) -> dict[str, Any]:
        given = {name: getattr(self, name) for name in type(self).model_fields}
        usual = ("length_unit", "Å")
        return {name: v for name, v in given.items() if v is not None and (name, v) != usual}

    def in_folder(self, folder: Path) -> MoleculeSource:
        """The same with absolute paths; relative ones start at ``folder``."""
        paths = {"path": self.path, "labels": self.labels}
        return self.model_copy(
            update={
                name: str((folder / Path(path).expanduser()).resolve())
                for name, path in paths.items()
                if path is not None
            }
        )


def check_target_name(name: str) -> str:
    """``name``, checked to be usable in tables, file names, options and databases.

    Raises:
        ValueError: it is not.
    """
    shown = one_line(name)
    if not name or name != name.strip():
        raise ValueError(f"the name of a target must not be empty or begin or end with a space, "
                         f"got '{shown}'")  # fmt: skip
    if len(name) > LONGEST_NAME:
        raise ValueError(
            f"the name of a target must have at most {LONGEST_NAME} characters, got {len(name)}: "
            f"'{shown}'; name its column with column:"
        )
    if name.startswith(("-", ".")):
        raise ValueError(f"the name of a target must not begin with '{name[0]}', got '{shown}'")
    if name.casefold() in _RESERVED:
        raise ValueError(f"a target must not have the reserved name '{shown}'; name its column "
                         "with column:")  # fmt: skip
    for character in name:
        is_odd = unicodedata.category(character)[0] in "CZ" and character != " "
        if is_odd or character in _FORBIDDEN:
            raise ValueError(
                f"the name of a target must not contain {one_line(repr(character))}, got "
                f"'{shown}'; choose another name, and name its column with column:"
            )
    return unicodedata.normalize("NFC", name)


References = Literal["fit", "table2", "none"] | dict[Symbol, float]


class TargetDeclaration(Strict):
    """One property of the molecules, as the file stores it.

    Attributes:
        column: its name in the file; ``None`` if that is the target's name.
        unit: unit in the file.
        report_in: unit of reported errors; ``None`` reports in ``unit``.
        extensive: whether the property is a sum over the atoms (an energy), or an average over the
            molecule (a gap, a temperature).
        references: energies of single atoms, which are subtracted before training: ``fit`` by least
            squares on the training molecules, ``table2`` of the paper, numbers by element in
            ``unit``, or ``none``.
        weight: factor of the target in the loss.
        symbol: notation in tables; ``None`` for the name.
    """

    column: _Text | None = None
    unit: _Unit
    report_in: _Unit | None = None
    extensive: bool = True
    references: References = "none"
    weight: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    symbol: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)] | None = None

    @field_validator("symbol")
    @classmethod
    def _printable(cls, symbol: str | None) -> str | None:
        if symbol is not None and not symbol.isprintable():
            raise ValueError(f"must have only printable characters, got {one_line(repr(symbol))}")
        return symbol

    @model_validator(mode="after")
    def _consistent(self) -> TargetDeclaration:
        if self.report_in is not None:
            try:
                conversion(self.unit, self.report_in)
            except InputError as error:
                raise ValueError(str(error)) from None
        if self.extensive and parse_unit(self.unit).per_atom:
            raise ValueError(
                f"a target in {self.unit} is a quantity per atom and must have extensive: false"
            )
        if not self.extensive and self.references != "none":
            raise ValueError(
                "references must be none for an intensive target (extensive: false): they are sums "
                "over atoms"
            )
        if isinstance(self.references, dict) and not self.references:
            raise ValueError("references must have at least one element, or be none")
        return self

    @model_serializer(mode="plain")
    def _given(self) -> dict[str, Any]:
        fields = type(self).model_fields
        given = {name: getattr(self, name) for name in fields}
        return {name: v for name, v in given.items() if v != fields[name].default}

    def target(self, name: str) -> Target:
        """The target called ``name``."""
        references: dict[int, float] | None = None
        if self.references == "table2":
            references = _table_2(name, self.unit)
        elif isinstance(self.references, dict):
            references = {atomic_number(key): value for key, value in self.references.items()}
        unit = self.report_in or self.unit
        return Target(
            name=name,
            symbol=self.symbol or name,
            unit=unit,
            native_unit=self.unit,
            column=self.column or name,
            references=references or {},
            fitted=self.references == "fit",
            extensive=self.extensive,
            weight=self.weight,
            reporting_factor=conversion(self.unit, unit),
        )


def _table_2(name: str, unit: str) -> dict[int, float]:
    """Table 2's references of the target, converted into ``unit``.

    Raises:
        ValueError: Table 2 has no such target, or the unit measures something else.
    """
    if name not in QM9_TARGETS:
        raise ValueError(
            f"references: table2 must belong to a target of Table 2 (U0, U, H, G, Cv), got {name}"
        )
    known = QM9_TARGETS[name]
    try:
        factor = conversion(known.native_unit, unit)
    except InputError as error:
        raise ValueError(str(error)) from None
    return {element: factor * value for element, value in known.references.items()}


def _named(value: object) -> object:
    """A list of targets with names, as it is stored, becomes a mapping."""
    if not isinstance(value, (list, tuple)):
        return value
    named: dict[str, object] = {}
    for entry in value:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise ValueError("must be a mapping from names, or a list of mappings with a name")
        rest = {key: inner for key, inner in entry.items() if key != "name"}
        if entry["name"] in named:
            raise ValueError(f"must have every name once, got '{entry['name']}' twice")
        named[entry["name"]] = rest
    return named


_Name = Annotated[str, AfterValidator(check_target_name)]
_Declared = Annotated[
    dict[_Name, TargetDeclaration],
    Field(min_length=1, max_length=MOST_TARGETS),
    BeforeValidator(_named),
]


class Declaration(Strict):
    """What the ``data`` section says about own molecules; nothing of it is given for QM9.

    Attributes:
        molecules: the file; ``None`` means QM9.
        targets: the declared targets by name, in the order of tables and outputs.
        method: how the targets were computed or measured; free text for the model card.
        elements: the allowed elements; ``None`` takes those of the molecules.
        missing: whether a molecule without a target is refused or left out of that target's loss
            and errors.
    """

    # Not dumped unless set, so that configurations for QM9 keep their fingerprint.
    molecules: Annotated[MoleculeSource | None, Field(exclude_if=lambda v: v is None)] = None
    targets: Annotated[_Declared | None, Field(exclude_if=lambda v: v is None)] = None
    method: Annotated[_Text | None, Field(exclude_if=lambda v: v is None)] = None
    elements: Annotated[
        tuple[Symbol, ...] | None,
        Field(strict=False, min_length=1, exclude_if=lambda v: v is None),
    ] = None
    missing: Annotated[
        Literal["refuse", "mask"], Field(exclude_if=lambda v: v == "refuse")
    ] = "refuse"  # fmt: skip

    @field_validator("elements")
    @classmethod
    def _in_order(cls, symbols: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if symbols is None:
            return None
        if len(set(symbols)) != len(symbols):
            raise ValueError("must have every element once")
        return tuple(sorted(symbols, key=atomic_number))

    @field_validator("targets")
    @classmethod
    def _distinct(
        cls, targets: dict[str, TargetDeclaration] | None
    ) -> dict[str, TargetDeclaration] | None:
        folded: dict[str, str] = {}
        for name in targets or {}:
            other = folded.setdefault(name.casefold(), name)
            if other != name:
                raise ValueError(f"must have names that differ in more than case: {other}, {name}")
        for name, declared in (targets or {}).items():
            declared.target(name)
        return targets

    @model_validator(mode="after")
    def _whole(self) -> Declaration:
        if self.molecules is None:
            for name in ("targets", "method", "elements"):
                if getattr(self, name) is not None:
                    raise ValueError(f"molecules must be given beside {name}: the molecules' file")
            if self.missing != "refuse":
                raise ValueError("molecules must be given beside missing: the molecules' file")
        elif self.targets is None:
            raise ValueError(
                "targets must be given beside molecules: the names of the properties, each with a "
                "unit, such as targets: {energy: {unit: eV}}"
            )
        return self

    @field_serializer("targets")
    def _listed(self, targets: dict[str, TargetDeclaration] | None) -> list[dict[str, Any]] | None:
        # A list, because a store may sort the keys of objects.
        if targets is None:
            return None
        return [{"name": name, **declared.model_dump()} for name, declared in targets.items()]

    @property
    def is_own(self) -> bool:
        """Whether the molecules are a user's own, not QM9."""
        return self.molecules is not None

    @property
    def all_targets(self) -> Targets:
        """The targets that can be learned: the declared ones, or QM9's twelve."""
        if self.targets is None:
            return QM9_TARGETS
        return Targets(declared.target(name) for name, declared in self.targets.items())

    @property
    def element_count(self) -> int:
        """Number of elements; QM9's five while the molecules have not been read."""
        return len(self.atomic_numbers or ELEMENTS)

    @property
    def atomic_numbers(self) -> tuple[int, ...] | None:
        """Atomic numbers of the elements, in the order of the one-hot input.

        ``None`` if the molecules decide, which have not been read.
        """
        if self.molecules is None:
            return ELEMENTS
        if self.elements is None:
            return None
        return tuple(SYMBOLS.index(symbol) for symbol in self.elements)
