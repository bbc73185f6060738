"""Procedural scenes of random proportions, with part labels: what feature fields learn from (4.4.8)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hyperfields.conditioning.vocabulary import COLOURS, SHAPE_NAMES
from hyperfields.fields.cameras import Camera
from hyperfields.scenes.scene import Scene
from hyperfields.scenes.shapes import SHAPES, Shape

PARTS: tuple[str, ...] = tuple(
    sorted({part for name in SHAPE_NAMES for part in SHAPES[name].parts})
)
"""Names of all shapes' parts; a label is an index into it."""
LEAST, MOST = 0.65, 1.1
"""By how much a shape is stretched along each axis."""


def stretched(shape: Shape, scale: Float[Tensor, " 3"]) -> Shape:
    """The shape, stretched along the axes; distances stay bounds from below."""

    def stretch(part: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda points: part(points / scale.to(points)) * float(scale.min())

    return Shape(shape.name, {name: stretch(part) for name, part in shape.parts.items()})


def random_scene(generator: torch.Generator) -> Scene:
    """One of the nine shapes in one of the eight colours, of random proportions."""
    shape, colour = (
        names[int(torch.randint(len(names), (), generator=generator))]
        for names in (SHAPE_NAMES, tuple(COLOURS))
    )
    scale = LEAST + (MOST - LEAST) * torch.rand(3, generator=generator)
    return Scene(colour, stretched(SHAPES[shape], scale))


def render_labelled(
    scene: Scene, cameras: Sequence[Camera]
) -> tuple[Float[Tensor, "views height width 4"], Int[Tensor, "views height width"]]:
    """Exact images, premultiplied RGBA, and the label of each pixel: an index into PARTS, -1 for background."""
    own = torch.tensor([*(PARTS.index(part) for part in scene.shape.parts), -1])
    images, labels = [], []
    for camera in cameras:
        traced = scene.trace(camera.rays())
        images.append(scene.colours(traced).view(camera.height, camera.width, 4))
        labels.append(own[traced.part].view(camera.height, camera.width))
    return torch.stack(images), torch.stack(labels)
