"""The nine shapes, and one beyond them, as signed distance fields of named parts.

Units are the scene's: every shape fits into the unit ball, z is up, the front is at -y. A part's function is
negative inside and never overstates the distance outside, so sphere tracing cannot step through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

Distance = Callable[[Tensor], Tensor]
"""Points (points, 3) to signed distances (points,)."""
Number = float | int
Triple = tuple[Number, Number, Number]


@dataclass(frozen=True)
class Shape:
    """A solid: the union of its parts."""

    name: str
    parts: Mapping[str, Distance]
    """Signed distance of each part, by its name."""

    def distances(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, "parts points"]:
        """Signed distance to each part."""
        return torch.stack([part(points) for part in self.parts.values()])

    def distance(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, " points"]:
        """Signed distance to the shape: negative inside."""
        return self.distances(points).amin(0)

    def part(self, points: Float[Tensor, "points 3"]) -> Int[Tensor, " points"]:
        """Index of the nearest part, in the order of `parts`."""
        return self.distances(points).argmin(0)

    def normals(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
        """Unit outward normals, by central differences of the distance."""
        step = 2e-3
        offsets = step * torch.eye(3, dtype=points.dtype, device=points.device)
        around = torch.cat([points + s * o for o in offsets for s in (1, -1)])
        d = self.distance(around).view(3, 2, -1)
        return torch.nn.functional.normalize((d[:, 0] - d[:, 1]).T, dim=-1)


# --- primitives ---


def _box(centre: Triple, half: Triple) -> Distance:
    def distance(p: Tensor) -> Tensor:
        q = (p - p.new_tensor(centre)).abs() - p.new_tensor(half)
        return q.clamp(min=0).norm(dim=-1) + q.amax(-1).clamp(max=0)

    return distance


def _disc(radius: Tensor, height: Tensor) -> Tensor:
    """Capped-cylinder distance from how far a point is beyond the radius and beyond the height."""
    outside = torch.stack([radius, height], -1)
    return outside.clamp(min=0).norm(dim=-1) + outside.amax(-1).clamp(max=0)


def _cylinder(x: Number, y: Number, z: Number, radius: Number, half: Number) -> Distance:
    """Upright, around (x, y), its middle at z."""

    def distance(p: Tensor) -> Tensor:
        rho = (p[:, :2] - p.new_tensor([x, y])).norm(dim=-1)
        return _disc(rho - radius, (p[:, 2] - z).abs() - half)

    return distance


def _tube(radius: Number, thick: Number, low: Number, high: Number) -> Distance:
    """Upright wall around the z axis; `thick` is half of its thickness."""

    def distance(p: Tensor) -> Tensor:
        rho = p[:, :2].norm(dim=-1)
        return _disc(
            (rho - radius).abs() - thick, (p[:, 2] - (low + high) / 2).abs() - (high - low) / 2
        )

    return distance


def _cone(bottom: Number, top: Number, thick: Number, low: Number, high: Number) -> Distance:
    """Wall of a cone frustum around the z axis."""
    slope = (top - bottom) / (high - low)

    def distance(p: Tensor) -> Tensor:
        rho = p[:, :2].norm(dim=-1)
        off = (rho - bottom - slope * (p[:, 2] - low)).abs() / (1 + slope**2) ** 0.5 - thick
        return torch.maximum(off, (p[:, 2] - (low + high) / 2).abs() - (high - low) / 2)

    return distance


def _sphere_shell(z: Number, radius: Number, thick: Number, low: Number, high: Number) -> Distance:
    """Part of a spherical shell between two heights, its centre on the z axis."""

    def distance(p: Tensor) -> Tensor:
        off = ((p - p.new_tensor([0.0, 0.0, z])).norm(dim=-1) - radius).abs() - thick
        return torch.maximum(off, (p[:, 2] - (low + high) / 2).abs() - (high - low) / 2)

    return distance


def _ring(centre: Triple, radius: Number, thick: Number) -> Distance:
    """Torus that stands in the plane of x and z."""

    def distance(p: Tensor) -> Tensor:
        q = p - p.new_tensor(centre)
        return torch.hypot(torch.hypot(q[:, 0], q[:, 2]) - radius, q[:, 1]) - thick

    return distance


def _rod(one: Triple, other: Triple, radius: Number) -> Distance:
    """Round-ended rod between two points; a ball where they are the same."""

    def distance(p: Tensor) -> Tensor:
        start = p.new_tensor(one)
        along = p.new_tensor(other) - start
        share = ((p - start) @ along / along.square().sum().clamp(min=1e-12)).clamp(0, 1)
        return (p - start - share[:, None] * along).norm(dim=-1) - radius

    return distance


def _union(*parts: Distance) -> Distance:
    def distance(p: Tensor) -> Tensor:
        return torch.stack([part(p) for part in parts]).amin(0)

    return distance


def _without(part: Distance, removed: Distance) -> Distance:
    return lambda p: torch.maximum(part(p), -removed(p))


def _legs(x: Number, y: Number, radius: Number, low: Number, high: Number) -> Distance:
    """Four upright legs at (+-x, +-y): one cylinder in the quadrant that |x|, |y| fold the others to."""
    leg = _cylinder(x, y, (low + high) / 2, radius, (high - low) / 2)
    fold = (1.0, 1.0, 0.0)

    def distance(p: Tensor) -> Tensor:
        return leg(torch.where(p.new_tensor(fold).bool(), p.abs(), p))

    return distance


# --- shapes ---


def _vase_wall(p: Tensor) -> Tensor:
    z = p[:, 2].clamp(-0.75, 0.75)
    radius = 0.3 + 0.14 * torch.cos(
        2.6 * z + 0.9
    )  # slope below 0.37: the wall's distance is a bound
    off = ((p[:, :2].norm(dim=-1) - radius).abs() - 0.055) / 1.07
    return torch.maximum(off, p[:, 2].abs() - 0.75)


_SHAPES = (
    Shape(
        "chair",
        {
            "seat": _box((0, 0, -0.1), (0.42, 0.42, 0.07)),
            "back": _box((0, 0.36, 0.35), (0.42, 0.06, 0.42)),
            "legs": _legs(0.34, 0.34, 0.07, -0.75, -0.12),
        },
    ),
    Shape(
        "table",
        {
            "top": _box((0, 0, 0.25), (0.72, 0.5, 0.07)),
            "legs": _legs(0.6, 0.38, 0.075, -0.55, 0.22),
        },
    ),
    Shape(
        "stool",
        {
            "seat": _cylinder(0, 0, 0.15, 0.42, 0.08),
            "legs": _legs(0.22, 0.22, 0.07, -0.6, 0.12),
        },
    ),
    Shape(
        "bench",
        {
            "seat": _box((0, 0, 0.0), (0.85, 0.28, 0.08)),
            "legs": _union(
                _box((-0.62, 0, -0.25), (0.08, 0.24, 0.2)),
                _box((0.62, 0, -0.25), (0.08, 0.24, 0.2)),
            ),
        },
    ),
    Shape(
        "bowl",
        {
            "wall": _sphere_shell(0.25, 0.62, 0.05, -0.42, 0.2),
            "foot": _cylinder(0, 0, -0.43, 0.25, 0.06),
        },
    ),
    Shape(
        "vase",
        {
            "wall": _vase_wall,
            "bottom": _cylinder(0, 0, -0.7, 0.2, 0.05),
        },
    ),
    Shape(
        "mug",
        {
            "wall": _tube(0.38, 0.05, -0.45, 0.45),
            "bottom": _cylinder(0, 0, -0.4, 0.4, 0.05),
            "handle": _without(_ring((0.45, 0, 0), 0.25, 0.065), _cylinder(0, 0, 0, 0.4, 1.0)),
        },
    ),
    Shape(
        "plate",
        {
            "rim": _cone(0.48, 0.8, 0.045, -0.06, 0.1),
            "centre": _cylinder(0, 0, -0.06, 0.52, 0.045),
        },
    ),
    Shape(
        "lamp",
        {
            "shade": _cone(0.48, 0.26, 0.045, 0.15, 0.7),
            "pole": _cylinder(0, 0, -0.1, 0.06, 0.62),
            "base": _cylinder(0, 0, -0.7, 0.36, 0.06),
        },
    ),
)
SHAPES: Mapping[str, Shape] = {shape.name: shape for shape in _SHAPES}
"""By name."""
_TEAPOT = Shape(
    "teapot",
    {
        "body": _rod((0, 0, -0.08), (0, 0, -0.08), 0.46),
        "lid": _rod((0, 0, 0.4), (0, 0, 0.5), 0.11),
        "spout": _rod((-0.36, 0, -0.12), (-0.72, 0, 0.24), 0.09),
        "handle": _without(
            _ring((0.5, 0, -0.05), 0.26, 0.06), _rod((0, 0, -0.08), (0, 0, -0.08), 0.45)
        ),
    },
)
NOVEL_SHAPES: Mapping[str, Shape] = {_TEAPOT.name: _TEAPOT}
"""Of no prompt that is trained on or held out: out of distribution (4.4.3)."""
