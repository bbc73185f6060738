"""A text-conditioned diffusion model as guidance: a pipeline of diffusers, such as Stable Diffusion, or any UNet.

Needs the extra `guidance`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from hyperfields.guidance.score import View, noise_of
from priors_shared.errors import UserError, first_line

NAMES = {"stable-diffusion": "stable-diffusion-v1-5/stable-diffusion-v1-5"}
"""Pipelines by short names."""


class DiffusionGuidance:
    """A frozen text-to-image diffusion model, with classifier-free guidance.

    Example:
        guidance = load_guidance("stable-diffusion", scale=100)
    """

    def __init__(
        self,
        unet: Any,
        scheduler: Any,
        *,
        encode: Callable[[Tensor], Tensor],
        embed: Callable[[str], Tensor],
        scale: float | int = 100,
        trained: Mapping[str, Any] | None = None,
    ) -> None:
        """Freeze the UNet.

        Args:
            unet: a `UNet2DConditionModel` of diffusers.
            scheduler: gives the noise schedule, and what the UNet predicts.
            encode: images (batch, 3, height, width) in [0, 1] to what is denoised.
            embed: a prompt to what the UNet attends to (1, tokens, features); "" is no prompt.
            scale: of classifier-free guidance: 0 is unconditional, 1 conditional, more is beyond.
            trained: how it was trained, where that is known.
        """
        self.unet = unet.requires_grad_(False).eval()
        self.scale, self.trained = scale, dict(trained or {})
        self.alphas_cumprod = scheduler.alphas_cumprod
        self.prediction = scheduler.config.prediction_type
        self._encode, self._embed = encode, embed
        self._embedded: dict[str, Tensor] = {}

    def encode(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch c h w"]:
        """Images in [0, 1] to what the UNet denoises, differentiably."""
        return self._encode(images)

    def predict_noise(
        self, noisy: Float[Tensor, "batch c h w"], step: int, views: Sequence[View]
    ) -> Float[Tensor, "batch c h w"]:
        """eps_hat with classifier-free guidance: eps(none) + scale (eps(prompt) - eps(none))."""
        # At 0 and 1 one of the two is not needed.
        if self.scale == 1:
            return self.noise(noisy, step, [view.prompt for view in views])
        unconditional = self.noise(noisy, step, [""] * len(views))
        if self.scale == 0:
            return unconditional
        conditional = self.noise(noisy, step, [view.prompt for view in views])
        return unconditional + self.scale * (conditional - unconditional)

    def noise(
        self, noisy: Float[Tensor, "batch c h w"], step: int, prompts: Sequence[str]
    ) -> Float[Tensor, "batch c h w"]:
        """The UNet's output as noise, whatever it predicts (noise, v or the clean sample)."""
        text = torch.cat([self._embedding(prompt) for prompt in prompts]).to(noisy)
        out = self.unet(noisy, step, encoder_hidden_states=text).sample
        abar = self.alphas_cumprod[step].to(noisy)
        if self.prediction == "epsilon":
            return out
        if self.prediction == "v_prediction":  # v = sqrt(abar) eps - sqrt(1 - abar) z
            return abar.sqrt() * out + (1 - abar).sqrt() * noisy
        return noise_of(noisy, out, abar)

    @torch.no_grad()
    def _embedding(self, prompt: str) -> Tensor:
        if prompt not in self._embedded:
            self._embedded[prompt] = self._embed(prompt)
        return self._embedded[prompt]


def pipeline_guidance(pipeline: Any, *, scale: float | int = 100) -> DiffusionGuidance:
    """A diffusers pipeline's denoiser.

    Args:
        pipeline: has `unet`, `tokenizer`, `text_encoder`, `scheduler`, and `vae` if it denoises latents.
        scale: of classifier-free guidance.
    """
    unet, vae = pipeline.unet, getattr(pipeline, "vae", None)
    tokenizer, text_encoder = pipeline.tokenizer, pipeline.text_encoder
    for part in (vae, text_encoder):
        if part is not None:
            part.requires_grad_(False).eval()

    def encode(images: Tensor) -> Tensor:
        """Resized to the model's size; the mean latents of its autoencoder."""
        factor = 2 ** (len(vae.config.block_out_channels) - 1) if vae is not None else 1
        size = unet.config.sample_size * factor
        pixels = 2 * images.to(next(unet.parameters())) - 1
        if pixels.shape[-1] != size:
            pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
        if vae is None:
            return pixels
        latents: Tensor = vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor
        return latents

    def embed(prompt: str) -> Tensor:
        tokens = tokenizer(
            prompt,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        embedding: Tensor = text_encoder(tokens.to(text_encoder.device))[0]
        return embedding

    return DiffusionGuidance(unet, pipeline.scheduler, encode=encode, embed=embed, scale=scale)


def load_guidance(
    name: str, *, scale: float | int = 100, device: torch.device | str = "cpu"
) -> DiffusionGuidance:
    """The pipeline of that name: stable-diffusion, a Hugging Face id, or a folder.

    Code that comes with it is not run, and no pickle is read.

    Raises:
        UserError: diffusers is missing, the pipeline is not to be had, or it has no UNet and text encoder.
    """
    try:
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise UserError(
            "guidance: diffusers is missing: pip install 'hyperfields[guidance]'"
        ) from error
    source = NAMES.get(name, name)
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            source,
            local_files_only=Path(source).is_dir(),
            use_safetensors=True,
            trust_remote_code=False,
        )
    except Exception as error:  # the hub client's, the file system's or the pipeline's own
        raise UserError(
            f"guidance: no pipeline {name} here that can be used, nor to be had from the Hugging Face Hub "
            f"({first_line(error)})"
        ) from error
    missing = [
        p for p in ("unet", "tokenizer", "text_encoder") if getattr(pipeline, p, None) is None
    ]
    if missing:
        raise UserError(f"guidance: the pipeline {name} has no {' and no '.join(missing)}")
    return pipeline_guidance(pipeline.to(device), scale=scale)
