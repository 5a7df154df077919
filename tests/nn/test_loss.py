import torch

from hpsearch.nn.loss import molecule_losses, multi_target_loss


def test_eq_17_by_hand_the_offset_cancels():
    t, t_hat, s, sigma = 5.0, 4.0, 100.0, 2.0
    loss = molecule_losses(torch.tensor([[(t_hat - s) / sigma]]), torch.tensor([[(t - s) / sigma]]))
    assert loss.item() == ((t - t_hat) / sigma) ** 2 == 0.25


def test_eq_18_sums_over_targets_and_averages_over_molecules():
    outputs = torch.zeros(2, 3)
    normalised = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]])
    assert multi_target_loss(outputs, normalised).item() == (1 + 4 + 9 + 1) / 2
