"""Model cards: errors, uses and limits of each target's best network, and how to load it.

The best network has the lowest *validation* error. Test errors are not used to choose it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpsearch.config.run import DataConfig
from hpsearch.config.targets import SYMBOLS, Target
from hpsearch.report.render import Section, markdown, markdown_text
from hpsearch.report.text import file_name, number, value
from hpsearch.results import published
from hpsearch.results.findings import AblationFindings
from hpsearch.results.tables import BASELINES
from hpsearch.runs import checkpoint
from hpsearch.system.files import file_part

_UNITS = {"radial_maximum_angstrom": "Å", "batch_size": "molecules"}

_WITH_TRAINING = ("epochs", "seed")
"""Fields of the training that a card lists under its data, not under its configuration."""


@dataclass(frozen=True)
class _Model:
    """The network that a card is about.

    Attributes:
        ablation: the ablation that trained it.
        target: the target that it predicts.
        cell: its row of the cell table.
        run: its row of the runs.
        others: number of completed networks for the target, including this one.
        data: the molecules.
        residuals: number of test molecules whose errors were recorded.
        unknown: number of test molecules whose target is unknown.
    """

    ablation: AblationFindings
    target: Target
    cell: dict[Any, Any]
    run: dict[Any, Any]
    others: int
    data: DataConfig
    residuals: int
    unknown: int

    def molecules(self, which: str) -> int | None:
        """Return the size of ``train``, ``validation`` or ``test``; ``None`` if it is not known."""
        configured = self.run["configuration"]["data"]
        size = self.ablation.data.get(which)
        if which == "test" and self.unknown:
            return self.residuals
        if size is None and which == "test" and self.residuals:
            size = self.residuals
        is_number = which not in configured.get("fractions", {})
        if size is None and configured.get("split_file") is None and is_number:
            size = configured.get(f"{which}_size")
        return size


def model_cards(findings: AblationFindings) -> dict[str, str]:
    """Return the Markdown text of each card by its file name, for targets with a complete run."""
    return {
        f"model_card_{file_part(model.target.name)}.md": _card(model) for model in _models(findings)
    }


def _models(findings: AblationFindings) -> Iterator[_Model]:
    cells = findings.complete.dropna(subset=["validation_mae"])
    runs = {run["key"]: run for run in findings.rows.runs.to_dict("records")}
    residuals = findings.residuals.set_index("key")["residuals"]
    for target in findings.targets:
        of_target = cells[cells["target"] == target.name]
        if of_target.empty:
            continue
        best = of_target.sort_values("validation_mae", kind="stable").iloc[0].to_dict()
        run = runs[best["key"]]
        tested = residuals[best["key"]] if best["key"] in residuals.index else np.empty(0)
        unknown = int(np.isnan(tested).sum())
        data = findings.experiment.data
        if findings.is_own:
            data = DataConfig.model_validate(run["configuration"]["data"])
        known = len(tested) - unknown
        yield _Model(findings, target, best, run, len(of_target), data, known, unknown)


def _card(model: _Model) -> str:
    title = f"{model.target.name}: {model.cell['variant']} of {model.ablation.name}"
    before = [_summary(model), _configuration(model), _data(model), _errors(model)]
    published_errors = () if model.data.is_own else _publications(model)
    after = [*published_errors, _use(model), _limits(model), _origin(model)]
    return f"# {markdown_text(title)}\n\n{markdown(before)}\n{markdown(after)}\n{_loading(model)}"


def _summary(model: _Model) -> Section:
    cell, of = model.cell, model.target
    described = (model.ablation.provenance.get("variants") or {}).get(cell["variant"])
    arm = f"{cell['variant']} ({described})" if described else cell["variant"]
    kind = "molecule" if model.data.is_own else "small organic molecule"
    return Section(
        "The model",
        (
            f"A network that predicts {of.symbol} of a {kind}, in {of.unit}, from its elements and "
            "the positions of its atoms.",
            f"It is {arm}, repeat {cell['repeat']}. It has the lowest validation error of "
            f"{model.others} completed networks for this target. Test errors were not used to "
            "choose it.",
        ),
    )


def _configuration(model: _Model) -> Section:
    config = model.run["configuration"]
    rows = [("weights", value(model.cell["weights"]))]
    rows += [
        (_named(name), _with_unit(name, entry))
        for part in ("network", "training")
        for name, entry in config[part].items()
        if name not in _WITH_TRAINING
    ]
    return Section("Configuration", (), ("Setting", "Value"), tuple(rows))


def _named(field: str) -> str:
    return field.removesuffix("_angstrom").replace("_", " ")


def _with_unit(field: str, entry: Any) -> str:
    return f"{value(entry)} {_UNITS.get(field, '')}".strip()


def _data(model: _Model) -> Section:
    cell, run = model.cell, model.run
    training = run["configuration"]["training"]
    rows = (
        *_own_molecules(model),
        ("training molecules", value(model.molecules("train"))),
        ("validation molecules, used to choose the epoch", value(model.molecules("validation"))),
        ("test molecules, used once", value(model.molecules("test"))),
        ("hash of the molecules", value(run["data_hash"])),
        ("hash of the three sets", value(run["split_hash"])),
        ("epochs trained, at most", f"{value(cell['epochs'])}, {value(training['epochs'])}"),
        ("epoch of the weights", value(cell["best_epoch"])),
        ("seconds of training", value(cell["seconds"])),
        ("seed", str(training["seed"])),
        ("trained on", value(run["device"])),
    )
    remark = _own_normalisation(model.target) if model.data.is_own else _NORMALISATION
    return Section("Training and data", (remark,), ("What", "Value"), rows)


_NORMALISATION = (
    "QM9, with positions in Å. Atomic references are subtracted from the target, if Table 2 of "
    "arXiv:2008.08461 has some. The target is normalised by the training molecules' mean and "
    "standard deviation per atom (Eqs. 14-16)."
)


def _own_normalisation(target: Target) -> str:
    references = "No atomic references are subtracted from the target."
    if target.fitted:
        references = (
            "Atomic references are subtracted from the target. They were fitted to the training "
            "molecules by least squares."
        )
    elif target.references:
        listed = ", ".join(
            f"{SYMBOLS[element]} {reference:.6g}"
            for element, reference in sorted(target.references.items())
        )
        references = (
            f"Atomic references are subtracted from the target, in {target.native_unit}: {listed}."
        )
    per_atom = " per atom" if target.extensive else ""
    return (
        f"Positions are in Å. {references} The target is normalised by the training molecules' "
        f"mean and standard deviation{per_atom}."
    )


def _own_molecules(model: _Model) -> Iterator[tuple[str, str]]:
    """Yield what a user's own molecules are; nothing for QM9."""
    data, target = model.data, model.target
    if data.molecules is None:
        return
    yield "molecules from the file", file_name(data.molecules.path)
    if data.molecules.labels is not None:
        yield "targets from the file", file_name(data.molecules.labels)
    yield "molecules in the file", value(model.ablation.data.get("molecules")) or "not recorded"
    yield "elements", _elements(data)
    yield "method", data.method or "not stated"
    converted = target.native_unit != target.unit
    stored = f", stored in {target.native_unit}" if converted else ""
    kind = "extensive, a sum over atoms" if target.extensive else "intensive, an average"
    yield "target", f"{target.name} in {target.unit}{stored}; {kind}"
    if model.unknown:
        yield "test molecules without the target, left out", value(model.unknown)


