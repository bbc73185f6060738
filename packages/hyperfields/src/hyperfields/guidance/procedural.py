"""A small text-conditioned diffusion model of procedural scenes: real guidance, offline.

It learns the renders of the trained combinations alone; what it says of the held-out ones, it infers. Images are
32 x 32; the UNet sees them as 16 x 16 with a channel for each pixel of a 2 x 2 block. Needs the extra `guidance`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hyperfields.conditioning.text import TextEncoder, named_encoder
from hyperfields.config import SHIPPED, SHIPPED_GUIDANCE, UNetConfig
from hyperfields.fields.cameras import orbit
from hyperfields.guidance.diffusion import DiffusionGuidance
from hyperfields.guidance.score import View, add_noise, noise_of
from hyperfields.records import config_from, with_present_names
from priors_shared.checkpoints import checkpoint_kind, find_weights, load_module, load_weights
from priors_shared.errors import UserError

KIND = "hyperfields guidance"


TOKENS = 16
"""Text embeddings are padded to as many with zeros; "" is all zeros."""


def blocks(images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 12 h w"]:
    """Images in [0, 1] as the UNet sees them."""
    return F.pixel_unshuffle(2 * images - 1, 2)


def embed(text: TextEncoder, prompts: Sequence[str]) -> Float[Tensor, "prompts tokens dim"]:
    """Token embeddings, padded with zeros to TOKENS, and cut there; of "" all zeros."""
    padded = torch.zeros(len(prompts), TOKENS, text.dim)
    for row, prompt in zip(padded, prompts, strict=True):
        if prompt:
            tokens = text.encode([prompt])[0][0, :TOKENS]
            row[: len(tokens)] = tokens
    return padded


def build_unet(config: UNetConfig, text_dim: int) -> Any:
    """Two resolutions, attention to the text at the lower."""
    try:
        from diffusers import UNet2DConditionModel
    except ImportError as error:
        raise UserError(
            "guidance: diffusers is missing: pip install 'hyperfields[guidance]'"
        ) from error
    unet: Any = UNet2DConditionModel(
        sample_size=config.image_size // 2,
        in_channels=12,
        out_channels=12,
        layers_per_block=config.layers,
        block_out_channels=config.widths,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=text_dim,
        attention_head_dim=16,
        norm_num_groups=16,
    )
    return unet


def build_scheduler() -> Any:
    """The noise schedule: a cosine, v-prediction."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")


@torch.no_grad()
def draw(
    guidance: DiffusionGuidance, prompts: Sequence[str], *, seed: int = 0, steps: int = 50
) -> Float[Tensor, "prompts 3 height width"]:
    """Images of the prompts in [0, 1], by deterministic DDIM: to look at what the guidance knows."""
    size = guidance.unet.config.sample_size
    device = next(guidance.unet.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(len(prompts), 12, size, size, generator=generator).to(device)
    views = [View(prompt, orbit(0, 0, 2)) for prompt in prompts]
    alphas = guidance.alphas_cumprod.to(device)
    times = torch.linspace(len(alphas) - 1, 0, steps + 1).round().long().tolist()
    for t, s in pairwise(times):
        noise = guidance.predict_noise(z, t, views)
        clean = ((z - (1 - alphas[t]).sqrt() * noise) / alphas[t].sqrt()).clamp(-1, 1)
        # The noise that goes with the clipped image, so that the two stay consistent.
        z = add_noise(clean, noise_of(z, clean, alphas[t]), alphas[s])
    return (F.pixel_shuffle(clean, 2).clamp(-1, 1) + 1).cpu() / 2


def is_procedural(name: str) -> bool:
    """Whether it names such a model: the shipped one, a run folder or a checkpoint folder."""
    return name == SHIPPED_GUIDANCE or checkpoint_kind(Path(name)) == KIND


def load_procedural(
    name: str | Path,
    *,
    scale: float | int = 7.5,
    device: torch.device | str = "cpu",
    text: str | None = None,
) -> DiffusionGuidance:
    """A trained UNet: the shipped one, or of a run folder or checkpoint folder.

    Args:
        name: of the model.
        scale: of classifier-free guidance.
        device: where it runs.
        text: the text encoder, where the checkpoint names none of the known ones.

    Raises:
        UserError: nothing there, a checkpoint of something else, damaged files, diffusers is missing.
    """
    source = find_weights(name, shipped=SHIPPED, command="hyperfields train procedural_unet")
    record, weights = load_weights(source, kind=KIND)
    trained = record.get("trained", {})
    try:
        config = config_from(UNetConfig, record["config"])
        encoder = TextEncoder(named_encoder(config.text, text, source))
    except (KeyError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{source}: the checkpoint's record makes no model ({error})") from error
    if not isinstance(trained, Mapping):
        raise UserError(f"{source}: what the checkpoint says of its training is no record")
    unet = load_module(source, lambda: build_unet(config, encoder.dim), weights)
    return procedural_guidance(
        unet.to(device), config, encoder, scale=scale, trained=with_present_names(trained)
    )


def procedural_guidance(
    unet: nn.Module,
    config: UNetConfig,
    text: TextEncoder,
    *,
    scale: float | int = 7.5,
    trained: Any = None,
) -> DiffusionGuidance:
    """A UNet of `build_unet` as a guidance.

    Args:
        unet: trained.
        config: its sizes.
        text: the encoder that it was trained with.
        scale: of classifier-free guidance.
        trained: how it was trained, its `prompts` above all.
    """

    def encode(images: Tensor) -> Tensor:
        """Resized to the model's size, in [-1, 1] with a block's pixels as channels."""
        size = (config.image_size, config.image_size)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        return blocks(images)

    return DiffusionGuidance(
        unet,
        build_scheduler(),
        encode=encode,
        embed=lambda prompt: embed(text, [prompt]),
        scale=scale,
        trained=trained,
    )
