"""The noise model: cosine schedules, Gaussian positions, categorical transitions to the marginals.

Vignac et al. 2023, Sec. 3 and App. B; the thesis' Eq. 5.1 to 5.4. With abar_t the share of the signal
that is left at step t (one per modality):

    positions     r_t = abar_t r_0 + sigma_t eps,  sigma_t^2 = 1 - abar_t^2,  eps of zero centre of mass
    categories    x_t ~ x_0 Qbar_t,  Qbar_t = abar_t I + (1 - abar_t) 1 m',  m the marginal distribution

Steps s < t compose: Q_{t|s} is the same with abar_t / abar_s, and so is the Gaussian.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from molfeat_diffusion.config import NoiseConfig

POSITIONS, ATOMS, CHARGES, BONDS = range(4)
"""Columns of a schedule."""


def cosine_betas(timesteps: int, nu: tuple[float, ...]) -> Float[Tensor, "steps modalities"]:
    """Noise added at each step 0 .. T, in float64: row t is step t; row 0 is not exactly noise-free.

    The reference's grid has T + 2 points from 0 to T + 2 inclusive, so it is a little wider than 1.
    """
    points = timesteps + 2
    x = np.linspace(0, points, points)[:, None] / points
    level = np.cos(0.5 * np.pi * (x ** np.asarray(nu, dtype=np.float64) + 0.008) / 1.008) ** 2
    return torch.from_numpy(1 - level[1:] / level[:-1])


class Schedule(nn.Module):
    """abar_t and sigma_t for every step and modality, in float64."""

    def __init__(self, config: NoiseConfig) -> None:
        super().__init__()
        self.timesteps = config.timesteps
        nu = (config.nu_positions, config.nu_atoms, config.nu_charges, config.nu_bonds)
        # Clamped, as in the reference: else the last step's abar would be zero.
        alphas = 1 - cosine_betas(config.timesteps, nu).clamp(0, 0.9999)
        self.log_abar: Tensor
        self.register_buffer("log_abar", alphas.log().cumsum(0), persistent=False)

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        # A half-precision or float32 network keeps its float64 schedule: only the device may change.
        moved = fn(self.log_abar)
        self.log_abar = self.log_abar.to(moved.device)
        return self

    def abar(self, t: Int[Tensor, " batch"], modality: int) -> Float[Tensor, " batch"]:
        """Share of the signal left at step t."""
        return self.log_abar[t, modality].exp()

    def sigma(self, t: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Standard deviation of the positions' noise at step t, in angstrom."""
        return (-torch.expm1(2 * self.log_abar[t, POSITIONS])).sqrt()

    def abar_between(
        self, s: Int[Tensor, " batch"], t: Int[Tensor, " batch"], modality: int
    ) -> Float[Tensor, " batch"]:
        """Share of the signal of step s that is left at step t > s."""
        return (self.log_abar[t, modality] - self.log_abar[s, modality]).exp()


def transition(
    abar: Float[Tensor, " batch"], marginal: Float[Tensor, " classes"]
) -> Float[Tensor, "batch classes classes"]:
    """The matrix abar I + (1 - abar) 1 m' (Eq. 5.4): row = class before, column = class after."""
    identity = torch.eye(len(marginal), dtype=abar.dtype, device=abar.device)
    kept = abar[:, None, None]
    return kept * identity + (1 - kept) * marginal.to(abar.dtype)


def noised_probabilities(
    classes: Int[Tensor, " batch *rest"],
    abar: Float[Tensor, " batch"],
    marginal: Float[Tensor, " classes"],
) -> Float[Tensor, "batch *rest classes"]:
    """q(x_t | x_0) for every entry."""
    kept = abar.view(-1, *[1] * classes.ndim)
    return kept * F.one_hot(classes, len(marginal)) + (1 - kept) * marginal.to(abar.dtype)


