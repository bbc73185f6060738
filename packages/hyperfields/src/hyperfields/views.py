"""A teacher as stage 2 sees it: a prompt, cameras, and what they show (Algorithm 3, lines 4 and 5).

Rendered from analytic scenes and from teacher NeRFs, or read from folders of posed renders of any other
system, in the `transforms.json` convention of nerfstudio and Blender.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hyperfields.cameras import Camera, Rays
from hyperfields.field import Field
from hyperfields.rendering import over
from hyperfields.scenes import render_scenes, scene_of
from hyperfields.text import normalise
from priors_shared.checkpoints import CONFIG
from priors_shared.errors import UserError
from priors_shared.runs import write_atomically

TRANSFORMS = "transforms.json"


@dataclass(frozen=True)
class PosedViews:
    """Posed images of one scene."""

    prompt: str
    cameras: Sequence[Camera]
    images: Float[Tensor, "views height width 4"]
    """Premultiplied RGBA."""
    transparent: bool = True
    """Whether the images say what is background; else they are opaque, on white."""

    def sample(
        self, rays: int, generator: torch.Generator, *, object_share: float | int = 0.0
    ) -> tuple[Rays, Float[Tensor, "rays 4"]]:
        """Rays through random pixels of one random view, and what the teacher shows there.

        Args:
            rays: how many.
            generator: of the draw.
            object_share: of the rays, from pixels that the object covers or that lie within two of it; the
                others are drawn from all pixels. Nothing to tell an opaque teacher's object by: all are.
        """
        view = int(torch.randint(len(self.cameras), (), generator=generator))
        pixels = torch.randint(self.images[view, ..., 0].numel(), (rays,), generator=generator)
        aimed = round(object_share * rays) if self.transparent else 0
        if aimed:
            near = torch.nn.functional.max_pool2d(self.images[view, None, ..., 3], 5, 1, 2)
            candidates = (near.flatten() > 0).nonzero().squeeze(-1)
            if len(candidates):
                drawn = torch.randint(len(candidates), (aimed,), generator=generator)
                pixels[:aimed] = candidates[drawn]
        seen = self.images[view].reshape(-1, 4)[pixels]
        return self.cameras[view].rays()[pixels], seen

    def write(self, folder: Path) -> None:
        """Write PNGs and `transforms.json`, which `read_views` reads: straight, not premultiplied, alpha."""
        from PIL import Image

        (folder / "images").mkdir(parents=True, exist_ok=True)
        frames = []
        for i, (camera, image) in enumerate(zip(self.cameras, self.images, strict=True)):
            colour = image[..., :3] / image[..., 3:].clamp(min=1e-6)
            straight = torch.cat([colour.clamp(0, 1), image[..., 3:]], -1)
            name = f"images/{i:04}.png"
            Image.fromarray((straight * 255).round().to(torch.uint8).numpy()).save(folder / name)
            frames.append({"file_path": name, "transform_matrix": camera.pose.tolist()})
        camera = self.cameras[0]
        record = {
            "prompt": self.prompt,
            **{"w": camera.width, "h": camera.height},
            **{"fl_x": camera.focal[0], "fl_y": camera.focal[1]},
            **{"cx": camera.centre[0], "cy": camera.centre[1]},
            "frames": frames,
        }
        write_atomically(folder / TRANSFORMS, json.dumps(record, indent=1) + "\n")


def procedural_views(
    prompts: Sequence[str], cameras: Sequence[Camera], samples: int = 2
) -> dict[str, PosedViews]:
    """Exact views of procedural scenes, by prompt, with `samples` x `samples` rays per pixel."""
    scenes = {normalise(prompt): scene_of(prompt) for prompt in prompts}
    images = [render_scenes(list(scenes.values()), camera, samples=samples) for camera in cameras]
    return {
        prompt: PosedViews(prompt, cameras, torch.stack(seen))
        for prompt, seen in zip(scenes, zip(*images, strict=True), strict=True)
    }


def field_views(field: Field, cameras: Sequence[Camera], samples: int = 96) -> PosedViews:
    """Views of a trained NeRF."""
    return PosedViews(normalise(field.prompt), cameras, field.render_all(cameras, samples))


def read_teachers(
    root: Path, cameras: Sequence[Camera], *, pose_scale: float = 1.0
) -> dict[str, PosedViews]:
    """Views of each teacher in a folder, by prompt.

    Args:
        root: its subfolders each hold a trained NeRF (of `hyperfields teach`) or posed renders; or it is such
            a folder itself.
        cameras: where trained NeRFs are looked at from.
        pose_scale: see `read_views`.

    Raises:
        UserError: no teacher, two of one prompt, or one that is damaged.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of teachers")
    folders = (
        [root] if _is_teacher(root) else sorted(path for path in root.iterdir() if path.is_dir())
    )
    teachers: dict[str, PosedViews] = {}
    for folder in folders:
        if (folder / TRANSFORMS).is_file():
            views = read_views(folder, pose_scale=pose_scale)
        elif _is_teacher(folder):
            held = folder / "model" if (folder / "model").is_dir() else folder
            views = field_views(Field.load(held), cameras)
        else:
            raise UserError(
                f"{folder}: neither posed renders ({TRANSFORMS} is missing) nor a trained NeRF "
                f"({CONFIG} is missing); remove the folder or complete it"
            )
        if views.prompt in teachers:
            raise UserError(f"{folder}: a second teacher of {views.prompt!r}; keep one")
        teachers[views.prompt] = views
    if not teachers:
        raise UserError(f"{root}: holds no teacher; give one subfolder for each prompt")
    return teachers


def _is_teacher(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (TRANSFORMS, CONFIG, f"model/{CONFIG}"))


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
