"""Volume rendering in plain torch: samples along rays, weights from densities, composition.

A field is any `RadianceFunction`, from points to densities and values. Dense: every ray has
the same number of samples, between its entry into the scene's box and its exit. On CUDA, where nerfacc's kernels
are built, images that skip empty space are composited by it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from hyperfields.fields.cameras import Camera, Rays
from priors_shared.errors import UserError

CHUNK = 16384
"""Points that are evaluated at once without gradients: their activations stay in a core's cache."""
CUDA_CHUNK = 2**20
"""The same on other devices, which want many points."""
OCCUPANCY_RESOLUTION = 64
"""Points along an edge of the grid that says where a field is empty."""
BOUND = 1.0
"""The scene lies in the box [-BOUND, BOUND]^3."""


RadianceFunction = Callable[
    [Float[Tensor, "points 3"]],
    tuple[Float[Tensor, " points"], Float[Tensor, "points channels"]],
]
"""Densities (per scene unit) and values, the first three of which are red, green, blue in [0, 1]."""


def intersect_box(
    rays: Rays, bound: float | int = BOUND
) -> tuple[Float[Tensor, " rays"], Float[Tensor, " rays"]]:
    """Distances at which rays enter and leave the box; the same two where a ray misses it."""
    inverse = 1 / torch.where(rays.directions.abs() < 1e-9, 1e-9, rays.directions)
    one, other = (-bound - rays.origins) * inverse, (bound - rays.origins) * inverse
    near = torch.minimum(one, other).amax(-1).clamp(min=0)
    far = torch.maximum(one, other).amin(-1)
    return near, torch.maximum(near, far)


def sample_distances(
    near: Float[Tensor, " rays"],
    far: Float[Tensor, " rays"],
    samples: int,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "rays samples"], Float[Tensor, " rays"]]:
    """Distances of the samples, and the length of the interval that each stands for.

    One sample in each of `samples` equal intervals: its middle, or with a generator a random point (stratified).
    """
    step = (far - near) / samples
    place = torch.arange(samples, device=near.device, dtype=near.dtype).expand(len(near), -1)
    if generator is None:
        place = place + 0.5
    else:
        jitter = torch.rand(len(near), samples, generator=generator, dtype=near.dtype)
        place = place + jitter.to(near.device)
    return near[:, None] + place * step[:, None], step


def render_weights_from_density(
    densities: Float[Tensor, "rays samples"], lengths: Float[Tensor, "rays samples"]
) -> Float[Tensor, "rays samples"]:
    """w_k = T_k (1 - exp(-density_k length_k)), with T_k what light the samples before leave."""
    depth = densities * lengths
    before = torch.cumsum(depth, -1) - depth
    return torch.exp(-before) * -torch.expm1(-depth)


def composite(
    weights: Float[Tensor, "rays samples"],
    values: Float[Tensor, "rays samples channels"],
    background: Float[Tensor, "#rays channels"] | None = None,
) -> tuple[Float[Tensor, "rays channels"], Float[Tensor, " rays"]]:
    """Values seen along the rays, over a background (none: black), and opacities in [0, 1]."""
    opacity = weights.sum(-1)
    seen = torch.einsum("rs,rsc->rc", weights, values)
    if background is not None:
        seen = seen + (1 - opacity)[:, None] * background
    return seen, opacity


def points_along(
    rays: Rays, samples: int, generator: torch.Generator | None = None
) -> tuple[Float[Tensor, "rays samples 3"], Float[Tensor, "rays samples"]]:
    """Points in the scene's box along the rays, and the lengths they stand for."""
    near, far = intersect_box(rays)
    distances, step = sample_distances(near, far, samples, generator)
    points = rays.origins[:, None] + distances[..., None] * rays.directions[:, None]
    return points, step[:, None].expand_as(distances)


def render_rays(
    field: RadianceFunction,
    rays: Rays,
    samples: int,
    *,
    generator: torch.Generator | None = None,
    background: Float[Tensor, "#rays channels"] | None = None,
) -> tuple[Float[Tensor, "rays channels"], Float[Tensor, " rays"]]:
    """What the rays see, over the background, and opacities; differentiable in the field.

    Args:
        field: what is drawn.
        rays: of unit directions.
        samples: per ray.
        generator: for stratified samples; None puts them in the middles.
        background: behind the field; None is black.
    """
    points, lengths = points_along(rays, samples, generator)
    densities, values = field(points.reshape(-1, 3))
    weights = render_weights_from_density(densities.view_as(lengths), lengths)
    return composite(weights, values.view(*lengths.shape, -1), background)


@dataclass(frozen=True)
class Occupancy:
    """Where a field may be more than empty, so that renders can skip the rest of the box."""

    cells: Bool[Tensor, "x y z"]
    """Around regular points of the box, corners included."""

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        field: RadianceFunction,
        *,
        resolution: int = OCCUPANCY_RESOLUTION,
        threshold: float | int = 0.005,
        device: torch.device | str = "cpu",
    ) -> Occupancy:
        """Cells in which, or in a neighbour of which, the density reaches the threshold.

        Args:
            field: what is looked at.
            resolution: points along an edge of the box.
            threshold: density per scene unit. A ray all through the box dims by 1 % at 0.005.
            device: where the field is.
        """
        found = [field(p)[0] for p in grid_points(resolution, torch.device(device)).split(CHUNK)]
        densities = torch.cat(found).view(1, 1, resolution, resolution, resolution)
        # What is between the points counts too: one cell more on all sides.
        near = torch.nn.functional.max_pool3d(densities, 3, 1, 1)[0, 0]
        return cls(near >= threshold)

    def at(self, points: Float[Tensor, "points 3"]) -> Bool[Tensor, " points"]:
        """Whether points lie in such a cell."""
        count = len(self.cells)
        cell = ((points.clamp(-BOUND, BOUND) / BOUND + 1) * ((count - 1) / 2) + 0.5).long()
        x, y, z = cell.unbind(-1)
        return self.cells.flatten()[(x * count + y) * count + z]


