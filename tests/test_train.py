import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hpsearch.config.run import DataConfig, NetworkConfig, TrainingConfig, TrialConfig
from hpsearch.data import qm9
from hpsearch.data.baselines import baselines
from hpsearch.runs import checkpoint, resume
from hpsearch.runs.optimizer import Adam
from hpsearch.runs.training import NonFiniteLoss, Training
from hpsearch.system.errors import HpsearchError, InputError, MachineError

NETWORK = {
    "embedding_size": 8,
    "featurization_scalars": 6,
    "featurization_vectors": 2,
    "featurization_blocks": 1,
    "radial_basis": "cosine",
    "radial_functions": 12,
    "radial_maximum_angstrom": 4.0,
    "radial_mlp_layers": 1,
    "radial_mlp_neurons": 8,
    "output_mlp_layers": 1,
    "output_mlp_neurons": 8,
}
PAPERS_RATE = 6.53e-3


def config(targets=("mu", "U0"), network=None, data=None, **training):
    training = {"batch_size": 16, "learning_rate": PAPERS_RATE, "epochs": 3, **training}
    sizes = {"train_size": 64, "validation_size": 32, "test_size": 40, **(data or {})}
    return TrialConfig(
        targets=targets,
        network=NetworkConfig(**{**NETWORK, **(network or {})}),
        training=TrainingConfig(**training),
        data=DataConfig(**sizes),
    )


@pytest.fixture(scope="module")
def molecules():
    return qm9.load()


def train(config, molecules, directory, epochs=None):
    training = Training.begin(config, molecules, directory)
    while not training.finished and epochs != training.epochs_done:
        training.run_epoch()
    return training


def weights_equal(a, b):
    pairs = zip(a.network.state_dict().values(), b.network.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def without_seconds(history):
    return [{**vars(metrics), "seconds": None} for metrics in history]


@pytest.mark.parametrize("schedule", ["plateau", "cosine", "constant_cooldown"])
def test_a_continued_run_equals_an_uninterrupted_one_bit_for_bit(molecules, tmp_path, schedule):
    # So fast that the loss rises in the second epoch: the plateau is part of what is continued.
    settings = {"schedule": schedule, "epochs": 4, "learning_rate": 0.4, "seed": 1}
    settings |= {"plateau_patience": 0, "plateau_factor": 0.1}
    whole = train(config(**settings), molecules, tmp_path / "whole")
    train(config(**settings), molecules, tmp_path / "parts", epochs=2)
    parts = train(config(**settings), molecules, tmp_path / "parts")
    assert without_seconds(parts.history) == without_seconds(whole.history)
    assert len({metrics.learning_rate for metrics in whole.history}) > 1
    assert weights_equal(parts, whole)
    for a, b in zip(
        parts._optimizer.state_dict()["state"].values(),
        whole._optimizer.state_dict()["state"].values(),
        strict=True,
    ):
        assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-3)], ids=["double", "single"]
)
def test_a_batch_in_pieces_is_the_same_step(molecules, tmp_path, dtype, tolerance):
    # 5 does not divide a batch of 16, and the last batch of an epoch has four molecules.
    settings = config(epochs=2, data={"train_size": 68}, network={"featurization_blocks": 2})
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        whole, cut = (
            Training.begin(settings, molecules, tmp_path / str(pieces), pieces=pieces)
            for pieces in (1, 5)
        )
        gradients = []
        for training in (whole, cut):
            training.network.zero_grad()
            loss = training._add_gradients(np.arange(16))
            # A weight without elements gets no gradient.
            given = [p.grad for p in training.network.parameters() if p.numel()]
            gradients.append([loss, *given])
        for _ in range(2):
            whole.run_epoch()
            cut.run_epoch()
    finally:
        torch.set_default_dtype(before)
    for a, b in zip(*gradients, strict=True):
        assert torch.linalg.norm(a - b) <= tolerance * torch.linalg.norm(a)
    for a, b in zip(whole.history, cut.history, strict=True):
        assert b.training_loss == pytest.approx(a.training_loss, rel=tolerance)
        assert b.validation_loss == pytest.approx(a.validation_loss, rel=tolerance)
        assert b.target_maes == pytest.approx(a.target_maes, rel=tolerance)


