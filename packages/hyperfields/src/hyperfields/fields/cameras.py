"""Cameras: poses, intrinsics, rays, samplers, and the words that a view adds to a prompt.

The world is right-handed with z up; objects face -y. Camera axes are those of OpenGL and of nerfstudio's
`transforms.json`: x right, y up, looking along -z. So every rotation has determinant +1, and from the
front (azimuth 0, standing at -y) the point +x appears on the right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

FIELD_OF_VIEW = 40.0
"""Degrees, of made cameras."""
RADIUS = 3.2
"""Distance of made cameras from the origin: they see the unit ball whole."""


@dataclass(frozen=True)
class Rays:
    """Rays in world coordinates."""

    origins: Float[Tensor, "rays 3"]
    directions: Float[Tensor, "rays 3"]
    """Of unit length."""

    def __len__(self) -> int:
        return len(self.origins)

    def __getitem__(self, items: Tensor | slice) -> Rays:
        return Rays(self.origins[items], self.directions[items])

    def to(self, device: torch.device | str) -> Rays:
        """The rays on a device."""
        return Rays(self.origins.to(device), self.directions.to(device))


@dataclass(frozen=True)
class Camera:
    """A pinhole camera."""

    pose: Float[Tensor, "4 4"]
    """Camera to world."""
    focal: tuple[float, float]
    """Focal lengths along x and y, in pixels."""
    centre: tuple[float, float]
    """Principal point, in pixels from the upper left corner."""
    width: int
    height: int

    def rays(self) -> Rays:
        """One ray through the centre of each pixel, row by row from the upper left."""
        device = self.pose.device
        rows, columns = torch.meshgrid(
            torch.arange(self.height, device=device) + 0.5,
            torch.arange(self.width, device=device) + 0.5,
            indexing="ij",
        )
        x = (columns - self.centre[0]) / self.focal[0]
        y = -(rows - self.centre[1]) / self.focal[1]  # rows grow downward, y upward
        local = torch.stack([x, y, -torch.ones_like(x)], -1).reshape(-1, 3)
        directions = torch.nn.functional.normalize(local @ self.pose[:3, :3].T, dim=-1)
        return Rays(self.pose[:3, 3].expand_as(directions), directions)

    def project(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, "points 2"]:
        """Column and row, in pixels, at which points appear; what lies behind the camera is NaN."""
        local = (points - self.pose[:3, 3]) @ self.pose[:3, :3]
        depth = -local[:, 2]
        depth = torch.where(depth > 0, depth, torch.full_like(depth, torch.nan))
        column = self.centre[0] + self.focal[0] * local[:, 0] / depth
        row = self.centre[1] - self.focal[1] * local[:, 1] / depth
        return torch.stack([column, row], -1)


def look_at(
    position: Float[Tensor, " 3"], target: Float[Tensor, " 3"] | None = None
) -> Float[Tensor, "4 4"]:
    """Pose (camera to world) of a camera at `position` that looks at `target` (the origin), upright."""
    target = torch.zeros_like(position) if target is None else target
    back = torch.nn.functional.normalize(position - target, dim=0)
    up = position.new_tensor([0.0, 0.0, 1.0])
    if back[:2].norm() < 1e-6:  # straight above or below: keep +x on the right
        up = position.new_tensor([0.0, 1.0, 0.0])
    right = torch.nn.functional.normalize(torch.linalg.cross(up, back), dim=0)
    pose = torch.eye(4, dtype=position.dtype, device=position.device)
    pose[:3, :3] = torch.stack([right, torch.linalg.cross(back, right), back], dim=1)
    pose[:3, 3] = position
    return pose


def orbit(
    azimuth: float | int,
    elevation: float | int,
    size: int,
    *,
    radius: float | int = RADIUS,
    field_of_view: float | int = FIELD_OF_VIEW,
) -> Camera:
    """A square camera around the origin.

    Args:
        azimuth: degrees, counter-clockwise seen from above; 0 is the front (-y), 90 the side at +x.
        elevation: degrees above the horizon.
        size: pixels along each side of the image.
        radius: distance from the origin, in scene units.
        field_of_view: degrees.
    """
    a, e = math.radians(azimuth), math.radians(elevation)
    position = radius * torch.tensor(
        [math.sin(a) * math.cos(e), -math.cos(a) * math.cos(e), math.sin(e)]
    )
    focal = size / 2 / math.tan(math.radians(field_of_view) / 2)
    return Camera(look_at(position), (focal, focal), (size / 2, size / 2), size, size)


def sample_orbit(
    generator: torch.Generator,
    size: int,
    *,
    elevations: tuple[float | int, float | int] = (-5.0, 60.0),
    radius: float | int = RADIUS,
) -> tuple[Camera, float, float]:
    """A random camera around the origin, uniform on its band of the sphere; its azimuth and elevation too."""
    u, v = torch.rand(2, generator=generator).tolist()
    low, high = (math.sin(math.radians(e)) for e in elevations)
    azimuth, elevation = 360 * u, math.degrees(math.asin(low + (high - low) * v))
    return orbit(azimuth, elevation, size, radius=radius), azimuth, elevation


def turntable(frames: int, size: int, *, elevation: float | int = 25) -> list[Camera]:
    """Cameras once around the object."""
    return [orbit(360 * i / frames, elevation, size) for i in range(frames)]


def evaluation_views(count: int, size: int) -> list[Camera]:
    """Fixed cameras for metrics: azimuths all around, elevations 10, 30 and 50 degrees in turn."""
    return [orbit(360 * (i + 0.5) / count, (10, 30, 50)[i % 3], size) for i in range(count)]


VIEWS: Sequence[str] = ("front", "side", "back", "overhead")


def view_of(azimuth: float | int, elevation: float | int) -> str:
    """Front, side, back or overhead: sectors of 90 degrees, centred on the axes; overhead above 60."""
    if elevation > 60:
        return "overhead"
    return ("front", "side", "back", "side")[int(((azimuth + 45) % 360) // 90)]


def with_view(prompt: str, azimuth: float | int, elevation: float | int) -> str:
    """The prompt with the view said, as DreamFusion does: "a red chair, front view"."""
    return f"{prompt}, {view_of(azimuth, elevation)} view"
