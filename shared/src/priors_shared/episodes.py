"""Few-shot episodes, sampled by the batch: one gather on a tensor that lives on the device.

Online (thesis 2.3.1): T = ((x_1, null), (x_2, y_1), ..., (x_t, y_{t-1})), t = ways x shots. With a
label delay d, the label of x_i arrives at step i + d (d = 1 is the thesis' protocol).

Support and query (Vinyals et al. 2016): learn from ways x shots labelled images, then label others.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    groups: one for each class, such as its alphabet: a stream's classes are all of one group, drawn in proportion
    to its classes among those with enough of them.
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
        groups: Sequence[str] | None = None,
    ) -> None:
        if delay < 1:
            raise UserError(f"label delay must be at least 1 step, got {delay}")
        self._table = _ClassTable(dataset, ways, shots, f"{shots} shots", "--shots", device)
        if groups is not None:
            self._table.draw_within(groups)
        self.ways, self.shots, self.order, self.delay = ways, shots, order, delay
        self.device = self._table.device

    @property
    def steps(self) -> int:
        return self.ways * self.shots

    def sample(self, batch: int, generator: torch.Generator) -> OnlineEpisodes:
        """`batch` streams with their images, drawn as `sample_streams` draws them."""
        streams = self.sample_streams(batch, generator)
        return OnlineEpisodes(**vars(streams), images=self._table.images_of(streams.items))

    def sample_streams(self, batch: int, generator: torch.Generator) -> OnlineStreams:
        """`batch` streams without their images (a caller may hold features of the items instead).

        All randomness comes from `generator`, a CPU generator: every device sees the same streams.
        """
        labels = self._draw_labels(batch, generator).to(self.device)  # (T, B)
        seen = count_earlier(labels, self.ways)
        # One random order of each class' images: a class that recurs shows another drawing each time.
        rows, count = self._table.shuffled_rows(batch, generator)  # (B, W, most), (B, W)
        stream = torch.arange(batch, device=self.device).expand_as(labels)
        nth = seen % count[stream, labels]  # an iid stream may exhaust a class: then it starts over
        items = self._table.item_of_row[rows[stream, labels, nth]]
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


@dataclass(frozen=True)
class FewShotItems:
    """Which items make up a batch of tasks: `support` = ways x shots, `query` = ways x queries.

    Both are ordered by slot: 0, 0, ..., 1, 1, ... Which class has which slot is the task's own.

    support_labels, query_labels: the slot (0..ways-1) of each item.
    support_items, query_items: index of each item in the dataset; no item is in both.
    """

    support_labels: Int[Tensor, "tasks support"]
    query_labels: Int[Tensor, "tasks query"]
    support_items: Int[Tensor, "tasks support"]
    query_items: Int[Tensor, "tasks query"]


@dataclass(frozen=True)
class FewShotEpisodes(FewShotItems):
    """A batch of tasks with their images: float32 in [0, 1]."""

    support_images: Float[Tensor, "tasks support channels height width"]
    query_images: Float[Tensor, "tasks query channels height width"]


class FewShotSampler:
    """Draws batches of N-way K-shot tasks: `shots` images of each class to learn from, `queries` to label.

    Which classes, which label slot each gets and which images: all drawn anew for every task.
    Raises UserError when there are fewer classes than ways, or a class has fewer images than
    shots + queries.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        *,
        ways: int,
        shots: int,
        queries: int,
        device: torch.device | str = "cpu",
    ) -> None:
        for name, number in {"ways": ways, "shots": shots, "queries": queries}.items():
            if number < 1:
                raise UserError(f"{name} must be at least 1, got {number}")
        each, asked = shots + queries, f"{shots} shots + {queries} queries"
        self._table = _ClassTable(dataset, ways, each, asked, "--shots or --queries", device)
        self.ways, self.shots, self.queries = ways, shots, queries
        self.device = self._table.device

    def sample(self, tasks: int, generator: torch.Generator) -> FewShotEpisodes:
        """`tasks` tasks with their images, drawn as `sample_items` draws them."""
        drawn = self.sample_items(tasks, generator)
        return FewShotEpisodes(
            **vars(drawn),
            support_images=self._table.images_of(drawn.support_items),
            query_images=self._table.images_of(drawn.query_items),
        )

    def sample_items(self, tasks: int, generator: torch.Generator) -> FewShotItems:
        """`tasks` tasks without their images (a caller may hold features of the items instead).

        All randomness comes from `generator`, a CPU generator: every device sees the same tasks.
        """
        rows, _ = self._table.shuffled_rows(tasks, generator)  # (tasks, ways, most)
        items = self._table.item_of_row[rows[..., : self.shots + self.queries]]
        slots = torch.arange(self.ways, device=self.device)
        return FewShotItems(
            support_labels=slots.repeat_interleave(self.shots).repeat(tasks, 1),
            query_labels=slots.repeat_interleave(self.queries).repeat(tasks, 1),
            support_items=items[..., : self.shots].flatten(1),
            query_items=items[..., self.shots :].flatten(1),
        )


