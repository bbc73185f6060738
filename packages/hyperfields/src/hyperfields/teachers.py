"""Stage 1: one prompt, one NeRF, by score distillation (4.2.2, Eq. 4.1), resumable at any update."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hyperfields.cameras import Camera, Rays, sample_orbit, with_view
from hyperfields.config import LaunchConfig, TeachConfig
from hyperfields.distillation import CAMERAS, INITIAL_WEIGHTS
from hyperfields.field import Field
from hyperfields.guidance.diffusion import load_guidance
from hyperfields.guidance.empirical import EmpiricalGuidance
from hyperfields.guidance.score import Guidance, View, annealed_step, sds_loss
from hyperfields.guidance.vsd import Vsd
from hyperfields.rendering import render_rays
from hyperfields.text import normalise
from hyperfields.views import procedural_views
from priors_shared.checkpoints import resume_training, save_training_state
from priors_shared.devices import launch, set_threads
from priors_shared.episodes import generator_for
from priors_shared.runs import Run

LORA_RATE = 10.0
"""Learning rate of the LoRA, in that of the MLP: the estimate of the renders must keep up with them."""


def teach(
    config: TeachConfig, where: LaunchConfig, run: Run, *, guidance: Guidance | None = None
) -> Field:
    """Optimise a NeRF, or go on from the run's last checkpoint; returns it and writes it to OUT/model.

    Args:
        config: the training.
        where: accelerator, precision, threads.
        run: its folder.
        guidance: a denoiser in place of the one that `config` names.

    Raises:
        UserError: a guidance that is not to be had, or a prompt that it does not know.
    """
    set_threads(where.threads)
    fabric = launch(where.accelerator, where.devices, where.precision, compile=False)
    guidance = guidance if guidance is not None else build_guidance(config, fabric.device)
    torch.manual_seed(generator_for(config.seed, INITIAL_WEIGHTS).initial_seed())
    field = Field(config.field, prompt=normalise(config.prompt)).to(fabric.device)
    vsd = Vsd(guidance) if config.method == "vsd" else None  # type: ignore[arg-type]
    trained = nn.ModuleDict({"field": field})
    grid = list(field.encoding.parameters())
    mlp = [*field.weights, *field.biases]
    groups = [
        {"params": mlp, "lr": config.learning_rate},
        {"params": grid, "lr": config.grid_learning_rate},
    ]
    if vsd is not None:
        trained["lora"] = vsd.lora
        groups.append({"params": list(vsd.lora), "lr": LORA_RATE * config.learning_rate})
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)
    state = resume_training(run, trained, optimizer)
    begun = state.step if state is not None else 0
    with run.progress(config.iterations, f"teach {field.prompt}", start=begun) as progress:
        for step in range(begun, config.iterations):
            generator = generator_for(config.seed, step)
            t = annealed_step(step / config.iterations, len(guidance.alphas_cumprod), generator)
            views = sample_views(config, generator)
            with fabric.autocast():
                images, opacity = render_batch(
                    field, [view.camera for view in views], config.samples, generator
                )
                if vsd is None:
                    loss = sds_loss(guidance, images, views, t, generator)
                else:
                    loss = sum(vsd.losses(images, views, t, generator), torch.zeros(()))
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()
            done = step + 1
            last = done == config.iterations
            progress.advance()
            if done % config.log_every == 0 or last:
                run.log(done, opacity=float(opacity.detach()), timestep=t)
            if done % config.checkpoint_every == 0 or last:
                save_training_state(run.checkpoints, model=trained, optimizer=optimizer, step=done)
    field.save(run.out / "model", guidance=config.guidance, method=config.method)
    return field


def build_guidance(config: TeachConfig, device: torch.device) -> Guidance:
    """The guidance that a configuration names.

    Raises:
        UserError: a pipeline that is not to be had; a prompt that is no procedural scene, for `empirical`.
    """
    if config.guidance != "empirical":
        return load_guidance(config.guidance, scale=config.scale, device=device)
    generator = generator_for(config.seed, CAMERAS)
    cameras = [sample_orbit(generator, config.image_size)[0] for _ in range(config.views)]
    return EmpiricalGuidance(procedural_views([config.prompt], cameras))


def sample_views(config: TeachConfig, generator: torch.Generator) -> list[View]:
    """Random cameras, with the prompt for each."""
    views = []
    for _ in range(config.batch):
        camera, azimuth, elevation = sample_orbit(generator, config.image_size)
        prompt = normalise(config.prompt)
        views.append(
            View(with_view(prompt, azimuth, elevation) if config.view_words else prompt, camera)
        )
    return views


def render_batch(
    field: Field, cameras: Sequence[Camera], samples: int, generator: torch.Generator
) -> tuple[Float[Tensor, "batch 3 height width"], Float[Tensor, ""]]:
    """Whole images on white, differentiable, and their mean opacity."""
    device = field.weights[0].device
    all_rays = [camera.rays().to(device) for camera in cameras]
    rays = Rays(
        torch.cat([r.origins for r in all_rays]), torch.cat([r.directions for r in all_rays])
    )
    white = rays.origins.new_ones(1, 3 + field.config.features)
    seen, opacity = render_rays(field, rays, samples, generator=generator, background=white)
    images = seen[:, :3].view(len(cameras), cameras[0].height, cameras[0].width, 3)
    return images.permute(0, 3, 1, 2), opacity.mean()