def _elements(data: DataConfig) -> str:
    return ", ".join(data.elements or ()) or "not recorded"


def _errors(model: _Model) -> Section:
    known = model.ablation.data.get("baselines", {})
    validation, test = (value(model.molecules(which)) for which in ("validation", "test"))
    naive = {"mean": "mean of the training molecules", "composition": "composition fit"}
    rows = [
        ("this network, validation", validation, number(model.cell["validation_mae"])),
        ("this network, test", test, number(model.cell["test_mae"])),
        *(
            (f"{naive[kind]}, test", test, number(known.get(kind, {}).get(model.target.name)))
            for kind in BASELINES
        ),
    ]
    remark = (
        "Report the test error. The validation error was used to choose epoch, arm and repeat, so "
        "it is slightly too low. The last two rows are predictions without a geometry: the mean, "
        "and a linear fit on the counts of each element. A useful network beats both."
    )
    header = ("Mean absolute error", "Molecules", model.target.unit)
    return Section("Errors", (remark,), header, tuple(rows))


def _publications(model: _Model) -> Iterator[Section]:
    """Return the published errors in a separate table, since their training sets were larger."""
    train = model.molecules("train")
    errors = published.MAES[model.target.name]
    theirs = published.NETWORKS[3:]
    rows = tuple(
        (
            name,
            f"{published.TRAIN_MOLECULES:,}" if name in theirs else "a different number",
            number(errors[name]),
        )
        for name in published.NETWORKS
    )
    comparable = train == published.TRAIN_MOLECULES
    ours = "an unknown number of" if train is None else f"{train:,}"
    remark = f"From Table 1 of arXiv:2008.08461. This network had {ours} training molecules"
    remark += "." if comparable else ", so its error cannot be compared with these."
    header = ("Network", "Training molecules", model.target.unit)
    yield Section("Published errors", (remark,), header, rows)


