"""Representation Self-Challenging (Huang et al. 2020, arXiv 2007.02454): train without the strongest features.

Of the last stage's feature map z (maps, rows, columns) and the true class' logit s_y:

    G_c = mean over cells of d s_y / d z_c
    by channel, drop the 5/16 of the maps with the largest G_c              160 of 512
    by cell, drop the third of the cells with the largest sum_c G_c z_c     17 of 7 x 7

Which of the two is by chance, for a whole batch. Only the samples whose true-class probability falls most
under their mask keep it; no gradient flows through the mask.

Settings of the public code (DeLightCMU/RSC, Domain_Generalization/models/resnet.py). Known deviations:
- Of equal scores it drops none, so fewer than said; here always the said number, the first of equals.
- Its share of samples goes on to 0.7 at epoch 20, which its default of 20 epochs does not reach; here it
  stays 0.5.
- It runs its challenge in evaluation mode: no difference, nothing after the feature map has such a mode.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hypernet_maml.models.networks import Classifier
from priors_shared.errors import UserError

CELLS, CHANNELS = Fraction(1, 3), Fraction(5, 16)
"""What is dropped of a feature map: the one or the other."""
FIRST_SHARE, LATER_SHARE, LATER_FROM = 0.3, 0.5, 10
"""Share of the samples, and the epoch from which it is the later one."""
SMALLEST_FALL = 1e-4
"""Of the true class' probability: whose falls by less keeps all its features."""


class Challenge(NamedTuple):
    """What is done to one batch. by_cell: drop cells, else channels. share: of the samples."""

    by_cell: bool
    share: float


def draw_challenge(epoch: int, generator: torch.Generator) -> Challenge:
    """Cells or channels by a fair coin; 0.3 of the samples, 0.5 from epoch 10 (counted from 0)."""
    by_cell = bool(torch.randint(2, (), generator=generator))
    return Challenge(by_cell, FIRST_SHARE if epoch < LATER_FROM else LATER_SHARE)


def challenged_logits(
    net: Classifier,
    images: Float[Tensor, "batch channels height width"],
    labels: Int[Tensor, " batch"],
    challenge: Challenge,
) -> Float[Tensor, "batch classes"]:
    """Logits of images in [0, 1], without the features that speak most for the true class."""
    features = net.feature_map(net.normalise(images))
    logits: Tensor = net.classifier(
        net.pool(features * challenge_mask(net, features, labels, challenge))
    )
    return logits


def challenge_mask(
    net: Classifier,
    features: Float[Tensor, "batch maps rows columns"],
    labels: Int[Tensor, " batch"],
    challenge: Challenge,
) -> Float[Tensor, "batch mask_maps mask_rows mask_columns"]:
    """0 for what is dropped, else 1; (batch, 1, rows, columns) by cell, (batch, maps, 1, 1) by channel.

    Raises UserError for a feature map of a single cell, which would be dropped whole.
    """
    features = features.detach().requires_grad_()
    with torch.enable_grad():
        logits = net.classifier(net.pool(features))
        true = logits.gather(1, labels[:, None]).sum()
        (gradient,) = torch.autograd.grad(true, features)
    weights = gradient.mean((2, 3), keepdim=True)  # (batch, maps, 1, 1)
    with torch.no_grad():
        if challenge.by_cell:
            mask = _without_largest((features * weights).sum(1, keepdim=True), CELLS)
        else:
            mask = _without_largest(weights, CHANNELS)
        after = net.classifier(net.pool(features * mask))
        fall = _probability(logits, labels) - _probability(after, labels)
        hardest = fall.topk(round(len(fall) * challenge.share)).indices
        spared = torch.ones_like(fall, dtype=torch.bool)
        spared[hardest] = fall[hardest] <= SMALLEST_FALL
        mask[spared] = 1.0
    return mask


def _without_largest(
    scores: Float[Tensor, "batch maps rows columns"], share: Fraction
) -> Float[Tensor, "batch maps rows columns"]:
    """0 at the largest scores of each sample: their share, rounded up; else 1."""
    flat = scores.flatten(1)
    count = math.ceil(flat.shape[1] * share)
    if count >= flat.shape[1]:
        raise UserError(
            f"RSC would drop the whole feature map of {scores.shape[2]} x {scores.shape[3]}: "
            "use larger images, or --no-rsc"
        )
    mask = torch.ones_like(flat).scatter_(1, flat.topk(count).indices, 0.0)
    return mask.view_as(scores)


def _probability(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    return logits.softmax(1).gather(1, labels[:, None]).squeeze(1)
