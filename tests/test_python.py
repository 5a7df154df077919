"""The Python interface: what `import hpsearch` offers, and what docs/python.md says of it."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from notebook import NOTEBOOK, execute
from support.commands import PLAIN_QUICK
from support.made_up import run_ablation, run_search, the_winner
from support.networks import tiny_network

import hpsearch
from hpsearch.config.space import SearchSpace
from hpsearch.store import Store

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "python.md"


def examples() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), flags=re.M | re.S)


def test_importing_is_cheap() -> None:
    code = """
import sys
import hpsearch
assert dir(hpsearch) == sorted(hpsearch.__all__)
hpsearch.launch, hpsearch.open_store, hpsearch.Callback, hpsearch.Study
names = {name.partition(".")[0] for name in sys.modules}
print(*sorted(names & {"torch", "ray", "numpy", "pandas", "optuna", "pydantic", "sqlalchemy"}))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("\n", "")


@pytest.mark.parametrize("name", [name for name in hpsearch.__all__ if not name.startswith("_")])
def test_every_name_is_documented(name: str) -> None:
    value = getattr(hpsearch, name)
    assert name in PAGE.read_text("utf-8")
    assert inspect.getdoc(value)
    methods = [
        member
        for key, member in vars(value).items()
        if inspect.isclass(value) and not key.startswith("_") and callable(member)
    ]
    for member in methods:
        assert inspect.getdoc(member), f"{name}.{member.__name__}"


def test_its_types_are_for_users_too() -> None:
    # Without this file mypy ignores the annotations of an installed package.
    assert (ROOT / "hpsearch" / "py.typed").is_file()


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="module 'hpsearch' has no attribute 'lunch'"):
        hpsearch.lunch  # noqa: B018


def test_launch_and_ablate_have_the_options_of_the_commands() -> None:
    from hpsearch.cli.ablate import ablate
    from hpsearch.cli.launch import launch

    renamed = {"space": "space", "file": "configuration", "storage": "store"}
    only_commands = {"dry_run", "as_json", "log_to"}
    only_python = {"callbacks", "say"}
    for function, command in ((hpsearch.launch, launch), (hpsearch.ablate, ablate)):
        options = {
            renamed.get(str(each.name), str(each.name)) for each in command.params
        } - only_commands
        if function is hpsearch.launch:
            per_run = {"cpus_per_run", "gpus_per_run"}
            options = options - per_run | {"cpus_per_trial", "gpus_per_trial"}
        assert set(inspect.signature(function).parameters) == options | only_python


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[hpsearch.Store]:
    url = f"sqlite:///{tmp_path_factory.mktemp('python')}/store.db"
    with Store.create(url) as writer:
        space = SearchSpace.parse(PLAIN_QUICK, "quick.yaml")
        study = run_search(writer, space=space.with_overrides(trials=6, epochs=2))
        run_ablation(writer, the_winner(study))
    with hpsearch.open_store(url) as opened:
        yield opened


def test_a_study_is_read_as_frames(store: hpsearch.Store) -> None:
    kinds = store.experiments()["kind"].tolist()
    assert kinds == ["study", "ablation"]
    study = store.study()
    assert study.name == store.experiments()["name"][0]
    assert f"{study!r}".startswith(f"<hpsearch.Study {study.name}: 6 of 6 complete")
    trials, epochs, errors = study.trials(), study.epochs(), study.errors()
    assert trials["number"].tolist() == list(range(7))
    assert trials["state"].tolist() == ["FAIL"] + 6 * ["COMPLETE"]
    assert {"trial", "epoch", "validation_loss", "learning_rate"} <= set(epochs)
    lowest = epochs.groupby("trial")["validation_loss"].min()
    assert lowest.tolist() == trials["value"][1:].tolist()
    assert list(errors) == ["trial", "epoch", "target", "loss", "mae", "unit"]
    assert errors["unit"].map(set(study.units.values()).__contains__).all()
    assert not study.importances().empty
    best = study.best()
    assert best.provenance is not None
    assert best.provenance.validation_loss == trials["value"].min()
    assert study.config(best.provenance.trial) == best.config
    assert study.counts().complete == 6
    assert study.wait(timeout=0) is True


def test_an_ablation_is_read_as_frames(store: hpsearch.Store) -> None:
    ablation = store.ablation()
    cells = ablation.cells()
    assert set(cells["state"]) == {"complete"}
    assert ablation.counts()["complete"] == len(cells)
    assert ablation.summary() == f"{len(cells)} complete"
    assert cells["unit"].tolist() == [ablation.units[name] for name in cells["target"]]
    table = ablation.table1()
    first = cells.iloc[0]
    same = cells[(cells["variant"] == first["variant"]) & (cells["target"] == first["target"])]
    mean = table.loc[first["target"], first["variant"]]
    assert mean == pytest.approx(same["test_mae"].mean())
    assert set(ablation.epochs()["key"]) == set(ablation.errors()["key"]) == set(cells["key"])
    assert set(ablation.residuals()["key"]) <= set(cells["key"])
    assert not ablation.intervals().empty


