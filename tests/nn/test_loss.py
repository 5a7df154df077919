import torch

from hpsearch.nn.loss import known_mean, molecule_losses, multi_target_loss


def test_eq_17_by_hand_the_offset_cancels():
    t, t_hat, s, sigma = 5.0, 4.0, 100.0, 2.0
    loss = molecule_losses(torch.tensor([[(t_hat - s) / sigma]]), torch.tensor([[(t - s) / sigma]]))
    assert loss.item() == ((t - t_hat) / sigma) ** 2 == 0.25


def test_eq_18_sums_over_targets_and_averages_over_molecules():
    outputs = torch.zeros(2, 3)
    normalised = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]])
    assert multi_target_loss(outputs, normalised).item() == (1 + 4 + 9 + 1) / 2


def test_an_unknown_target_adds_neither_to_the_loss_nor_to_the_gradient():
    outputs = torch.tensor([[1.0, 5.0], [2.0, 7.0]], requires_grad=True)
    normalised = torch.tensor([[0.0, float("nan")], [0.0, 4.0]])
    loss = multi_target_loss(outputs, normalised, torch.tensor([1.0, 2.0]))
    assert loss.item() == (1 + 4 + 2 * 9) / 2
    loss.backward()
    assert outputs.grad.tolist() == [[1.0, 0.0], [2.0, 6.0]]


def test_the_mean_over_the_known_values():
    values = torch.tensor([[1.0, float("nan")], [3.0, 8.0]])
    assert known_mean(values).tolist() == [2.0, 8.0]