def test_a_checkpoint_continues_in_other_pieces(molecules, tmp_path):
    whole = train(config(epochs=2), molecules, tmp_path / "whole")
    train(config(epochs=2), molecules, tmp_path / "parts", epochs=1)
    parts = Training.begin(config(epochs=2), molecules, tmp_path / "parts", pieces=1000)
    assert parts.epochs_done == 1
    parts.run_epoch()
    assert parts.history[1].training_loss == pytest.approx(whole.history[1].training_loss, rel=1e-3)
    assert parts._pieces_of(np.arange(3))[2].tolist() == [2]


def test_no_piece_is_refused(molecules, tmp_path):
    with pytest.raises(InputError, match="at least 1 piece, got 0"):
        Training.begin(config(), molecules, tmp_path, pieces=0)


PEAK = """
import json, pathlib, sys
from hpsearch.system.process import prepare_worker
prepare_worker(1)
import torch
from hpsearch.config.run import TrialConfig
from hpsearch.data import qm9
from hpsearch.runs.training import Training

def resident(line):
    text = pathlib.Path("/proc/self/status").read_text()
    return int(text.partition(line + ":")[2].split()[0]) // 1024

# In single precision oneDNN keeps compiled code for every shape that it meets, some megabytes each
# up to a bound, which a run in one piece reaches as well after enough steps.
torch.set_default_dtype(torch.float64)
molecules, settings = qm9.load(), TrialConfig.from_dict(json.loads(sys.argv[1]))
small = {"featurization_scalars": 2, "featurization_vectors": 1}
network = settings.network.model_copy(update=small)
warm = settings.model_copy(update={"network": network})
Training.begin(warm, molecules, pathlib.Path(sys.argv[2]) / "warm").run_epoch()
before = resident("VmRSS")
folder = pathlib.Path(sys.argv[2]) / "run"
training = Training.begin(settings, molecules, folder, pieces=int(sys.argv[3]))
training.run_epoch()
print(resident("VmHWM") - before)
"""


