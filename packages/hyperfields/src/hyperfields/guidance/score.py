"""Score Distillation Sampling (Poole et al. 2023; thesis Eq. 4.1).

The gradient of a render is w(t) (eps_hat(z_t; y, t) - eps): through the render only, never through the denoiser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from hyperfields.fields.cameras import Camera


@dataclass(frozen=True)
class View:
    """What a render is of: a denoiser may use any of it."""

    prompt: str
    """With the words for the view, where wanted."""
    camera: Camera


@runtime_checkable
class Guidance(Protocol):
    """A denoiser of images, in closed form or trained."""

    alphas_cumprod: Float[Tensor, " steps"]
    """abar_t: how much of the signal's variance is left at each step; z_t = sqrt(abar) z + sqrt(1 - abar) eps."""

    def encode(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch c h w"]:
        """Images in [0, 1] to what is denoised, differentiably."""

    def predict_noise(
        self, noisy: Float[Tensor, "batch c h w"], step: int, views: Sequence[View]
    ) -> Float[Tensor, "batch c h w"]:
        """eps_hat, the noise that is thought to be in z_t."""


def add_noise(
    clean: Float[Tensor, "*shape"], noise: Float[Tensor, "*shape"], abar: Float[Tensor, ...]
) -> Float[Tensor, "*shape"]:
    """z_t = sqrt(abar) z + sqrt(1 - abar) eps."""
    return abar.sqrt() * clean + (1 - abar).sqrt() * noise


def noise_of(
    noisy: Float[Tensor, "*shape"], clean: Float[Tensor, "*shape"], abar: Float[Tensor, ""]
) -> Float[Tensor, "*shape"]:
    """The noise that makes z_t of a clean sample."""
    return (noisy - abar.sqrt() * clean) / (1 - abar).sqrt()


def sds_loss(
    guidance: Guidance,
    images: Float[Tensor, "batch 3 height width"],
    views: Sequence[View],
    step: int,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """A number whose gradient in z = encode(images) is w(t) (eps_hat - eps) / batch, with w(t) = 1 - abar.

    Args:
        guidance: the denoiser.
        images: renders in [0, 1].
        views: of each render.
        step: t.
        generator: of eps, on the CPU.
    """
    clean = guidance.encode(images)
    noise = torch.randn(clean.shape, generator=generator).to(clean)
    abar = guidance.alphas_cumprod[step].to(clean)
    with torch.no_grad():
        predicted = guidance.predict_noise(add_noise(clean, noise, abar), step, views)
        gradient = (1 - abar) * (predicted - noise)
    return with_gradient(clean, gradient / len(images))


def with_gradient(
    value: Float[Tensor, "*shape"], gradient: Float[Tensor, "*shape"]
) -> Float[Tensor, ""]:
    """A number whose gradient in `value` is `gradient`; where that is not finite, 0."""
    return (value * gradient.detach().nan_to_num(0.0, 0.0, 0.0)).sum()


def annealed_step(
    done: float | int,
    steps: int,
    generator: torch.Generator,
    *,
    low: float = 0.02,
    high: float = 0.98,
) -> int:
    """A random t between `low` and a ceiling that falls linearly from `high` to half of it.

    Args:
        done: fraction of the optimisation that is over, in [0, 1].
        steps: T.
        generator: of the draw.
        low: least t, as a fraction of T.
        high: first ceiling, as a fraction of T.
    """
    ceiling = high * (1 - done / 2)
    fraction = low + (ceiling - low) * float(torch.rand((), generator=generator))
    return min(steps - 1, max(0, round(fraction * steps)))
