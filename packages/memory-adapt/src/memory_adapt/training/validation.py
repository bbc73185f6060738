"""k-shot accuracy of any predictor on held-out streams."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from priors_shared.episodes import OnlineEpisodes, OnlineEpisodeSampler, generator_for
from priors_shared.statistics import ShotAccuracy, accuracy_by_shot


@torch.no_grad()
def evaluate_predictions(
    predict: Callable[[OnlineEpisodes], Float[Tensor, "time batch ways"]],
    sampler: OnlineEpisodeSampler,
    *,
    episodes: int,
    seed: int,
    batch: int = 50,
) -> ShotAccuracy:
    """k-shot accuracy of any predictor of logits; the streams depend on (seed, batch) alone."""
    correct, seen = [], []
    for start in range(0, episodes, batch):
        streams = sampler.sample(min(batch, episodes - start), generator_for(seed, start))
        correct.append((predict(streams).argmax(-1) == streams.labels).cpu())
        seen.append(streams.seen.cpu())
    return accuracy_by_shot(torch.cat(correct, 1), torch.cat(seen, 1), sampler.shots - 1)
