"""A model card tells the store's numbers, chooses by validation, and its code loads the weights."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from support import whole_chain
from support.made_up import run_ablation, run_search, the_winner

from hpsearch.ablation.launch import launch_ablation
from hpsearch.ablation.molecules import DataSummary
from hpsearch.ablation.plan import AblationPlan
from hpsearch.config.export import Winner
from hpsearch.config.run import DataConfig, NetworkConfig, TrainingConfig, TrialConfig
from hpsearch.config.targets import target
from hpsearch.data import qm9
from hpsearch.data.split import make_split
from hpsearch.data.statistics import target_values
from hpsearch.report.model_card import model_cards
from hpsearch.report.text import number
from hpsearch.report.write import write_report
from hpsearch.results import published
from hpsearch.results.findings import AblationFindings
from hpsearch.runs.training import Training
from hpsearch.store import Store

SMALL = TrialConfig(
    targets=("U0",),
    network=NetworkConfig(
        embedding_size=4,
        featurization_scalars=3,
        featurization_vectors=2,
        featurization_blocks=1,
        radial_basis="cosine",
        radial_functions=6,
        radial_maximum_angstrom=5.0,
        radial_mlp_layers=1,
        radial_mlp_neurons=4,
        output_mlp_layers=2,
        output_mlp_neurons=4,
    ),
    training=TrainingConfig(batch_size=16, learning_rate=0.01, epochs=2),
    data=DataConfig(train_size=64, validation_size=20, test_size=30),
)


@pytest.fixture
def fresh(tmp_path):
    with Store.create(f"sqlite:///{tmp_path}/fresh.db") as store:
        yield store


def cards_of(store, ablation):
    return model_cards(AblationFindings.read(store, ablation))


def train(store, runs, **options):
    """A real ablation of ``SMALL``: networks that are trained, tested and recorded."""
    winner = Winner(name="small", config=SMALL)
    plan = AblationPlan.make(winner, **options)
    data = DataSummary.of(qm9.load(), winner, plan)
    ablation = launch_ablation(store, winner, plan, runs, data)
    while (assignment := ablation.next()) is not None:
        training = Training.begin(assignment.config, qm9.load(), Path(assignment.directory))
        ablation.started(assignment.key, training.facts)
        while not training.finished:
            ablation.epoch(assignment.key, training.run_epoch())
        ablation.finish(assignment.key, training.complete(evaluate_test=True))
    return plan.name


def rows_of(card):
    """First cell to the others, of every table of a card."""
    lines = [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("|")]
    return {first: rest for first, *rest in lines}


def code_of(card):
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return code


# --- Which network, and its numbers


def test_the_lowest_validation_error_is_chosen_whatever_the_test_says(fresh):
    chosen = {"L0Net/mu/1": 0.3, "L0NetDeep/U0/0": 0.1}
    name = whole_chain.ablate(
        fresh,
        whole_chain.search(fresh).winner(),
        repeats=2,
        validation_mae=lambda key: chosen.get(key, 0.9),
    )
    cards = cards_of(fresh, name)
    assert list(cards) == ["model_card_mu.md", "model_card_U0.md"]
    assert cards["model_card_mu.md"].startswith(f"# mu: L0Net of {name}")
    assert (
        "It is L0Net (three scalars in place of each vector), repeat 1. It has the lowest "
        "validation error of 6 completed networks" in cards["model_card_mu.md"]
    )
    assert (
        "It is L0NetDeep (L0Net with one more featurization block), repeat 0"
        in cards["model_card_U0.md"]
    )
    # The L1Net's test errors are half of the L0Net's.
    tested = np.abs(whole_chain.residuals("L0Net/mu/1", 2000)).mean()
    assert rows_of(cards["model_card_mu.md"])["this network, test"] == ["2,000", number(tested)]


def test_the_card_holds_the_stores_numbers(fresh):
    name = whole_chain.ablate(fresh, whole_chain.search(fresh).winner(), variants=["L1Net"])
    card = cards_of(fresh, name)["model_card_mu.md"]
    run = fresh.runs(fresh.experiment("ablation", name).id).set_index("key").loc["L1Net/mu/0"]
    experiment = fresh.experiment("ablation", name)
    naive = experiment.provenance["data"]["baselines"]
    rows = rows_of(card)
    assert rows["weights"] == [f"{run['weights']:,}"]
    assert rows["learning rate"] == [number(run["configuration"]["training"]["learning_rate"])]
    assert rows["radial maximum"][0].endswith(" Å")
    assert rows["training molecules"] == ["1,000"]
    assert rows["validation molecules, used to choose the epoch"] == ["500"]
    assert rows["test molecules, used once"] == ["2,000"]
    assert rows["hash of the molecules"] == [qm9.load().content_hash]
    assert rows["hash of the three sets"] == [run["split_hash"]]
    assert rows["Mean absolute error"] == ["Molecules", "D"]
    assert rows["mean of the training molecules, test"] == ["2,000", number(naive["mean"]["mu"])]
    assert rows["composition fit, test"][1] == number(naive["composition"]["mu"])
    assert rows["L1Net"] == ["109,000", "0.043"]
    assert rows["SchNet"] == ["a different number", "0.033"]
    assert "had 1,000 training molecules, so its error cannot be compared" in card
    assert rows["commit"] == [whole_chain.CODE["git_commit"]]
    assert rows["versions"] == ["hpsearch 0.1.0, torch 2.13.0"]
    assert rows["configuration from"] == ["trial 1 of the study made-up"]
    # Our errors and the paper's are in tables apart.
    ours, theirs = card.index("## Errors"), card.index("## Published errors")
    assert ours < card.index("this network, test") < theirs < card.index("| SchNet ")


def test_only_the_same_training_size_is_comparable(fresh):
    name = run_ablation(fresh, the_winner(run_search(fresh)), train=published.TRAIN_MOLECULES)
    card = cards_of(fresh, name)["model_card_U0.md"]
    assert "had 109,000 training molecules." in card
    assert "not comparable" not in card


def test_what_the_network_keeps_depends_on_its_vectors(fresh):
    winner = whole_chain.search(fresh).winner()
    vectors = whole_chain.ablate(fresh, winner, variants=["L1Net"])
    scalars = whole_chain.ablate(fresh, winner, variants=["L0Net"], name="scalars")
    assert "may change under reflection" in cards_of(fresh, vectors)["model_card_mu.md"]
    assert "only sees distances" in cards_of(fresh, scalars)["model_card_mu.md"]


def test_the_limits_are_told(fresh):
    card = cards_of(fresh, run_ablation(fresh, the_winner(run_search(fresh))))["model_card_mu.md"]
    for told in (
        "H, C, N, O and F",
        "up to 29 atoms, of which at most 9 are not",
        "B3LYP/6-31G(2df,p)",
    ):
        assert told in card
    assert "Errors are larger for other elements" in card
    assert "nan" not in card.lower().replace("provenance", "")


def test_a_target_without_a_complete_network_has_no_card(fresh):
    winner = the_winner(run_search(fresh))
    name = run_ablation(fresh, winner, variants=["L1Net"], fail=["L1Net/U0/0"])
    assert list(cards_of(fresh, name)) == ["model_card_mu.md"]


def test_an_ablation_without_code_or_sizes_still_has_cards(fresh):
    name = run_ablation(fresh, the_winner(run_search(fresh)))
    experiment = fresh.experiment("ablation", name)
    fresh.update_provenance(experiment.id, data=None, code=None, winner=None)
    card = cards_of(fresh, name)["model_card_mu.md"]
    assert rows_of(card)["training molecules"] == ["1,000"]
    assert "a configuration, written by hand" in card


# --- Files


def test_cards_are_written_with_markdown_only(fresh, tmp_path):
    run_ablation(fresh, the_winner(run_search(fresh)))
    write_report(fresh, tmp_path / "csv", formats=["csv", "html", "latex"])
    assert not list((tmp_path / "csv").glob("model_card*"))
    write_report(fresh, tmp_path / "md", formats=["md"])
    assert {path.name for path in (tmp_path / "md").glob("model_card*")} == {
        "model_card_mu.md",
        "model_card_U0.md",
    }


def test_weights_out_of_reach_are_named_by_their_pattern(fresh):
    card = cards_of(fresh, run_ablation(fresh, the_winner(run_search(fresh))))["model_card_mu.md"]
    assert 'checkpoint.read(next(Path().glob("best-00002-*.safetensors")))' in card
    assert "/nowhere" not in card


# --- The code


def test_the_cards_code_loads_the_weights_and_predicts(fresh, tmp_path, monkeypatch, capsys):
    name = train(fresh, tmp_path / "runs", variants=["L1Net"])
    experiment = fresh.experiment("ablation", name)
    (run,) = fresh.runs(experiment.id).to_dict("records")
    card = cards_of(fresh, name)["model_card_U0.md"]
    (weights,) = Path(run["directory"]).glob("best-*.safetensors")
    folder = Path(run["directory"]).parent.parent.parent.name
    assert f"The file `{weights.name}` is in the folder `{folder}" in card
    assert str(tmp_path) not in card

    monkeypatch.chdir(run["directory"])
    space = {}
    exec(code_of(card), space)  # what a reader of the card would run
    printed, unit = capsys.readouterr().out.split()
    assert unit == "meV"
    # Water's energy at B3LYP/6-31G(2df,p) is -76.4 Hartree; the atomic references are most of it.
    assert float(printed) / 27211.386 == pytest.approx(-76.4, abs=0.5)

    # The loaded network has the test errors that the store holds.
    molecules = qm9.load()
    rows = make_split(molecules, SMALL.data).test
    batch = molecules.batch(rows)
    with torch.no_grad():
        outputs = space["network"](batch.elements, batch.positions, batch.counts)
    predictions = space["statistics"].restore(outputs, molecules, rows)
    differences = (predictions - target_values(molecules, rows, ["U0"]))[:, 0]
    (stored,) = fresh.test_residuals(experiment.id)["residuals"]
    reporting = differences * target("U0").reporting_factor
    assert reporting == pytest.approx(stored, rel=1e-4, abs=0.05)


def test_the_code_finds_weights_whose_name_is_not_known(fresh, tmp_path, monkeypatch, capsys):
    name = train(fresh, tmp_path / "runs", variants=["L0Net"])
    (run,) = fresh.runs(fresh.experiment("ablation", name).id).to_dict("records")
    Path(run["directory"]).rename(tmp_path / "moved")
    card = cards_of(fresh, name)["model_card_U0.md"]
    monkeypatch.chdir(tmp_path / "moved")
    exec(code_of(card), {})
    assert capsys.readouterr().out.endswith("meV\n")
