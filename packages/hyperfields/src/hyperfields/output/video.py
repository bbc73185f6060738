"""Turntables: MP4 or GIF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hyperfields.fields.cameras import turntable
from hyperfields.fields.rendering import (
    Occupancy,
    RadianceFunction,
    as_bytes,
    composite_over,
    render_image,
    require_memory,
)
from priors_shared.errors import UserError
from priors_shared.files import write_atomically

VIDEOS = (".mp4", ".gif")
FRAMES_PER_SECOND = 20


def write_turntable(
    field: RadianceFunction,
    path: Path,
    *,
    size: int = 256,
    frames: int = 40,
    samples: int = 96,
) -> Path:
    """Write a video of the scene, once around. MP4 by imageio's own ffmpeg; where that is missing, a GIF.

    Returns the path written, with the suffix .gif where MP4 could not be had.

    Raises:
        UserError: a suffix that is neither .mp4 nor .gif.
    """
    import imageio.v3 as iio

    if path.suffix.lower() not in VIDEOS:
        raise UserError(f"{path}: unknown video format: use one of {', '.join(VIDEOS)}")
    if path.suffix.lower() == ".mp4" and not _has_ffmpeg():
        path = path.with_suffix(".gif")
    require_memory("size", size, 4 * frames * size**2)
    occupancy = Occupancy.of(field)
    images = [
        as_bytes(composite_over(render_image(field, camera, samples, occupancy=occupancy)))
        for camera in turntable(frames, size)
    ]
    options: dict[str, Any] = {"duration": 1000 / FRAMES_PER_SECOND, "loop": 0}
    if path.suffix.lower() == ".mp4":
        options = {"fps": FRAMES_PER_SECOND, "macro_block_size": 2}
    suffix = path.suffix.lower()
    content = iio.imwrite("<bytes>", np.stack(images), extension=suffix, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    return path


def _has_ffmpeg() -> bool:
    try:
        import imageio_ffmpeg

        return bool(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        return False
