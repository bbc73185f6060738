"""Turntables: MP4 or GIF."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hyperfields.fields.cameras import turntable
from hyperfields.fields.rendering import (
    Occupancy,
    RadianceFunction,
    as_bytes,
    over,
    render_image,
)
from priors_shared.errors import UserError

MOVIES = (".mp4", ".gif")


FRAMES_PER_SECOND = 20


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
