"""The normalised multi-target loss of Eqs 17 and 18."""

from __future__ import annotations

from torch import Tensor


def molecule_losses(outputs: Tensor, normalised: Tensor) -> Tensor:
    """L_m(t, t̂) = ((t - t̂)/σ)², Eq. 17, for every molecule and target.

    The paper's last form contains an offset of 2s, which cancels (docs/decisions/0001).

    Args:
        outputs: ``[M, T]``, (t̂ - s)/σ.
        normalised: ``[M, T]``, (t - s)/σ.
    """
    return (outputs - normalised).square()


def multi_target_loss(outputs: Tensor, normalised: Tensor) -> Tensor:
    """Eq. 18: the sum over targets of Eq. 17, averaged over molecules; a scalar.

    Args:
        outputs: ``[M, T]``, (t̂ - s)/σ.
        normalised: ``[M, T]``, (t - s)/σ.
    """
    return molecule_losses(outputs, normalised).sum(1).mean()
