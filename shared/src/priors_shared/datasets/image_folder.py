"""A user's own images: one subfolder per class."""

from __future__ import annotations

import hashlib
import itertools
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from priors_shared.datasets.base import SPLITS, ImageDataset, check_image_size, check_split
from priors_shared.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
SPLIT_BOUNDS = (0, 0.64, 0.80, 1)  # train, val, test, as CIFAR-FS
MOST_PIXELS = 89_478_485  # where Pillow begins to warn of a decompression bomb


def load_image_folder(
    path: str | Path,
    *,
    image_size: int,
    channels: int,
    invert: bool | Literal["auto"] = False,
    split: str = "all",
) -> ImageDataset:
    """The images under `path`, one subfolder per class, as image_size x image_size squares.

    An image keeps its aspect: its longer side becomes image_size, and the rest is filled with the
    median colour of its border, so that nothing is cut off a character. EXIF orientation is
    applied, transparency is laid on white, 16-bit grey is reduced to 8.

    image_size: pixels. channels: 1 (grey) or 3 (RGB); images are converted to it.
    invert: turn light into dark: a learner of characters expects ink = 255 on 0. "auto" inverts
    all images when their borders are light on the whole and there is one channel.
    split: "all"; or "train", "val", "test": the subfolders of these names (each with class
    folders), else 64 / 16 / 20 % of the classes, in an order fixed by a hash of their names.

    A file that cannot be read, is not an image, or is a class folder without files goes to
    `skipped` with the reason. Raises UserError when there is no folder or no class, when a class
    has no readable image, or when the same class is in two splits.
    """
    check_split(split)
    if channels not in (1, 3):
        raise UserError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
    check_image_size(image_size)
    if invert not in (True, False, "auto"):
        raise UserError(f"invert must be True, False or 'auto', got {invert!r}")
    root = Path(path).expanduser()
    images: list[np.ndarray] = []
    targets: list[int] = []
    names: list[str] = []
    paths: list[str] = []
    skipped: list[tuple[str, str]] = []
    for folder in _class_folders(root, split):
        files = sorted(f for f in folder.rglob("*") if f.is_file() and _shown(f, root))
        if not files:
            skipped.append((str(folder), "empty folder: no class"))
            continue
        before, failed = len(images), len(skipped)
        for file in files:
            picture = _read(file, image_size, channels)
            if isinstance(picture, str):
                skipped.append((str(file), picture))
            else:
                images.append(picture)
                paths.append(str(file))
                targets.append(len(names))
        if len(images) == before:
            raise UserError(
                f"class folder {folder} has no readable image ({skipped[failed][0]}: "
                f"{skipped[failed][1]}): add images or remove the folder"
            )
        names.append(folder.name)
    if not names:
        raise UserError(f"no images under {root}: put {_SUFFIX_TEXT} files in one folder per class")
    return ImageDataset(
        name=root.resolve().name,
        images=_stacked(images, invert),
        targets=torch.tensor(targets),
        class_names=tuple(names),
        split=split,
        skipped=tuple(skipped),
        source=str(root),
        paths=tuple(paths),
    )


@dataclass(frozen=True)
class Unlabelled:
    """Images without classes: uint8, the file of each, and (path, reason) of what could not be read."""

    images: UInt8[Tensor, "items channels height width"]
    paths: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


def load_unlabelled(
    path: str | Path,
    *,
    image_size: int,
    channels: int,
    invert: bool | Literal["auto"] = False,
) -> Unlabelled:
    """An image file, or all in a folder and those below it, by path; as `load_image_folder` takes them.

    Raises UserError when there is none that can be read.
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise UserError(f"images {root}: does not exist; check the path")
    files = [root] if root.is_file() else sorted(f for f in root.rglob("*") if f.is_file())
    images, paths, skipped = [], [], []
    for file in files:
        if file != root and not _shown(file, root):
            continue
        picture = _read(file, image_size, channels)
        if isinstance(picture, str):
            skipped.append((str(file), picture))
        else:
            images.append(picture)
            paths.append(str(file))
    if not images:
        why = f" ({skipped[0][0]}: {skipped[0][1]})" if skipped else ""
        raise UserError(f"images {root}: none that can be read{why}; they are {_SUFFIX_TEXT} files")
    return Unlabelled(_stacked(images, invert), tuple(paths), tuple(skipped))


def _stacked(
    images: list[np.ndarray], invert: bool | Literal["auto"]
) -> UInt8[Tensor, "items channels height width"]:
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    grey = stacked.shape[1] == 1
    if invert is True or (invert == "auto" and grey and _border_is_light(stacked)):
        return 255 - stacked
    return stacked


_SUFFIX_TEXT = ", ".join(SUFFIXES[:-1]) + f" or {SUFFIXES[-1]}"


def _shown(path: Path, root: Path) -> bool:
    """Neither the file nor a folder above it is hidden (.DS_Store, .ipynb_checkpoints)."""
    parts = path.relative_to(root).parts
    return not any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _class_folders(root: Path, split: str) -> list[Path]:
    """The folders of a split's classes, by name."""
    if not root.exists():
        raise UserError(f"image folder {root} does not exist: check the path")
    if not root.is_dir():
        raise UserError(f"{root} is a file: give the folder that holds one subfolder per class")
    folders = subfolders(root)
    if not folders:
        raise UserError(f"{root} has no subfolders: put each class' images in a folder of its own")
    by_split = {folder.name: subfolders(folder) for folder in folders}
    # train/ and test/ are splits, not classes, when nothing else is there and they hold folders
    if set(by_split) <= set(SPLITS) and all(by_split.values()):
        return _of_named_split(root, by_split, split)
    if split == "all":
        return folders
    by_hash = sorted(folders, key=lambda folder: hashlib.sha256(folder.name.encode()).digest())
    bounds = [round(share * len(folders)) for share in SPLIT_BOUNDS]
    place = SPLITS.index(split)
    chosen = sorted(by_hash[bounds[place] : bounds[place + 1]])
    if not chosen:
        raise UserError(
            f"{root} has {len(folders)} classes, too few for a {split} split: 64 / 16 / 20 % need "
            f"{classes_needed(1)} or more"
        )
    return chosen


