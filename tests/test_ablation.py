"""The variants and the plan by hand, and the ablation against a real store."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest

from hpsearch.ablation.cells import cell_table
from hpsearch.ablation.launch import launch_ablation
from hpsearch.ablation.molecules import DataSummary, check_split, checked_split
from hpsearch.ablation.plan import AblationPlan, CellKey, ablation_training, repeat_seed
from hpsearch.ablation.variants import (
    VARIANT_NAMES,
    VARIANTS,
    Variant,
    drop_vectors,
    select_variants,
)
from hpsearch.config.architecture import relative_work
from hpsearch.config.export import Provenance, Winner
from hpsearch.config.run import DataConfig, NetworkConfig, Overrides, TrainingConfig, TrialConfig
from hpsearch.data.baselines import baselines
from hpsearch.data.molecule import Molecules
from hpsearch.data.split import Split, make_split
from hpsearch.runs import checkpoint
from hpsearch.runs.messages import (
    Assignment,
    Completion,
    EpochMetrics,
    Failure,
    RunFacts,
)
from hpsearch.store import Store
from hpsearch.system.errors import HpsearchError, InputError

PAPER = NetworkConfig(
    embedding_size=128,
    featurization_scalars=57,
    featurization_vectors=29,
    featurization_blocks=2,
    radial_basis="cosine",
    radial_functions=84,
    radial_maximum_angstrom=11.1,
    radial_mlp_layers=1,
    radial_mlp_neurons=100,
    output_blocks=1,
    output_mlp_layers=1,
    output_mlp_neurons=96,
)
TWO_OUTPUTS = NetworkConfig.model_validate(
    {**PAPER.model_dump(), "output_blocks": 2, "output_scalars": 10, "output_vectors": 20}
)


def derived(name: str, network: NetworkConfig) -> dict[str, object]:
    """What the variant called ``name`` changes in ``network``."""
    (variant,) = select_variants([name])
    before, after = network.model_dump(), variant.derive(network).model_dump()
    return {key: after[key] for key in after if after[key] != before[key]}


# --- Variants


def test_the_papers_29_vectors_become_87_scalars():
    flat = drop_vectors(PAPER)
    assert flat.featurization_scalars == 57 + 87
    assert flat.featurization_vectors == 0


def test_vectors_of_the_output_representation_are_dropped_too():
    changes = derived("L0Net", TWO_OUTPUTS)
    assert changes == {
        "featurization_scalars": 144,
        "featurization_vectors": 0,
        "output_scalars": 70,
        "output_vectors": 0,
    }


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("L1Net", {}),
        ("L0Net", {"featurization_scalars": 144, "featurization_vectors": 0}),
        (
            "L0NetDeep",
            {
                "featurization_scalars": 144,
                "featurization_vectors": 0,
                "featurization_blocks": 3,
            },
        ),
        (
            "L0NetOutdeep",
            {"featurization_scalars": 144, "featurization_vectors": 0, "output_mlp_layers": 2},
        ),
        (
            "L0NetBothDeep",
            {
                "featurization_scalars": 144,
                "featurization_vectors": 0,
                "featurization_blocks": 3,
                "output_mlp_layers": 2,
            },
        ),
    ],
)
def test_a_variant_changes_this_and_nothing_else(name, changes):
    assert derived(name, PAPER) == changes


@pytest.mark.parametrize("network", [PAPER, TWO_OUTPUTS])
def test_every_variant_is_a_valid_network(network):
    for variant in VARIANTS:
        NetworkConfig.model_validate(variant.derive(network).model_dump())


def test_variants_are_found_without_regard_to_case_and_in_table_order():
    assert [v.name for v in select_variants(["l0netDEEP", "L1NET", "l1net"])] == [
        "L1Net",
        "L0NetDeep",
    ]
    assert tuple(v.name for v in select_variants(["all"])) == VARIANT_NAMES
    assert tuple(v.name for v in select_variants([])) == VARIANT_NAMES


def test_an_unknown_variant_lists_the_known():
    with pytest.raises(InputError, match=r"one of L1Net, L0Net, L0NetDeep.*got 'L2Net'"):
        select_variants(["L1Net", "L2Net"])


# --- The plan


ORIGIN = Provenance(
    study="search",
    trial=3,
    validation_loss=0.5,
    zero_output_loss=3.0,
    validation_maes={},
    data_hash="data",
    split_hash="split",
    space_name="space",
    space_hash="space",
    versions={},
    created="2026-01-01T00:00:00Z",
)


def winner(**changes):
    config = TrialConfig(
        targets=("mu", "U0"),
        network=changes.pop("network", PAPER),
        training=TrainingConfig(
            batch_size=16,
            learning_rate=6.53e-3,
            epochs=10,
            schedule="cosine",
            early_stopping_patience=3,
            seed=7,
        ),
        data=DataConfig(train_size=1000, validation_size=100, test_size=500, split_seed=4),
    )
    return Winner(name="winner", config=config, provenance=changes.pop("provenance", ORIGIN))


def make_plan(the_winner=None, **changes):
    options = {"targets": ["mu", "U0"], "variants": ["L1Net", "L0Net"], "repeats": 2, **changes}
    return AblationPlan.make(the_winner or winner(), **options)


def keys(plan):
    return [str(cell.key) for cell in plan.cells]


def test_the_plan_is_every_variant_target_and_repeat():
    assert sorted(keys(make_plan())) == [
        "L0Net/U0/0",
        "L0Net/U0/1",
        "L0Net/mu/0",
        "L0Net/mu/1",
        "L1Net/U0/0",
        "L1Net/U0/1",
        "L1Net/mu/0",
        "L1Net/mu/1",
    ]


def test_a_cells_key_is_read_from_the_text_that_it_writes():
    keys = [cell.key for cell in make_plan(variants=["all"], targets=["all"], repeats=11).cells]
    assert [CellKey.parse(str(key)) for key in keys] == keys
    assert str(CellKey("L0NetBothDeep", "U0", 10)) == "L0NetBothDeep/U0/10"


def test_each_cell_trains_one_target_with_its_variants_network():
    cells = {str(cell.key): cell for cell in make_plan().cells}
    assert cells["L1Net/U0/0"].config.targets == ("U0",)
    assert cells["L1Net/U0/0"].config.network == PAPER
    assert cells["L0Net/mu/1"].config.network == drop_vectors(PAPER)


def test_without_names_the_winners_targets_and_all_variants():
    plan = AblationPlan.make(winner())
    assert plan.targets == ("mu", "U0")
    assert tuple(v.name for v in plan.variants) == VARIANT_NAMES
    assert len(plan.cells) == 2 * 5


def test_arms_of_one_repeat_are_paired_and_repeats_differ():
    seeds: dict[int, set[int]] = {}
    for cell in make_plan(repeats=3).cells:
        seeds.setdefault(cell.key.repeat, set()).add(cell.config.training.seed)
    assert all(len(found) == 1 for found in seeds.values())
    assert len(set.union(*seeds.values())) == 3
    assert len({cell.config.data for cell in make_plan(repeats=3).cells}) == 1


def test_repeat_seeds_are_fixed_for_good():
    # Stored results name these seeds: a change here would silently unpair old and new arms.
    assert [repeat_seed(7, repeat) for repeat in range(2)] == [215689894, 1776908988]
    assert repeat_seed(7, 0) != repeat_seed(8, 0)


def test_an_ablation_trains_to_the_end_not_for_the_searchs_epochs():
    training = make_plan().training
    assert (training.epochs, training.schedule) == (200, "plateau")
    assert training.early_stopping_patience == 50
    assert (training.batch_size, training.learning_rate) == (16, 6.53e-3)
    assert ablation_training(training) == training
    note = make_plan().training_note
    assert note == (
        "training: at most 200 epochs, plateau, early stopping after 50 epochs without "
        "improvement; defaults are the paper's, not your search's 10 epochs"
    )


@pytest.mark.parametrize("origin", [None, ORIGIN.model_copy(update={"edited": True})])
def test_a_configuration_written_or_edited_by_hand_keeps_its_training(origin):
    theirs = winner(provenance=origin)
    plan = make_plan(theirs, overrides=Overrides(plateau_patience=9))
    kept = {**theirs.config.training.model_dump(), "plateau_patience": 9}
    assert plan.training.model_dump() == kept
    assert plan.training_note.startswith("training: at most 10 epochs, cosine, early stopping aft")
    assert plan.training_note.endswith("defaults are those of the file")


def test_overrides_reach_every_cell():
    overrides = Overrides(epochs=2, schedule="cosine", batch_size=4, train_size=200)
    for cell in make_plan(overrides=overrides).cells:
        assert (cell.config.training.epochs, cell.config.training.schedule) == (2, "cosine")
        assert cell.config.training.batch_size == 4
        assert cell.config.data.train_size == 200
        assert cell.config.data.validation_size == 100


def test_an_override_that_is_not_allowed_is_refused_in_one_line():
    with pytest.raises(InputError, match=r"^--epochs must be greater than or equal to 1; got 0"):
        make_plan(overrides=Overrides(epochs=0))
    with pytest.raises(InputError, match="repeats must be at least 1; got 0"):
        make_plan(repeats=0)
    with pytest.raises(InputError, match="got 'nonsense'"):
        make_plan(targets=["nonsense"])


def test_a_winner_without_vectors_is_refused_in_words():
    with pytest.raises(InputError, match="vectors to drop") as caught:
        make_plan(winner(network=drop_vectors(PAPER)))
    assert "\n" not in str(caught.value)


def test_vectors_in_the_output_alone_are_enough():
    network = NetworkConfig.model_validate({**TWO_OUTPUTS.model_dump(), "featurization_vectors": 0})
    assert len(make_plan(winner(network=network)).cells) == 8


def test_the_winners_split_is_expected_only_for_the_winners_molecules():
    assert make_plan().expected_split == ORIGIN.split_hash
    assert make_plan(overrides=Overrides(train_size=999)).expected_split is None
    assert make_plan(overrides=Overrides(train_size=1000)).expected_split is not None


def test_the_same_command_names_the_same_experiment():
    assert make_plan().name == make_plan().name
    assert make_plan(stem="best").name == f"best-{make_plan().identity[:8]}"
    assert make_plan(name="mine").name == "mine"


def test_adding_targets_variants_or_repeats_adds_cells_to_the_same_experiment():
    small = make_plan()
    large = make_plan(targets=["all"], variants=["all"], repeats=3)
    assert large.name == small.name
    old = {str(cell.key): cell.config for cell in small.cells}
    new = {str(cell.key): cell.config for cell in large.cells}
    assert {key: new[key] for key in old} == old


@pytest.mark.parametrize(
    "overrides",
    [Overrides(epochs=3), Overrides(train_size=900), Overrides(split_seed=5), Overrides(seed=8)],
)
def test_other_runs_are_another_experiment(overrides):
    assert make_plan(overrides=overrides).name != make_plan().name


def test_a_plan_does_not_change():
    with pytest.raises(FrozenInstanceError):
        make_plan().repeats = 3  # type: ignore[misc]


def test_deeper_and_invariant_networks_cost_more():
    costs = {
        cell.key.variant: relative_work(cell.config) for cell in make_plan(variants=["all"]).cells
    }
    assert costs["L0Net"] > costs["L1Net"]
    assert costs["L0NetDeep"] > costs["L0Net"]
    assert costs["L0NetBothDeep"] > costs["L0NetDeep"]
    assert costs["L0NetOutdeep"] > costs["L0Net"]


# --- Molecules


def split_of(train, validation, test):
    rows = [np.array(list(values), dtype=np.int64) for values in (train, validation, test)]
    return Split(*rows, hash="unused")


def test_test_molecules_that_the_search_never_saw_are_accepted():
    check_split(split_of(range(10), [10, 11], [20, 21]), split_of(range(15), [15], [20, 21, 22]))
    # What the search only could have tested is as good as never seen.
    check_split(split_of(range(10), [10], [11, 12]), split_of([0, 1], [2], [11, 12]))


@pytest.mark.parametrize("leak", [3, 10])
def test_test_molecules_that_the_search_trained_or_chose_on_are_refused(leak):
    with pytest.raises(InputError, match=r"new to the search; 1 of 2 were"):
        check_split(split_of(range(10), [10], [20]), split_of([30, 31], [32], [leak, 21]))


@pytest.fixture(scope="module")
def molecules():
    """Twenty made-up molecules of one carbon; their targets are random."""
    random = np.random.default_rng(0)
    return Molecules.assemble(
        identifiers=range(1, 21),
        atom_counts=[1] * 20,
        atomic_numbers=[6] * 20,
        positions=np.zeros((20, 3)),
        targets=random.normal(size=(20, 12)),
    )


def small_winner(molecules, data, **origin):
    """A winner of a search on ``molecules``."""
    config = TrialConfig.from_dict({**winner().config.to_dict(), "data": data.model_dump()})
    split_hash = make_split(molecules, data).hash
    hashes = {"data_hash": molecules.content_hash, "split_hash": split_hash, **origin}
    return Winner(name="small", config=config, provenance=ORIGIN.model_copy(update=hashes))


SMALL = DataConfig(train_size=8, validation_size=2, test_size=4)


def test_the_summary_counts_the_molecules_and_holds_the_baselines(molecules):
    theirs = small_winner(molecules, SMALL)
    plan = make_plan(theirs, overrides=Overrides(train_size=10))
    summary = DataSummary.of(molecules, theirs, plan)
    assert (summary.molecules, summary.train, summary.validation, summary.test) == (20, 10, 2, 4)
    split = make_split(molecules, plan.data)
    assert summary.split_hash == split.hash != theirs.provenance.split_hash
    assert summary.baselines == baselines(molecules, split.train, split.test, ("mu", "U0"))


def test_the_summary_refuses_a_leak(molecules):
    theirs = small_winner(molecules, SMALL)
    plan = make_plan(theirs, overrides=Overrides(train_size=2, test_size=16))
    with pytest.raises(InputError, match="new to the search; 6 of 16"):
        DataSummary.of(molecules, theirs, plan)


def test_the_summary_refuses_other_molecules_than_the_searchs(molecules):
    theirs = small_winner(molecules, SMALL, data_hash="other")
    with pytest.raises(InputError, match="must be those of the search, whose hash is other"):
        DataSummary.of(molecules, theirs, make_plan(theirs))


def test_the_summary_refuses_a_split_that_cannot_be_made_again(molecules):
    theirs = small_winner(molecules, SMALL, split_hash="other")
    with pytest.raises(InputError, match=r"config\.data must be the search's"):
        DataSummary.of(molecules, theirs, make_plan(theirs))


def test_a_winner_without_a_search_has_nothing_to_leak(molecules):
    theirs = small_winner(molecules, SMALL).model_copy(update={"provenance": None})
    plan = make_plan(theirs, overrides=Overrides(train_size=2, test_size=16))
    assert plan.expected_split is None
    assert DataSummary.of(molecules, theirs, plan).test == 16


def test_sizes_beside_a_split_file_are_refused():
    config = TrialConfig.from_dict(
        {**winner().config.to_dict(), "data": {"split_file": "mine.json"}}
    )
    theirs = Winner(name="theirs", config=config)
    assert make_plan(theirs).data.split_file == "mine.json"
    with pytest.raises(InputError, match=r"--train-size must be left out.*'mine.json'.*got 300"):
        make_plan(theirs, overrides=Overrides(train_size=300))
    with pytest.raises(InputError, match=r"--test-size must be left out.*'mine.json'.*got 300"):
        Overrides(test_size=300).apply_to_run(config)
    with pytest.raises(ValueError, match="train_size must be left out if split_file"):
        DataConfig(train_size=77, split_file="mine.json")


def test_options_reach_a_single_run():
    config = winner().config
    changed = Overrides(epochs=2, train_size=200).apply_to_run(config, ["gap"])
    assert (changed.targets, changed.training.epochs) == (("gap",), 2)
    assert (changed.data.train_size, changed.network) == (200, config.network)
    assert Overrides().apply_to_run(config) == config


def test_any_run_of_a_searchs_winner_is_checked_for_leaks(molecules):
    theirs = small_winner(molecules, SMALL)
    split = checked_split(molecules, theirs, SMALL)
    assert split.hash == theirs.split_hash
    leak = DataConfig(train_size=2, validation_size=2, test_size=16)
    with pytest.raises(InputError, match="new to the search; 6 of 16"):
        checked_split(molecules, theirs, leak)


def test_cells_say_the_molecules_of_the_split_not_of_the_configuration(store):
    config = TrialConfig.from_dict(
        {**winner().config.to_dict(), "data": {"split_file": "mine.json"}}
    )
    theirs = Winner(name="theirs", config=config)
    plan = make_plan(theirs, name="mine", targets=["mu"], variants=["L1Net"], repeats=1)
    uncounted = launch_ablation(store, theirs, plan, Path("/nowhere"))
    assert cell_table(store, uncounted.experiment.id)["train_size"].isna().all()
    counted = launch_ablation(store, theirs, plan, Path("/nowhere"), replace(DATA, train=77))
    assert set(cell_table(store, counted.experiment.id)["train_size"]) == {77}


# --- Against a store

FACTS = RunFacts(1234, "somewhere", "cpu", "data", "split", 3.0)
DATA = DataSummary(
    molecules=1700,
    train=1000,
    validation=100,
    test=500,
    data_hash="data",
    split_hash="split",
    baselines={"mean": {"mu": 1.5, "U0": 900.0}, "composition": {"mu": 1.25, "U0": 90.0}},
)


@pytest.fixture
def store(tmp_path):
    with Store.create(f"sqlite:///{tmp_path}/store.db") as store:
        yield store


def launch(store, plan=None, data=DATA, runs_root=Path("/nowhere/runs")):
    return launch_ablation(store, winner(), plan or make_plan(), runs_root, data)


def metrics(epoch, target, mae=0.5):
    return EpochMetrics(epoch, 1e-3, 2.0, 1.0, 0.9, {target: 0.9}, {target: mae})


def run_cell(ablation, assignment, outcome=None):
    (target,) = assignment.config.targets
    ablation.started(assignment.key, FACTS)
    for epoch in (1, 2):
        ablation.epoch(assignment.key, metrics(epoch, target, 1.0 / epoch))
    ablation.finish(assignment.key, outcome or Completion(2, 2, 0.9, 1.1, {target: 0.25}))


def run_all(ablation):
    done = []
    while (assignment := ablation.next()) is not None:
        run_cell(ablation, assignment)
        done.append(assignment.key)
    return done


def test_assignments_open_the_test_set_and_know_their_split_and_folder(store):
    ablation = launch(store)
    assignment = ablation.next()
    assert assignment is not None
    assert assignment.evaluate_test
    assert assignment.expected_split == "split"
    assert assignment.directory.startswith("/nowhere/runs/")
    assert assignment.directory.endswith(assignment.key)
    assert Assignment.from_dict(assignment.to_dict()) == assignment


def test_without_a_summary_the_winners_split_is_expected(store):
    assignment = launch(store, data=None).next()
    assert assignment is not None
    assert assignment.expected_split == ORIGIN.split_hash


def test_longest_cells_come_first(store):
    plan = make_plan(variants=["all"], targets=["mu"], repeats=1)
    order = [key.split("/")[0] for key in run_all(launch(store, plan))]
    work = {cell.key.variant: relative_work(cell.config) for cell in plan.cells}
    costs = [work[name] for name in order]
    assert costs == sorted(costs, reverse=True)
    assert order[0] == "L0NetBothDeep"
    assert order[-1] == "L1Net"


def test_an_arm_of_more_epochs_is_longer(store):
    patient = Variant("Patient", "", lambda network: network, training={"epochs": 900})
    declared = make_plan(targets=["mu"], repeats=1, variants=["all"], declared=(patient,))
    assert launch(store, declared).waiting[0].key.variant == "Patient"


def test_the_same_launch_again_runs_nothing(store):
    ablation = launch(store)
    assert len(run_all(ablation)) == 8
    again = launch(store)
    assert again.finished
    assert again.next() is None
    assert again.counts() == {"waiting": 0, "running": 0, "complete": 8, "failed": 0}


def test_adding_targets_variants_and_repeats_runs_only_the_new_cells(store):
    plan = make_plan(targets=["mu"], variants=["L1Net"], repeats=1)
    assert run_all(launch(store, plan)) == ["L1Net/mu/0"]
    larger = make_plan(targets=["mu", "gap"], variants=["L1Net", "L0Net"], repeats=2)
    new = run_all(launch(store, larger))
    assert len(new) == 7
    assert "L1Net/mu/0" not in new
    table = cell_table(store, launch(store, larger).experiment.id)
    assert sorted(table["key"]) == sorted(keys(larger))
    assert set(table["state"]) == {"complete"}


def test_a_cell_left_running_by_a_dead_launch_goes_on_in_its_folder(store):
    first = launch(store)
    left = first.next()
    assert left is not None
    first.started(left.key, FACTS)
    first.epoch(left.key, metrics(1, left.config.targets[0]))
    assert launch(store).next() == left


def test_a_failed_cell_is_tried_again_in_the_next_launch_only(store):
    ablation = launch(store)
    first = ablation.next()
    assert first is not None
    run_cell(ablation, first, Failure("diverged", "the loss is not finite", epoch=1, step=3))
    assert first.key not in run_all(ablation)
    assert ablation.finished
    assert ablation.counts() == {"waiting": 0, "running": 0, "complete": 7, "failed": 1}
    table = cell_table(store, ablation.experiment.id).set_index("key")
    assert table.loc[first.key, "state"] == "failed"
    assert table.loc[first.key, "reason"] == "the loss is not finite"

    again = launch(store)
    assert again.counts() == {"waiting": 1, "running": 0, "complete": 7, "failed": 0}
    retried = again.next()
    assert retried == first
    again.started(first.key, FACTS)
    table = cell_table(store, ablation.experiment.id).set_index("key")
    assert table.loc[first.key, "state"] == "running"
    run_cell(again, first)
    table = cell_table(store, ablation.experiment.id).set_index("key")
    assert table.loc[first.key, "state"] == "complete"
    assert launch(store).finished


def test_epochs_that_a_fresh_start_does_not_repeat_are_forgotten(store):
    ablation = launch(store)
    first = ablation.next()
    assert first is not None
    run_cell(ablation, first, Failure("diverged", "the loss is not finite", epoch=3, step=3))
    again = launch(store)
    assert again.next() == first
    again.started(first.key, replace(FACTS, resumed_from=1))
    assert store.epochs()["epoch"].tolist() == [1]
    again.started(first.key, FACTS)
    assert store.epochs().empty


def test_a_verdict_told_twice_counts_once(store):
    ablation = launch(store)
    assignment = ablation.next()
    assert assignment is not None
    run_cell(ablation, assignment)
    ablation.finish(assignment.key, Failure("worker_lost", "too late"))
    assert ablation.counts()["complete"] == 1
    table = cell_table(store, ablation.experiment.id).set_index("key")
    assert table.loc[assignment.key, "state"] == "complete"


@pytest.mark.parametrize("kind", ["disk_full", "machine"])
def test_what_is_no_fault_of_the_cell_is_no_verdict(store, tmp_path, kind):
    ablation = launch(store, runs_root=tmp_path)
    first = ablation.next()
    assert first is not None
    ablation.started(first.key, FACTS)
    kept = checkpoint.write(Path(first.directory), checkpoint.CHECKPOINT, 1, {}, {})
    with pytest.raises(HpsearchError, match=rf"cell {first.key} of .*: no space") as caught:
        ablation.finish(first.key, Failure(kind, "no space"))
    assert caught.value.exit_code == 1
    assert kept.exists()
    assert launch(store, runs_root=tmp_path).next() == first


def test_counts_follow_the_cells(store):
    ablation = launch(store)
    assert ablation.counts() == {"waiting": 8, "running": 0, "complete": 0, "failed": 0}
    assert not ablation.finished
    ablation.next()
    assert ablation.counts() == {"waiting": 7, "running": 1, "complete": 0, "failed": 0}


def test_the_table_of_cells_tells_what_is_known(store):
    ablation = launch(store)
    assignment = ablation.next()
    assert assignment is not None
    run_cell(ablation, assignment)
    row = cell_table(store, ablation.experiment.id).set_index("key").loc[assignment.key]
    assert (row["variant"], row["target"], row["repeat"]) == (*assignment.key.split("/")[:2], 0)
    assert (row["test_mae"], row["validation_mae"], row["weights"]) == (0.25, 0.5, 1234)
    assert (row["epochs"], row["best_epoch"], row["seconds"]) == (2, 2, 4.0)
    assert row["train_size"] == 1000
    waiting = cell_table(store, ablation.experiment.id).query("state == 'waiting'")
    assert len(waiting) == 7
    assert waiting["test_mae"].isna().all()


def test_the_table_of_no_cells_has_its_columns(store):
    experiment = store.begin_experiment("ablation", "empty", {})
    assert cell_table(store, experiment.id)["state"].tolist() == []


def test_other_runs_under_the_same_name_are_refused(store):
    launch(store, make_plan(name="mine"))
    other = make_plan(name="mine", overrides=Overrides(epochs=3))
    with pytest.raises(InputError, match="ablation 'mine' must continue with the configuration"):
        launch(store, other)


def test_other_molecules_under_the_same_name_are_refused(store):
    launch(store)
    with pytest.raises(InputError, match="must continue with the molecules"):
        launch(store, data=replace(DATA, data_hash="other"))


def test_a_split_that_was_edited_meanwhile_is_refused_before_any_cell(store):
    launch(store)
    before = store.experiments()["provenance"].tolist()
    with pytest.raises(InputError, match=r"must continue with the split .* is split; got other"):
        launch(store, data=replace(DATA, split_hash="other"))
    assert store.experiments()["provenance"].tolist() == before


def test_a_worker_with_other_molecules_ends_the_launch(store):
    ablation = launch(store, data=None)
    first, second = ablation.next(), ablation.next()
    assert first is not None and second is not None
    ablation.started(first.key, FACTS)
    with pytest.raises(InputError, match=r"must use the same molecules; the split hash was split"):
        ablation.started(second.key, replace(FACTS, split_hash="other"))


def test_the_first_cells_split_is_all_cells_split(store):
    plan = make_plan(winner(provenance=None))
    ablation = launch(store, plan, data=None)
    first, second = ablation.next(), ablation.next()
    assert first is not None and second is not None
    assert first.expected_split is second.expected_split is None
    ablation.started(first.key, FACTS)
    third = ablation.next()
    assert third is not None
    assert third.expected_split == "split"
    again = launch(store, plan, data=None).next()
    assert again is not None
    assert again.expected_split == "split"


def test_a_variant_that_derives_another_network_does_not_forget_results(store):
    plan = make_plan(name="mine", variants=["L1Net"], repeats=1)
    run_all(launch(store, plan))
    changed = replace(VARIANTS[0], derive=drop_vectors)
    with pytest.raises(InputError, match=r"L1Net/mu/0 .* must have the same network as before"):
        launch(store, replace(plan, variants=(changed,)))
    assert launch(store, plan).finished


def test_baselines_of_later_targets_join_the_earlier(store):
    launch(store)
    more = {"mean": {"gap": 1000.0}, "composition": {"gap": 800.0}}
    launch(store, make_plan(targets=["gap"]), replace(DATA, baselines=more))
    (provenance,) = store.experiments()["provenance"]
    assert provenance["data"]["baselines"]["mean"] == {"mu": 1.5, "U0": 900.0, "gap": 1000.0}
    assert set(provenance["variants"]) == {"L1Net", "L0Net"}
