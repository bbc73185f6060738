"""OPN: online prototypical network (Ren et al. 2021, "Wandering within a world", arXiv 2007.04546).

    p_k <- (n_k p_k + x) / (n_k + 1)            when the label k of x arrives
    logit_k = -|x - p_k|^2                      or tau cos(x, p_k)
    unknown = (min_k |x - p_k|^2 - beta) / gamma

Known deviations from the public code:
- Slots without a sample are masked by their count, because our label slots are in random order
  (there: by order of first appearance); the minimum runs over seen slots only (there: empty slots
  compete).
- Nothing seen yet: uniform logits, and a certain "unknown".
- Cosine: beta starts at -tau / 2, half of the range of -tau cos, not at 10.
- The encoder normalises by group, not by batch (see `encoder.py`).
- A prototype at time t is a ratio of two cumulative sums, so that no step waits for another.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from memory_adapt.config import OPNConfig
from memory_adapt.models.encoder import Conv4
from memory_adapt.models.interface import OnlineClassifier, State, encode_feedback

MASKED = -1e4
"""Logit of a slot without a sample: finite, so that no loss or gradient becomes NaN."""


class PrototypeLearner(OnlineClassifier):
    """A learner whose scores are of slots and of "a class not seen before"; it must know the delay of labels."""

    must_know_delay = True
    by_slot = frozenset({"prototypes", "counts", "sums", "weights"})

    @abstractmethod
    def scores(
        self,
        features: Float[Tensor, "time batch features"],
        feedback: Int[Tensor, "time batch"],
        state: State | None = None,
    ) -> tuple[Float[Tensor, "time batch ways"], Float[Tensor, "time batch"], State]:
        """Logits of the slots, logit of "a class not seen before", and the last state."""

    def forward_features(
        self,
        features: Float[Tensor, "time batch features"],
        feedback: Int[Tensor, "time batch"],
        state: State | None = None,
    ) -> tuple[Float[Tensor, "time batch ways"], State]:
        """Logits at every step (unseen slots at `MASKED`), and the state after the last."""
        logits, _, state = self.scores(features, feedback, state)
        return logits, state

    def episode_loss(
        self,
        images: Float[Tensor, "time batch channels height width"],
        labels: Int[Tensor, "time batch"],
        feedback: Int[Tensor, "time batch"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "time batch ways"]]:
        """Ren et al.'s loss (see `known_unknown_loss`), and the logits."""
        logits, unknown, _ = self.scores(self.encoder(images), feedback)
        return known_unknown_loss(logits, unknown, labels), logits


class OPN(PrototypeLearner):
    """Online prototypical network.

    state: "prototypes" (batch, ways, features); "counts" (batch, ways), samples behind each;
    "pending" (batch, delay, features), the images whose labels have not arrived, oldest first.
    """

    encoder: Conv4

    def __init__(self, config: OPNConfig) -> None:
        super().__init__(config)
        self.ways, self.metric = config.ways, config.metric
        self.encoder = Conv4(config.image_channels, config.image_size, config.width)
        tau, beta = 10.0, 10.0  # Ren et al.'s initial values
        if self.metric == "cosine":
            self.tau = nn.Parameter(torch.tensor(tau))
            beta = -tau / 2
        self.beta = nn.Parameter(torch.tensor(beta))
        self.gamma = nn.Parameter(torch.tensor(1.0))

    def initial_state(self, batch: int) -> State:
        """No prototypes, nothing pending."""
        return initial_prototypes(self.beta, batch, self.ways, self.encoder.features, self.delay)

    def step_flops(self) -> int:
        return self.encoder.flops()

    def scores(
        self,
        features: Float[Tensor, "time batch features"],
        feedback: Int[Tensor, "time batch"],
        state: State | None = None,
    ) -> tuple[Float[Tensor, "time batch ways"], Float[Tensor, "time batch"], State]:
        """Logits of the slots, logit of "a class not seen before", and the last state."""
        if state is None:
            state = self.initial_state(features.shape[1])
        features = at_least_float32(features)
        prototypes, counts, state = running_prototypes(features, feedback, state)
        if self.metric == "cosine":
            directions = F.normalize(prototypes, dim=-1, eps=1e-5)
            cosine = (F.normalize(features, dim=-1, eps=1e-5).unsqueeze(2) * directions).sum(-1)
            distance = -self.tau * cosine
        else:
            distance = (features.unsqueeze(2) - prototypes).square().sum(-1)
        logits, unknown = scores_from_distances(distance, counts > 0, self.beta, self.gamma)
        return logits, unknown, state