@pytest.mark.slow
def test_pieces_need_less_memory(molecules, tmp_path):
    # Many molecules and narrow layers, so that activations outweigh weights and their moments.
    wide = {"featurization_scalars": 24, "featurization_vectors": 16, "featurization_blocks": 3}
    wide |= {"radial_maximum_angstrom": 12.0, "output_blocks": 2, "output_vectors": 8}
    settings = config(network=wide, batch_size=256, data={"train_size": 256}, epochs=1)
    # Freed memory must go back to the system, or the peak would say what malloc keeps.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    peaks = [
        int(
            subprocess.run(
                [sys.executable, "-c", PEAK, json.dumps(settings.to_dict()), folder, str(pieces)],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for pieces, folder in ((1, str(tmp_path / "1")), (8, str(tmp_path / "8")))
    ]
    print("MiB in one piece and in eight:", peaks)
    assert peaks[1] < 0.6 * peaks[0]


def test_the_same_seed_gives_the_same_run_and_another_seed_another(molecules, tmp_path):
    first = train(config(epochs=1), molecules, tmp_path / "a")
    again = train(config(epochs=1), molecules, tmp_path / "b")
    other = train(config(epochs=1, seed=1), molecules, tmp_path / "c")
    assert without_seconds(first.history) == without_seconds(again.history)
    assert other.history[0].validation_loss != first.history[0].validation_loss


@pytest.mark.slow
@pytest.mark.parametrize("vectors", [0, 8])
@pytest.mark.parametrize("blocks", [1, 4])
def test_the_papers_rate_trains_from_the_first_epoch(molecules, tmp_path, vectors, blocks):
    wide = {
        "embedding_size": 32,
        "featurization_scalars": 24 if vectors else 48,
        "featurization_vectors": vectors,
        "featurization_blocks": blocks,
        "radial_mlp_neurons": 32,
        "output_mlp_neurons": 32,
        "output_mlp_layers": 2,
    }
    data = {"train_size": 400, "validation_size": 100}
    training = Training.begin(config(["all"], wide, data), molecules, tmp_path)
    fresh, _, _ = training.evaluate(training.split.validation, training.validation_targets)
    assert fresh < 3 * training.facts.zero_output_loss
    loss = training.run_epoch().validation_loss
    assert loss < 0.8 * training.facts.zero_output_loss
    assert loss < fresh


@pytest.mark.slow
def test_a_small_network_passes_the_composition_fit_of_its_own_training_molecules(
    molecules, tmp_path
):
    # It can fit 32 molecules far better than five element counts can.
    settings = config(
        ["U0"],
        {"featurization_scalars": 16, "embedding_size": 16, "output_mlp_neurons": 16},
        {"train_size": 32, "validation_size": 8},
        epochs=80,
        batch_size=8,
        learning_rate=2e-2,
        schedule="cosine",
    )
    training = train(settings, molecules, tmp_path)
    rows = training.split.train
    _, _, maes = training.evaluate(rows, training.evaluator.normalised(rows))
    assert maes["U0"] < baselines(molecules, rows, rows, ["U0"])["composition"]["U0"] / 3


def test_metrics_are_those_of_the_equations(molecules, tmp_path):
    training = train(config(epochs=1), molecules, tmp_path)
    rows = training.split.validation
    with torch.no_grad():
        outputs = training.evaluator.outputs(rows).double()
    predicted = training.evaluator.statistics.restore(outputs.numpy(), molecules, rows)
    metrics = training.history[0]
    for t, (name, column) in enumerate([("mu", 0), ("U0", 7)]):
        errors = predicted[:, t] - molecules.targets[rows, column]
        factor = 27_211.386245988 if name == "U0" else 1.0
        assert metrics.target_maes[name] == pytest.approx(abs(errors).mean() * factor, rel=1e-5)
        sigma = training.evaluator.statistics.deviation[t]
        assert metrics.target_losses[name] == pytest.approx(
            ((errors / sigma) ** 2).mean(), rel=1e-5
        )
    assert metrics.validation_loss == pytest.approx(sum(metrics.target_losses.values()))


def test_residuals_are_prediction_less_reference_of_each_test_molecule(molecules, tmp_path):
    training = train(config(epochs=1), molecules, tmp_path)
    completion = training.complete(evaluate_test=True)
    rows = training.split.test
    with torch.no_grad():
        outputs = training.evaluator.outputs(rows).double()
    predicted = training.evaluator.statistics.restore(outputs.numpy(), molecules, rows)
    for t, (name, column) in enumerate([("mu", 0), ("U0", 7)]):
        factor = 27_211.386245988 if name == "U0" else 1.0
        errors = (predicted[:, t] - molecules.targets[rows, column]) * factor
        residuals = completion.test_residuals[name]
        assert residuals == pytest.approx(errors.tolist(), rel=1e-3, abs=1e-3)
        assert completion.test_maes[name] == pytest.approx(
            sum(map(abs, residuals)) / len(rows), rel=1e-5
        )


def test_the_best_epochs_weights_are_tested(molecules, tmp_path):
    # At a high rate an epoch soon ends worse than the one before.
    training = Training.begin(config(epochs=50, learning_rate=0.2), molecules, tmp_path)
    while training.best_epoch == training.epochs_done:
        training.run_epoch()
    losses = [metrics.validation_loss for metrics in training.history]
    assert training.best_epoch == 1 + losses.index(min(losses)) < len(losses)
    completion = training.complete(evaluate_test=True)
    again, _, _ = training.evaluate(training.split.validation, training.validation_targets)
    assert again == completion.best_validation_loss == min(losses)
    assert completion.test_maes.keys() == {"mu", "U0"}
    assert math.isfinite(completion.test_loss)


def test_the_test_set_stays_shut_unless_asked(molecules, tmp_path):
    completion = train(config(epochs=1), molecules, tmp_path).complete(evaluate_test=False)
    assert completion.test_loss is None
    assert completion.test_maes == {}
    assert completion.test_residuals == {}


def test_early_stopping(molecules, tmp_path):
    training = train(
        config(epochs=50, learning_rate=0.5, early_stopping_patience=2), molecules, tmp_path
    )
    assert training.epochs_done == training.best_epoch + 2 < 50
    assert Training.begin(training.config, molecules, tmp_path).finished


def test_a_loss_that_is_not_finite_names_its_step(molecules, tmp_path):
    training = Training.begin(config(learning_rate=1e30), molecules, tmp_path)
    with pytest.raises(NonFiniteLoss, match=r"step 2 \(epoch 1") as caught:
        training.run_epoch()
    assert (caught.value.epoch, caught.value.step) == (1, 2)
    assert checkpoint.files(tmp_path, checkpoint.CHECKPOINT) == []


def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_used(molecules, tmp_path):
    whole = train(config(epochs=4), molecules, tmp_path / "whole")
    broken = tmp_path / "broken"
    train(config(epochs=4), molecules, broken, epochs=3)
    newest, before = checkpoint.files(broken, checkpoint.CHECKPOINT)
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    resumed = Training.begin(config(epochs=4), molecules, broken)
    assert resumed.epochs_done == 2
    before.write_bytes(before.read_bytes()[:-1])
    assert Training.begin(config(epochs=4), molecules, broken).epochs_done == 0
    while not resumed.finished:
        resumed.run_epoch()
    assert without_seconds(resumed.history) == without_seconds(whole.history)
    assert weights_equal(resumed, whole)


@pytest.mark.parametrize("spoil", ["history", "schedule", "learning_rate", "tensors"])
def test_a_whole_checkpoint_of_other_content_is_refused_in_words(spoil, molecules, tmp_path):
    train(config(epochs=2), molecules, tmp_path, epochs=1)
    [path] = checkpoint.files(tmp_path, checkpoint.CHECKPOINT)
    tensors, state = checkpoint.read(path)
    if spoil == "tensors":
        tensors = {"network.other": torch.zeros(1)}
    else:
        state[spoil] = "neither a list nor a number"
    path.unlink()
    checkpoint.write(tmp_path, checkpoint.CHECKPOINT, 1, tensors, state)
    with pytest.raises(InputError, match="must be from this version of hpsearch"):
        Training.begin(config(epochs=2), molecules, tmp_path).run_epoch()


def test_another_runs_checkpoint_is_refused(molecules, tmp_path):
    train(config(epochs=1), molecules, tmp_path)
    with pytest.raises(HpsearchError, match=r"holds a run with other settings \(epochs 1, now 2\)"):
        Training.begin(config(epochs=2), molecules, tmp_path)


@pytest.mark.parametrize("key", ["data_hash", "split_hash"])
def test_other_molecules_than_a_checkpoints_are_the_machines_fault(molecules, tmp_path, key):
    train(config(epochs=1), molecules, tmp_path)
    [path] = checkpoint.files(tmp_path, checkpoint.CHECKPOINT)
    tensors, state = checkpoint.read(path)
    path.unlink()
    checkpoint.write(tmp_path, checkpoint.CHECKPOINT, 1, tensors, {**state, key: "other"})
    with pytest.raises(MachineError, match=rf"holds a run on other molecules \({key} other"):
        Training.begin(config(epochs=1), molecules, tmp_path)


def test_missing_best_weights_are_an_error_not_a_wrong_result(molecules, tmp_path):
    training = train(config(epochs=1), molecules, tmp_path)
    for path in checkpoint.files(tmp_path, checkpoint.BEST):
        path.unlink()
    with pytest.raises(HpsearchError, match="missing or damaged"):
        training.complete(evaluate_test=False)


def test_a_full_disk_ends_in_words_and_leaves_the_older_files(molecules, tmp_path, monkeypatch):
    training = train(config(epochs=3), molecules, tmp_path, epochs=1)
    before = sorted(path.name for path in tmp_path.iterdir())

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HpsearchError, match=r"No space left on device.*run the same command"):
        training.run_epoch()
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_checkpoints_hold_no_pickle_and_their_provenance(molecules, tmp_path):
    train(config(epochs=3), molecules, tmp_path)
    assert len(checkpoint.files(tmp_path, checkpoint.CHECKPOINT)) == 2
    for path in tmp_path.iterdir():
        assert path.suffix == ".safetensors"
        _, state = checkpoint.read(path)
        assert json.dumps(state)
        assert state["split_hash"] and state["data_hash"] == molecules.content_hash
        assert state["statistics"]
    checkpoint.discard(tmp_path, keep_best=True)
    assert checkpoint.files(tmp_path, checkpoint.CHECKPOINT) == []
    assert checkpoint.files(tmp_path, checkpoint.BEST)
    checkpoint.discard(tmp_path, keep_best=False)
    assert list(tmp_path.iterdir()) == []


