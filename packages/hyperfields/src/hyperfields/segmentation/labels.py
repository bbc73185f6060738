"""Fields with features as parts: rendered labels, labelled meshes, images of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hyperfields.fields.cameras import Camera, orbit
from hyperfields.fields.field import Field
from hyperfields.fields.rendering import CHUNK, as_bytes, composite_over, render_rays
from hyperfields.output.sheet import contact_sheet

if TYPE_CHECKING:
    import trimesh


@torch.no_grad()
def render_labels(
    field: Field, camera: Camera, samples: int = 64
) -> tuple[Float[Tensor, "height width 4"], Int[Tensor, "height width"]]:
    """Premultiplied RGBA, and the index of the largest rendered feature; -1 where less than half is opaque."""
    rays = camera.rays()
    colours, labels = [], []
    for start in range(0, len(rays), CHUNK // samples):
        seen, opacity = render_rays(field, rays[start : start + CHUNK // samples], samples)
        colours.append(torch.cat([seen[:, :3], opacity[:, None]], -1))
        labels.append(torch.where(opacity > 0.5, seen[:, 3:].argmax(-1), -1))
    shape = camera.height, camera.width
    return torch.cat(colours).view(*shape, 4), torch.cat(labels).view(*shape)


@torch.no_grad()
def point_labels(field: Field, points: Float[Tensor, "points 3"]) -> Int[Tensor, " points"]:
    """The index of the largest feature at points, which are best on the surface."""
    found = [field(some)[1][:, 3:].argmax(-1) for some in points.split(CHUNK)]
    return torch.cat(found)


def palette(parts: int) -> Float[Tensor, "parts 3"]:
    """A colour in [0, 1] for each part."""
    from matplotlib import colormaps

    return torch.tensor([colormaps["tab20"](i % 20)[:3] for i in range(parts)])


def paint(labels: Int[Tensor, "height width"], parts: int) -> Float[Tensor, "height width 3"]:
    """Labels in their colours; -1 is white."""
    white = torch.ones(1, 3)
    return torch.cat([palette(parts), white])[labels]


def labelled_mesh(
    field: Field, resolution: int = 128
) -> tuple[trimesh.Trimesh, Int[Tensor, " vertices"]]:
    """The field's surface in the colours of its parts, and each vertex' part, also its attribute "label".

    Raises:
        UserError: there is no surface.
    """
    from trimesh.visual import ColorVisuals

    mesh = field.to_mesh(resolution)
    at = torch.from_numpy(np.asarray(mesh.vertices, dtype=np.float32))
    labels = point_labels(field, at.to(field.weights[0].device)).cpu()
    colours = palette(field.config.features)[labels]
    opaque = as_bytes(torch.cat([colours, torch.ones_like(colours[:, :1])], -1))
    mesh.visual = ColorVisuals(mesh, vertex_colors=opaque)
    mesh.vertex_attributes["label"] = labels.numpy().astype(np.int32)
    return mesh, labels


def mean_iou(found: Int[Tensor, "*shape"], wanted: Int[Tensor, "*shape"]) -> float:
    """Intersection over union of each part that is wanted somewhere, averaged; -1 is no part."""
    values = []
    for part in wanted.unique().tolist():
        if part >= 0:
            one, other = found == part, wanted == part
            values.append(float((one & other).sum() / (one | other).sum()))
    return sum(values) / len(values)


def write_labelled_views(
    fields: Sequence[Field], names: Sequence[str], path: Path, *, size: int = 96, samples: int = 64
) -> None:
    """A contact sheet: each field from three sides, in its colours and in those of its parts."""
    cameras = [orbit(azimuth, 25, size) for azimuth in (20, 140, 260)]
    rows = []
    for field in fields:
        rendered = [render_labels(field, camera, samples) for camera in cameras]
        painted = [paint(labels, field.config.features) for _, labels in rendered]
        rows.append([*(composite_over(image) for image, _ in rendered), *painted])
    contact_sheet(rows, names, path)
