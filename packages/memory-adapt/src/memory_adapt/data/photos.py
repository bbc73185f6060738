"""Photos as features of a frozen encoder, and the classes that learners of photos train on.

One training set serves all evaluations, so it holds none of their test classes: those of CIFAR-FS, of FC100 (whose
test classes are among CIFAR-FS's training classes, and the reverse), of Tiny-ImageNet and of PACS, under this or
another name. The encoder itself was trained on ImageNet, whose classes overlap all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from priors_shared.datasets import ImageDataset, load_dataset
from priors_shared.encoders import Encoder, encode
from priors_shared.episodes import OnlineEpisodes, OnlineEpisodeSampler

PHOTOS = "photos"
"""The training set's name: its splits are train and val."""
CIFAR_SPLITS = ("cifar-fs", "fc100")
PACS_DOMAINS = ("photo", "art_painting", "cartoon", "sketch")
SAME_AS_TEST = {
    "bus": "Tiny-ImageNet's school bus",
    "house": "PACS",
    "elephant": "PACS, Tiny-ImageNet",
    "lion": "Tiny-ImageNet",
    "n02085620 Chihuahua": "PACS's dog",
    "n02094433 Yorkshire terrier": "PACS's dog",
    "n02099712 Labrador retriever": "PACS's dog",
    "n02106662 German shepherd": "PACS's dog",
    "n02113799 standard poodle": "PACS's dog",
    "n02206856 bee": "FC100",
    "n02233338 cockroach": "FC100",
    "n02165456 ladybug": "FC100's beetle",
    "n02279972 monarch": "FC100's butterfly",
    "n07720875 bell pepper": "CIFAR-FS's sweet pepper",
    "n03902125 pay-phone": "CIFAR-FS's telephone",
    "n03179701 desk": "CIFAR-FS's table",
    "n03201208 dining table": "CIFAR-FS's table",
    "n01944390 snail": "CIFAR-FS",
}
"""Classes of the sources that a test has, too: left out of training and validation."""


@dataclass(frozen=True)
class FeatureSet:
    """A data set's features, with its items by class.

    items: the data set, each image reduced to one pixel: samplers need its classes alone.
    """

    features: Float[Tensor, "items features"]
    items: ImageDataset

    def select_classes(self, classes: Sequence[int]) -> FeatureSet:
        """Only these classes, renumbered 0.. in the given order."""
        rows = torch.cat([self.items.items_of(c) for c in classes])
        return FeatureSet(self.features[rows], self.items.select_classes(classes))


class FeatureSampler(OnlineEpisodeSampler):
    """Streams whose images are features, (features, 1, 1): each item is encoded once, however often it is drawn."""

    def __init__(self, data: FeatureSet, **options: Any) -> None:
        super().__init__(data.items, **options)
        self.features = data.features.to(self.device)

    def sample(self, batch: int, generator: torch.Generator) -> OnlineEpisodes:
        """As `OnlineEpisodeSampler`."""
        streams = self.sample_streams(batch, generator)
        features = self.features[streams.items][..., None, None]
        return OnlineEpisodes(**vars(streams), images=features)


def encoded(dataset: ImageDataset, encoder: Encoder, cache: Path | None = None) -> FeatureSet:
    """The features of a data set, kept in the cache (see `encode`)."""
    features = encode(encoder, dataset.images, cache=cache)
    return FeatureSet(features, replace(dataset, images=dataset.images[..., :1, :1].clone()))


def joined(parts: Sequence[FeatureSet], name: str, split: str) -> FeatureSet:
    """Several sets' classes side by side."""
    targets: list[Tensor] = []
    names: list[str] = []
    for part in parts:
        targets.append(part.items.targets + len(names))
        names += part.items.class_names
    features = torch.cat([part.features for part in parts])
    items = ImageDataset(
        name=name,
        images=torch.zeros(len(features), 1, 1, 1, dtype=torch.uint8),
        targets=torch.cat(targets),
        class_names=tuple(names),
        split=split,
    )
    return FeatureSet(features, items)


def cifar_classes(split: str) -> tuple[str, ...]:
    """CIFAR-100's classes of the training set's split: train, or val (validation of CIFAR-FS or of FC100)."""
    from priors_shared.datasets.cifar import CIFAR_FS_CLASSES
    from priors_shared.datasets.fc100 import FC100_CLASSES

    held = {*CIFAR_FS_CLASSES["test"], *FC100_CLASSES["test"]}
    validation = {*CIFAR_FS_CLASSES["val"], *FC100_CLASSES["val"]} - held
    every = {name for names in CIFAR_FS_CLASSES.values() for name in names}
    chosen = validation if split == "val" else every - held - validation
    return tuple(sorted(chosen - SAME_AS_TEST.keys()))


def load_features(
    name: str,
    split: str,
    encoder: Encoder,
    *,
    data_root: Path | None = None,
    cache: Path | None = None,
) -> FeatureSet:
    """The features of a data set by name, or of the training set `PHOTOS`.

    Raises UserError as `load_dataset`.
    """
    if name in CIFAR_SPLITS:  # the same images are not encoded twice
        classes = load_dataset(name, split, data_root).class_names
        every = load_features("cifar100", "all", encoder, data_root=data_root, cache=cache)
        chosen = every.select_classes([every.items.class_names.index(c) for c in classes])
        return FeatureSet(chosen.features, replace(chosen.items, name=name, split=split))
    if name != PHOTOS:
        return encoded(load_dataset(name, split, data_root), encoder, cache)
    cifar = encoded(load_dataset("cifar100", "all", data_root), encoder, cache)
    tiny = encoded(load_dataset("tiny-imagenet", split, data_root), encoder, cache)
    place = {c: i for i, c in enumerate(cifar.items.class_names)}
    kept = [i for i, c in enumerate(tiny.items.class_names) if c not in SAME_AS_TEST]
    parts = [
        cifar.select_classes([place[c] for c in cifar_classes(split)]),
        tiny.select_classes(kept),
    ]
    return joined(parts, PHOTOS, split)
