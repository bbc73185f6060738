"""Stage 2: teachers distilled into the hypernetwork (4.3.2, Algorithm 3), resumable at any step.

Every random draw depends only on (seed, step), so that a resumed run needs no sampler state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hyperfields.conditioning.text import TextEncoder, normalise
from hyperfields.config import DistillConfig, FitConfig, LaunchConfig
from hyperfields.data.views import PosedViews
from hyperfields.fields.cameras import Camera, sample_orbit
from hyperfields.fields.rendering import (
    composite,
    composite_over,
    points_along,
    render_weights_from_density,
)
from hyperfields.hypernetwork.network import HyperNetwork
from hyperfields.pretrained import HyperFields, save_model
from priors_shared import devices
from priors_shared.episodes import generator_for
from priors_shared.errors import UserError
from priors_shared.runs import Run
from priors_shared.training import TrainingLoop

INITIAL_WEIGHTS, CAMERAS = 2**31 - 1, 2**31 - 2  # paths of generators beside the steps'


class Distillation(nn.Module):
    """The distillation loss (Eq. 4.6) of rays of n prompts, as one module for Fabric and compilation.

    Args:
        net: called as a `HyperNetwork`.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(
        self,
        tokens: Float[Tensor, " prompts *conditioning"],
        mask: Bool[Tensor, "prompts _"],
        points: Float[Tensor, "prompts rays samples 3"],
        lengths: Float[Tensor, "prompts rays samples"],
        target: Float[Tensor, "prompts rays channels"],
        background: Float[Tensor, "prompts rays channels"],
    ) -> Float[Tensor, ""]:
        """Mean over rays and channels of the squared error; summed over prompts, as Eq. 4.6.

        Channels are red, green, blue, and as many of the field's features as the target has. Features have a mean
        of their own, added to the colours': however many they are, colours count as much.
        """
        prompts, rays, samples, _ = points.shape
        densities, values = self.net(tokens, mask, points.flatten(1, 2))
        weights = render_weights_from_density(
            densities.view(prompts * rays, samples), lengths.flatten(0, 1)
        )
        channels = target.shape[-1]
        shown = values[..., :channels].reshape(prompts * rays, samples, channels)
        seen, _ = composite(weights, shown, background.flatten(0, 1))
        error = (seen - target.flatten(0, 1)).square()
        loss = error[:, :3].mean()
        if channels > 3:
            loss = loss + error[:, 3:].mean()
        return loss * prompts


def distill(
    config: DistillConfig, teachers: Mapping[str, PosedViews], launch: LaunchConfig, run: Run
) -> HyperFields:
    """Train, or go on from the run's last checkpoint; returns the model and writes it to OUT/model.

    Args:
        config: the training.
        teachers: by prompt; the loop looks them up by prompt, never by index.
        launch: device, precision, threads.
        run: its folder.

    Raises:
        UserError: no teacher, a held-out prompt among them, a text encoder that is not to be had.
    """
    if not teachers:
        raise UserError("no teachers: give a folder of them, or procedural prompts")
    held_out = {normalise(prompt) for prompt in config.held_out}
    leaked = sorted(held_out & teachers.keys())
    if leaked:
        raise UserError(
            f"held-out prompts have teachers: {', '.join(leaked)}; remove one of the two"
        )
    text = TextEncoder(config.model.text)
    torch.manual_seed(generator_for(config.seed, INITIAL_WEIGHTS).initial_seed())
    net = HyperNetwork(config.model, text.dim)
    prompts = sorted(teachers)
    fit(
        config,
        net,
        build_optimizer(net, config),
        lambda step: sample_batch(config, prompts, teachers, text, step),
        launch,
        run,
    )
    trained = {"prompts": prompts, "held_out": sorted(held_out), "seed": config.seed}
    trained["steps"] = config.steps
    save_model(run.out / "model", net, text.dim, trained)
    return HyperFields(net, text, trained=trained)