def test_more_molecules_than_exist(molecules, tmp_path):
    with pytest.raises(InputError, match=r"130,?831"):
        Training.begin(config(data={"train_size": 500_000}), molecules, tmp_path)


def test_a_killed_process_leaves_a_folder_to_continue_from(molecules, tmp_path):
    script = (
        "import os, sys, json, pathlib\n"
        "from hpsearch.config.run import TrialConfig\n"
        "from hpsearch.data import qm9\n"
        "from hpsearch.runs.training import Training\n"
        "config = TrialConfig.from_dict(json.loads(sys.argv[1]))\n"
        "training = Training.begin(config, qm9.load(), pathlib.Path(sys.argv[2]))\n"
        "training.run_epoch()\n"
        # Torch's compiler, which takes two seconds to import and which no run needs.
        "assert 'torch._dynamo' not in sys.modules\n"
        "os.kill(os.getpid(), 9)\n"
    )
    settings = config(epochs=2)
    command = [sys.executable, "-c", script, json.dumps(settings.to_dict()), str(tmp_path)]
    assert subprocess.run(command, check=False).returncode == -9
    resumed = train(settings, molecules, tmp_path)
    assert [metrics.epoch for metrics in resumed.history] == [1, 2]


def test_the_optimizer_steps_as_torch_s_does():
    """Also after its state was saved and loaded, as of a run that goes on."""

    def stepped(kind):
        torch.manual_seed(0)
        weights = torch.nn.Parameter(torch.randn(5, 3))
        optimizer = kind([weights], lr=1e-2, fused=True)
        for step in range(4):
            if step == 2:
                state = optimizer.state_dict()
                optimizer = kind([weights], lr=1e-2, fused=True)
                optimizer.load_state_dict(state)
            optimizer.zero_grad()
            (weights * torch.randn(5, 3)).square().sum().backward()
            optimizer.step()
        assert not optimizer.state[weights]["exp_avg"].requires_grad
        return weights, optimizer.state_dict()

    (ours, state), (torchs, expected) = stepped(Adam), stepped(torch.optim.Adam)
    assert torch.equal(ours, torchs)
    for name, value in expected["state"][0].items():
        assert torch.equal(state["state"][0][name], value), name


