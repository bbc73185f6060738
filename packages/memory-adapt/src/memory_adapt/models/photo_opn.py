"""OPN on the features of a frozen encoder (Ren et al. 2021), for photos.

    z = unit(P x + V relu(U P x))                       V = 0 at the start
    logit_k = tau exp(a . f(n_k)) cos(z, p_k) + b . f(n_k)        f(n) = (1 / n, ln n)

n_k: samples behind p_k. a and b are 0 at the start: the whitened centroid classifier. A prototype of few samples
points less surely to its class: without a and b, classes seen often win over those seen once. Streams of training
are "iid", where counts say nothing of the next label, so that only this is learned.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memory_adapt.config import PhotoOPNConfig
from memory_adapt.models.flops import linear_flops
from memory_adapt.models.opn import scores_from_distances
from memory_adapt.models.photos import PhotoLearner, cosines, unit


class CountedCosine(nn.Module):
    """The logits above, from images and prototypes."""

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.zeros(2))
        self.offset = nn.Parameter(torch.zeros(2))

    def forward(
        self,
        z: Float[Tensor, "time batch width"],
        prototypes: Float[Tensor, "time batch ways width"],
        counts: Float[Tensor, "time batch ways"],
        tau: Float[Tensor, ""],
    ) -> Float[Tensor, "time batch ways"]:
        number = counts.clamp(min=1)
        f = torch.stack([1 / number, number.log()], -1)
        cosine = cosines(z, prototypes)
        return tau * (f @ self.sharpness).exp() * cosine + f @ self.offset


class PhotoOPN(PhotoLearner):
    """Online prototypes on projected features; see the module."""

    config: PhotoOPNConfig

    def __init__(self, config: PhotoOPNConfig) -> None:
        super().__init__(config)
        self.inner = nn.Linear(config.width, config.hidden)
        self.outer = nn.Linear(config.hidden, config.width, bias=False)
        nn.init.zeros_(self.outer.weight)
        self.cosine = CountedCosine()

    def step_flops(self) -> int:
        return super().step_flops() + linear_flops(self.inner) + linear_flops(self.outer)

    def project(
        self, features: Float[Tensor, "time batch features"]
    ) -> Float[Tensor, "time batch width"]:
        z = super().project(features)
        return unit(z + self.outer(self.inner(z).relu()))

    def compare(
        self,
        z: Float[Tensor, "time batch width"],
        prototypes: Float[Tensor, "time batch ways width"],
        counts: Float[Tensor, "time batch ways"],
    ) -> tuple[Float[Tensor, "time batch ways"], Float[Tensor, "time batch"]]:
        logits = self.cosine(z, prototypes, counts, self.log_tau.exp())
        return scores_from_distances(-logits, counts > 0, self.beta, self.gamma)
