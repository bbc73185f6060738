"""A scene: a shape in a colour or material, traced exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hyperfields.conditioning.vocabulary import COLOURS, NOVEL_COLOURS, prompt_of
from hyperfields.fields.cameras import Camera, Rays
from hyperfields.fields.rendering import intersect_box
from hyperfields.scenes.materials import MATERIALS, reflectance
from hyperfields.scenes.shapes import NOVEL_SHAPES, SHAPES, Shape
from priors_shared.errors import UserError

_CLOSE = 5e-4
"""Distance, in scene units, at which a ray has met the surface."""
_LIGHT = (0.35, -0.65, 0.68)
_MAX_STEPS = 192


@dataclass(frozen=True)
class Traced:
    """What rays meet."""

    hit: Bool[Tensor, " rays"]
    distance: Float[Tensor, " rays"]
    """Along the ray; where nothing is met, to where the ray leaves the box."""
    points: Float[Tensor, "rays 3"]
    normals: Float[Tensor, "rays 3"]
    """Outward; zero where nothing is met."""
    part: Int[Tensor, " rays"]
    """Index into the shape's parts; -1 where nothing is met."""


@dataclass(frozen=True)
class Scene:
    """A procedural scene; opaque, lit from the upper front, without view-dependent colour.

    Example:
        scene = scene_of("a red chair")
        image = scene.render(orbit(azimuth=30, elevation=20, size=64))  # (64, 64, 4)
    """

    attribute: str
    """A key of `COLOURS`, `NOVEL_COLOURS` or `MATERIALS`."""
    shape: Shape

    @property
    def prompt(self) -> str:
        """What names it."""
        return prompt_of(self.attribute, self.shape.name)

    def inside(self, points: Float[Tensor, "points 3"]) -> Bool[Tensor, " points"]:
        """Whether points lie within the solid."""
        return self.shape.distance(points) <= 0

    def trace(self, rays: Rays) -> Traced:
        """First points of the surface along rays, by sphere tracing."""
        near, far = intersect_box(rays)
        distance = near.clone()
        hit = torch.zeros_like(near, dtype=torch.bool)
        going = (far > near).nonzero().squeeze(-1)
        for _ in range(_MAX_STEPS):
            if not len(going):
                break
            points = rays.origins[going] + distance[going, None] * rays.directions[going]
            step = self.shape.distance(points)
            met = step < _CLOSE
            hit[going[met]] = True
            distance[going] += torch.where(met, 0.0, step)
            going = going[~met & (distance[going] < far[going])]
        distance = torch.where(hit, distance, far)
        points = rays.origins + distance[:, None] * rays.directions
        part = torch.full_like(near, -1, dtype=torch.long)
        part[hit] = self.shape.part(points[hit])
        normals = torch.zeros_like(points)
        normals[hit] = self.shape.normals(points[hit])
        return Traced(hit, distance, points, normals, part)

    def colours(
        self, traced: Traced, *, light: Sequence[float | int] = _LIGHT, ambient: float | int = 0.4
    ) -> Float[Tensor, "rays 4"]:
        """Red, green, blue (premultiplied) and opacity, which is 0 or 1, of rays traced in its shape.

        Reflectance times half-Lambert light: the same from all sides.

        Args:
            traced: what the rays meet in a scene of this shape.
            light: towards it.
            ambient: share of the light that comes from everywhere.
        """
        towards = torch.nn.functional.normalize(traced.points.new_tensor(light), dim=0)
        facing = 0.5 + 0.5 * traced.normals[traced.hit] @ towards
        shade = ambient + (1 - ambient) * facing
        colour = traced.points.new_zeros(len(traced.points), 4)
        colour[traced.hit, :3] = (
            reflectance(self.attribute, traced.points[traced.hit]) * shade[:, None]
        )
        colour[:, 3] = traced.hit.to(colour.dtype)
        return colour

    def render(self, camera: Camera, *, samples: int = 1) -> Float[Tensor, "height width 4"]:
        """The image, premultiplied RGBA; `samples` x `samples` rays per pixel, averaged."""
        return render_scenes([self], camera, samples=samples)[0]

    def parts(self, camera: Camera) -> Int[Tensor, "height width"]:
        """Index of the part that each pixel's centre shows; -1 for the background."""
        return self.trace(camera.rays()).part.view(camera.height, camera.width)


def render_scenes(
    scenes: Sequence[Scene], camera: Camera, *, samples: int = 1
) -> list[Float[Tensor, "height width 4"]]:
    """Images of scenes from one camera; see `Scene.render`. Each shape is traced once for all of its scenes."""
    rays = _scaled(camera, samples).rays()
    traced: dict[str, Traced] = {}
    images = []
    for scene in scenes:
        if scene.shape.name not in traced:
            traced[scene.shape.name] = scene.trace(rays)
        colour = scene.colours(traced[scene.shape.name])
        fine = colour.view(camera.height, samples, camera.width, samples, 4)
        images.append(fine.mean((1, 3)))
    return images


def scene_of(prompt: str) -> Scene:
    """The scene that a prompt of the template "a red chair" names.

    Raises:
        UserError: another form, or a shape or attribute that is not one of ours.
    """
    words = prompt.lower().split()
    if words and words[0] in ("a", "an"):
        words = words[1:]
    attribute, shape = " ".join(words[:-1]), words[-1] if words else ""
    shapes, attributes = {**SHAPES, **NOVEL_SHAPES}, [*COLOURS, *MATERIALS, *NOVEL_COLOURS]
    if shape not in shapes or attribute not in attributes:
        raise UserError(
            f"{prompt!r} is no procedural scene: write 'a ATTRIBUTE SHAPE' with a shape of "
            f"{', '.join(shapes)} and an attribute of {', '.join(attributes)}"
        )
    return Scene(attribute, shapes[shape])


def _scaled(camera: Camera, factor: int) -> Camera:
    return Camera(
        camera.pose,
        (camera.focal[0] * factor, camera.focal[1] * factor),
        (camera.centre[0] * factor, camera.centre[1] * factor),
        camera.width * factor,
        camera.height * factor,
    )
