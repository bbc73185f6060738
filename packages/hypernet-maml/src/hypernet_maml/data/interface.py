"""Where labelled images come from, whether they are in memory or not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from jaxtyping import Int, UInt8
from torch import Tensor

Batch = tuple[UInt8[Tensor, "batch channels height width"], Int[Tensor, " batch"]]


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
