"""CIFAR-10 (Krizhevsky 2009): 10 classes, 50,000 training and 10,000 test images."""

from __future__ import annotations

from pathlib import Path

from priors_shared.datasets.base import ImageDataset
from priors_shared.datasets.cifar import CifarFiles, load_cifar

CIFAR10 = CifarFiles(
    title="CIFAR-10",
    packed=Path("cifar10") / "cifar10.npz",
    quality=90,
    archive="cifar-10-python.tar.gz",
    folder=Path("cifar-10-batches-py"),
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test=("test_batch",),
    meta="batches.meta",
    labels="labels",
    names="label_names",
)


def load_cifar10(split: str = "train", data_root: str | Path | None = None) -> ImageDataset:
    """CIFAR-10: 32 x 32 RGB, 10 classes in the original order.

    split: "train" (5000 images a class), "test" (1000) or "all" (6000): the same classes in each.
    data_root: the folder that holds cifar10/cifar10.npz, or cifar-10-batches-py as torchvision
    leaves it (read without torchvision); None means PRIORS_DATA.
    Raises UserError when neither is there, or a file cannot be read.
    """
    return load_cifar(CIFAR10, split, data_root)
