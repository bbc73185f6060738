"""Folders of posed renders of any other system: `transforms.json` of nerfstudio and Blender."""

from __future__ import annotations

import json
import math
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
from hyperfields.fields.rendering import over
from priors_shared.errors import UserError


def read_views(folder: Path, *, pose_scale: float = 1.0) -> PosedViews:
    """Posed renders of another system: images and `transforms.json`.

    The prompt is the key "prompt" of the JSON, else the folder's name with spaces for - and _. Intrinsics are
    `fl_x` (and `fl_y`, `cx`, `cy`), or `camera_angle_x`. Images without alpha count as opaque, on white.

    Args:
        folder: holds them.
        pose_scale: positions of cameras are multiplied by it; the object must then lie in [-1, 1]^3.

    Raises:
        UserError: a frame without image or pose, a pose that is not rigid, images of different sizes, ...
    """
    path = folder / TRANSFORMS
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from error
    frames = record.get("frames") if isinstance(record, Mapping) else None
    if not isinstance(frames, list) or not frames:
        raise UserError(f"{path}: has no frames; list each image with its transform_matrix")
    images: list[np.ndarray] = []
    alphas, poses = [], []
    for i, frame in enumerate(frames):
        pixels, has_alpha = _image(folder, frame, f"{path}: frame {i}")
        if images and pixels.shape != images[0].shape:
            (h, w), (h0, w0) = pixels.shape[:2], images[0].shape[:2]
            raise UserError(
                f"{path}: frame {i} is {w} x {h} pixels, the first is {w0} x {h0}: render all in one size"
            )
        images.append(pixels)
        alphas.append(has_alpha)
        poses.append(_pose(frame, f"{path}: frame {i}", pose_scale))
    height, width = images[0].shape[:2]
    focal, centre = _intrinsics(record, width, height, path)
    cameras = [Camera(pose, focal, centre, width, height) for pose in poses]
    transparent = all(alphas)
    stacked = torch.from_numpy(np.stack(images)).float() / 255
    stacked[..., :3] *= stacked[..., 3:]
    if not transparent:
        stacked = torch.cat([over(stacked), torch.ones_like(stacked[..., :1])], -1)
    named = record.get("prompt") or folder.resolve().name.replace("-", " ").replace("_", " ")
    return PosedViews(normalise(str(named)), cameras, stacked, transparent)


def _image(folder: Path, frame: Any, where: str) -> tuple[np.ndarray, bool]:
    from PIL import Image

    name = frame.get("file_path") if isinstance(frame, Mapping) else None
    if not isinstance(name, str):
        raise UserError(f"{where} has no file_path")
    path = folder / name
    if not path.suffix:  # Blender's exporter leaves it out
        path = path.with_suffix(".png")
    try:
        with Image.open(path) as image:
            has_alpha = "A" in image.getbands() or "transparency" in image.info
            return np.asarray(image.convert("RGBA")), has_alpha
    except OSError as error:
        raise UserError(f"{where}: {path} cannot be read as an image ({error})") from error


def _pose(frame: Mapping[str, Any], where: str, scale: float) -> Float[Tensor, "4 4"]:
    held = frame.get("transform_matrix")
    if held is None:
        raise UserError(f"{where} has no transform_matrix: every image needs its camera's pose")
    try:
        pose = torch.tensor(held, dtype=torch.float32)
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: transform_matrix is no matrix of numbers ({error})") from error
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
    try:
        if "fl_x" in record:
            # For images that were scaled since, the sizes that the intrinsics are for.
            across, down = width / record.get("w", width), height / record.get("h", height)
            fl_x = float(record["fl_x"])
            focal = fl_x * across, float(record.get("fl_y", fl_x)) * down
            centre = (
                float(record["cx"]) * across if "cx" in record else width / 2,
                float(record["cy"]) * down if "cy" in record else height / 2,
            )
            return focal, centre
        if "camera_angle_x" in record:
            focal_x = width / 2 / math.tan(float(record["camera_angle_x"]) / 2)
            return (focal_x, focal_x), (width / 2, height / 2)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"{path}: the intrinsics are no numbers ({error})") from error
    raise UserError(f"{path}: has no focal length: give fl_x (pixels) or camera_angle_x (radians)")
