"""Procedural scenes of random proportions from random cameras, with part labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from hyperfields.fields.cameras import Camera, sample_orbit
from hyperfields.scenes.scene import Scene
from hyperfields.scenes.variations import random_scene, render_labelled
from priors_shared.episodes import generator_for

VIEW_CHANNELS = 10
"""Red, green, blue, premultiplied; opacity; direction and moment of each pixel's ray."""


SCENES, NOVEL = 2**31 - 3, 2**31 - 4  # paths of generators beside the steps'


@dataclass(frozen=True, eq=False)
class LabelledViews:
    """A scene with its cameras, images and labels."""

    scene: Scene
    cameras: Sequence[Camera]
    images: Float[Tensor, "views height width 4"]
    """Premultiplied RGBA."""
    labels: Int[Tensor, "views height width"]
    """Indices into PARTS; -1: background."""

    @cached_property
    def inputs(self) -> Float[Tensor, "views 10 height width"]:
        """What the view encoder sees."""
        return view_inputs(self.images, self.cameras)


def view_inputs(
    images: Float[Tensor, "views height width 4"], cameras: Sequence[Camera]
) -> Float[Tensor, "views 10 height width"]:
    """Premultiplied RGBA in [0, 1], with direction and moment (origin x direction) of each pixel's ray."""
    height, width = images.shape[1:3]
    rays = [camera.rays() for camera in cameras]
    directions = torch.stack([r.directions for r in rays])
    moments = torch.linalg.cross(torch.stack([r.origins for r in rays]), directions)
    placed = torch.cat([directions, moments], -1).view(len(cameras), height, width, 6)
    return torch.cat([images, placed.to(images)], -1).permute(0, 3, 1, 2)


def resized(
    images: Float[Tensor, "views height width 4"], cameras: Sequence[Camera], size: int
) -> tuple[Float[Tensor, "views size size 4"], list[Camera]]:
    """Images averaged or interpolated to size x size, and the cameras that took them so."""
    placed = []
    for camera in cameras:
        across, down = size / camera.width, size / camera.height
        focal = camera.focal[0] * across, camera.focal[1] * down
        centre = camera.centre[0] * across, camera.centre[1] * down
        placed.append(replace(camera, focal=focal, centre=centre, width=size, height=size))
    found = F.interpolate(images.permute(0, 3, 1, 2), (size, size), mode="bilinear", antialias=True)
    return found.permute(0, 2, 3, 1), placed


def labelled_scenes(
    count: int, views: int, size: int, seed: int, *, novel: bool = False
) -> list[LabelledViews]:
    """Random scenes from random cameras; `novel` ones are drawn apart from those to train on."""
    generator = generator_for(seed, NOVEL if novel else SCENES)
    found = []
    for _ in range(count):
        scene = random_scene(generator)
        cameras = [sample_orbit(generator, size)[0] for _ in range(views)]
        found.append(LabelledViews(scene, cameras, *render_labelled(scene, cameras)))
    return found