@torch.no_grad()
def render_image(
    field: RadianceFunction,
    camera: Camera,
    samples: int = 96,
    *,
    chunk: int | None = None,
    occupancy: Occupancy | None = None,
) -> Float[Tensor, "height width 4"]:
    """Red, green, blue (over black, so premultiplied) and opacity of each pixel; without gradients.

    Only rays that meet the scene's box are computed, about `chunk` points at a time (`CHUNK` on a CPU, else
    `CUDA_CHUNK`); with an occupancy, only points that it does not call empty.
    """
    require_memory("size", max(camera.width, camera.height), 128 * camera.width * camera.height)
    rays = camera.rays()
    if chunk is None:
        chunk = CHUNK if rays.origins.device.type == "cpu" else CUDA_CHUNK
    near, far = intersect_box(rays)
    image = rays.origins.new_zeros(len(rays), 4)
    hit = (far > near).nonzero().squeeze(-1)
    packed = rays.origins.is_cuda and nerfacc_is_built()
    asked = field if occupancy is None else partial(_where_occupied, field, occupancy)
    # A share of the points is asked for where others are skipped: more rays fill a chunk.
    share = 1.0 if occupancy is None else max(0.05, float(occupancy.cells.float().mean()))
    for some in hit.split(max(1, int(chunk / share) // samples)):
        if occupancy is not None and packed:
            colour, opacity = render_packed(field, rays[some], samples, occupancy)
        else:
            colour, opacity = render_rays(asked, rays[some], samples)
        image[some] = torch.cat([colour[:, :3], opacity[:, None]], -1)
    return image.view(camera.height, camera.width, 4)


@cache
def nerfacc_is_built() -> bool:
    """Whether nerfacc is installed and its CUDA kernels are built.

    Only looks: nerfacc builds them when they are first asked for, and a build that fails leaves a folder behind
    that breaks the next try.
    """
    if find_spec("nerfacc") is None:
        return False
    if find_spec("nerfacc.csrc") is not None:
        return True
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    return any(built for at in (".", "*") for built in root.glob(f"{at}/nerfacc_cuda/*.so"))


def render_packed(
    field: RadianceFunction, rays: Rays, samples: int, occupancy: Occupancy
) -> tuple[Float[Tensor, "rays 3"], Float[Tensor, " rays"]]:
    """What the rays see over black, and opacities, by nerfacc; as `render_rays` where the occupancy's rest is empty.

    Only what is not empty is kept in memory. Needs nerfacc's CUDA kernels.
    """
    from nerfacc import rendering

    points, lengths = points_along(rays, samples)
    kept = occupancy.at(points.flatten(0, 1)).nonzero().squeeze(-1)
    at, length = points.flatten(0, 1)[kept], lengths.flatten()[kept]
    start = torch.zeros_like(length)  # nerfacc wants it for depths, which we do not

    def colours_and_densities(*_: Tensor) -> tuple[Tensor, Tensor]:
        densities, values = field(at)
        return values[:, :3], densities

    colours, opacities, _, _ = rendering(
        start, length, kept // samples, len(rays), rgb_sigma_fn=colours_and_densities
    )
    return colours, opacities.squeeze(-1)


def _where_occupied(
    field: RadianceFunction, occupancy: Occupancy, points: Float[Tensor, "points 3"]
) -> tuple[Float[Tensor, " points"], Float[Tensor, "points values"]]:
    """The field at points, taken as empty and black where the occupancy says so."""
    kept = occupancy.at(points).nonzero().squeeze(-1)
    if not len(kept):
        return points.new_zeros(len(points)), torch.zeros_like(points)
    found, seen = field(points[kept])
    densities = found.new_zeros(len(points)).index_copy_(0, kept, found)
    values = seen.new_zeros(len(points), seen.shape[1]).index_copy_(0, kept, seen)
    return densities, values


def composite_over(
    image: Float[Tensor, "*shape 4"], background: float | int | Float[Tensor, "*#shape 3"] = 1.0
) -> Float[Tensor, "*shape 3"]:
    """A premultiplied image over a background."""
    return image[..., :3] + (1 - image[..., 3:]) * background


def grid_points(resolution: int, device: torch.device) -> Float[Tensor, "points 3"]:
    """`resolution`^3 points of the box, corners included; x changes slowest."""
    axis = torch.linspace(-BOUND, BOUND, resolution, device=device)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)


def as_bytes(image: Float[Tensor, "*shape channels"]) -> UInt8[np.ndarray, "*shape channels"]:
    """Values in [0, 1] as 0 .. 255."""
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def require_memory(name: str, value: int, wanted: int) -> None:
    """Refuse a size that cannot fit, before it is tried.

    Args:
        name: of the setting, for the error.
        value: it has.
        wanted: bytes that it takes.

    Raises:
        UserError: this machine has less.
    """
    if not hasattr(os, "sysconf"):
        return  # Windows does not say
    present = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")  # of a container
    if limit.is_file() and (text := limit.read_text().strip()).isdecimal():
        present = min(present, int(text))
    if wanted > present:
        raise UserError(
            f"{name} {value} takes {wanted / 2**30:,.0f} GiB of memory, this machine has {present / 2**30:,.0f}: "
            "give less"
        )
