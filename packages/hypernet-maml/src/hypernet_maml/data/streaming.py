"""Images read from their folders while training: ImageNet, or any data set larger than the memory.

ROOT/train/CLASS/FILE and ROOT/val/CLASS/FILE, as torchvision's ImageFolder. Crops are those of He et al. 2016 as
torchvision's references have them: random resized crop and flip to train, the middle of a 256 : 224
enlargement to validate. A file that cannot be read is logged as a warning and left out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hypernet_maml.config import NetworkConfig
from hypernet_maml.data.interface import Batch, ImageSource
from priors_shared.datasets import resolve_data_root
from priors_shared.episodes import generator_for
from priors_shared.errors import UserError

if TYPE_CHECKING:
    from torchvision.datasets import ImageFolder

_LOG = logging.getLogger(__name__)
IMAGENET, STREAM = "imagenet", "stream:"
STATISTICS_IMAGES = 2048
ENLARGE = 256 / 224

Item = tuple[UInt8[Tensor, "channels height width"], int] | None


class StreamedImages(ImageSource):
    """One folder of class folders.

    The augmentation of an image depends only on (seed, epoch, its index): neither on the number of
    reading processes nor on where a run was resumed.
    """

    def __init__(self, folder: ImageFolder, image_size: int, workers: int) -> None:
        self.name, self.classes = str(folder.root), len(folder.classes)
        self.folder, self.image_size, self.workers = folder, image_size, workers

    def __len__(self) -> int:
        return len(self.folder)

    def epoch(
        self, items: Int[Tensor, " items"], batch: int, *, path: tuple[int, ...], augment: bool
    ) -> Iterator[Batch]:
        return self._load(items.tolist(), batch, path if augment else None)

    def batches(self, batch: int) -> Iterator[Batch]:
        return self._load(range(len(self)), batch, None)

    def sample(self) -> UInt8[Tensor, "items channels height width"]:
        count = min(STATISTICS_IMAGES, len(self))
        items = torch.randperm(len(self), generator=generator_for(0))[:count]
        return torch.cat([images for images, _ in self._load(items.tolist(), 256, None)])

    def _load(
        self, items: Sequence[int], batch: int, path: tuple[int, ...] | None
    ) -> Iterator[Batch]:
        loader: DataLoader[Item] = DataLoader(
            _Decoded(self.folder, self.image_size, path),
            batch_size=batch,
            sampler=items,
            num_workers=self.workers,
            collate_fn=_collated,
            generator=torch.Generator(),  # else it draws from the global one
        )
        return (loaded for loaded in loader if loaded is not None)


class _Decoded(Dataset[Item]):
    """Images cut to size, uint8; None for a file that cannot be read."""

    def __init__(self, folder: ImageFolder, image_size: int, path: tuple[int, ...] | None) -> None:
        from torchvision.transforms import v2

        self.folder, self.path = folder, path
        steps: list[Any] = [
            v2.Resize(round(image_size * ENLARGE), antialias=True),
            v2.CenterCrop(image_size),
        ]
        if path is not None:
            steps = [v2.RandomResizedCrop(image_size, antialias=True), v2.RandomHorizontalFlip()]
        self.transform = v2.Compose([*steps, v2.PILToTensor()])

    def __getitem__(self, index: int) -> Item:
        file, target = self.folder.samples[index]
        try:
            image = self.folder.loader(file)
        except (OSError, SyntaxError, ValueError) as error:
            _LOG.warning("skipped %s: %s", file, error)
            return None
        with torch.random.fork_rng(devices=[]):
            if self.path is not None:
                torch.manual_seed(generator_for(*self.path, index).initial_seed())
            return self.transform(image), target


def _collated(items: list[Item]) -> Batch | None:
    readable = [item for item in items if item is not None]
    if not readable:
        return None
    images, targets = zip(*readable, strict=True)
    return torch.stack(images), torch.tensor(targets)


def is_streamed(name: str) -> bool:
    """Whether a data set of this name is read while training."""
    return name == IMAGENET or name.startswith(STREAM)


def streamed_sources(
    name: str, data_root: str | Path | None, network: NetworkConfig, *, workers: int
) -> tuple[StreamedImages, StreamedImages]:
    """Training and validation images of "imagenet" (below the data root) or "stream:PATH".

    Raises UserError: torchvision missing, no such folders, other classes in val than in train, or a
    network for images that are not in colour.
    """
    try:
        from torchvision.datasets import ImageFolder
    except ImportError:
        raise UserError(
            f"dataset: {name} needs torchvision: pip install 'hypernet-maml[imagenet]'"
        ) from None
    if network.channels != 3:
        raise UserError(f"dataset: {name} has colour images: set channels to 3")
    if name.startswith(STREAM):
        root = Path(name.removeprefix(STREAM)).expanduser()
    else:
        found = resolve_data_root(data_root)
        if found is None:
            raise UserError(
                "ImageNet not found: unpack it into ROOT/imagenet/train/CLASS and ROOT/imagenet/val/CLASS and "
                "name ROOT by data_root (or the environment variable PRIORS_DATA)"
            )
        root = found / name
    folders: list[ImageFolder] = []
    for part in ("train", "val"):
        if not (root / part).is_dir():
            raise UserError(f"{root / part} is not there: put each class' images in {part}/CLASS")
        try:
            folders.append(ImageFolder(str(root / part)))
        except FileNotFoundError as error:
            raise UserError(f"{root / part}: {' '.join(str(error).split())}") from None
    train, val = folders
    if train.classes != val.classes:
        differ = sorted(set(train.classes) ^ set(val.classes))
        raise UserError(
            f"{root}: train and val hold different classes ({', '.join(differ[:3])}): give both the same"
        )
    size = network.image_size
    return StreamedImages(train, size, workers), StreamedImages(val, size, workers)
