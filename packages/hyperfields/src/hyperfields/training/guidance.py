"""Training of a small diffusion model of procedural scenes, which guides score distillation offline."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hyperfields.conditioning.text import TextEncoder
from hyperfields.config import GuidanceConfig, LaunchConfig
from hyperfields.data.views import procedural_views
from hyperfields.fields.cameras import sample_orbit, with_view
from hyperfields.fields.rendering import composite_over
from hyperfields.guidance.procedural import KIND, blocks, build_scheduler, build_unet, embed
from hyperfields.guidance.score import add_noise
from hyperfields.training.distillation import CAMERAS, INITIAL_WEIGHTS
from priors_shared.checkpoints import save_weights
from priors_shared.devices import launch_one
from priors_shared.episodes import generator_for
from priors_shared.runs import Run
from priors_shared.training import TrainingLoop


def train_guidance(config: GuidanceConfig, launch: LaunchConfig, run: Run) -> nn.Module:
    """Train the UNet, or go on from the run's last checkpoint; writes OUT/model and returns the average.

    Every random draw depends only on (seed, step), so that a resumed run needs no sampler state.

    Raises:
        UserError: diffusers is missing; a prompt that is no procedural scene.
    """
    fabric = launch_one(launch, "the training of the guidance")
    text = TextEncoder(config.unet.text)
    images, prompts = training_images(config)
    torch.manual_seed(generator_for(config.seed, INITIAL_WEIGHTS).initial_seed())
    unet: Any = build_unet(config.unet, text.dim).to(fabric.device)
    average: Any = AveragedModel(unet, multi_avg_fn=get_ema_multi_avg_fn(config.ema))
    optimizer: Any = torch.optim.AdamW(unet.parameters(), lr=config.learning_rate)
    loop = TrainingLoop(
        run,
        model=unet,
        optimizer=optimizer,
        steps=config.steps,
        log_every=config.log_every,
        checkpoint_every=config.checkpoint_every,
        modules={"average": average},
        title="guidance",
    )
    alphas_cumprod = build_scheduler().alphas_cumprod.to(fabric.device)
    prepared, optimizer = fabric.setup(unet, optimizer)
    for step in loop:
        generator = generator_for(config.seed, step)
        rows = torch.randint(len(images), (config.batch_size,), generator=generator)
        uniform = torch.rand(config.batch_size, generator=generator).tolist()
        asked = [_asked(prompts[int(i)], u) for i, u in zip(rows, uniform, strict=True)]
        clean = blocks(images[rows]).to(fabric.device)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        t = torch.randint(len(alphas_cumprod), (config.batch_size,), generator=generator)
        abar = alphas_cumprod[t.to(fabric.device), None, None, None]
        for group in optimizer.param_groups:
            rise = min(1.0, (step + 1) / 100)
            group["lr"] = config.learning_rate * rise * (1 - step / config.steps)
        predicted = prepared(
            add_noise(clean, noise, abar),
            t.to(fabric.device),
            encoder_hidden_states=embed(text, asked).to(fabric.device),
        ).sample
        velocity = abar.sqrt() * noise - (1 - abar).sqrt() * clean
        loss = (predicted - velocity).square().mean()
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
        average.update_parameters(unet)
        loop.step(loss)
    trained: nn.Module = average.module
    record = {"prompts": list(config.prompts), "steps": config.steps, "seed": config.seed}
    save_weights(
        run.out / "model",
        trained,
        kind=KIND,
        config=asdict(config.unet),
        extra={"trained": record},
        half=True,
    )
    return trained


def training_images(
    config: GuidanceConfig,
) -> tuple[Float[Tensor, "images 3 height width"], list[tuple[str, str]]]:
    """Exact renders on white, and of each its prompt without and with the words for the view."""
    generator = generator_for(config.seed, CAMERAS)
    orbits = [sample_orbit(generator, config.unet.image_size) for _ in range(config.views)]
    teachers = procedural_views(config.prompts, [camera for camera, _, _ in orbits])
    images = [composite_over(views.images).permute(0, 3, 1, 2) for views in teachers.values()]
    prompts = [
        (prompt, with_view(prompt, azimuth, elevation))
        for prompt in teachers
        for _, azimuth, elevation in orbits
    ]
    return torch.cat(images), prompts


def _asked(prompts: tuple[str, str], u: float) -> str:
    """In a tenth of the draws nothing, for classifier-free guidance; in a fifth the prompt without its view."""
    return "" if u < 0.1 else prompts[u >= 0.3]