def _use(model: _Model) -> Section:
    if model.data.is_own:
        method = model.data.method
        level = f" It predicts what this method gives: {method}." if method else ""
        use = (
            "Predictions for molecules like those that it was trained on, with the elements "
            f"{_elements(model.data)} and with geometries of the same origin.{level}"
        )
        return Section("Intended use", (use,))
    return Section(
        "Intended use",
        (
            "Studies of architectures on QM9, and predictions for similar molecules: elements H, "
            "C, N, O and F; up to 29 atoms, of which at most 9 are not hydrogen; equilibrium "
            "geometries of B3LYP/6-31G(2df,p). It predicts properties at this level of theory.",
        ),
    )


def _limits(model: _Model) -> Section:
    network = model.run["configuration"]["network"]
    cutoff = value(network["radial_maximum_angstrom"])
    if network["featurization_vectors"] + network["output_vectors"]:
        symmetry = (
            "The prediction does not change if the molecule is rotated or moved, or if its atoms "
            "are listed in another order. It may change under reflection: mirror images may get "
            "different values."
        )
    else:
        symmetry = (
            "The network has no vectors, so it only sees distances. The prediction does not change "
            "under rotation, translation, reflection or another order of the atoms."
        )
    trained = "trained on equilibrium geometries"
    unlike = (
        "other elements, ions, radicals, larger molecules, geometries of another method and "
        "geometries away from equilibrium"
    )
    if model.data.is_own:
        trained = "not trained on forces"
        unlike = (
            "molecules unlike the training molecules: other elements, charges or spins, larger "
            "molecules, and geometries of another origin"
        )
    return Section(
        "Limits",
        (
            symmetry,
            f"Atoms farther apart than {cutoff} Å do not interact directly. The prediction is not "
            f"smooth where a pair of atoms crosses this distance. The network was {trained}: do "
            "not compute forces with it.",
            f"Errors are larger for {unlike}. The output does not show this.",
        ),
    )


def _origin(model: _Model) -> Section:
    provenance = model.ablation.provenance
    export = provenance.get("winner") or {}
    origin = export.get("provenance")
    source = f"{export.get('name', 'a configuration')}, written by hand"
    if origin is not None:
        edited = ", edited after the export" if origin.get("edited") else ""
        source = f"trial {origin.get('trial')} of the study {origin.get('study')}{edited}"
    rows = [
        ("ablation and run", f"{model.ablation.name}, {model.cell['key']}"),
        ("configuration from", source),
        ("fingerprint of the configuration", model.run["fingerprint"]),
    ]
    for launch in provenance.get("code") or []:
        versions = launch.get("versions") or {}
        rows.append(("commit", value(launch.get("git_commit")) or "not known"))
        rows.append(
            ("versions", ", ".join(f"{name} {number}" for name, number in versions.items()))
        )
    remark = "The report checks that data, split, space, study, export, runs, code and environment "
    remark += "agree."
    return Section("Origin", (remark,), ("What", "Value"), tuple(rows))


