"""Folders of posed renders of any other system: `transforms.json` of nerfstudio and Blender."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hyperfields.conditioning.text import normalise
from hyperfields.data.views import TRANSFORMS, PosedViews
from hyperfields.fields.cameras import Camera
from hyperfields.fields.rendering import composite_over
from priors_shared.errors import UserError, first_line

MOST_PIXELS = 2**28
"""Of all images of a folder: 4 GiB in 32-bit floats."""
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N", "I")
"""Pillow's modes for grey of 16 bits; it opens them as 32 bits at times."""


def read_views(folder: Path, *, pose_scale: float = 1.0) -> PosedViews:
    """Posed renders of another system: images and `transforms.json`.

    The prompt is the key "prompt" of the JSON, else the folder's name with spaces for - and _. Intrinsics are
    `fl_x` (and `fl_y`, `cx`, `cy`), or `camera_angle_x`. Images without alpha count as opaque, on white; grey of 16
    bits and of floats in [0, 1] count as what they show.

    Args:
        folder: holds them.
        pose_scale: positions of cameras are multiplied by it; the object must then lie in [-1, 1]^3.

    Raises:
        UserError: a frame without image or pose, a pose that is not rigid, images of different sizes, ...
    """
    path = folder / TRANSFORMS
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({first_line(error)})") from error
    frames = record.get("frames") if isinstance(record, Mapping) else None
    if not isinstance(frames, list) or not frames:
        raise UserError(f"{path}: has no frames; list each image with its transform_matrix")
    images: list[Tensor] = []
    alphas, poses = [], []
    for i, frame in enumerate(frames):
        where = f"{path}: frame {i}"
        if not isinstance(frame, Mapping):
            raise UserError(f"{where} is no object with file_path and transform_matrix")
        poses.append(_pose(frame, where, pose_scale))
        image, has_alpha = _image(folder, frame, where, len(frames))
        if images and image.shape != images[0].shape:
            (h, w), (h0, w0) = image.shape[:2], images[0].shape[:2]
            raise UserError(
                f"{where} is {w} x {h} pixels, the first is {w0} x {h0}: render all in one size"
            )
        images.append(image)
        alphas.append(has_alpha)
    height, width = images[0].shape[:2]
    focal, centre = _intrinsics(record, width, height, path)
    cameras = [Camera(pose, focal, centre, width, height) for pose in poses]
    transparent = all(alphas)
    stacked = torch.stack(images)
    stacked[..., :3] *= stacked[..., 3:]
    if not transparent:
        stacked = torch.cat([composite_over(stacked), torch.ones_like(stacked[..., :1])], -1)
    named = record.get("prompt") or folder.resolve().name.replace("-", " ").replace("_", " ")
    return PosedViews(normalise(str(named)), cameras, stacked, transparent)


def _image(
    folder: Path, frame: Mapping[str, Any], where: str, frames: int
) -> tuple[Float[Tensor, "height width 4"], bool]:
    """Straight RGBA in [0, 1], and whether the file has transparency."""
    from PIL import Image

    name = frame.get("file_path")
    if not isinstance(name, str):
        raise UserError(f"{where} has no file_path")
    path = folder / name
    if not path.suffix:  # Blender's exporter leaves it out
        path = path.with_suffix(".png")
    try:
        # A small file may unpack to gigabytes; its header says so, and Pillow only warns.
        with (
            warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
            Image.open(path) as image,
        ):
            if image.width * image.height * frames > MOST_PIXELS:
                raise UserError(
                    f"{where}: {path} has {image.width} x {image.height} pixels: at most "
                    f"{MOST_PIXELS:,} fit into memory for all {frames} frames together"
                )
            return _straight_rgba(image)
    except UserError:
        raise
    except Exception as error:  # Pillow's plugins raise as their formats' parsers do
        raise UserError(
            f"{where}: {path} cannot be read as an image ({first_line(error)})"
        ) from error


def _straight_rgba(image: Any) -> tuple[Float[Tensor, "height width 4"], bool]:
    if image.mode in _SIXTEEN_BITS or image.mode == "F":
        # Pillow would clip both to 0 .. 255.
        grey: np.ndarray = np.asarray(image, dtype=np.float32)
        grey = grey if image.mode == "F" else grey / 65535
        if not (np.isfinite(grey).all() and grey.min() >= 0 and grey.max() <= 1):
            raise ValueError("values outside of [0, 1]")
        opaque = torch.from_numpy(np.stack([grey, grey, grey, np.ones_like(grey)], -1))
        return opaque, False
    has_alpha = "A" in image.getbands() or "transparency" in image.info
    return torch.from_numpy(np.asarray(image.convert("RGBA"), dtype=np.float32) / 255), has_alpha


def _pose(frame: Mapping[str, Any], where: str, scale: float) -> Float[Tensor, "4 4"]:
    matrix = frame.get("transform_matrix")
    if matrix is None:
        raise UserError(f"{where} has no transform_matrix: every image needs its camera's pose")
    try:
        pose = torch.tensor(matrix, dtype=torch.float32)
    except (ValueError, TypeError, OverflowError, RuntimeError, RecursionError) as error:
        raise UserError(
            f"{where}: transform_matrix is no matrix of numbers ({first_line(error)})"
        ) from error
    rigid = False
    if pose.shape == (4, 4) and pose.isfinite().all():
        rotation = pose[:3, :3]
        rigid = bool((rotation @ rotation.T - torch.eye(3)).abs().max() < 1e-2)
        rigid = rigid and float(torch.linalg.det(rotation)) > 0
    if not rigid:
        raise UserError(
            f"{where}: transform_matrix is no pose: it must be 4 x 4, camera to world, with a rotation of "
            "determinant +1 (not mirrored, not scaled)"
        )
    pose[:3, 3] *= scale
    return pose


def _intrinsics(
    record: Mapping[str, Any], width: int, height: int, path: Path
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Focal lengths and principal point in pixels."""
    try:
        if "fl_x" in record:
            # For images that were scaled since, the sizes that the intrinsics are for.
            across = width / float(record.get("w", width))
            down = height / float(record.get("h", height))
            fl_x = float(record["fl_x"])
            focal = fl_x * across, float(record.get("fl_y", fl_x)) * down
            centre = (
                float(record["cx"]) * across if "cx" in record else width / 2,
                float(record["cy"]) * down if "cy" in record else height / 2,
            )
        elif "camera_angle_x" in record:
            focal_x = width / 2 / math.tan(float(record["camera_angle_x"]) / 2)
            focal, centre = (focal_x, focal_x), (width / 2, height / 2)
        else:
            raise UserError(
                f"{path}: has no focal length: give fl_x (pixels) or camera_angle_x (radians)"
            )
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"{path}: the intrinsics are no numbers ({first_line(error)})") from error
    if not all(map(math.isfinite, (*focal, *centre))) or min(focal) <= 0:
        raise UserError(f"{path}: the intrinsics are none of a camera: focal lengths {focal}")
    return focal, centre
