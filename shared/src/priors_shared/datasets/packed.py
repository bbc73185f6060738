"""Images as packed files and archives hold them: mosaics of tiles, single JPEGs, arrays beside them."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from priors_shared.errors import UserError

MOSAICS = ("jpeg_bytes", "mosaic_offset", "mosaic_count", "mosaic_cols", "label")


def read_packed(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of these names in a packed .npz; never a pickle.

    Raises UserError when the file is broken or lacks one.
    """
    try:
        with np.load(path, allow_pickle=False) as packed:
            return {name: packed[name] for name in names}
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"cannot read {path} ({error}): put a whole copy there, or remove it and let the "
            "original download be read"
        ) from error


def first_tiles(packed: Mapping[str, np.ndarray]) -> Int[np.ndarray, " mosaics"]:
    """The number of each mosaic's first tile. A mosaic holds one class, and this tile tells which."""
    return np.cumsum(packed["mosaic_count"]) - packed["mosaic_count"]


def read_mosaics(
    packed: Mapping[str, np.ndarray], chosen: Sequence[int] | np.ndarray, side: int | None = None
) -> tuple[UInt8[np.ndarray, "items side side 3"], Int[np.ndarray, " items"]]:
    """The tiles of the chosen mosaics and their labels; no other mosaic is decoded.

    packed: the arrays MOSAICS. side: resize to this many pixels; None: as stored.
    """
    stored, offset, count = (packed[name] for name in MOSAICS[:3])
    tiles = [
        read_mosaic(
            stored[offset[m] : offset[m + 1]].tobytes(), int(packed["mosaic_cols"]), int(count[m])
        )
        for m in chosen
    ]
    pixels = np.concatenate([part if side is None else _resized(part, side) for part in tiles])
    labels = packed["label"][first_tiles(packed)[chosen]].astype(np.int64)
    return pixels, np.repeat(labels, count[chosen])


def read_mosaic(jpeg: bytes, columns: int, tiles: int) -> UInt8[np.ndarray, "tiles side side 3"]:
    """The first `tiles` square tiles, row by row, of an image that is `columns` tiles wide."""
    mosaic = read_rgb(io.BytesIO(jpeg))
    side = mosaic.shape[1] // columns
    grid = mosaic.reshape(mosaic.shape[0] // side, side, columns, side, 3)
    return grid.transpose(0, 2, 1, 3, 4).reshape(-1, side, side, 3)[:tiles]


def read_rgb(
    file: Path | io.BytesIO, side: int | None = None, mend: str = "get a whole copy"
) -> UInt8[np.ndarray, "height width 3"]:
    """An image in RGB, resized to side x side where it has another size.

    Raises UserError, with what to do about it, when the file is not there or not an image.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # SyntaxError: Pillow, of a broken PNG
        where = file if isinstance(file, Path) else "an image of the packed file"
        raise UserError(f"cannot read {where} ({error}): {mend}") from error
    return pixels if side is None else _resized(pixels[None], side)[0]


def _resized(
    images: UInt8[np.ndarray, "items height width 3"], side: int
) -> UInt8[np.ndarray, "items side side 3"]:
    """Bicubic, antialiased where it makes them smaller."""
    from PIL import Image

    if images.shape[1:3] == (side, side):
        return images
    resized = (
        Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC) for image in images
    )
    return np.stack([np.asarray(image) for image in resized])


def channels_first(
    pixels: UInt8[np.ndarray, "items height width 3"],
) -> UInt8[Tensor, "items 3 height width"]:
    """The images as a dataset holds them."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
