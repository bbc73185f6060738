"""CIFAR-100 (Krizhevsky 2009) and CIFAR-FS (Bertinetto et al. 2019): its classes, 64 / 16 / 20.

Also what CIFAR-10 and CIFAR-100 have in common: `load_cifar` reads either one's files.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8

from priors_shared.datasets.base import ImageDataset, check_split, resolve_data_root
from priors_shared.datasets.packed import (
    MOSAICS,
    channels_first,
    first_tiles,
    read_mosaics,
    read_packed,
)
from priors_shared.errors import UserError


@dataclass(frozen=True, kw_only=True)
class CifarFiles:
    """Where CIFAR-10 or CIFAR-100 lies under the data root, and what its batches call things."""

    title: str
    packed: Path
    quality: int
    """JPEG quality of the packed mosaics."""
    archive: str
    folder: Path
    """What the archive unpacks to; torchvision keeps the same folder."""
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    labels: str
    names: str


CIFAR100 = CifarFiles(
    title="CIFAR-100",
    packed=Path("cifar100") / "cifar100.npz",
    quality=93,
    archive="cifar-100-python.tar.gz",
    folder=Path("cifar-100-python"),
    train=("train",),
    test=("test",),
    meta="meta",
    labels="fine_labels",
    names="fine_label_names",
)
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
    "{title} not found under {root}. Download {archive} from "
    "www.cs.toronto.edu/~kriz/cifar.html, unpack it into ROOT and give --data-root ROOT (or set "
    "PRIORS_DATA); torchvision.datasets.{torchvision}(ROOT, download=True) fills the same folder, "
    "and ROOT/{packed} is read too. --dataset glyphs needs no download."
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
    return load_cifar(CIFAR100, split, data_root, classes)


def load_cifar(
    files: CifarFiles,
    split: str,
    data_root: str | Path | None,
    classes: Sequence[str] | None = None,
) -> ImageDataset:
    """CIFAR-10 or CIFAR-100, packed or as downloaded: see `load_cifar100`."""
    check_split(split, ("train", "test", "all"))
    root = resolve_data_root(data_root)
    if root is not None and (root / files.packed).is_file():
        pixels, targets, names = _read_packed(files, root, split, classes)
        source = f"packed mosaics (JPEG, quality {files.quality})"
    elif root is not None and (root / files.folder).is_dir():
        pixels, targets, names = _read_batches(files, root, split)
        source = "the original python batches"
    else:
        raise UserError(
            HOW_TO_GET.format(
                title=files.title,
                root=root or "PRIORS_DATA, which is not set",
                archive=files.archive,
                torchvision=files.title.replace("-", ""),
                packed=files.packed.as_posix(),
            )
        )
    dataset = ImageDataset(
        name=files.title.replace("-", "").lower(),
        images=channels_first(pixels),
        targets=torch.from_numpy(targets),
        class_names=tuple(names),
        split=split,
        source=source,
    )
    if classes is None:
        return dataset
    return dataset.select_classes([_place(files, name, names) for name in classes], split=split)


_Arrays = tuple[UInt8[np.ndarray, "items 32 32 3"], Int[np.ndarray, " items"], list[str]]


def _place(files: CifarFiles, name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise UserError(f"{files.title} has no class {name!r}: it has {', '.join(names)}")
    return names.index(name)


def _read_packed(
    files: CifarFiles, root: Path, split: str, classes: Sequence[str] | None
) -> _Arrays:
    """Only the mosaics that hold what is asked for: to decode all takes seconds."""
    packed = read_packed(root / files.packed, (*MOSAICS, "split", "class_names"))
    names = [str(name) for name in packed["class_names"]]
    wanted = [_place(files, name, names) for name in (names if classes is None else classes)]
    first = first_tiles(packed)  # a mosaic holds one class of one of the original splits
    is_test = packed["split"][first] == 1
    in_split = np.full(len(first), True) if split == "all" else is_test == (split == "test")
    chosen = np.flatnonzero(in_split & np.isin(packed["label"][first], wanted))
    return *read_mosaics(packed, chosen), names


def _read_batches(files: CifarFiles, root: Path, split: str) -> _Arrays:
    parts = {"train": files.train, "test": files.test, "all": files.train + files.test}[split]
    batches = [_unpickle(files, root / files.folder / part) for part in parts]
    meta = _unpickle(files, root / files.folder / files.meta)
    try:
        pixels = np.concatenate([batch["data"] for batch in batches])
        targets = np.concatenate([batch[files.labels] for batch in batches])
        names = list(meta[files.names])
    except KeyError as error:
        raise UserError(
            f"{root / files.folder} lacks {error}: unpack {files.archive} again"
        ) from error
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), targets.astype(np.int64), names


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
        raise pickle.UnpicklingError(f"{module}.{name} has no place in CIFAR")


def _unpickle(files: CifarFiles, path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return dict(_ArraysOnly(file, encoding="latin1").load())
    except (OSError, pickle.UnpicklingError, EOFError, ValueError, TypeError) as error:
        raise UserError(f"cannot read {path} ({error}): unpack {files.archive} again") from error
