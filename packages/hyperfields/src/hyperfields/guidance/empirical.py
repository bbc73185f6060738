"""The exact denoiser of a finite set of images: closed form, nothing trained.

It contains its targets, so it checks the pipeline of score distillation and shows no generative power.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hyperfields.conditioning.text import normalise
from hyperfields.data.views import PosedViews
from hyperfields.fields.cameras import Camera
from hyperfields.fields.rendering import composite_over
from hyperfields.guidance.score import View, noise_of
from priors_shared.errors import UserError

STEPS = 1000


class EmpiricalGuidance:
    """Posterior mean over a prompt's images: E[z | z_t] = sum_i p_i z_i.

    p = softmax(-|z_t - sqrt(abar) z_i|^2 / (2 (1 - abar)) - angle_i^2 / (2 width^2)), with angle_i between the
    camera asked for and the i-th image's.
    """

    def __init__(self, teachers: Mapping[str, PosedViews], *, width: float = 8.0) -> None:
        """Keep the images, on white.

        Args:
            teachers: by prompt.
            width: of the kernel over cameras, in degrees.
        """
        # The cosine schedule of Nichol and Dhariwal 2021.
        t = (torch.arange(STEPS) + 0.5) / STEPS
        self.alphas_cumprod = torch.cos((t + 0.008) / 1.008 * torch.pi / 2).square().clamp(1e-5)
        self.width = width
        self._images = {
            prompt: 2 * composite_over(views.images).permute(0, 3, 1, 2) - 1
            for prompt, views in teachers.items()
        }
        self._towards = {
            prompt: torch.stack([_direction(camera) for camera in views.cameras])
            for prompt, views in teachers.items()
        }

    def encode(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Images in [0, 1] to [-1, 1]."""
        return 2 * images - 1

    def posterior_mean(
        self, noisy: Float[Tensor, "c h w"], step: int, view: View
    ) -> Float[Tensor, "c h w"]:
        """E[z | z_t] at a camera.

        Raises:
            UserError: no images of the prompt, or of another size.
        """
        prompt = normalise(view.prompt.partition(",")[0])
        if prompt not in self._images:
            raise UserError(f"{prompt!r}: the empirical guidance has no images of it")
        images = self._images[prompt].to(noisy)
        if images.shape[1:] != noisy.shape:
            raise UserError(
                f"{prompt!r}: its images are {images.shape[-1]} pixels wide, the render is "
                f"{noisy.shape[-1]}: use the same size"
            )
        abar = self.alphas_cumprod[step].to(noisy)
        distance = (noisy - abar.sqrt() * images).square().flatten(1).sum(1)
        cosine = (self._towards[prompt] @ _direction(view.camera)).clamp(-1, 1).to(noisy)
        angle = torch.rad2deg(torch.arccos(cosine))
        score = -distance / (2 * (1 - abar)) - angle.square() / (2 * self.width**2)
        return torch.einsum("i,ichw->chw", torch.softmax(score, 0), images)

    def predict_noise(
        self, noisy: Float[Tensor, "batch c h w"], step: int, views: Sequence[View]
    ) -> Float[Tensor, "batch c h w"]:
        """The noise that the posterior mean implies."""
        mean = torch.stack(
            [self.posterior_mean(z, step, view) for z, view in zip(noisy, views, strict=True)]
        )
        return noise_of(noisy, mean, self.alphas_cumprod[step].to(noisy))


def _direction(camera: Camera) -> Float[Tensor, " 3"]:
    return torch.nn.functional.normalize(camera.pose[:3, 3].cpu(), dim=0)
