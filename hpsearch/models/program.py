"""The export of trained networks as a program that needs only torch.

The program takes atomic numbers and positions, and returns predictions in reporting units::

    program = torch.export.load("model.pt2").module()
    predictions, spread = program(atomic_numbers, positions)

It has the weights, the elements and Eq. 16 inside, so nothing else is needed. It runs on the CPU.
The file also contains a description of the program, in JSON.
"""

# M molecules, N atoms of the largest one, T targets, E elements

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hpsearch.config.targets import SYMBOLS, Target
from hpsearch.data.molecule import Integers, Molecules
from hpsearch.data.statistics import TargetStatistics
from hpsearch.models.model import Member
from hpsearch.nn import MultiTargetNetwork
from hpsearch.nn.plain import PlainNetwork
from hpsearch.system.errors import HpsearchError, InputError, unwritable
from hpsearch.system.files import write_atomically

Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""A program that was loaded; see :meth:`Program.forward`."""

METADATA = "hpsearch.json"
"""The file in the export that describes it, for ``extra_files`` of ``torch.export.load``."""

MOST_DEVIATION = 1e-4
"""The largest deviation of an export that may be written; see :class:`Deviation` for its unit.

Rounding in float32 gives 5e-6 for the paper's L1Net. Its smallest error in Table 1 is 1e-3 in this
unit, that of ⟨R²⟩ (0.35 a0² of σ = 15 a0² for each of 18 atoms). So an export within the bound
changes no error by more than a tenth.
"""


class Program(nn.Module):
    """Networks, the normalisation of their targets, and the mean over networks.

    Networks may be an ensemble, have different targets, or both. The prediction of a target is the
    mean over the networks that have it.

    Args:
        members: the networks, whose weights are copied.

    Raises:
        InputError: there is no network, or two networks describe a target differently.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__()
        self.members = nn.ModuleList(_Restored(*member) for member in members)
        self.columns = _columns(members)
        self.requires_grad_(False)
        self.eval()

    def forward(self, atomic_numbers: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Predict.

        Args:
            atomic_numbers: ``[M, N]`` integers; 0 for padding, which may be anywhere.
            positions: ``[M, N, 3]`` in Å, float32 or float64; anything in padding.

        Returns:
            Two tensors ``[M, T]``, float64, in reporting units. The first has the predictions; it
            is differentiable with respect to the positions. The second has their spread, which is
            the population's standard deviation over the networks, and 0 with one network. A
            molecule has NaN if it has no atoms, an unknown element or a position that is not
            finite.
        """
        of_member = [member(atomic_numbers, positions) for member in self.members]
        means, spreads = [], []
        for columns in self.columns.values():
            values = torch.stack([of_member[member][:, column] for member, column in columns])
            means.append(values.mean(0))
            # A single value deviates by zero; the NaN of an unknown molecule stays NaN.
            spreads.append(values.std(0, correction=0))
        return torch.stack(means, 1), torch.stack(spreads, 1).detach()


class _Restored(nn.Module):
    """One network, with its outputs restored to reporting units by Eq. 16 in float64.

    Float64, because 400 Hartree are 1.1e7 meV, of which float32 resolves only one meV.
    """

    elements: Tensor
    references: Tensor
    mean: Tensor
    deviation: Tensor
    extensive: Tensor
    factor: Tensor
    origin: Tensor

    def __init__(self, network: MultiTargetNetwork, statistics: TargetStatistics) -> None:
        super().__init__()
        self.network = PlainNetwork.of(network).cpu()
        constants = {
            "elements": torch.tensor(statistics.elements),
            "references": torch.tensor(statistics.references, dtype=torch.float64),
            "mean": torch.tensor(statistics.mean, dtype=torch.float64),
            "deviation": torch.tensor(statistics.deviation, dtype=torch.float64),
            "extensive": torch.tensor(statistics.extensive),
            "factor": torch.tensor(
                [statistics.target_table[name].reporting_factor for name in statistics.targets],
                dtype=torch.float64,
            ),
            "origin": torch.zeros(3, dtype=torch.float64),
        }
        for name, constant in constants.items():
            self.register_buffer(name, constant)

    def forward(self, atomic_numbers: Tensor, positions: Tensor) -> Tensor:
        """``[M, N]`` and ``[M, N, 3]`` to ``[M, T]``; see :meth:`Program.forward`."""
        # A conversion to float64 would be exported for one type of positions; this sum takes any.
        positions = positions + self.origin
        real = atomic_numbers != 0
        one_hot = atomic_numbers[..., None] == self.elements  # [M, N, E]
        usable = one_hot.any(-1) & positions.isfinite().all(-1)
        sound = real.any(1) & (usable | ~real).all(1)

        y = self.network(one_hot.int().argmax(-1), positions, real).double()
        fixed = one_hot.sum(1).double() @ self.references.T
        divisor = torch.where(self.extensive, real.sum(1, keepdim=True).double(), 1.0)
        values = (fixed + divisor * self.mean + self.deviation * y) * self.factor
        return torch.where(sound[:, None], values, torch.nan)


def _columns(members: Sequence[Member]) -> dict[str, list[tuple[int, int]]]:
    """For every target, in the order of the members: the networks that have it and its column."""
    if not members:
        raise InputError("an export must have at least one network, got none")
    columns: dict[str, list[tuple[int, int]]] = {}
    described = _targets(members)
    for number, (_, statistics) in enumerate(members):
        for column, name in enumerate(statistics.targets):
            columns.setdefault(name, []).append((number, column))
            for what in ("unit", "native_unit", "extensive"):
                first = getattr(described[name], what)
                other = getattr(statistics.target_table[name], what)
                if first != other:
                    raise InputError(
                        f"target {name} must have one {what} in all networks of an export, got "
                        f"{first} and {other}"
                    )
    return columns


def _targets(members: Sequence[Member]) -> dict[str, Target]:
    """The description of every target by the first network that has it."""
    targets: dict[str, Target] = {}
    for _, statistics in members:
        for name in statistics.targets:
            targets.setdefault(name, statistics.target_table[name])
    return targets


# The comparison with the networks -----------------------------------------------------------------


@dataclass(frozen=True)
class Deviation:
    """The largest deviations of a program from the networks over molecules.

    The unit of a deviation is σ of Eq. 15: for an extensive target the deviation of an atom (that
    of the molecule over its number of atoms), for an intensive one that of the molecule.

    Attributes:
        molecules: number of molecules.
        fewest_atoms: atoms of the smallest one.
        most_atoms: atoms of the largest one.
        values: with the same positions.
        rotated: with each molecule rotated at random.
        translated: with each molecule moved by some 10 Å in a random direction.
        permuted: with atoms in random order and padding between them.
    """

    molecules: int
    fewest_atoms: int
    most_atoms: int
    values: float
    rotated: float
    translated: float
    permuted: float

    @property
    def largest(self) -> float:
        """The largest of the four; NaN if any is NaN."""
        return float(np.max([self.values, self.rotated, self.translated, self.permuted]))


def compare(
    program: Predict, members: Sequence[Member], molecules: Molecules, seed: int = 0
) -> Deviation:
    """Compare a program with the networks that it was made from.

    Args:
        program: the program, as loaded from its file.
        members: the networks, on any device.
        molecules: the molecules to compare.
        seed: of the random rotations, translations and orders.

    Raises:
        InputError: there is no molecule, or one has an element that a network does not know.
    """
    if len(molecules) == 0:
        raise InputError("at least one molecule is needed to compare an export, got none")
    random = torch.Generator().manual_seed(seed)
    found = [_deviations(program, members, batch, random) for batch in _batches(molecules)]
    counts = molecules.atom_counts
    return Deviation(
        len(molecules), int(counts.min()), int(counts.max()), *np.max(found, axis=0).tolist()
    )


def rows_to_compare(molecules: Molecules, most: int = 64) -> Integers:
    """Rows of molecules of every size: the first of each, and others at equal distances.

    Args:
        molecules: the molecules.
        most: number of other rows.
    """
    _, first = np.unique(molecules.atom_counts, return_index=True)
    others = np.linspace(0, len(molecules) - 1, min(most, len(molecules))).astype(np.int64)
    return np.union1d(first, others)


def _deviations(
    program: Predict, members: Sequence[Member], molecules: Molecules, random: torch.Generator
) -> tuple[float, float, float, float]:
    numbers, positions = _padded(molecules)
    M, N = numbers.shape
    expected = torch.stack(_predictions(members, molecules))
    scale = _scale(members, molecules)

    def deviation(numbers: Tensor, positions: Tensor) -> float:
        with torch.no_grad():
            got = torch.stack(program(numbers, positions))
        return float(((got - expected).abs() / scale).max())

    frames = torch.linalg.qr(torch.randn(M, 3, 3, dtype=torch.float64, generator=random))[0]
    rotations = frames * torch.linalg.det(frames)[:, None, None]
    shifts = 10 * torch.randn(M, 1, 3, dtype=torch.float64, generator=random)
    order = torch.rand(M, N, generator=random).argsort(1)
    return (
        deviation(numbers, positions),
        deviation(numbers, positions @ rotations),
        deviation(numbers, positions + shifts),
        deviation(numbers.gather(1, order), positions.gather(1, order[..., None].expand(M, N, 3))),
    )


def _padded(molecules: Molecules) -> tuple[Tensor, Tensor]:
    """Atomic numbers ``[M, N]`` and positions ``[M, N, 3]`` in float64, N one more than needed."""
    counts = molecules.atom_counts
    real = np.arange(counts.max() + 1) < counts[:, None]
    numbers = np.zeros(real.shape, np.int64)
    numbers[real] = np.array(molecules.elements)[molecules.element_indices]
    positions = np.zeros((*real.shape, 3))
    positions[real] = molecules.positions
    return torch.from_numpy(numbers), torch.from_numpy(positions)


@torch.no_grad()
def _predictions(members: Sequence[Member], molecules: Molecules) -> tuple[Tensor, Tensor]:
    """The networks' own predictions and their spread, ``[M, T]`` in reporting units."""
    rows = np.arange(len(molecules))
    of_member = []
    for network, statistics in members:
        # The statistics are restored with their own list of elements and targets.
        known = molecules.with_elements(statistics.elements)
        known = replace(known, target_table=statistics.target_table)
        weight = network.featurization.embedding
        batch = known.batch(rows).to(weight.device)
        y = network(batch.elements, batch.positions.to(weight.dtype), batch.counts)
        factors = [known.target_table[name].reporting_factor for name in statistics.targets]
        of_member.append(statistics.restore(y.cpu().numpy(), known, rows) * factors)
    chosen = [
        np.stack([of_member[member][:, column] for member, column in columns])
        for columns in _columns(members).values()
    ]
    means, spreads = ([f(values, axis=0) for values in chosen] for f in (np.mean, np.std))
    return torch.from_numpy(np.stack(means, 1)), torch.from_numpy(np.stack(spreads, 1))


def _scale(members: Sequence[Member], molecules: Molecules) -> Tensor:
    """``[M, T]`` the unit of :class:`Deviation`, in reporting units."""
    sizes = [
        np.mean([members[member][1].reporting_scale[column] for member, column in columns])
        for columns in _columns(members).values()
    ]
    extensive = [target.extensive for target in _targets(members).values()]
    return torch.from_numpy(np.where(extensive, molecules.atom_counts[:, None], 1) * sizes)


_PAIRS = 2**16
"""The most pairs of atoms, padding included, that are compared at once."""


def _batches(molecules: Molecules) -> Iterator[Molecules]:
    """Batches of molecules of similar size, since all pairs of padded atoms are computed."""
    rows = np.argsort(molecules.atom_counts, kind="stable")
    while len(rows):
        sizes = molecules.atom_counts[rows]
        fitting = int((np.arange(1, len(rows) + 1) * sizes**2 <= _PAIRS).sum())
        batch, rows = np.split(rows, [max(fitting, 1)])
        yield molecules.select(batch)


# The file -----------------------------------------------------------------------------------------


def export_program(
    members: Sequence[Member],
    molecules: Molecules,
    path: Path,
    about: Mapping[str, Any] | None = None,
) -> Deviation:
    """Write networks as a program that needs only torch, for any number of molecules and atoms.

    Before the file gets its name, the program is loaded and compared with the networks.

    Args:
        members: the networks; see :class:`Program`.
        molecules: molecules to compare, some of every size; :func:`rows_to_compare` chooses them.
        path: the file, usually with the ending ``.pt2``; replaced if it exists.
        about: more to write into the file's description, as JSON.

    Returns:
        The deviations from the networks, which are also in the file.

    Raises:
        InputError: see :class:`Program` and :func:`compare`; or the file cannot be written.
        HpsearchError: the program deviates from the networks; no file is written.
    """
    exported = _exported(Program(members))
    loaded = torch.export.load(io.BytesIO(_content(exported, {}))).module()
    deviation = compare(loaded, members, molecules.select(rows_to_compare(molecules)))
    if not deviation.largest <= MOST_DEVIATION:
        raise HpsearchError(
            f"the exported program must agree with the networks within {MOST_DEVIATION:.0e} "
            f"standard deviations of the targets, got {deviation.largest:.1e}; no file was written"
        )
    content = _content(exported, _description(members, deviation, about or {}))
    try:
        write_atomically(path, content)
    except OSError as error:
        raise unwritable(path, error) from error
    return deviation


def read_metadata(path: Path) -> dict[str, Any]:
    """The description in the file of a program.

    Raises:
        InputError: the file does not exist or is no export of this package.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = (n for n in archive.namelist() if n.endswith(f"/extra/{METADATA}"))
            described: dict[str, Any] = json.loads(archive.read(name))
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"'{path}' must be an exported program, got: {error}") from error
    return described


def _exported(program: Program) -> torch.export.ExportedProgram:
    (first, *_) = program.columns.values()
    element = int(program.members[first[0][0]].elements[0])  # type: ignore[index]
    numbers = torch.full((2, 4), element)
    positions = torch.arange(24, dtype=torch.float64).view(2, 4, 3)
    M, N = torch.export.Dim("molecules", min=1), torch.export.Dim("atoms", min=1)
    exported = torch.export.export(
        program, (numbers, positions), dynamic_shapes=({0: M, 1: N}, {0: M, 1: N})
    )
    for node in exported.graph.nodes:
        # Each operation has the lines of source code that it comes from, with this machine's paths.
        node.meta.pop("stack_trace", None)
    return exported


def _content(exported: torch.export.ExportedProgram, description: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    text = json.dumps(description, ensure_ascii=False, indent=1)
    torch.export.save(exported, buffer, extra_files={METADATA: text})
    return buffer.getvalue()


def _description(
    members: Sequence[Member], deviation: Deviation, about: Mapping[str, Any]
) -> dict[str, Any]:
    targets, columns = _targets(members), _columns(members)
    # A prediction needs all networks to know the element.
    known = [z for z in members[0][1].elements if all(z in own.elements for _, own in members)]
    return {
        "inputs": {
            "atomic_numbers": "[molecules, atoms] int64, 0 for padding",
            "positions": "[molecules, atoms, 3] float64 or float32, in Å",
        },
        "outputs": {
            "predictions": "[molecules, targets] float64, in the targets' units",
            "spread": "[molecules, targets] standard deviation over the networks",
        },
        "targets": list(targets),
        "units": [target.unit for target in targets.values()],
        "extensive": [target.extensive for target in targets.values()],
        "networks": [len(columns[name]) for name in targets],
        "elements": [SYMBOLS[number] for number in known],
        "deviation": {**asdict(deviation), "bound": MOST_DEVIATION},
        "torch": torch.__version__,
        "about": dict(about),
    }