def test_lost_best_weights_come_from_a_checkpoint_or_are_trained_again(molecules, tmp_path):
    settings = config(epochs=2)
    whole = train(settings, molecules, tmp_path)
    [best, *_] = checkpoint.files(tmp_path, checkpoint.BEST)
    best.write_bytes(b"")
    again = Training.begin(settings, molecules, tmp_path)
    assert (again.epochs_done, again.facts.damaged) == (2, (best.name,))
    assert again.complete(False) == whole.complete(False)
    for path in checkpoint.files(tmp_path, checkpoint.CHECKPOINT):
        path.write_bytes(path.read_bytes()[:100])
    fresh = Training.begin(settings, molecules, tmp_path)
    assert (fresh.facts.resumed_from, len(fresh.facts.damaged)) == (0, 2)
    assert list(tmp_path.iterdir()) == []


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_finding_and_constructing_change_nothing_on_disk(molecules, tmp_path):
    settings = config(epochs=3)
    training = train(settings, molecules, tmp_path, epochs=2)
    assert training.best_epoch == 2
    [best, *_] = checkpoint.files(tmp_path, checkpoint.BEST)
    best.write_bytes(b"")
    newer = tmp_path / f"{checkpoint.CHECKPOINT}-00003-{'0' * 16}.safetensors"
    newer.write_bytes(b"damaged")
    before = contents(tmp_path)
    found = resume.find(tmp_path, training._identity())
    Training(settings, molecules, tmp_path)
    assert contents(tmp_path) == before
    assert found.damaged == (newer.name, best.name)
    assert found.useless == (newer,)
    assert found.best_is_lost
    assert len(found.state.history) == 2
    resume.prepare_folder(tmp_path, found, training._identity())
    assert not newer.exists()
    assert best.read_bytes()
    assert resume.find(tmp_path, training._identity()).damaged == ()


