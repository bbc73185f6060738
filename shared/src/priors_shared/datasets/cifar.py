"""CIFAR-100 (Krizhevsky 2009) and CIFAR-FS (Bertinetto et al. 2019): its classes, 64 / 16 / 20."""

from __future__ import annotations

import io
import pickle
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
    everything = load_cifar100("all", data_root)
    wanted = everything.class_names if split == "all" else CIFAR_FS_CLASSES[split]
    missing = sorted(set(wanted) - set(everything.class_names))
    if missing:
        raise UserError(f"the CIFAR-100 in use lacks the class {missing[0]!r}: {everything.source}")
    classes = [everything.class_names.index(name) for name in wanted]
    return replace(everything.select_classes(classes, split=split), name="cifar-fs")


def load_cifar100(split: str = "train", data_root: str | Path | None = None) -> ImageDataset:
    """CIFAR-100: 32 x 32 RGB, the 100 fine classes in alphabetical order.

    split: "train" (500 images a class), "test" (100) or "all" (600): the same classes in each.
    data_root: the folder that holds cifar100/cifar100.npz, or cifar-100-python as torchvision
    leaves it (read without torchvision); None means PRIORS_DATA.
    Raises UserError when neither is there.
    """
    check_split(split, ("train", "test", "all"))
    root = resolve_data_root(data_root)
    if root is not None and (root / PACKED).is_file():
        images, targets, is_test, names = _read_packed(root / PACKED)
        source = "packed mosaics (JPEG, quality 93)"
    elif root is not None and (root / TORCHVISION).is_dir():
        images, targets, is_test, names = _read_batches(root / TORCHVISION)
        source = "the original python batches"
    else:
        raise UserError(HOW_TO_GET.format(root=root or "PRIORS_DATA, which is not set"))
    keep = np.full(len(targets), True) if split == "all" else is_test == (split == "test")
    return ImageDataset(
        name="cifar100",
        images=torch.from_numpy(np.ascontiguousarray(images[keep].transpose(0, 3, 1, 2))),
        targets=torch.from_numpy(targets[keep].astype(np.int64)),
        class_names=tuple(names),
        split=split,
        source=source,
    )


_Arrays = tuple[UInt8[np.ndarray, "items 32 32 3"], np.ndarray, np.ndarray, list[str]]


def _read_packed(path: Path) -> _Arrays:
    with np.load(path, allow_pickle=False) as packed:
        stored, offset = packed["jpeg_bytes"], packed["mosaic_offset"]
        count, columns = packed["mosaic_count"], int(packed["mosaic_cols"])
        targets, is_test = packed["label"], packed["split"] == 1
        names = [str(name) for name in packed["class_names"]]
    tiles = [
        read_mosaic(stored[start:stop].tobytes(), columns, int(tiles))
        for start, stop, tiles in zip(offset[:-1], offset[1:], count, strict=True)
    ]
    return np.concatenate(tiles), targets, is_test, names


def read_mosaic(jpeg: bytes, columns: int, tiles: int) -> UInt8[np.ndarray, "tiles side side 3"]:
    """The first `tiles` square tiles, row by row, of an image that is `columns` tiles wide."""
    from PIL import Image

    with Image.open(io.BytesIO(jpeg)) as image:
        mosaic = np.asarray(image.convert("RGB"))
    side = mosaic.shape[1] // columns
    grid = mosaic.reshape(mosaic.shape[0] // side, side, columns, side, 3)
    return grid.transpose(0, 2, 1, 3, 4).reshape(-1, side, side, 3)[:tiles]


def _read_batches(folder: Path) -> _Arrays:
    parts = [_unpickle(folder / part) for part in ("train", "test")]
    meta = _unpickle(folder / "meta")
    try:
        pixels = np.concatenate([part["data"] for part in parts])
        targets = np.concatenate([part["fine_labels"] for part in parts])
        is_test = np.repeat([False, True], [len(part["fine_labels"]) for part in parts])
        names = list(meta["fine_label_names"])
    except KeyError as error:
        raise UserError(f"{folder} lacks {error}: unpack cifar-100-python.tar.gz again") from error
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), targets, is_test, names


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
