"""The normalised multi-target loss of Eqs 17 and 18."""

from __future__ import annotations

import torch
from torch import Tensor


def molecule_losses(outputs: Tensor, normalised: Tensor) -> Tensor:
    """L_m(t, t̂) = ((t - t̂)/σ)², Eq. 17, for every molecule and target.

    The paper's last form contains an offset of 2s, which cancels (docs/decisions/0001).

    Args:
        outputs: ``[M, T]``, (t̂ - s)/σ.
        normalised: ``[M, T]``, (t - s)/σ.
    """
    return (outputs - normalised).square()


def multi_target_loss(outputs: Tensor, normalised: Tensor, weights: Tensor | None = None) -> Tensor:
    """Eq. 18: the sum over targets of Eq. 17, averaged over molecules; a scalar.

    Args:
        outputs: ``[M, T]``, (t̂ - s)/σ.
        normalised: ``[M, T]``, (t - s)/σ. With ``weights`` it may have NaN: an unknown target,
            which adds nothing to the loss.
        weights: ``[T]`` factor of each target.
    """
    if weights is None:
        return molecule_losses(outputs, normalised).sum(1).mean()
    # The unknown ones are replaced before the difference: a gradient of 0 * NaN would be NaN.
    known = torch.where(normalised.isnan(), outputs.detach(), normalised)
    return (molecule_losses(outputs, known) * weights).sum(1).mean()


def known_mean(values: Tensor) -> Tensor:
    """``[M, T]`` to ``[T]``: the mean over the molecules that are not NaN."""
    unknown = values.isnan()
    return values.nanmean(0) if bool(unknown.any()) else values.mean(0)