def reverse_probabilities(
    current: Int[Tensor, " batch *rest"],
    clean: Float[Tensor, "batch *rest classes"],
    abar_s: Float[Tensor, " batch"],
    abar_t: Float[Tensor, " batch"],
    marginal: Float[Tensor, " classes"],
) -> Float[Tensor, "batch *rest classes"]:
    """q(x_s | x_t) = sum over x_0 of p(x_0) q(x_s | x_t, x_0), for any steps s < t.

    Args:
        current: x_t.
        clean: p(x_0), the network's belief; a one-hot gives Bayes' posterior itself.
        abar_s, abar_t: share of the signal at the two steps.
        marginal: m.
    """
    shape = (-1, *[1] * current.ndim)
    m = marginal.to(abar_t.dtype)
    clean = clean.to(abar_t.dtype)
    one_hot = F.one_hot(current, len(marginal)).to(abar_t.dtype)
    kept_s, kept_t = abar_s.view(shape), abar_t.view(shape)
    step = kept_t / kept_s
    # q(x_t | x_0) for every x_0, and q(x_t | x_s) for every x_s.
    arrival = kept_t * one_hot + (1 - kept_t) * m[current][..., None]
    # A class that the marginal lacks may be unreachable: then p(x_0) counts for nothing.
    weights = torch.where(arrival > 0, clean / arrival.clamp(min=1e-300), 0.0)
    forward = step * one_hot + (1 - step) * m[current][..., None]
    # weights @ Qbar_s, without the matrix.
    backward = kept_s * weights + (1 - kept_s) * m * weights.sum(-1, keepdim=True)
    joint = forward * backward
    total = joint.sum(-1, keepdim=True)
    return torch.where(total > 0, joint / total.clamp(min=1e-300), m.expand_as(joint))


def draw_classes(
    probabilities: Float[Tensor, "*shape classes"], uniform: Float[Tensor, "*shape"]
) -> Int[Tensor, "*shape"]:
    """The class that each uniform number in [0, 1) picks, by the inverse of the distribution function."""
    edges = probabilities.cumsum(-1)
    # Rounding may leave the last edge below 1; an impossible last class must not be drawn for that.
    edges = edges / edges[..., -1:]
    return (uniform.to(edges)[..., None] >= edges).sum(-1).clamp(max=probabilities.shape[-1] - 1)


def centred(
    values: Float[Tensor, "batch atoms 3"], mask: Bool[Tensor, "batch atoms"]
) -> Float[Tensor, "batch atoms 3"]:
    """Values with zero mean over real atoms, and zero at the others."""
    real = mask[..., None].to(values.dtype)
    values = values * real
    return (values - values.sum(1, keepdim=True) / real.sum(1, keepdim=True)) * real


class Randomness(NamedTuple):
    """All random numbers that corrupting, or one reverse step of, a batch takes."""

    positions: Float[Tensor, "batch atoms 3"]
    """standard normal, not centred yet"""
    atoms: Float[Tensor, "batch atoms"]
    """uniform in [0, 1)"""
    charges: Float[Tensor, "batch atoms"]
    """uniform in [0, 1)"""
    bonds: Float[Tensor, "batch atoms atoms"]
    """uniform in [0, 1), symmetric: an edge is drawn once"""

    @classmethod
    def draw(
        cls, batch: int, atoms: int, generator: torch.Generator, device: torch.device | None = None
    ) -> Randomness:
        """Draw on the generator's device (a CPU's gives the same numbers everywhere), then move."""
        made: dict[str, Any] = {
            "generator": generator,
            "device": generator.device,
            "dtype": torch.float64,
        }
        bonds = torch.rand(batch, atoms, atoms, **made).triu(1)
        drawn = (
            torch.randn(batch, atoms, 3, **made),
            torch.rand(batch, atoms, **made),
            torch.rand(batch, atoms, **made),
            bonds + bonds.transpose(1, 2),
        )
        positions, types, charges, bonds = (value.to(device) for value in drawn)
        return cls(positions=positions, atoms=types, charges=charges, bonds=bonds)