def fit(
    config: FitConfig,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch_of: Callable[[int], tuple[Tensor, ...]],
    launch: LaunchConfig,
    run: Run,
) -> None:
    """Train a hypernetwork, or go on from the run's last checkpoint.

    Args:
        config: the training.
        net: called as a `HyperNetwork`.
        optimizer: of `build_optimizer`.
        batch_of: the arguments of `Distillation` for a step.
        launch: device, precision, threads.
        run: its folder.

    Raises:
        UserError: a device that is not to be had; more devices than prompts in a step.
    """
    devices.set_threads(launch.threads)
    fabric = devices.launch(
        launch.accelerator, launch.devices, launch.precision, compile=launch.compile
    )
    net.to(fabric.device)
    loop = TrainingLoop(
        run,
        model=net,
        optimizer=optimizer,
        steps=config.steps,
        log_every=config.log_every,
        checkpoint_every=config.checkpoint_every,
        summarise=_shown,
        title="distill",
    )
    loss_of, prepared = fabric.setup(Distillation(net), optimizer)
    for step in loop:
        factor = learning_rate_factor(config, step)
        for group in prepared.param_groups:
            group["lr"] = factor * group["initial_lr"]
        batch = batch_of(step)
        if len(batch[0]) < fabric.world_size:
            raise UserError(
                f"devices {fabric.world_size}: a step has {len(batch[0])} scenes to divide: use fewer devices, or "
                "more prompts_per_step"
            )
        # Each process has some of the prompts. Gradients are averaged over processes, the loss is a sum.
        mine = [part[fabric.global_rank :: fabric.world_size] for part in batch]
        loss = loss_of(*(part.to(fabric.device) for part in mine)) * fabric.world_size
        prepared.zero_grad()
        fabric.backward(loss)
        prepared.step()
        # This process's sum; the loop takes the mean over processes.
        loop.step(loss.detach() / len(batch[0]), learning_rate=factor * config.learning_rate)
    devices.end_followers(fabric)


def _shown(line: dict[str, float]) -> dict[str, float]:
    psnr = -10 * math.log10(max(line["loss"], 1e-10))
    return {"psnr": psnr, "learning_rate": line["learning_rate"]}


def training_cameras(config: DistillConfig) -> list[Camera]:
    """The set C of Algorithm 3."""
    generator = generator_for(config.seed, CAMERAS)
    return [sample_orbit(generator, config.image_size)[0] for _ in range(config.views)]


def sample_batch(
    config: DistillConfig,
    prompts: Sequence[str],
    teachers: Mapping[str, PosedViews],
    text: TextEncoder,
    step: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """n prompts, one camera each, and random rays of what their teachers show (lines 2 to 5).

    Returns the arguments of `Distillation`, on the CPU. Behind transparent teachers lies a random colour at
    each ray, behind student and teacher the same: else a student may paint the background.
    """
    generator = generator_for(config.seed, step)
    count = min(config.prompts_per_step, len(prompts))
    chosen = [prompts[i] for i in torch.randperm(len(prompts), generator=generator)[:count]]
    tokens, mask = text.encode(chosen)
    points, lengths, targets, backgrounds = [], [], [], []
    for prompt in chosen:
        teacher = teachers[prompt]
        rays, seen = teacher.sample(config.rays, generator, object_fraction=config.object_fraction)
        at, length = points_along(rays, config.samples, generator)
        drawn = torch.rand(config.rays, 3, generator=generator)
        background = drawn if teacher.transparent else torch.ones_like(drawn)
        points.append(at)
        lengths.append(length)
        targets.append(composite_over(seen, background))
        backgrounds.append(background)
    stacked = [torch.stack(part) for part in (points, lengths, targets, backgrounds)]
    return tokens, mask, stacked[0], stacked[1], stacked[2], stacked[3]


def build_optimizer(net: Any, config: FitConfig) -> torch.optim.Adam:
    """Adam; each group remembers the rate that the schedule scales."""
    groups = parameter_groups(net, config.learning_rate, config.grid_learning_rate)
    for group in groups:
        group["initial_lr"] = group["lr"]
    return torch.optim.Adam(groups, betas=(0.9, 0.99))


def parameter_groups(
    net: Any, learning_rate: float, grid_learning_rate: float
) -> list[dict[str, Any]]:
    """For Adam: the hash grid, whose entries see few gradients, has a rate and an epsilon of its own.

    net: a module whose `grid_parameters()` says which these are.
    """
    # Lists, not sets: a resumed run's optimizer state is matched by the parameters' order.
    grid = net.grid_parameters()
    of_grid = {id(p) for p in grid}
    rest = [p for p in net.parameters() if id(p) not in of_grid]
    return [
        {"params": rest, "lr": learning_rate, "eps": 1e-8},
        # Most entries see tiny gradients, and seldom.
        {"params": grid, "lr": grid_learning_rate, "eps": 1e-15},
    ]


def learning_rate_factor(config: FitConfig, step: int) -> float:
    """Factor of the learning rate at a step: up to 1 over the warm-up, down a cosine to `min_lr_ratio`."""
    # Adam's first steps are as long as the rate, whatever the gradient: at the full rate they empty the scene.
    rise = min(1.0, (step + 1) / max(1, min(config.warmup_steps, config.steps // 4)))
    progress = step / max(1, config.steps - 1)
    fall = config.min_lr_ratio + (1 - config.min_lr_ratio) * (1 + math.cos(math.pi * progress)) / 2
    return rise * fall