def initial_prototypes(like: Tensor, batch: int, ways: int, features: int, delay: int) -> State:
    """The state of an empty prototype memory, with the dtype and device of `like`."""
    return {
        "prototypes": like.new_zeros(batch, ways, features),
        "counts": like.new_zeros(batch, ways),
        "pending": like.new_zeros(batch, delay, features),
    }


def running_prototypes(
    features: Float[Tensor, "time batch features"],
    feedback: Int[Tensor, "time batch"],
    state: State,
) -> tuple[Float[Tensor, "time batch ways features"], Float[Tensor, "time batch ways"], State]:
    """Prototypes and counts at each step, after that step's feedback, and the last state.

    The label that arrives at step t is that of the image `delay` steps earlier, the oldest pending.
    Null feedback (-1) changes nothing. Slots without a sample have prototype 0 and count 0.
    """
    time, ways = len(features), state["counts"].shape[-1]
    images = torch.cat([state["pending"].transpose(0, 1), features])  # (delay + T, B, D)
    labelled = images[:time]  # the image whose label arrives at each step
    which = encode_feedback(feedback, ways).to(features.dtype)  # (T, B, W)
    counts = state["counts"] + which.cumsum(0)
    sums = state["prototypes"] * state["counts"].unsqueeze(-1)
    sums = sums + (which.unsqueeze(-1) * labelled.unsqueeze(2)).cumsum(0)  # (T, B, W, D)
    prototypes = sums / counts.clamp(min=1).unsqueeze(-1)
    last = {
        "prototypes": prototypes[-1],
        "counts": counts[-1],
        "pending": images[time:].transpose(0, 1),
    }
    return prototypes, counts, last


def scores_from_distances(
    distance: Float[Tensor, "time batch ways"],
    seen: Bool[Tensor, "time batch ways"],
    beta: Tensor,
    gamma: Tensor,
) -> tuple[Float[Tensor, "time batch ways"], Float[Tensor, "time batch"]]:
    """Logits of the slots and of "unknown". seen: bool, the slots with a sample."""
    logits = (-distance).masked_fill(~seen, MASKED)
    nearest = distance.masked_fill(~seen, torch.inf).amin(-1)
    nothing_seen = ~seen.any(-1)
    unknown = (nearest.masked_fill(nothing_seen, 0.0) - beta) / gamma
    return logits, unknown.masked_fill(nothing_seen, -MASKED)


def known_unknown_loss(
    logits: Float[Tensor, "time batch ways"],
    unknown: Float[Tensor, "time batch"],
    labels: Int[Tensor, "time batch"],
) -> Float[Tensor, ""]:
    """Mean cross-entropy over items of seen classes + mean binary cross-entropy of "unknown".

    A class is seen when its slot is not masked, i.e. when one of its labels has arrived.
    """
    known = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1) != MASKED
    known_only = labels.masked_fill(~known, -100)
    cross_entropy = F.cross_entropy(logits.flatten(0, 1), known_only.flatten(), reduction="sum")
    cross_entropy = cross_entropy / known.sum().clamp(min=1)
    return cross_entropy + F.binary_cross_entropy_with_logits(unknown, (~known).to(unknown.dtype))


def at_least_float32(features: Tensor) -> Tensor:
    """Half precision to float32: a running mean over many steps in bfloat16 stops moving."""
    return features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
