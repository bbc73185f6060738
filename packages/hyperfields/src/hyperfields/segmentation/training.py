"""Training of the network from views to labelled fields, and the baseline: one field a scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hyperfields.config import LaunchConfig, SegmentConfig
from hyperfields.fields.field import Field
from hyperfields.fields.rendering import composite_over, points_along
from hyperfields.scenes.variations import PARTS
from hyperfields.segmentation.network import SegmentationNetwork
from hyperfields.segmentation.pretrained import HyperSegmentationFields
from hyperfields.segmentation.scenes import LabelledViews, labelled_scenes
from hyperfields.training.distillation import INITIAL_WEIGHTS, Distillation, build_optimizer, fit
from priors_shared.episodes import generator_for
from priors_shared.runs import Run


def train_segmentation(
    config: SegmentConfig, launch: LaunchConfig, run: Run
) -> HyperSegmentationFields:
    """Train, or go on from the run's last checkpoint; writes OUT/model and returns it."""
    features = replace(config.model.field, features=len(PARTS))
    model = replace(config.model, field=features)
    torch.manual_seed(generator_for(config.seed, INITIAL_WEIGHTS).initial_seed())
    net = SegmentationNetwork(model)
    scenes = labelled_scenes(config.scenes, config.views, config.image_size, config.seed)
    if len(scenes) > 1:
        net.spread_tokens(torch.stack([scene.inputs[: config.input_views] for scene in scenes]))
    fit(
        config,
        net,
        build_optimizer(net, config),
        lambda step: sample_batch(config, scenes, step),
        launch,
        run,
    )
    trained = {"scenes": config.scenes, "steps": config.steps, "seed": config.seed}
    trained["input_views"] = config.input_views
    found = HyperSegmentationFields(net.cpu(), config.image_size, PARTS, trained)
    found.save(run.out / "model")
    return found


def sample_batch(
    config: SegmentConfig, scenes: Sequence[LabelledViews], step: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """For each of some scenes, views to condition on and rays of another view to match.

    Returns the arguments of `Distillation`: its targets are colours and one-hot labels, all zero where
    nothing is.
    """
    generator = generator_for(config.seed, step)
    count = min(config.prompts_per_step, len(scenes))
    inputs, points, lengths, targets, backgrounds = [], [], [], [], []
    for index in torch.randperm(len(scenes), generator=generator)[:count].tolist():
        scene = scenes[index]
        order = torch.randperm(config.views, generator=generator)
        given, shown = order[: config.input_views], int(order[config.input_views])
        inputs.append(scene.inputs[given])
        rays, target, background = _rays(config, scene, shown, generator)
        at, length = points_along(rays, config.samples, generator)
        points.append(at)
        lengths.append(length)
        targets.append(target)
        backgrounds.append(background)
    stacked = [torch.stack(part) for part in (inputs, points, lengths, targets, backgrounds)]
    mask = torch.ones(count, config.input_views, dtype=torch.bool)
    return stacked[0], mask, stacked[1], stacked[2], stacked[3], stacked[4]


def _rays(
    config: SegmentConfig, scene: LabelledViews, view: int, generator: torch.Generator
) -> tuple[Any, Tensor, Tensor]:
    """Random rays of a view, what is seen along them (colours, one-hot labels), and what lies behind."""
    labels = scene.labels[view].flatten()
    pixels = torch.randint(len(labels), (config.rays,), generator=generator)
    aimed = round(config.object_fraction * config.rays)
    candidates = (labels >= 0).nonzero().squeeze(-1)
    if aimed and len(candidates):
        pixels[:aimed] = candidates[torch.randint(len(candidates), (aimed,), generator=generator)]
    colour = torch.rand(config.rays, 3, generator=generator)
    background = torch.cat([colour, torch.zeros(config.rays, len(PARTS))], -1)
    seen = scene.images[view].reshape(-1, 4)[pixels]
    one_hot = F.one_hot(labels[pixels] + 1, len(PARTS) + 1)[:, 1:].to(seen)
    target = torch.cat([composite_over(seen, colour), one_hot], -1)
    return scene.cameras[view].rays()[pixels], target, background


def distil_scene(
    config: SegmentConfig, scene: LabelledViews, given: Sequence[int], steps: int
) -> Field:
    """The baseline: one field of its own, fitted to some views with their labels, from scratch."""
    torch.manual_seed(generator_for(config.seed, INITIAL_WEIGHTS).initial_seed())
    field = Field(replace(config.model.field, features=len(PARTS)))
    groups = [
        {"params": [*field.weights, *field.biases], "lr": 5e-3},
        {"params": list(field.encoding.parameters()), "lr": 2e-2, "eps": 1e-15},
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    loss_of = Distillation(_OneScene(field))
    empty = torch.zeros(1, 1, 1)
    for step in range(steps):
        generator = generator_for(config.seed, step)
        view = given[int(torch.randint(len(given), (), generator=generator))]
        rays, target, background = _rays(config, scene, view, generator)
        at, length = points_along(rays, config.samples, generator)
        mask = torch.ones(1, 1, dtype=torch.bool)
        loss = loss_of(empty, mask, at[None], length[None], target[None], background[None])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return field.eval()


class _OneScene(nn.Module):
    """A field, called as a hypernetwork for a single scene."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field

    def forward(self, tokens: Tensor, mask: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        densities, values = self.field(points[0])
        return densities[None], values[None]
