"""CIFAR-100 (Krizhevsky 2009) and CIFAR-FS (Bertinetto et al. 2019): its classes, 64 / 16 / 20."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from priors_shared.datasets.base import ImageDataset, check_split, resolve_data_root
from priors_shared.errors import UserError

PACKED = Path("cifar100") / "cifar100.npz"
TORCHVISION = Path("cifar-100-python")  # what torchvision.datasets.CIFAR100(root) keeps there
CIFAR_FS_CLASSES: dict[str, tuple[str, ...]] = {
    split: tuple(names.split())
    for split, names in {
        "train": (
            "apple aquarium_fish bear bee bottle bowl boy bridge bus can castle caterpillar "
            "chair clock cloud cockroach couch cup dinosaur dolphin elephant forest girl "
            "hamster house kangaroo keyboard lawn_mower lion lizard lobster mountain mouse "
            "mushroom oak_tree orange orchid palm_tree pear pine_tree plate porcupine possum "
            "rabbit raccoon ray road seal shrew skunk skyscraper snake spider squirrel "
            "streetcar sunflower tank tiger train trout tulip turtle willow_tree wolf"
        ),
        "val": (
            "beaver beetle butterfly camel cattle crab crocodile flatfish lamp maple_tree "
            "motorcycle otter sea shark television tractor"
        ),
        "test": (
            "baby bed bicycle chimpanzee fox leopard man pickup_truck plain poppy rocket rose "
            "snail sweet_pepper table telephone wardrobe whale woman worm"
        ),
    }.items()
}
HOW_TO_GET = (
    "CIFAR-100 not found under {root}. Download cifar-100-python.tar.gz from "
    "www.cs.toronto.edu/~kriz/cifar.html, unpack it into ROOT and give --data-root ROOT (or set "
    "PRIORS_DATA); torchvision.datasets.CIFAR100(ROOT, download=True) fills the same folder, and "
    "ROOT/cifar100/cifar100.npz is read too. --dataset glyphs needs no download."
)


def load_cifar_fs(split: str = "train", data_root: str | Path | None = None) -> ImageDataset:
    """CIFAR-FS: 32 x 32 RGB, all 600 images of each of 64 / 16 / 20 classes.

    split: "train", "val", "test" (classes; the published lists) or "all".
    data_root: as for `load_cifar100`. Raises UserError when CIFAR-100 is not there.
    """
    check_split(split)
    classes = None if split == "all" else CIFAR_FS_CLASSES[split]
    return replace(load_cifar100("all", data_root, classes=classes), name="cifar-fs", split=split)


def load_cifar100(
    split: str = "train",
    data_root: str | Path | None = None,
    *,
    classes: Sequence[str] | None = None,
) -> ImageDataset:
    """CIFAR-100: 32 x 32 RGB, by its 100 fine classes.

    split: "train" (500 images a class), "test" (100) or "all" (600): the same classes in each.
    data_root: the folder that holds cifar100/cifar100.npz, or cifar-100-python as torchvision
    leaves it (read without torchvision); None means PRIORS_DATA.
    classes: names of the classes to load, in this order; None means all, alphabetically.
    Raises UserError when neither is there, or a class is not in CIFAR-100.
    """
    check_split(split, ("train", "test", "all"))
    root = resolve_data_root(data_root)
    if root is not None and (root / PACKED).is_file():
        images, targets, names = _read_packed(root / PACKED, split, classes)
        source = "packed mosaics (JPEG, quality 93)"
    elif root is not None and (root / TORCHVISION).is_dir():
        images, targets, names = _read_batches(root / TORCHVISION, split)
        source = "the original python batches"
    else:
        raise UserError(HOW_TO_GET.format(root=root or "PRIORS_DATA, which is not set"))
    dataset = ImageDataset(
        name="cifar100",
        images=torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).contiguous(),
        targets=torch.from_numpy(targets.astype(np.int64)),
        class_names=tuple(names),
        split=split,
        source=source,
    )
    if classes is None:
        return dataset
    return dataset.select_classes([_place(name, names) for name in classes], split=split)


_Arrays = tuple[UInt8[np.ndarray, "items 32 32 3"], np.ndarray, list[str]]


def _place(name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise UserError(f"CIFAR-100 has no class {name!r}: it has {', '.join(names)}")
    return names.index(name)


def _read_packed(path: Path, split: str, classes: Sequence[str] | None) -> _Arrays:
    """Only the mosaics that hold what is asked for: to decode all takes seconds."""
    with np.load(path, allow_pickle=False) as packed:
        stored, offset = packed["jpeg_bytes"], packed["mosaic_offset"]
        count, columns = packed["mosaic_count"], int(packed["mosaic_cols"])
        targets, is_test = packed["label"], packed["split"] == 1
        names = [str(name) for name in packed["class_names"]]
    wanted = range(len(names)) if classes is None else [_place(name, names) for name in classes]
    # A mosaic holds one class of one of the original splits: its first tile tells which.
    first = np.cumsum(count) - count
    in_split = np.full(len(count), True) if split == "all" else is_test[first] == (split == "test")
    chosen = np.flatnonzero(in_split & np.isin(targets[first], wanted))
    tiles = [
        read_mosaic(stored[offset[m] : offset[m + 1]].tobytes(), columns, int(count[m]))
        for m in chosen
    ]
    return np.concatenate(tiles), np.repeat(targets[first[chosen]], count[chosen]), names


def read_mosaic(jpeg: bytes, columns: int, tiles: int) -> UInt8[np.ndarray, "tiles side side 3"]:
    """The first `tiles` square tiles, row by row, of an image that is `columns` tiles wide."""
    from PIL import Image

    with Image.open(io.BytesIO(jpeg)) as image:
        mosaic = np.asarray(image.convert("RGB"))
    side = mosaic.shape[1] // columns
    grid = mosaic.reshape(mosaic.shape[0] // side, side, columns, side, 3)
    return grid.transpose(0, 2, 1, 3, 4).reshape(-1, side, side, 3)[:tiles]


def _read_batches(folder: Path, split: str) -> _Arrays:
    parts = [_unpickle(folder / part) for part in ("train", "test") if split in (part, "all")]
    meta = _unpickle(folder / "meta")
    try:
        pixels = np.concatenate([part["data"] for part in parts])
        targets = np.concatenate([part["fine_labels"] for part in parts])
        names = list(meta["fine_label_names"])
    except KeyError as error:
        raise UserError(f"{folder} lacks {error}: unpack cifar-100-python.tar.gz again") from error
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), targets, names


class _ArraysOnly(pickle.Unpickler):
    """A pickle may call anything; CIFAR's hold only containers, text, numbers and numpy arrays."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            "_reconstruct": np.empty(0).__reduce__()[0],  # its module moved in numpy 2
            "ndarray": np.ndarray,
            "dtype": np.dtype,
        }
        if module.partition(".")[0] == "numpy" and name in allowed:
            return allowed[name]
        if (module, name) == ("_codecs", "encode"):  # how Python 3 stores bytes for Python 2
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in CIFAR-100")


def _unpickle(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return dict(_ArraysOnly(file, encoding="latin1").load())
    except (OSError, pickle.UnpicklingError, EOFError, ValueError, TypeError) as error:
        raise UserError(
            f"cannot read {path} ({error}): unpack cifar-100-python.tar.gz again"
        ) from error
