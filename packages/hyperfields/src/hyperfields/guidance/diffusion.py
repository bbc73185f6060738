"""A diffusers pipeline as guidance: Stable Diffusion, or any with a UNet and a text encoder.

Needs the extra `guidance`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from hyperfields.guidance.score import Guidance, View, noise_of
from priors_shared.errors import UserError, first_line

NAMES = {"stable-diffusion": "stable-diffusion-v1-5/stable-diffusion-v1-5"}
"""Pipelines by short names."""


class DiffusionGuidance(Guidance):
    """A frozen text-to-image diffusion model, with classifier-free guidance.

    Example:
        guidance = load_guidance("stable-diffusion", scale=100)
    """

    def __init__(self, pipeline: Any, *, scale: float | int = 100) -> None:
        """Freeze the pipeline's parts.

        Args:
            pipeline: has `unet`, `tokenizer`, `text_encoder`, `scheduler`, and `vae` if it denoises latents.
            scale: of classifier-free guidance: 0 is unconditional, 1 conditional, more is beyond.
        """
        self.unet, self.vae = pipeline.unet, getattr(pipeline, "vae", None)
        self.tokenizer, self.text_encoder = pipeline.tokenizer, pipeline.text_encoder
        for part in (self.unet, self.vae, self.text_encoder):
            if part is not None:
                part.requires_grad_(False).eval()
        self.scale = scale
        self.alphas_cumprod = pipeline.scheduler.alphas_cumprod
        self.prediction = pipeline.scheduler.config.prediction_type
        self._kept: dict[str, Tensor] = {}

    def encode(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch c h w"]:
        """Images in [0, 1], resized to the model's size, as the mean latents of its autoencoder."""
        parameter = next(self.unet.parameters())
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1) if self.vae is not None else 1
        size = self.unet.config.sample_size * factor
        pixels = 2 * images.to(parameter) - 1
        if pixels.shape[-1] != size:
            pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
        if self.vae is None:
            return pixels
        return self.vae.encode(pixels).latent_dist.mean * self.vae.config.scaling_factor

    def predict_noise(
        self, noisy: Float[Tensor, "batch c h w"], step: int, views: Sequence[View]
    ) -> Float[Tensor, "batch c h w"]:
        """eps_hat with classifier-free guidance: eps(none) + scale (eps(prompt) - eps(none))."""
        # At 0 and 1 one of the two is not needed.
        if self.scale == 1:
            return self.noise(noisy, step, [view.prompt for view in views])
        without = self.noise(noisy, step, [""] * len(views))
        if self.scale == 0:
            return without
        given = self.noise(noisy, step, [view.prompt for view in views])
        return without + self.scale * (given - without)

    def noise(
        self, noisy: Float[Tensor, "batch c h w"], step: int, prompts: Sequence[str]
    ) -> Float[Tensor, "batch c h w"]:
        """The UNet's output as noise, whatever it predicts (noise, v or the clean sample)."""
        text = torch.cat([self._embed(prompt) for prompt in prompts]).to(noisy)
        out = self.unet(noisy, step, encoder_hidden_states=text).sample
        abar = self.alphas_cumprod[step].to(noisy)
        if self.prediction == "epsilon":
            return out
        if self.prediction == "v_prediction":  # v = sqrt(abar) eps - sqrt(1 - abar) z
            return abar.sqrt() * out + (1 - abar).sqrt() * noisy
        return noise_of(noisy, out, abar)

    @torch.no_grad()
    def _embed(self, prompt: str) -> Tensor:
        if prompt not in self._kept:
            tokens = self.tokenizer(
                prompt,
                padding="max_length",
                max_length=self.tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            ).input_ids
            self._kept[prompt] = self.text_encoder(tokens.to(self.text_encoder.device))[0]
        return self._kept[prompt]


def load_guidance(
    name: str, *, scale: float | int = 100, device: torch.device | str = "cpu"
) -> DiffusionGuidance:
    """The pipeline of that name: stable-diffusion, a Hugging Face id, or a folder.

    Raises:
        UserError: diffusers is missing, the pipeline is not to be had, or it has no UNet and text encoder.
    """
    try:
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise UserError(
            "--guidance needs diffusers: pip install 'hyperfields[guidance]'"
        ) from error
    source = NAMES.get(name, name)
    local = Path(source).is_dir()
    try:
        pipeline = DiffusionPipeline.from_pretrained(source, local_files_only=local)
    except Exception as error:  # the hub client's, the file system's or the pipeline's own
        raise UserError(
            f"--guidance {name}: no such pipeline here, nor to be had from the Hugging Face Hub ({first_line(error)})"
        ) from error
    missing = [
        p for p in ("unet", "tokenizer", "text_encoder") if getattr(pipeline, p, None) is None
    ]
    if missing:
        raise UserError(f"--guidance {name}: the pipeline has no {' and no '.join(missing)}")
    return DiffusionGuidance(pipeline.to(device), scale=scale)