def test_the_figures_are_those_of_the_pages(store: hpsearch.Store) -> None:
    import plotly.graph_objects as go

    study, ablation = store.study(), store.ablation()
    of_study, of_ablation = study.figures(), ablation.figures()
    assert {"parallel", "learning_curves", "features"} <= set(of_study)
    assert "ablation" in of_ablation
    assert "ablation" not in of_study
    assert all(isinstance(each, go.Figure) for each in (*of_study.values(), *of_ablation.values()))
    assert study.figure("parallel") == of_study["parallel"]
    with pytest.raises(hpsearch.InputError, match=r"got 'paralel'; did you mean parallel\?"):
        study.figure("paralel")
    with pytest.raises(hpsearch.InputError, match="has nothing to show for study"):
        study.figure("ablation")


def test_what_is_not_there_is_named(store: hpsearch.Store, tmp_path: Path) -> None:
    with pytest.raises(
        hpsearch.InputError, match=r"a study must be one of those in the store .*; got 'x'"
    ):
        store.study("x")
    with pytest.raises(hpsearch.InputError, match="trial with this number, got 99"):
        store.study().config(99)
    with pytest.raises(hpsearch.InputError, match=r"nothing\.db"):
        hpsearch.open_store(f"sqlite:///{tmp_path}/nothing.db")
    with pytest.raises(hpsearch.InputError, match=r"python\.md"):
        hpsearch.read_data(PAGE)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "trials": ({"trials": 0}, "trials"),
    "epochs": ({"epochs": -1}, "epochs"),
    "targets": ({"targets": "mo"}, "got 'mo'; did you mean"),
    "sampler": ({"sampler": "best"}, "'best'"),
    "sizes": ({"train_size": 10**9}, "train"),
    "cpus": ({"cpus_per_trial": 0}, "CPUs of a run must be above 0"),
    "device": ({"device": "cuda"}, "must be given a GPU"),
    "held": ({"if_held": "never"}, "if_held must be 'give-up' or 'wait', got 'never'"),
    "store": ({"store": Path("x.db")}, "store must be a text, got PosixPath('x.db')"),
    "names": ({"targets": 5}, "targets must be a list of texts, got 5"),
    "number": ({"cpus_per_trial": "two"}, "the CPUs of a run must be a number, got 'two'"),
    "study": ({"study": 5}, "study must be a text, got 5"),
    "mapping": ({"data": {"molecules": "x"}}, "data must be a declaration of molecules or its"),
    "space": ({"space": None}, "space must be a search space or its file, got None"),
    "callbacks": ({"callbacks": 5}, "callbacks must be a list of hpsearch.Callback objects, got 5"),
    "say": ({"say": 5}, "say must be a function or None, got 5"),
    "callback": ({"callbacks": [print]}, "inherits hpsearch.Callback, got <built-in"),
    "enqueue": ({"enqueue": "missing.yaml"}, "missing.yaml"),
    "data": ({"data": "missing.yaml"}, "missing.yaml"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_leaves_nothing(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, words = WRONG[case]
    with pytest.raises(hpsearch.InputError) as refused:
        hpsearch.launch(**{"space": "quick", "say": None, **arguments})
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_network_has_the_initial_weights_of_its_training(tmp_path: Path) -> None:
    import torch

    from hpsearch.data import qm9
    from hpsearch.runs.training import Training

    winner = hpsearch.read_configuration("paper_l1net")
    small = winner.config.model_copy(update={"network": tiny_network()})
    small = small.model_copy(
        update={"data": small.data.model_copy(update={"train_size": 20, "validation_size": 10})}
    )
    network = hpsearch.build_network(small)
    begun = Training.begin(small, qm9.load(), tmp_path)
    for name, value in network.named_parameters():
        if name.endswith("embedding"):
            assert torch.equal(value, begun.network.get_parameter(name))
    assert network.weights == begun.facts.weights


# --- The examples ---------------------------------------------------------------------------------


def test_every_example_can_be_parsed() -> None:
    assert len(examples()) >= 8
    for example in examples():
        ast.parse(example)


@pytest.mark.slow
def test_the_examples_of_the_page_run(tmp_path: Path) -> None:
    """All of them, in their order, in an empty folder; the trackers' are in test_callbacks.py."""
    run = "\n".join(
        example
        for example in examples()
        if "import mlflow" not in example and "import wandb" not in example
    )
    done = subprocess.run(
        [sys.executable, "-c", run], cwd=tmp_path, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 done" in done.stdout
    assert "2 complete, 0 failed" in done.stdout
    assert re.search(r"^0 1 \d+\.\d+ \{'mu'", done.stdout, flags=re.M)
    assert "--trials must be at least 1" in done.stdout.splitlines()[-1]
    assert (tmp_path / "best.yaml").is_file()
    assert (tmp_path / "dipoles" / "model.json").is_file()


SMALLER = {"train_size=1000": "train_size=60", "_size=200": "_size=120", "epochs=5": "epochs=1"}


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    """Every cell, with fewer molecules and epochs; `make notebook` runs it as it is."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    stored = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    assert sum("image/png" in str(outputs) for outputs in stored) == 3
    for cell in notebook.cells:
        for large, small in SMALLER.items():
            cell.source = cell.source.replace(large, small)
    execute(notebook, tmp_path)
    shown = [str(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]
    assert "<hpsearch.Study quick: 6 of 6 complete>" in shown[1]
    assert sum("vnd.plotly" in text or "image/png" in text for text in shown) == 3
    assert "gap ±95% [meV]" in shown[-1]
