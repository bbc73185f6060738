"""Tiny-ImageNet (Stanford CS231N): 200 ImageNet classes at 64 x 64, split by class 128 / 32 / 40.

The split by class is ours: the original has the same classes in train and val. It keeps the classes
of MiniImageNet on their sides, so that what learns from one's train classes is tested fairly on the
other; the other 175 classes are dealt out in an order fixed by a hash of their wnids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8

from priors_shared.datasets.base import (
    ImageDataset,
    check_image_size,
    check_split,
    resolve_data_root,
)
from priors_shared.datasets.image_folder import subfolders
from priors_shared.datasets.miniimagenet import MINI_IMAGENET_CLASSES
from priors_shared.datasets.packed import (
    MOSAICS,
    channels_first,
    first_tiles,
    read_mosaics,
    read_packed,
    read_rgb,
)
from priors_shared.errors import UserError

PACKED = Path("tiny_imagenet") / "tiny_imagenet_64.npz"
FOLDER = Path("tiny-imagenet-200")
SPLIT_SIZES = {"train": 128, "val": 32, "test": 40}
CLASSES = sum(SPLIT_SIZES.values())
AGAIN = "unpack tiny-imagenet-200.zip again"
HOW_TO_GET = (
    "Tiny-ImageNet not found under {root}. Download cs231n.stanford.edu/tiny-imagenet-200.zip, "
    "unpack it into ROOT and give --data-root ROOT (or set PRIORS_DATA): the images then lie in "
    "ROOT/tiny-imagenet-200/train/WNID/images; ROOT/tiny_imagenet/tiny_imagenet_64.npz is read "
    "too. --dataset glyphs needs no download."
)


def load_tiny_imagenet(
    split: str = "train", data_root: str | Path | None = None, image_size: int = 64
) -> ImageDataset:
    """Tiny-ImageNet, RGB: every labelled image of each of 128 / 32 / 40 classes, or of all 200.

    split: "train", "val", "test" (classes; see `split_wnids`: our own split) or "all".
    data_root: the folder that holds tiny_imagenet/tiny_imagenet_64.npz (80 images a class), or
    tiny-imagenet-200 as unpacked (550: its train and val joined); None means PRIORS_DATA.
    image_size: pixels; other than 64 by bicubic resize, antialiased.
    class_names: wnid and first word, such as "n01443537 goldfish"; sorted.
    Raises UserError when neither is there, it is incomplete, or an image cannot be read.
    """
    check_split(split)
    check_image_size(image_size)
    root = resolve_data_root(data_root)
    paths: list[Path] = []
    if root is not None and (root / PACKED).is_file():
        pixels, targets, names = _read_packed(root / PACKED, split, image_size)
        source = "packed mosaics (JPEG): 70 train and 10 val images a class"
    elif root is not None and (root / FOLDER).is_dir():
        paths, targets, names = _list_files(root / FOLDER, split)
        pixels = np.stack([read_rgb(path, image_size, AGAIN) for path in paths])
        source = "the original folders, train and val"
    else:
        raise UserError(HOW_TO_GET.format(root=root or "PRIORS_DATA, which is not set"))
    return ImageDataset(
        name="tiny-imagenet",
        images=channels_first(pixels),
        targets=torch.from_numpy(targets),
        class_names=tuple(names),
        split=split,
        source=source,
        paths=tuple(map(str, paths)),
    )


def split_wnids(wnids: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The 200 wnids as train / val / test classes: 128 / 32 / 40, and sorted, whatever their order.

    MiniImageNet's classes stay on their sides; the rest follows the order of SHA-256(wnid).
    Raises UserError for another number of classes: it would change who stands where.
    """
    if len(wnids) != CLASSES:
        raise UserError(f"{len(wnids)} of the {CLASSES} classes of Tiny-ImageNet found: {AGAIN}")
    mini = {
        split: [wnid for wnid in wnids if wnid in listed]
        for split, listed in MINI_IMAGENET_CLASSES.items()
    }
    others = set(wnids).difference(*mini.values())
    dealt = iter(sorted(others, key=lambda wnid: hashlib.sha256(wnid.encode()).digest()))
    return {
        split: tuple(sorted([*mini[split], *islice(dealt, size - len(mini[split]))]))
        for split, size in SPLIT_SIZES.items()
    }


def _wnids_of(split: str, wnids: Collection[str]) -> tuple[str, ...]:
    splits = split_wnids(wnids)
    return tuple(sorted(wnids)) if split == "all" else splits[split]


def _class_name(wnid: str, words: str) -> str:
    return f"{wnid} {words.partition(',')[0]}".strip()


def _read_packed(
    path: Path, split: str, side: int
) -> tuple[UInt8[np.ndarray, "items side side 3"], Int[np.ndarray, " items"], list[str]]:
    packed = read_packed(path, (*MOSAICS, "wnid", "class_words"))
    words = dict(zip(packed["wnid"].tolist(), packed["class_words"].tolist(), strict=True))
    wnids = list(words)
    chosen = _wnids_of(split, wnids)
    labels = sorted(wnids.index(wnid) for wnid in chosen)
    mosaics = np.flatnonzero(np.isin(packed["label"][first_tiles(packed)], labels))
    pixels, of_item = read_mosaics(packed, mosaics, side)
    return pixels, np.searchsorted(labels, of_item), [_class_name(w, words[w]) for w in chosen]


def _list_files(
    folder: Path, split: str
) -> tuple[list[Path], Int[np.ndarray, " items"], list[str]]:
    """Each image of the split's classes, its class, and the classes' names."""
    train = folder / "train"
    wnids = [child.name for child in subfolders(train)] if train.is_dir() else []
    words = dict(_rows(folder / "words.txt"))
    files: dict[str, list[Path]] = {
        wnid: sorted((train / wnid / "images").glob("*.JPEG")) for wnid in _wnids_of(split, wnids)
    }
    for wnid, listed in files.items():
        if not listed:
            raise UserError(f"{train / wnid / 'images'} holds no image: {AGAIN}")
    for name, wnid in _rows(folder / "val" / "val_annotations.txt"):
        if wnid in files:
            files[wnid].append(folder / "val" / "images" / name)
    targets = np.repeat(np.arange(len(files)), [len(listed) for listed in files.values()])
    paths = [path for listed in files.values() for path in listed]
    return paths, targets, [_class_name(wnid, words.get(wnid, "")) for wnid in files]


def _rows(path: Path) -> list[tuple[str, str]]:
    """The first two columns of a file of the archive."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [(row[0], row[1]) for row in (line.split("\t") for line in lines)]
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"cannot read {path} ({error}): {AGAIN}") from error
