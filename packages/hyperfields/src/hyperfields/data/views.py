"""A teacher as stage 2 sees it: a prompt, cameras, and what they show (Algorithm 3, lines 4 and 5).

Rendered from analytic scenes and from teacher NeRFs, or read from folders of posed renders of any other
system, in the `transforms.json` convention of nerfstudio and Blender.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from hyperfields.conditioning.text import normalise
from hyperfields.fields.cameras import Camera, Rays
from hyperfields.fields.rendering import as_bytes
from hyperfields.scenes import render_scenes, scene_of
from priors_shared.files import write_atomically

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
        self, rays: int, generator: torch.Generator, *, object_fraction: float | int = 0.0
    ) -> tuple[Rays, Float[Tensor, "rays 4"]]:
        """Rays through random pixels of one random view, and what the teacher shows there.

        Args:
            rays: how many.
            generator: of the draw.
            object_fraction: of the rays, from pixels that the object covers or that lie within two of it; the
                others are drawn from all pixels. Nothing to tell an opaque teacher's object by: all are.
        """
        view = int(torch.randint(len(self.cameras), (), generator=generator))
        pixels = torch.randint(self.images[view, ..., 0].numel(), (rays,), generator=generator)
        aimed = round(object_fraction * rays) if self.transparent else 0
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
            content = io.BytesIO()
            Image.fromarray(as_bytes(straight)).save(content, "PNG")
            write_atomically(folder / name, content.getvalue())
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
