"""Images as a network takes them: training and validation sets, and augmentation."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from hypernet_maml.config import Domain, NetworkConfig
from hypernet_maml.data.augment import crop_and_flip
from hypernet_maml.data.interface import Batch, ImageSource
from hypernet_maml.data.streaming import is_streamed, streamed_sources
from priors_shared.datasets import FOLDER, ImageDataset, load_dataset, subset_per_class
from priors_shared.episodes import generator_for
from priors_shared.errors import UserError

_LOG = logging.getLogger(__name__)
SAME_CLASSES = ("cifar10", "cifar100")
"""Datasets whose test images are of the training classes; the others' splits are by class."""
RESIZED = ("miniimagenet", "tiny-imagenet")
HELD_OUT = 10
"""Of a training set split by class, one image in so many is kept for validation."""


def load_images(
    name: str,
    split: str,
    data_root: str | Path | None,
    network: NetworkConfig,
    *,
    adjust: bool = False,
) -> ImageDataset:
    """The dataset of that name (see `load_dataset`), with images that fit the network.

    adjust: for a network trained on other images: grey ones become three equal channels, smaller ones
    are put in the middle of black.

    Files of "folder:PATH" that cannot be read are logged as warnings. Raises UserError when another
    dataset's images have other channels or another size, or it is not there.
    """
    options: dict[str, object] = {}
    if name.startswith(FOLDER):
        options = {
            "image_size": network.image_size,
            "channels": network.channels,
            "invert": False,
        }
    elif name in RESIZED or name.startswith("pacs-"):
        options = {"image_size": network.image_size}
    dataset = load_dataset(name, split, data_root, **options)
    for path, reason in dataset.skipped:
        _LOG.warning("skipped %s: %s", path, reason)
    wanted = (network.channels, network.image_size, network.image_size)
    if adjust:
        dataset = _adjusted(dataset, network)
    if dataset.image_shape != wanted:
        have, want = (" x ".join(map(str, shape)) for shape in (dataset.image_shape, wanted))
        raise UserError(
            f"{dataset.name} has images of {have}, but the network is for {want}: set channels and "
            "image_size to the data's, or use another dataset"
        )
    return dataset


def _adjusted(dataset: ImageDataset, network: NetworkConfig) -> ImageDataset:
    images = dataset.images
    if images.shape[1] == 1:
        images = images.expand(-1, network.channels, -1, -1)
    missing = network.image_size - images.shape[-1]
    if missing > 0:
        before, after = missing // 2, missing - missing // 2
        images = F.pad(images, (before, after, before, after))
    return replace(dataset, images=images.contiguous())


class InMemory(ImageSource):
    """An `ImageDataset`, augmented by `crop_and_flip`."""

    def __init__(self, dataset: ImageDataset) -> None:
        self.dataset = dataset
        self.name, self.classes = dataset.name, dataset.classes

    def __len__(self) -> int:
        return len(self.dataset)

    def epoch(
        self, items: Int[Tensor, " items"], batch: int, *, path: tuple[int, ...], augment: bool
    ) -> Iterator[Batch]:
        generator = generator_for(*path)
        for chosen in items.split(batch):
            images = self.dataset.images[chosen]
            if augment:
                images = crop_and_flip(images, generator)
            yield images, self.dataset.targets[chosen]

    def batches(self, batch: int) -> Iterator[Batch]:
        yield from zip(
            self.dataset.images.split(batch), self.dataset.targets.split(batch), strict=True
        )

    def sample(self) -> UInt8[Tensor, "items channels height width"]:
        return self.dataset.images


def classification_sources(
    name: str,
    data_root: str | Path | None,
    network: NetworkConfig,
    *,
    per_class: int | None,
    generator: torch.Generator,
    workers: int = 0,
) -> tuple[ImageSource, ImageSource]:
    """Images to train on and images of the same classes to validate on; see `classification_sets`.

    "imagenet" is DATA_ROOT/imagenet, "stream:PATH" any folder with train/CLASS and val/CLASS: too
    large for the memory, they are read by `workers` processes.
    """
    if is_streamed(name):
        if per_class is not None:
            raise UserError(f"per_class: {name} is read as a whole, leave this option out")
        return streamed_sources(name, data_root, network, workers=workers)
    train, val = classification_sets(
        name, data_root, network, per_class=per_class, generator=generator
    )
    return InMemory(train), InMemory(val)


def classification_sets(
    name: str,
    data_root: str | Path | None,
    network: NetworkConfig,
    *,
    per_class: int | None,
    generator: torch.Generator,
) -> tuple[ImageDataset, ImageDataset]:
    """Images to train on and images of the same classes to validate on, in memory.

    per_class: training images of each class, drawn at random; None: all.

    Raises UserError when a class has too few images.
    """
    train = load_images(name, "train", data_root, network)
    if name in SAME_CLASSES:
        val = load_images(name, "test", data_root, network)
        return _some(train, per_class, generator), val
    fewest = int(torch.bincount(train.targets, minlength=train.classes).min())
    if fewest < 2:
        raise UserError(f"{name}: each class needs 2 images or more, to train and to validate on")
    held_out, rest = split_per_class(train, max(1, fewest // HELD_OUT), generator)
    return _some(rest, per_class, generator), held_out


def domain_sets(
    held_out: Domain, data_root: str | Path | None, network: NetworkConfig
) -> tuple[ImageDataset, ImageDataset, ImageDataset]:
    """PACS: the official train and crossval lists of three domains, and all images of the held-out one."""
    others = [domain for domain in get_args(Domain) if domain != held_out]
    train, crossval = (
        _joined([load_images(f"pacs-{domain}", part, data_root, network) for domain in others])
        for part in ("train", "crossval")
    )
    return train, crossval, load_images(f"pacs-{held_out}", "all", data_root, network)


def _joined(datasets: list[ImageDataset]) -> ImageDataset:
    """One dataset of several with the same classes."""
    return ImageDataset(
        name=" + ".join(dataset.name for dataset in datasets),
        images=torch.cat([dataset.images for dataset in datasets]),
        targets=torch.cat([dataset.targets for dataset in datasets]),
        class_names=datasets[0].class_names,
        split=datasets[0].split,
        source=datasets[0].source,
    )


def _some(dataset: ImageDataset, per_class: int | None, generator: torch.Generator) -> ImageDataset:
    return dataset if per_class is None else subset_per_class(dataset, per_class, generator)


def split_per_class(
    dataset: ImageDataset, count: int, generator: torch.Generator
) -> tuple[ImageDataset, ImageDataset]:
    """`count` random images of each class, and the others.

    Raises UserError when a class has fewer.
    """
    chosen, rest = [], []
    for target in range(dataset.classes):
        items = dataset.items_of(target)
        if len(items) < count:
            raise UserError(
                f"class {dataset.class_names[target]!r} of {dataset.name} has {len(items)} images, "
                f"fewer than the {count} asked for"
            )
        shuffled = items[torch.randperm(len(items), generator=generator)]
        chosen.append(shuffled[:count].sort().values)
        rest.append(shuffled[count:].sort().values)
    return dataset.select_items(torch.cat(chosen)), dataset.select_items(torch.cat(rest))
