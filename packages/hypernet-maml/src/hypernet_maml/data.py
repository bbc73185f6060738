"""Images as a network takes them: training and validation sets, and augmentation."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from hypernet_maml.config import Domain, NetworkConfig
from priors_shared.datasets import FOLDER, ImageDataset, load_dataset, subset_per_class
from priors_shared.episodes import generator_for
from priors_shared.errors import UserError

_LOG = logging.getLogger(__name__)
SAME_CLASSES = ("cifar10", "cifar100")
"""Datasets whose test images are of the training classes; the others' splits are by class."""
RESIZED = ("miniimagenet", "tiny-imagenet")
HELD_OUT = 10
"""Of a training set split by class, one image in so many is kept for validation."""
IMAGENET, STREAM = "imagenet", "stream:"
PADDING = 4
CROP_SCALE, CROP_RATIO, GREY = (0.8, 1.0), (3 / 4, 4 / 3), 0.1
LUMA = (0.299, 0.587, 0.114)

Batch = tuple[UInt8[Tensor, "batch channels height width"], Int[Tensor, " batch"]]


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


class ImageSource(ABC):
    """Labelled images to train on or to validate on: in memory, or read when they are needed."""

    name: str
    classes: int

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def epoch(
        self, items: Int[Tensor, " items"], batch: int, *, path: tuple[int, ...], augment: bool
    ) -> Iterator[Batch]:
        """These items in this order, in batches; random crops and flips of `path` where `augment`.

        path: (seed, epoch, rank), all that augmentation depends on.
        """

    @abstractmethod
    def batches(self, batch: int) -> Iterator[Batch]:
        """All items in their order, as they are validated."""

    @abstractmethod
    def sample(self) -> UInt8[Tensor, "items channels height width"]:
        """Images to take channel statistics from."""


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
    if name == IMAGENET or name.startswith(STREAM):
        from hypernet_maml.streaming import streamed_sources

        if per_class is not None:
            raise UserError(f"--dataset {name} is read as a whole: leave --per-class out")
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


def crop_and_flip(
    images: UInt8[Tensor, "batch channels height width"], generator: torch.Generator
) -> UInt8[Tensor, "batch channels height width"]:
    """Each image shifted by up to 4 pixels, black coming in, and flipped or not: as He et al. 2016.

    One gather for the batch; all randomness from a CPU generator.
    """
    batch, _, height, width = images.shape
    shift = torch.randint(2 * PADDING + 1, (2, batch, 1), generator=generator)
    flip = torch.randint(2, (batch, 1), generator=generator).bool()
    row, column = torch.arange(height), torch.arange(width)
    columns = torch.where(flip, width - 1 - column, column)
    rows, columns = (row + shift[0]).to(images.device), (columns + shift[1]).to(images.device)
    padded = F.pad(images, (PADDING,) * 4)
    which = torch.arange(batch, device=images.device)
    return padded[which[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


def crop_and_grey(
    images: Float[Tensor, "batch channels height width"], generator: torch.Generator
) -> Float[Tensor, "batch channels height width"]:
    """A random part of each square image in its full size, and one image in ten in grey.

    A part has 0.8 to 1 of the area and sides of 3 : 4 to 4 : 3, as torchvision's RandomResizedCrop
    draws it: up to ten tries, else the whole image; bilinear.
    """
    batch = len(images)
    low, high = CROP_RATIO
    area = torch.empty(batch, 10).uniform_(*CROP_SCALE, generator=generator)
    ratio = torch.empty(batch, 10).uniform_(math.log(low), math.log(high), generator=generator)
    sides = torch.stack([area * ratio.exp(), area / ratio.exp()]).sqrt()  # (2: width, height)
    fits = (sides <= 1).all(0)
    first = fits.int().argmax(1, keepdim=True).expand(2, batch, 1)
    drawn = sides.gather(2, first).squeeze(2)
    side = torch.where(fits.any(1), drawn, 1.0)
    centre = (1 - side) * (2 * torch.rand(2, batch, generator=generator) - 1)
    parts = torch.zeros(batch, 2, 3)  # affine maps of [-1, 1]^2 into itself
    parts[:, 0, 0], parts[:, 1, 1] = side
    parts[:, :, 2] = centre.T
    grid = F.affine_grid(parts.to(images), list(images.shape), align_corners=False)
    cropped = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    grey = torch.rand(batch, generator=generator) < GREY
    if images.shape[1] == len(LUMA):
        light = (cropped * images.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
        cropped = torch.where(grey.to(images.device)[:, None, None, None], light, cropped)
    return cropped


def as_input(images: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """uint8 0 .. 255 to float32 0 .. 1."""
    return images.to(torch.float32) / 255
