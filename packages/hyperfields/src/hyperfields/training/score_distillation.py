"""Stage 1: one prompt, one NeRF, by score distillation (4.2.2, Eq. 4.1), resumable at any step.

The loop serves fine-tuning of a hypernetwork too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hyperfields.conditioning.text import normalise
from hyperfields.config import LaunchConfig, ScoreConfig, TeachConfig
from hyperfields.data.views import procedural_views
from hyperfields.fields.cameras import Camera, Rays, sample_orbit, with_view
from hyperfields.fields.field import Field
from hyperfields.fields.rendering import render_rays
from hyperfields.guidance.diffusion import load_guidance
from hyperfields.guidance.empirical import EmpiricalGuidance
from hyperfields.guidance.procedural import is_procedural, load_procedural
from hyperfields.guidance.score import Guidance, View, annealed_step, sds_loss
from hyperfields.guidance.vsd import Vsd
from hyperfields.hypernetwork.network import PromptField
from hyperfields.training.distillation import CAMERAS, INITIAL_WEIGHTS
from priors_shared.devices import launch_one
from priors_shared.episodes import generator_for
from priors_shared.errors import UserError
from priors_shared.runs import Run
from priors_shared.training import TrainingLoop

LORA_LEARNING_RATE = 10.0
"""Learning rate of the LoRA, in that of the MLP: the estimate of the renders must keep up with them."""


Shown = Field | PromptField
"""What score distillation renders and differentiates."""


def teach(
    config: TeachConfig,
    launch: LaunchConfig,
    run: Run,
    *,
    guidance: Guidance | None = None,
    start: Field | None = None,
    observe: Callable[[Field], Mapping[str, float]] | None = None,
) -> Field:
    """Optimise a NeRF, or go on from the run's last checkpoint; returns it and writes it to OUT/model.

    Args:
        config: the training.
        launch: device, precision, threads.
        run: its folder.
        guidance: a denoiser in place of the one that `config` names.
        start: a NeRF to begin with in place of a fresh one, left as it is; its sizes must be those of `config`.
        observe: is handed the field as it is, and gives more metrics to log.

    Raises:
        UserError: a guidance that is not to be had, or a prompt that it does not know.
    """
    torch.manual_seed(generator_for(config.seed, INITIAL_WEIGHTS).initial_seed())
    field = Field(config.field, prompt=normalise(config.prompt))
    if start is not None:
        field.load_state_dict(start.state_dict())
    groups = [
        {"params": [*field.weights, *field.biases], "lr": config.learning_rate},
        {"params": list(field.encoding.parameters()), "lr": config.grid_learning_rate},
    ]
    watch = partial(observe, field) if observe is not None else None
    scenes = {field.prompt: field}
    distil_scores(config, scenes, field, groups, launch, run, guidance=guidance, observe=watch)
    field.save(run.out / "model", guidance=config.guidance, method=config.method)
    return field


def distil_scores(
    config: ScoreConfig,
    scenes: Mapping[str, Shown],
    trained: nn.Module,
    groups: list[dict[str, Any]],
    launch: LaunchConfig,
    run: Run,
    *,
    guidance: Guidance | None = None,
    observe: Callable[[], Mapping[str, float]] | None = None,
) -> None:
    """The loop of score distillation, whatever makes the field.

    Args:
        config: the optimisation.
        scenes: by prompt the field, as the renderer calls it; of several, each step draws one.
        trained: what learns and is kept in checkpoints: the field, or what generates them.
        groups: its parameters, with learning rates, for Adam.
        launch: device, precision, threads.
        run: its folder.
        guidance: a denoiser in place of the one that `config` names.
        observe: more metrics, each time that some are logged.

    Raises:
        UserError: a guidance that is not to be had, or a prompt that it does not know.
    """
    fabric = launch_one(launch, "score distillation of a scene")
    prompts = list(scenes)
    if guidance is None:
        guidance = build_guidance(config, prompts, fabric.device)
    vsd = Vsd(guidance) if config.method == "vsd" else None  # type: ignore[arg-type]
    # Under the same names for all callers, so that a checkpoint says what it holds.
    kept = nn.ModuleDict({"field": trained})
    for scene in scenes.values():
        scene.to(fabric.device)
    if vsd is not None:
        kept["lora"] = vsd.lora
        lora = {"params": list(vsd.lora), "lr": LORA_LEARNING_RATE * config.learning_rate}
        groups = [*groups, lora]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)
    loop = TrainingLoop(
        run,
        model=kept,
        optimizer=optimizer,
        steps=config.steps,
        log_every=config.log_every,
        checkpoint_every=config.checkpoint_every,
        summarise=lambda line: {
            "opacity": line["opacity"],
            "timestep": line["timestep"],
            **(observe() if observe else {}),
        },
        title=config.prompt,
    )
    if loop.done == 0 and observe is not None and not run.metrics():
        run.log(0, **observe())
    for step in loop:
        generator = generator_for(config.seed, step)
        t = annealed_step(step / config.steps, len(guidance.alphas_cumprod), generator)
        prompt = prompts[0]
        if len(prompts) > 1:
            prompt = prompts[int(torch.randint(len(prompts), (), generator=generator))]
        views = sample_views(config, prompt, generator)
        with fabric.autocast():
            images, opacity = render_batch(
                scenes[prompt], [view.camera for view in views], config.samples, generator
            )
            if vsd is None:
                loss = sds_loss(guidance, images, views, t, generator)
            else:
                loss = sum(vsd.losses(images, views, t, generator), torch.zeros(()))
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
        loop.step(loss, opacity=opacity.detach(), timestep=t)


def build_guidance(config: ScoreConfig, prompts: Sequence[str], device: torch.device) -> Guidance:
    """The guidance that a configuration names, for some prompts.

    Raises:
        UserError: a pipeline that is not to be had; a prompt that is no procedural scene, for `empirical`.
    """
    if config.guidance != "empirical":
        if is_procedural(config.guidance):
            return load_procedural(
                config.guidance, scale=config.scale, device=device, text=config.guidance_text
            )
        if config.guidance_text is not None:
            raise UserError(
                f"guidance_text {config.guidance_text}: the pipeline {config.guidance} brings a text encoder along: "
                "leave it out"
            )
        return load_guidance(config.guidance, scale=config.scale, device=device)
    generator = generator_for(config.seed, CAMERAS)
    cameras = [sample_orbit(generator, config.image_size)[0] for _ in range(config.views)]
    return EmpiricalGuidance(procedural_views(prompts, cameras))


def sample_views(config: ScoreConfig, prompt: str, generator: torch.Generator) -> list[View]:
    """Random cameras, with the prompt for each."""
    views = []
    for _ in range(config.batch_size):
        camera, azimuth, elevation = sample_orbit(generator, config.image_size)
        views.append(
            View(with_view(prompt, azimuth, elevation) if config.view_words else prompt, camera)
        )
    return views


def render_batch(
    field: Shown, cameras: Sequence[Camera], samples: int, generator: torch.Generator
) -> tuple[Float[Tensor, "batch 3 height width"], Float[Tensor, ""]]:
    """Whole images on white, differentiable, and their mean opacity."""
    device = next(field.parameters()).device
    all_rays = [camera.rays().to(device) for camera in cameras]
    rays = Rays(
        torch.cat([r.origins for r in all_rays]), torch.cat([r.directions for r in all_rays])
    )
    white = rays.origins.new_ones(1, 3 + field.config.features)
    seen, opacity = render_rays(field, rays, samples, generator=generator, background=white)
    images = seen[:, :3].view(len(cameras), cameras[0].height, cameras[0].width, 3)
    return images.permute(0, 3, 1, 2), opacity.mean()
