"""Surfaces of fields, as coloured meshes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from hyperfields.fields.rendering import (
    BOUND,
    CHUNK,
    RadianceFunction,
    as_bytes,
    grid_points,
    require_memory,
)
from priors_shared.errors import UserError

if TYPE_CHECKING:
    import trimesh

_BYTES_PER_POINT = 32
"""Of the grid, at the most: coordinates, densities and marching cubes' own volume."""


@torch.no_grad()
def to_mesh(
    field: RadianceFunction,
    *,
    resolution: int = 128,
    threshold: float | int = 10,
    device: torch.device | str = "cpu",
) -> trimesh.Trimesh:
    """The surface where the density is `threshold`, by marching cubes, with the field's colours at vertices.

    Args:
        field: what is meshed.
        resolution: points of the grid along each edge of the box.
        threshold: density per scene unit; a tenth of a unit of density 10 stops 63 % of the light.
        device: where the field is.

    Returns: the mesh in the field's coordinates (z up), faces outward.

    Raises:
        UserError: nothing is that dense, or the grid does not fit into memory.
    """
    import trimesh
    from skimage.measure import marching_cubes

    require_memory("resolution", resolution, _BYTES_PER_POINT * resolution**3)
    densities = [
        field(points)[0] for points in grid_points(resolution, torch.device(device)).split(CHUNK)
    ]
    # In log space densities are near linear between grid points, so that vertices lie right.
    volume = torch.cat(densities).clamp(min=1e-6).log().view(resolution, resolution, resolution)
    volume = torch.nn.functional.pad(volume, (1,) * 6, value=float(np.log(1e-6)))  # closed
    level = float(np.log(threshold))
    if float(volume.max()) <= level:
        raise UserError(
            f"no surface to mesh: no density reaches {threshold}; train the model longer"
        )
    vertices, faces, _, _ = marching_cubes(
        volume.cpu().numpy(), level, gradient_direction="ascent", allow_degenerate=False
    )
    vertices = (vertices - 1) * (2 * BOUND / (resolution - 1)) - BOUND
    at = torch.from_numpy(vertices.astype(np.float32)).to(device)
    colours = torch.cat([field(points)[1][:, :3] for points in at.split(CHUNK)])
    opaque = torch.cat([colours, torch.ones_like(colours[:, :1])], -1)
    return trimesh.Trimesh(vertices, faces, vertex_colors=as_bytes(opaque.cpu()), process=False)