class _ClassTable:
    """A dataset on a device, with the items of each class in a run of rows."""

    def __init__(
        self,
        dataset: ImageDataset,
        ways: int,
        each: int,
        asked: str,
        options: str,
        device: torch.device | str,
    ) -> None:
        """each: images that a class must have; `asked` and `options` name them in the error."""
        if dataset.classes < ways:
            raise UserError(
                f"{dataset.name} has {dataset.classes} classes, fewer than the {ways} ways asked for"
            )
        counts = torch.bincount(dataset.targets, minlength=dataset.classes)
        if int(counts.min()) < each:
            poor = int(counts.argmin())
            raise UserError(
                f"class {dataset.class_names[poor]!r} of {dataset.name} has {int(counts.min())} images, "
                f"fewer than the {asked} asked for: lower {options} or add images"
            )
        self.ways, self.device = ways, torch.device(device)
        self.item_of_row = torch.argsort(dataset.targets, stable=True).to(self.device)
        self._images: UInt8[Tensor, "items channels height width"] = dataset.images
        # The rows of class c are first[c] .. first[c] + count[c].
        self._count = counts.to(self.device)
        self._first = (counts.cumsum(0) - counts).to(self.device)
        self._most = int(counts.max())
        self._name = dataset.name
        self._group: Int[Tensor, " classes"] | None = None
        self._group_weights = torch.ones(0)

    def draw_within(self, groups: Sequence[str]) -> None:
        """Draw the classes of a task from one group; `groups` has one for each class.

        Raises:
            UserError: no group has enough classes.
        """
        if len(groups) != len(self._count):
            raise ValueError(f"{len(groups)} groups for {len(self._count)} classes")
        names = sorted(set(groups))
        self._group = torch.tensor([names.index(group) for group in groups])
        sizes = torch.bincount(self._group)
        if int(sizes.max()) < self.ways:
            raise UserError(
                f"no group of {self._name} has {self.ways} classes: {names[int(sizes.argmax())]} has the most, "
                f"{int(sizes.max())}; ask for fewer ways"
            )
        self._group_weights = sizes.double().where(sizes >= self.ways, 0.0)

    def _draw_classes(self, batch: int, generator: torch.Generator) -> Int[Tensor, "batch ways"]:
        if self._group is None:
            return _distinct(batch, self.ways, len(self._count), generator)
        chosen = self._group_weights.multinomial(batch, replacement=True, generator=generator)
        others = self._group != chosen.unsqueeze(1)  # (B, classes)
        order = torch.rand(others.shape, generator=generator).masked_fill(others, 2.0)
        return order.argsort(-1)[:, : self.ways]

    def shuffled_rows(
        self, batch: int, generator: torch.Generator
    ) -> tuple[Int[Tensor, "batch ways most"], Int[Tensor, "batch ways"]]:
        """`ways` random classes each: their rows in random order, and how many of these count.

        A class' own rows come first; behind them stands padding up to the largest class.
        """
        classes = self._draw_classes(batch, generator).to(self.device)  # (B, W)
        shuffled = torch.rand(batch, self.ways, self._most, generator=generator).to(self.device)
        count = self._count[classes]  # (B, W)
        beyond = torch.arange(self._most, device=self.device) >= count.unsqueeze(-1)
        order = shuffled.masked_fill(beyond, 2.0).argsort(-1)  # (B, W, most)
        return self._first[classes].unsqueeze(-1) + order, count

    def images_of(
        self, items: Int[Tensor, "batch n"]
    ) -> Float[Tensor, "batch n channels height width"]:
        """The items' images, float32 in [0, 1]."""
        # Not before: who draws items alone may hold their images, or features, on the device already.
        self._images = self._images.to(self.device)
        return as_float(self._images[items])


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

    if not 0 <= seed < 2**63:
        raise UserError(f"seed {seed}: must be 0 or more, and less than 2^63")
    sequence = np.random.SeedSequence(seed, spawn_key=path)  # a plain list ignores trailing zeros
    state = sequence.generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
