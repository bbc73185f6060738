"""Learners of photos, trained on streams of cached features: minutes on one core.

Streams are of random ways and lengths, label order "iid", so that nothing can be learned from counts. Every draw
depends on (seed, step) alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from memory_adapt.config import PhotoConfig
from memory_adapt.data.photos import FeatureSet
from memory_adapt.models.photos import PhotoLearner
from memory_adapt.models.registry import build_model
from priors_shared.episodes import OnlineEpisodeSampler, generator_for


@dataclass(frozen=True, kw_only=True)
class PhotoTraining:
    """Sizes of a training; all learners have the same."""

    steps: int = 300
    """steps of the optimizer, Adam; 0: the learner as it starts"""
    batch_size: int = 8
    """streams in a step"""
    ways: tuple[int, ...] = (5, 10)
    """drawn anew at each step"""
    shots: tuple[int, ...] = (2, 5, 10)
    """mean samples of each class; a stream's length is ways x shots, but at most `longest`"""
    longest: int = 40
    """most images of a stream"""
    learning_rate: float = 3e-4
    """highest, of matrices; warm-up over a twentieth of the steps, then half a cosine to zero"""
    scalar_rate: float = 1e-2
    """the same, of single numbers and vectors"""
    weight_decay: float = 1e-4
    """of matrices, decoupled"""
    clip_norm: float = 1.0
    """largest norm of the gradient"""


def train_photos(
    config: PhotoConfig,
    data: FeatureSet,
    sizes: PhotoTraining,
    *,
    seed: int,
    delay: int = 1,
    report: Callable[[int, PhotoLearner], object] | None = None,
    every: int = 250,
) -> PhotoLearner:
    """A trained learner; report: called with (steps done, learner) every so many steps, and at the end.

    Raises:
        UserError: the data has fewer classes than the least `ways`.
    """
    torch.manual_seed(seed)
    model = build_model(config, delay=delay)
    assert isinstance(model, PhotoLearner)
    model.start(data.features, data.items.targets)
    samplers = _samplers(data, sizes, delay)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": sizes.weight_decay, "top": sizes.learning_rate},
        {"params": others, "weight_decay": 0.0, "top": sizes.scalar_rate},
    ]
    optimizer = torch.optim.AdamW(groups, lr=sizes.learning_rate)
    for step in range(sizes.steps):
        generator = generator_for(seed, 1, step)
        chosen = int(torch.randint(len(samplers), (), generator=generator))
        streams = samplers[chosen].sample_streams(sizes.batch_size, generator)
        features = data.features[streams.items]
        loss = model.stream_loss(features, streams.labels, streams.feedback)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), sizes.clip_norm)
        warm = min(1.0, 20 * (step + 1) / sizes.steps)
        share = warm * 0.5 * (1 + math.cos(math.pi * step / sizes.steps))
        for group in optimizer.param_groups:
            group["lr"] = share * group["top"]
        optimizer.step()
        if report is not None and ((step + 1) % every == 0 or step + 1 == sizes.steps):
            report(step + 1, model)
    return model.eval()


def _samplers(data: FeatureSet, sizes: PhotoTraining, delay: int) -> list[OnlineEpisodeSampler]:
    """One for each pair of ways and shots whose streams fit."""
    pairs = {
        (ways, min(shots, sizes.longest // ways))
        for ways in sizes.ways
        for shots in sizes.shots
        if ways <= max(data.items.classes, min(sizes.ways))
    }
    return [
        OnlineEpisodeSampler(data.items, ways=ways, shots=shots, order="iid", delay=delay)
        for ways, shots in sorted(pairs)
        if ways * shots > delay
    ]
