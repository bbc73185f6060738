"""Online few-shot episodes, sampled by the batch: one gather on a tensor that lives on the device.

The protocol (thesis 2.3.1): T = ((x_1, null), (x_2, y_1), ..., (x_t, y_{t-1})), t = ways x shots. With a
label delay d, the label of x_i arrives at step i + d (d = 1 is the thesis' protocol).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from priors_shared.datasets.base import ImageDataset, as_float
from priors_shared.errors import UserError

NULL_LABEL = -1
LabelOrder = Literal["balanced", "iid"]


@dataclass(frozen=True)
class OnlineStreams:
    """Which item stands where in a batch of streams, time first.

    labels: the slot (0..ways-1) of each image; what must be predicted.
    feedback: the label that arrives with each image: labels delayed by `delay` steps, NULL_LABEL before.
    seen: how often the image's class occurred earlier in its stream: the k of k-shot (thesis A.1.3).
    items: index of each image in the dataset.
    """

    labels: Int[Tensor, "time batch"]
    feedback: Int[Tensor, "time batch"]
    seen: Int[Tensor, "time batch"]
    items: Int[Tensor, "time batch"]


@dataclass(frozen=True)
class OnlineEpisodes(OnlineStreams):
    """A batch of streams with their images: float32 in [0, 1]."""

    images: Float[Tensor, "time batch channels height width"]


def delay_labels(labels: Int[Tensor, "time batch"], delay: int) -> Int[Tensor, "time batch"]:
    """Labels as they arrive: `delay` steps late, NULL_LABEL until then."""
    feedback = torch.full_like(labels, NULL_LABEL)
    feedback[delay:] = labels[: max(len(labels) - delay, 0)]
    return feedback


def count_earlier(labels: Int[Tensor, "time batch"], ways: int) -> Int[Tensor, "time batch"]:
    """How often each step's label occurred before that step."""
    one_hot = torch.nn.functional.one_hot(labels, ways)  # (time, batch, ways)
    earlier = one_hot.cumsum(0) - one_hot
    return earlier.gather(-1, labels.unsqueeze(-1)).squeeze(-1)


class OnlineEpisodeSampler:
    """Draws batches of k-way N-shot streams from a dataset's classes.

    order "balanced": each class exactly `shots` times, shuffled (the thesis' protocol; it leaks: see
    `memory_adapt.evaluation.blind_bound`). order "iid": every label drawn uniformly, same length.
    Which class gets which label slot is drawn anew for every stream.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        *,
        ways: int,
        shots: int,
        order: LabelOrder = "balanced",
        delay: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        if delay < 1:
            raise UserError(f"label delay must be at least 1 step, got {delay}")
        if dataset.classes < ways:
            raise UserError(
                f"{dataset.name} has {dataset.classes} classes, fewer than the {ways} ways asked for"
            )
        counts = torch.bincount(dataset.targets, minlength=dataset.classes)
        if int(counts.min()) < shots:
            poor = int(counts.argmin())
            raise UserError(
                f"class {dataset.class_names[poor]!r} of {dataset.name} has {int(counts.min())} images, "
                f"fewer than the {shots} shots asked for: lower --shots or add images"
            )
        self.ways, self.shots, self.order, self.delay = ways, shots, order, delay
        self.device = torch.device(device)
        self._images: UInt8[Tensor, "items channels height width"] = dataset.images.to(self.device)
        # A class' items stand in a run of rows: first[c] .. first[c] + count[c].
        self._item_of_row = torch.argsort(dataset.targets, stable=True).to(self.device)
        self._count = counts.to(self.device)
        self._first = (counts.cumsum(0) - counts).to(self.device)
        self._most = int(counts.max())

    @property
    def steps(self) -> int:
        return self.ways * self.shots

    def sample(self, batch: int, generator: torch.Generator) -> OnlineEpisodes:
        """`batch` streams with their images, drawn as `sample_streams` draws them."""
        streams = self.sample_streams(batch, generator)
        return OnlineEpisodes(**vars(streams), images=as_float(self._images[streams.items]))

    def sample_streams(self, batch: int, generator: torch.Generator) -> OnlineStreams:
        """`batch` streams without their images (a caller may hold features of the items instead).

        All randomness comes from `generator`, a CPU generator: every device sees the same streams.
        """
        labels = self._draw_labels(batch, generator).to(self.device)  # (T, B)
        seen = count_earlier(labels, self.ways)
        classes = _distinct(batch, self.ways, len(self._count), generator).to(self.device)  # (B, W)
        # One random order of each class' images: a class that recurs shows another drawing each time.
        shuffled = torch.rand(batch, self.ways, self._most, generator=generator).to(self.device)
        count = self._count[classes]  # (B, W)
        beyond = torch.arange(self._most, device=self.device) >= count.unsqueeze(-1)
        order = shuffled.masked_fill(beyond, 2.0).argsort(
            -1
        )  # (B, W, most), a class' own items first
        stream = torch.arange(batch, device=self.device).expand_as(labels)
        nth = seen % count[stream, labels]  # an iid stream may exhaust a class: then it starts over
        items = self._item_of_row[self._first[classes[stream, labels]] + order[stream, labels, nth]]
        return OnlineStreams(
            labels=labels,
            feedback=delay_labels(labels, self.delay),
            seen=seen,
            items=items,
        )

    def _draw_labels(self, batch: int, generator: torch.Generator) -> Int[Tensor, "time batch"]:
        if self.order == "iid":
            return torch.randint(self.ways, (self.steps, batch), generator=generator)
        each_n_times = torch.arange(self.ways).repeat_interleave(self.shots)
        return each_n_times[torch.rand(self.steps, batch, generator=generator).argsort(0)]


def _distinct(rows: int, k: int, n: int, generator: torch.Generator) -> Int[Tensor, "rows k"]:
    """k distinct numbers below n in random order, per row."""
    if n <= 4 * k:
        return torch.rand(rows, n, generator=generator).argsort(-1)[:, :k]
    drawn = torch.randint(n, (rows, k), generator=generator)
    while True:  # redraw rows with a repetition: far cheaper than a permutation of n per row
        ordered = drawn.sort(-1).values
        repeated = (ordered[:, 1:] == ordered[:, :-1]).any(-1)
        if not repeated.any():
            return drawn
        drawn[repeated] = torch.randint(n, (int(repeated.sum()), k), generator=generator)


def generator_for(seed: int, *path: int) -> torch.Generator:
    """A generator that depends only on the seed and a path of numbers (stage, step, ...).

    Counter-based seeding: a resumed run draws the same streams without any stored sampler state.
    """
    import numpy as np

    sequence = np.random.SeedSequence(seed, spawn_key=path)  # a plain list ignores trailing zeros
    state = sequence.generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