# --- The weights ---------------------------------------------------------------------------------

_SNIPPET = """\
from pathlib import Path

import numpy as np
import torch

from hpsearch.runs import checkpoint
from hpsearch.config.run import TrialConfig
from hpsearch.data.molecule import Molecule, Molecules
from hpsearch.data.statistics import TargetStatistics
from hpsearch.nn import MultiTargetNetwork
from hpsearch.config.targets import target

weights, state = checkpoint.read({path})
config = TrialConfig.from_dict(state["config"])
statistics = TargetStatistics.from_dict(state["statistics"])
network = MultiTargetNetwork(config.network, len(config.targets)).eval()
network.load_state_dict(weights)

water = Molecule(
    atomic_numbers=np.array([8, 1, 1]),
    positions=np.array([[0, 0, 0.119], [0, 0.763, -0.477], [0, -0.763, -0.477]]),  # Å
    targets=None,
    identifier=0,
)
molecules, rows = Molecules.from_molecules([water]), [0]
batch = molecules.batch(rows)
with torch.no_grad():
    outputs = network(batch.elements, batch.positions, batch.counts)
predictions = statistics.restore(outputs, molecules, rows)  # in native units
print(predictions[0, 0] * target("{target}").reporting_factor, "{unit}")
"""


_OF_QM9 = {
    "from hpsearch.config.targets import target\n": "",
    "water = Molecule(": "# Your molecule, of elements that the training molecules have.\n"
    "molecule = Molecule(",
    "from_molecules([water])": (
        "from_molecules(\n    [molecule], statistics.elements, config.data.all_targets\n)"
    ),
    "molecules, rows = Molecules": "rows = [0]\nmolecules = Molecules",
    "), [0]\n": ")\n",
    'TargetStatistics.from_dict(state["statistics"])': (
        "TargetStatistics.from_dict(\n"
        '    state["statistics"], config.data.all_targets, config.data.atomic_numbers\n)'
    ),
    "MultiTargetNetwork(config.network, len(config.targets))": (
        "MultiTargetNetwork(\n"
        "    config.network, len(config.targets), len(statistics.elements), statistics.extensive\n"
        ")"
    ),
    'config = TrialConfig.from_dict(state["config"])\n': (
        'config = TrialConfig.from_dict(state["config"])\n'
        'target = config.target_table["{target}"]\n'
    ),
    'target("{target}").reporting_factor, "{unit}"': "target.reporting_factor, target.unit",
}
"""Parts of the code that hold for QM9 only, and what takes their place for other molecules."""


def _code(model: _Model, path: str) -> str:
    """Return code that loads the weights from ``path``, an expression, and predicts."""
    code = _SNIPPET
    for of_qm9, instead in _OF_QM9.items() if model.data.is_own else ():
        code = code.replace(of_qm9, instead)
    return code.format(path=path, target=model.target.name, unit=model.target.unit)


def _loading(model: _Model) -> str:
    """Return Markdown with the weights' file and code that loads it; a section cannot hold code."""
    epoch = int(model.cell["best_epoch"])
    folder = Path(*Path(model.run["directory"]).parts[-4:])
    file = _weights_file(Path(model.run["directory"]), epoch)
    pattern = f"{checkpoint.BEST}-{epoch:05d}-*.safetensors"
    path = f'next(Path().glob("{pattern}"))' if file is None else f'Path("{file}")'
    return (
        "## Loading the weights\n\n"
        f"The file `{file or pattern}` is in the folder `{folder.as_posix()}`, inside the folder "
        "of the runs (`--runs` of `hpsearch ablate`). It contains the weights, the configuration "
        f"and the statistics of the training molecules.\n\n```python\n{_code(model, path)}```\n"
    )


def _weights_file(directory: Path, epoch: int) -> str | None:
    """Return the name of the best epoch's weights file; ``None`` if it cannot be reached."""
    try:
        paths = checkpoint.files(directory, checkpoint.BEST)
    except OSError:
        return None
    return next((path.name for path in paths if checkpoint.epoch_of(path) == epoch), None)
