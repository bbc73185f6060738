"""The one typed container that every image dataset becomes, and its class-disjoint splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from priors_shared.errors import UserError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ImageDataset:
    """Images in memory, grouped by class.

    images: uint8, `items channels height width`, 0..255 (characters: ink = 255).
    targets: int64, the class of each item, 0..classes-1.
    class_names: one name per class.
    skipped: (path or row, reason) of everything that could not be read; nothing goes silently.
    paths: the file of each item; empty where items have no files of their own.
    """

    name: str
    images: UInt8[Tensor, "items channels height width"]
    targets: Int[Tensor, " items"]
    class_names: tuple[str, ...]
    split: str = "all"
    skipped: tuple[tuple[str, str], ...] = ()
    source: str = ""
    paths: tuple[str, ...] = ()
    _by_class: tuple[Tensor, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.images) != len(self.targets):
            raise ValueError(f"{len(self.images)} images but {len(self.targets)} targets")
        if self.paths and len(self.paths) != len(self.targets):
            raise ValueError(f"{len(self.paths)} paths but {len(self.targets)} targets")
        if len(self) and not 0 <= int(self.targets.min()) <= int(self.targets.max()) < self.classes:
            raise ValueError(f"targets must lie in 0 .. {self.classes - 1}: one name per class")
        order = torch.argsort(self.targets, stable=True)
        counts = torch.bincount(self.targets, minlength=self.classes)
        object.__setattr__(self, "_by_class", order.split(counts.tolist()))  # frozen

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def items_of(self, target: int) -> Int[Tensor, " n"]:
        """Indices of the items of one class, in their stored order."""
        return self._by_class[target]

    def select_classes(self, classes: Sequence[int], split: str = "all") -> ImageDataset:
        """A dataset with only these classes, renumbered 0.. in the given order."""
        items = [self.items_of(c) for c in classes]
        targets = torch.cat([torch.full_like(index, new) for new, index in enumerate(items)])
        class_names = tuple(self.class_names[c] for c in classes)
        chosen = self.select_items(torch.cat(items))
        return replace(chosen, targets=targets, class_names=class_names, split=split)

    def select_items(self, items: Int[Tensor, " n"]) -> ImageDataset:
        """A dataset with only these items, in the given order; classes keep their numbers."""
        return replace(
            self,
            images=self.images[items],
            targets=self.targets[items],
            paths=tuple(self.paths[i] for i in items.tolist()) if self.paths else (),
        )


def subset_per_class(dataset: ImageDataset, n: int, generator: torch.Generator) -> ImageDataset:
    """`n` random images of each class, by class; the same generator draws the same images.

    Random, because stored orders group near-duplicates: the first n of a class are too alike.
    Raises UserError when n is less than 1 or a class has fewer than n images.
    """
    if n < 1:
        raise UserError(f"a subset needs at least 1 image per class, got {n}")
    drawn = []
    for target, name in enumerate(dataset.class_names):
        items = dataset.items_of(target)
        if len(items) < n:
            raise UserError(
                f"class {name!r} of {dataset.name} has {len(items)} images, fewer than the {n} "
                "per class asked for: ask for fewer or add images"
            )
        drawn.append(items[torch.randperm(len(items), generator=generator)[:n]])
    return dataset.select_items(torch.cat(drawn))


def check_split(split: str, choices: Sequence[str] = (*SPLITS, "all")) -> None:
    """Raise UserError unless `split` is one of the choices."""
    if split not in choices:
        raise UserError(f"unknown split {split!r}: choose {', '.join(choices)}")


def check_image_size(image_size: int) -> None:
    """Raise UserError unless an image can have this side."""
    if image_size < 1:
        raise UserError(f"image_size must be at least 1 pixel, got {image_size}")


def with_rotations(dataset: ImageDataset) -> ImageDataset:
    """Four times the classes: each class turned by 0, 90, 180, 270 degrees is a class of its own.

    Vinyals et al. 2016; thesis A.1.1. Applied after the split, so that all turns of a character
    stay on its side. Class r * classes + c is class c turned r times.
    """
    turned = [torch.rot90(dataset.images, r, dims=(2, 3)) for r in range(4)]
    targets = [dataset.targets + r * dataset.classes for r in range(4)]
    names = [f"{name}@{90 * r}" for r in range(4) for name in dataset.class_names]
    return ImageDataset(
        name=dataset.name,
        images=torch.cat(turned),
        targets=torch.cat(targets),
        class_names=tuple(names),
        split=dataset.split,
        skipped=dataset.skipped,
        source=dataset.source,
    )


def as_float(images: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """uint8 0..255 to float32 0..1."""
    return images.to(torch.float32).div_(255)


def resolve_data_root(data_root: str | Path | None) -> Path | None:
    """The folder of datasets: the argument, else the environment variable PRIORS_DATA or None."""
    import os

    root = data_root or os.environ.get("PRIORS_DATA")
    return Path(root) if root else None