def classes_needed(each: int) -> int:
    """So many classes of a folder without split folders, or more, leave `each` or more in every split."""

    def smallest(total: int) -> int:
        bounds = [round(share * total) for share in SPLIT_BOUNDS]
        return min(b - a for a, b in itertools.pairwise(bounds))

    # What rounding gives one number of classes, it may take from the next; it repeats after 25.
    too_few = [total for total in range(7 * each + 25) if smallest(total) < each]
    return max(too_few) + 1


def _of_named_split(root: Path, by_split: dict[str, list[Path]], split: str) -> list[Path]:
    owner: dict[str, str] = {}
    for name, folders in by_split.items():
        for folder in folders:
            if (other := owner.setdefault(folder.name, name)) != name:
                raise UserError(
                    f"class {folder.name!r} of {root} is in both {other} and {name}: splits are "
                    "by class, so keep each class in one of them"
                )
    if split == "all":
        return sorted((f for folders in by_split.values() for f in folders), key=lambda f: f.name)
    if split not in by_split:
        raise UserError(f"{root} has no folder {split}: add it, or choose {', '.join(by_split)}")
    return by_split[split]


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder that are not hidden, by name."""
    return sorted(child for child in folder.iterdir() if child.is_dir() and _shown(child, folder))


def _read(file: Path, side: int, channels: int) -> UInt8[np.ndarray, "side side channels"] | str:
    """The image as a square, or why it could not be read."""
    from PIL import Image, ImageOps

    if file.suffix.lower() not in SUFFIXES:
        return f"not a {_SUFFIX_TEXT} file"
    mode = "RGB" if channels == 3 else "L"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # checked below
            with Image.open(file) as image:
                if image.width * image.height > MOST_PIXELS:
                    return f"too large: {image.width} x {image.height} pixels"
                image.draft(mode, (2 * side, 2 * side))  # JPEG: decode no larger than needed
                return _square(_flat(ImageOps.exif_transpose(image), mode), side)
    except Image.DecompressionBombError:
        return "too large: a decompression bomb"
    except Exception as error:  # a broken file makes Pillow's decoders raise almost anything
        return " ".join(str(error).split()) or type(error).__name__


def _flat(image: Image.Image, mode: str) -> Image.Image:
    """The image in 8-bit grey ("L") or RGB, with transparency laid on white."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):  # more than 8 bits a pixel: Pillow would clip them
        values = np.asarray(image, dtype=np.float64)
        high = values.max(initial=0)
        full = 1 if image.mode == "F" and high <= 1 else 255 if high <= 255 else 65535
        image = Image.fromarray((values.clip(0, full) * (255 / full)).round().astype(np.uint8))
    if image.has_transparency_data:
        ink = image.convert("RGBA")
        white = Image.new("RGBA", ink.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, ink)
    return image.convert(mode)


def _square(image: Image.Image, side: int) -> UInt8[np.ndarray, "side side channels"]:
    """Aspect kept, centred, padded with the median colour of the border; area-averaged."""
    from PIL import Image

    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    small = image.resize(
        (width, height), Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    )
    pixels = np.asarray(small).reshape(height, width, -1)
    square = np.empty((side, side, pixels.shape[-1]), np.uint8)
    square[:] = np.median(_border(pixels), axis=0)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


def _border(pixels: UInt8[np.ndarray, "height width channels"]) -> np.ndarray:
    sides = pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]
    return np.concatenate(sides)


def _border_is_light(images: UInt8[Tensor, "items channels side side"]) -> bool:
    edges = images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]
    return bool(torch.cat(edges, -1).float().mean() > 127.5)
