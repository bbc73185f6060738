"""What leaves the program: meshes (GLB, PLY, OBJ), images, contact sheets, turntables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from hyperfields.cameras import turntable
from hyperfields.rendering import (
    BOUND,
    CHUNK,
    Occupancy,
    RadianceFunction,
    grid_points,
    over,
    render_image,
)
from priors_shared.errors import UserError

if TYPE_CHECKING:
    import trimesh

MESHES = (".glb", ".ply", ".obj")
MOVIES = (".mp4", ".gif")
FRAMES_PER_SECOND = 20


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
        UserError: nothing is that dense.
    """
    import trimesh
    from skimage.measure import marching_cubes

    found = [
        field(points)[0] for points in grid_points(resolution, torch.device(device)).split(CHUNK)
    ]
    # In log space densities are near linear between grid points, so that vertices lie right.
    volume = torch.cat(found).clamp(min=1e-6).log().view(resolution, resolution, resolution)
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


def write_mesh(mesh: trimesh.Trimesh, path: Path) -> None:
    """Write a mesh as its suffix says. GLB is y-up with the front at +z, as glTF wants; the others stay z-up.

    Raises:
        UserError: another suffix.
    """
    if path.suffix.lower() not in MESHES:
        raise UserError(f"{path}: unknown mesh format: use one of {', '.join(MESHES)}")
    mesh = mesh.copy()
    if path.suffix.lower() == ".glb":
        # (x, y, z) -> (x, z, -y): a turn by -90 degrees around x.
        turn = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]], dtype=float)
        mesh.apply_transform(turn)
    path.parent.mkdir(parents=True, exist_ok=True)
    mesh.export(path)


def as_bytes(image: Float[Tensor, "*shape channels"]) -> UInt8[np.ndarray, "*shape channels"]:
    """Values in [0, 1] as 0 .. 255."""
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def write_turntable(
    field: RadianceFunction,
    path: Path,
    *,
    size: int = 256,
    frames: int = 40,
    samples: int = 96,
) -> Path:
    """Write a film of the scene, once around. MP4 by imageio's own ffmpeg; where that is missing, a GIF.

    Returns the path written, with the suffix .gif where MP4 could not be had.

    Raises:
        UserError: a suffix that is neither .mp4 nor .gif.
    """
    import imageio.v3 as iio

    if path.suffix.lower() not in MOVIES:
        raise UserError(f"{path}: unknown film format: use one of {', '.join(MOVIES)}")
    if path.suffix.lower() == ".mp4" and not _has_ffmpeg():
        path = path.with_suffix(".gif")
    occupancy = Occupancy.of(field)
    images = [
        as_bytes(over(render_image(field, camera, samples, occupancy=occupancy)))
        for camera in turntable(frames, size)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".mp4":
        iio.imwrite(path, np.stack(images), fps=FRAMES_PER_SECOND, macro_block_size=2)
    else:
        iio.imwrite(path, np.stack(images), duration=1000 / FRAMES_PER_SECOND, loop=0)
    return path


def _has_ffmpeg() -> bool:
    try:
        import imageio_ffmpeg

        return bool(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        return False


def contact_sheet(
    images: Sequence[Sequence[Float[Tensor, "height width 3"]]], labels: Sequence[str], path: Path
) -> None:
    """Write a PNG: one row per scene, labelled, one column per view.

    Args:
        images: of each scene, its views in [0, 1].
        labels: of the scenes.
        path: of the PNG.
    """
    from PIL import Image, ImageDraw

    height, width = images[0][0].shape[:2]
    strip = 14
    sheet = Image.new("RGB", (width * len(images[0]), (height + strip) * len(images)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (views, label) in enumerate(zip(images, labels, strict=True)):
        top = row * (height + strip)
        draw.text((3, top + 1), label, fill="black")
        for column, view in enumerate(views):
            sheet.paste(Image.fromarray(as_bytes(view)), (column * width, top + strip))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