@pytest.mark.parametrize(
    ("folder", "kind", "key"),
    [
        ("before-592edfc3a3/2", "study", "2"),
        ("before-ablation-fd5c350e4e/L0Net/mu/0", "ablation", "L0Net/mu/0"),
    ],
)
def test_a_run_that_an_earlier_version_began_goes_on(molecules, tmp_path, folder, kind, key):
    before = Path(__file__).parent / "fixtures" / "before"
    shutil.copytree(before / "runs" / folder, tmp_path / "run")
    [path, _] = checkpoint.files(tmp_path / "run", checkpoint.CHECKPOINT)
    _, state = checkpoint.read(path)
    training = train(TrialConfig.from_dict(state["config"]), molecules, tmp_path / "run")
    assert (training.facts.resumed_from, training.facts.damaged) == (2, ())
    losses = json.loads((before / "uninterrupted.json").read_text())[kind][key]
    for metrics, (training_loss, validation_loss) in zip(training.history, losses, strict=True):
        assert metrics.training_loss == pytest.approx(training_loss, rel=1e-5)
        assert metrics.validation_loss == pytest.approx(validation_loss, rel=1e-5)
    assert training.complete(evaluate_test=True).epochs == 4


def test_an_epoch_s_rate_is_the_one_before_a_plateau_lowers_it(molecules, tmp_path):
    # So fast that the loss rises in the second epoch, after which the plateau lowers the rate.
    settings = {"epochs": 3, "learning_rate": 0.4, "seed": 1}
    settings |= {"plateau_patience": 0, "plateau_factor": 0.1}
    training = train(config(**settings), molecules, tmp_path)
    losses = [metrics.validation_loss for metrics in training.history]
    assert losses[1] > losses[0]
    assert [m.learning_rate for m in training.history] == pytest.approx([0.4, 0.4, 0.04])


@pytest.mark.parametrize("epochs", [5, 10])
def test_the_constant_rate_does_not_depend_on_the_epochs_until_the_cooldown(
    molecules, tmp_path, epochs
):
    # Four steps an epoch, of which two warm up. The last fifth of the steps cools down.
    settings = config(schedule="constant_cooldown", epochs=epochs, minimum_learning_rate=1e-5)
    training = Training.begin(settings, molecules, tmp_path)
    assert training.steps_per_epoch == 4
    rates = []
    for _ in range(4 * epochs):
        rates.append(training._optimizer.param_groups[0]["lr"] / PAPERS_RATE)
        training._optimizer.step()
        training._schedule.after_step()
    lowest, cooldown = 1e-5 / PAPERS_RATE, 4 * epochs // 5
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert rates[3 : -cooldown + 1] == pytest.approx([1.0] * (3 * epochs + epochs // 5 - 2))
    for step, rate in enumerate(rates[-cooldown:]):
        assert rate == pytest.approx(1 - (1 - lowest) * math.sqrt(step / cooldown))
    assert training._optimizer.param_groups[0]["lr"] == pytest.approx(1e-5)


def test_an_epoch_s_rate_is_that_of_its_last_cosine_step(molecules, tmp_path):
    # Four steps an epoch, twelve in all, of which one warms up.
    settings = config(schedule="cosine", epochs=3, minimum_learning_rate=1e-5)
    training = train(settings, molecules, tmp_path)
    assert training.steps_per_epoch == 4
    lowest = 1e-5 / PAPERS_RATE
    for metrics, last_step in zip(training.history, (3, 7, 11), strict=True):
        progress = (last_step - 1) / 11
        factor = lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * progress))
        assert metrics.learning_rate == pytest.approx(PAPERS_RATE * factor, rel=1e-12)
    # The checkpoint keeps the optimizer's own, of the step that comes next.
    _, state = checkpoint.read(checkpoint.files(tmp_path, checkpoint.CHECKPOINT)[0])
    assert state["learning_rate"] == pytest.approx(1e-5)
    assert state["learning_rate"] < training.history[-1].learning_rate
