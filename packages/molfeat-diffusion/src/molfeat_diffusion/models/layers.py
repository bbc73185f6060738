"""Parts of the denoiser: masks, pooling, and layers that keep its symmetries."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F


class Features(NamedTuple):
    """What flows between the layers."""

    atoms: Float[Tensor, "batch atoms dx"]
    pairs: Float[Tensor, "batch atoms atoms de"]
    globals: Float[Tensor, "batch dy"]
    positions: Float[Tensor, "batch atoms 3"]


class Prediction(NamedTuple):
    """The network's belief about the clean molecule."""

    atoms: Float[Tensor, "batch atoms elements"]
    """logits"""
    charges: Float[Tensor, "batch atoms charges"]
    """logits"""
    bonds: Float[Tensor, "batch atoms atoms bonds"]
    """logits, symmetric, zero on the diagonal"""
    positions: Float[Tensor, "batch atoms 3"]
    """angstrom, centred"""


class Masks:
    """Where atoms and pairs are real, in the features' dtype, and how means are taken."""

    def __init__(
        self, mask: Bool[Tensor, "batch atoms"], dtype: torch.dtype, *, padded_means: bool
    ) -> None:
        self.real = mask
        self.atoms = mask[..., None].to(dtype)  # (B, n, 1)
        self.pairs = self.atoms[:, :, None] * self.atoms[:, None]  # (B, n, n, 1)
        off_diagonal = 1 - torch.eye(mask.shape[1], dtype=dtype, device=mask.device)
        self.bonds = self.pairs * off_diagonal[..., None]
        self.neighbours = self.atoms[:, None]  # (B, 1, n, 1): of every atom
        self.padded_means = padded_means
        self.full = bool(mask.all())
        """no padding: then masking, a third of a layer's time, changes nothing and is left out"""

    def hide(self, values: Tensor, mask: Tensor) -> Tensor:
        """Zero where `mask` is, which hides padding alone (so not `bonds`)."""
        return values if self.full else values * mask

    def centre(self, positions: Tensor) -> Tensor:
        """Mask, then take off the mean."""
        positions = positions * self.atoms
        if self.padded_means:
            return positions - positions.mean(1, keepdim=True)
        mean = positions.sum(1, keepdim=True) / self.atoms.sum(1, keepdim=True)
        return (positions - mean) * self.atoms


class Pooling(nn.Module):
    """Principal neighbourhood aggregation: a linear map of mean, minimum, maximum and variance."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.lin = nn.Linear(4 * inputs, outputs)

    def forward(
        self,
        values: Tensor,
        mask: Tensor | None,
        dims: tuple[int, ...],
        *,
        padded_mean: bool = False,
        offset: float = 0.0,
    ) -> Tensor:
        """Pool over `dims` where `mask` (1 or 0, broadcast) is 1; the rest of `values` may be anything.

        Args:
            values: (batch, ..., inputs).
            mask: None: all is real.
            dims: axes that are pooled.
            padded_mean: the mean alone counts hidden values too, as published.
            offset: added to the result.
        """
        if mask is None:
            mean = values.mean(dims, keepdim=True)
            variance = (values - mean).square().mean(dims)
            pooled = (mean.squeeze(dims), values.amin(dims), values.amax(dims), variance)
            return shifted(self.lin, torch.cat(pooled, dim=-1), offset)
        hidden = mask == 0
        count = mask.expand(*values.shape[:-1], 1).sum(dims, keepdim=True)
        total = values if padded_mean else values.masked_fill(hidden, 0.0)
        mean = total.sum(dims, keepdim=True) / count
        variance = ((values - mean) ** 2).masked_fill(hidden, 0.0).sum(dims, keepdim=True) / count
        low = values.masked_fill(hidden, torch.inf).amin(dims)
        high = values.masked_fill(hidden, -torch.inf).amax(dims)
        pooled = (mean.squeeze(dims), low, high, variance.squeeze(dims))
        return shifted(self.lin, torch.cat(pooled, dim=-1), offset)


class PositionScaling(nn.Module):
    """Positions scaled by a function of their distance to the centre, and centred again."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.mlp = mlp(1, hidden, 1)

    def forward(self, positions: Tensor, masks: Masks) -> Tensor:
        norm = positions.norm(dim=-1, keepdim=True)
        return masks.centre(positions * self.mlp(norm) / (norm + 1e-5))


class VelocityNorm(nn.Module):
    """Vectors divided by their mean length within the molecule, times a learned scale."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, velocity: Tensor, masks: Masks) -> Tensor:
        length = velocity.norm(dim=-1, keepdim=True).sum(1, keepdim=True)
        return self.weight * velocity / (length / masks.atoms.sum(1, keepdim=True) + 1e-5)


def shifted(linear: nn.Linear, values: Tensor, by: float = 1.0) -> Tensor:
    """`by` plus a linear layer of the values, at no cost."""
    return F.linear(values, linear.weight, linear.bias + by)


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two linear layers."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
