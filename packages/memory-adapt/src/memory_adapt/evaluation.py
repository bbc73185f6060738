"""k-shot accuracy on streams, the blind bound, and the controls every table must show."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from memory_adapt.data.photos import FeatureSampler, encoded
from memory_adapt.models.interface import OnlineClassifier
from memory_adapt.models.photos import PhotoLearner
from memory_adapt.training.validation import evaluate_predictions
from priors_shared.datasets import ImageDataset
from priors_shared.episodes import (
    NULL_LABEL,
    OnlineEpisodes,
    OnlineEpisodeSampler,
    delay_labels,
    generator_for,
)
from priors_shared.errors import UserError
from priors_shared.statistics import ShotAccuracy

STREAM_SAMPLES = 10
"""Images of each class in an evaluation stream (thesis A.1.3)."""
Control = Literal["none", "blank images", "null labels", "random labels"]
CONTROLS: tuple[Control, ...] = ("blank images", "null labels", "random labels")


def evaluate(
    model: OnlineClassifier,
    sampler: OnlineEpisodeSampler,
    *,
    episodes: int,
    seed: int,
    control: Control = "none",
    batch: int = 50,
    advance: Callable[[int], object] | None = None,
) -> ShotAccuracy:
    """k-shot accuracy of a model with its confidence intervals, k = 0 .. shots - 1.

    Runs on the sampler's device, where the model must be. control: take something away that an honest
    learner needs; what is left must be chance or the blind bound. advance: told of streams done.
    """

    def predict(streams: OnlineEpisodes) -> Tensor:
        streams = take_away(streams, control, sampler, seed)
        if advance is not None:
            advance(streams.labels.shape[1])
        state = model.state_for(streams.labels.shape[1], sampler.ways)
        logits: Tensor = model(streams.images, streams.feedback, state)[0]
        return logits[..., : sampler.ways]  # a learner may have more label slots

    was_training = model.training
    model.eval()
    accuracy = evaluate_predictions(predict, sampler, episodes=episodes, seed=seed, batch=batch)
    model.train(was_training)
    return accuracy


def stream_sampler(
    model: OnlineClassifier, dataset: ImageDataset, **options: Any
) -> OnlineEpisodeSampler:
    """Streams of a data set for a learner; one of photos gets each image's features, computed once.

    options: of `OnlineEpisodeSampler`.
    """
    if isinstance(model, PhotoLearner):
        return FeatureSampler(encoded(dataset, model.encoder.loaded), **options)
    return OnlineEpisodeSampler(dataset, **options)


def alphabets_of(dataset: ImageDataset) -> tuple[str, ...]:
    """The alphabet of each class, in its rotation: Omniglot's classes are named ALPHABET/CHARACTER@ROTATION.

    Raises:
        UserError: the classes of this dataset have no alphabets.
    """
    if not all("/" in name for name in dataset.class_names):
        raise UserError(f"alphabets: the classes of {dataset.name} have none; omniglot's have")
    parts = [(name.partition("/")[0], name.partition("@")[2]) for name in dataset.class_names]
    return tuple(f"{alphabet}@{rotation}" for alphabet, rotation in parts)


def take_away(
    streams: OnlineEpisodes, control: Control, sampler: OnlineEpisodeSampler, seed: int
) -> OnlineEpisodes:
    """The streams without what the control removes; labels to be predicted stay as they are.

    blank images: all zeros. null labels: none ever arrives. random labels: uniform ones arrive.
    """
    if control == "blank images":
        return replace(streams, images=torch.zeros_like(streams.images))
    if control == "null labels":
        return replace(streams, feedback=torch.full_like(streams.feedback, NULL_LABEL))
    if control == "random labels":
        generator = generator_for(seed, 1, streams.labels.shape[1])
        drawn = torch.randint(sampler.ways, streams.labels.shape, generator=generator)
        return replace(
            streams, feedback=delay_labels(drawn, sampler.delay).to(streams.labels.device)
        )
    return streams


def samples_needed(dataset: ImageDataset, shots: Sequence[int], samples: int | None) -> int:
    """Images of each class in a stream: enough for the shots, at most what every class has.

    Raises:
        UserError: `samples`, or a class of the dataset, is too small for the shots.
    """
    counts = torch.bincount(dataset.targets, minlength=dataset.classes)
    needed, fewest = max(shots) + 1, int(counts.min())
    if samples is not None and samples < needed:
        raise UserError(
            f"samples {samples}: {max(shots)} shots need streams of {needed} images a class"
        )
    if fewest < (samples or needed):
        raise UserError(
            f"shots: class {dataset.class_names[int(counts.argmin())]!r} of {dataset.name} has {fewest} "
            f"images, fewer than the {samples or needed} of a stream ({max(shots)} shots and the "
            "image to predict): ask for fewer shots or add images"
        )
    return samples or max(needed, min(STREAM_SAMPLES, fewest))


def by_shot(accuracy: ShotAccuracy) -> dict[str, Any]:
    """As JSON: fractions at 0, 1, 2, ... shots, with the bounds of their 95 % intervals."""
    parts = {"mean": accuracy.mean, "low": accuracy.low, "high": accuracy.high}
    rounded = {k: [round(x, 5) for x in v.tolist()] for k, v in parts.items()}
    return {**rounded, "episodes": accuracy.episodes}


def weights_hash(model: OnlineClassifier) -> str:
    """SHA-256 of a model's parameters: whether a stored evaluation is of these weights."""
    weights = torch.cat([p.detach().flatten() for p in model.parameters()]).cpu()
    return hashlib.sha256(weights.numpy().tobytes()).hexdigest()


def blind_bound(ways: int, shots: int, *, skip_first: bool = False) -> list[float]:
    """Accuracy, by earlier views of the class, of the best guess that never looks at an image.

    In a balanced stream (each class exactly `shots` times) the label seen least so far is the likeliest
    next. skip_first: the guess gives up first views and picks among labels already seen, as prototype
    learners must; that is worth 61 % at 1 shot (5 ways, 10 shots). Exact: the probability of each
    multiset of counts, step by step. Element k is the k-shot accuracy, k = 0 .. shots - 1.
    """
    reached: dict[tuple[int, ...], float] = {(0,) * ways: 1.0}
    hits = [0.0] * shots
    for step in range(ways * shots):
        left = ways * shots - step
        following: dict[tuple[int, ...], float] = defaultdict(float)
        for counts, probability in reached.items():  # counts in ascending order
            least = min((c for c in counts if c > 0 or not skip_first), default=0)
            if least < shots:
                hits[least] += probability * (shots - least) / left
            for slot, count in enumerate(counts):
                if count < shots:
                    after = tuple(sorted((*counts[:slot], count + 1, *counts[slot + 1 :])))
                    following[after] += probability * (shots - count) / left
        reached = following
    return [hit / ways for hit in hits]  # each class is seen for the (k+1)-th time exactly once


def cheap_blind_bound(ways: int, shots: int) -> list[float] | None:
    """`blind_bound`, or None where counting its multisets would take minutes."""
    return blind_bound(ways, shots) if math.comb(ways + shots, shots) <= 200_000 else None
