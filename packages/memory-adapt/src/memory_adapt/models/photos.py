"""What learners of photos share: a frozen encoder, a linear map of its features, references by centroids.

    y = P (x / |x| - c)             c, P: `centre`, `projection`
    z = sqrt(width) y / |y|
    p_k <- running mean of z        when the label k of its image arrives, as in `opn.py`
    logit_k = tau cos(z, p_k)

`metric="cosine"` of `CentroidsConfig` leaves c = 0 and P = 1: nearest centroid by cosine. "whitened": P is the
inverse square root of the covariance within classes of training data. "projected": P is learned from there.
The state's size depends on `ways`, no weight does.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from memory_adapt.config import CentroidsConfig, PhotoConfig
from memory_adapt.models.flops import linear_flops
from memory_adapt.models.interface import State
from memory_adapt.models.opn import (
    PrototypeLearner,
    initial_prototypes,
    known_unknown_loss,
    running_prototypes,
    scores_from_distances,
)
from priors_shared.encoders import Encoder, load_encoder

TEMPERATURE = 10.0
"""Of cosines, at the start (Ren et al. 2021)."""


class FrozenEncoder(nn.Module):
    """An encoder by name, without parameters; loaded when the first image comes."""

    def __init__(self, name: str, features: int) -> None:
        super().__init__()
        self.name, self.features = name, features
        self._loaded: Encoder | None = None

    @property
    def loaded(self) -> Encoder:
        """The encoder itself.

        Raises:
            UserError: its extra or file is missing.
        """
        if self._loaded is None:
            self._loaded = load_encoder(self.name)
        return self._loaded

    @torch.no_grad()
    def forward(
        self, images: Float[Tensor, "*lead channels height width"]
    ) -> Float[Tensor, "*lead features"]:
        """Features of RGB images in [0, 1] of any size, on their device.

        What is encoded already, (*lead, features, 1, 1), passes (see `data.photos.FeatureSampler`).
        """
        if images.shape[-3:] == (self.features, 1, 1):
            return images.flatten(-3)
        lead = images.shape[:-3]
        flat = self.loaded(images.reshape(-1, *images.shape[-3:]).cpu())
        return flat.to(images.device).reshape(*lead, self.features)


class PhotoLearner(PrototypeLearner):
    """A learner on features; subclasses say how the features of a stream become scores.

    state: "prototypes" (batch, ways, width), "counts" (batch, ways), "pending" (batch, delay, width), as of
    `OPN`, and what a subclass adds.
    """

    encoder: FrozenEncoder
    config: PhotoConfig
    centre: Tensor

    def __init__(self, config: PhotoConfig) -> None:
        super().__init__(config)
        self.ways, self.width = config.ways, config.width
        self.encoder = FrozenEncoder(config.encoder, config.features)
        self.register_buffer("centre", torch.zeros(config.features))
        self.projection = nn.Linear(config.features, config.width, bias=False)
        with (
            torch.no_grad()
        ):  # not by `eye_`: where only shapes are made, that loads torch's compiler, for seconds
            self.projection.weight.zero_().diagonal().fill_(1)
        self.log_tau = nn.Parameter(torch.tensor(math.log(TEMPERATURE)))
        self.beta = nn.Parameter(torch.tensor(-TEMPERATURE / 2))
        self.gamma = nn.Parameter(torch.tensor(1.0))

    def initial_state(self, batch: int) -> State:
        """No prototypes, nothing pending."""
        return initial_prototypes(self.beta, batch, self.ways, self.width, self.delay)

    def step_flops(self) -> int:
        return linear_flops(self.projection) + 2 * self.width * self.ways

    def project(
        self, features: Float[Tensor, "time batch features"]
    ) -> Float[Tensor, "time batch width"]:
        """z of the module's docstring."""
        y = self.projection(F.normalize(features.float(), dim=-1) - self.centre)
        return unit(y)

    def scores(
        self,
        features: Float[Tensor, "time batch features"],
        feedback: Int[Tensor, "time batch"],
        state: State | None = None,
    ) -> tuple[Float[Tensor, "time batch ways"], Float[Tensor, "time batch"], State]:
        """Logits of the slots, logit of "a class not seen before", and the last state."""
        state = self.initial_state(features.shape[1]) if state is None else state
        z = self.project(features)
        prototypes, counts, last = running_prototypes(z, feedback, state)
        logits, unknown = self.compare(z, prototypes, counts)
        return logits, unknown, last

    def compare(
        self,
        z: Float[Tensor, "time batch width"],
        prototypes: Float[Tensor, "time batch ways width"],
        counts: Float[Tensor, "time batch ways"],
    ) -> tuple[Float[Tensor, "time batch ways"], Float[Tensor, "time batch"]]:
        """Scaled cosines with the prototypes; logits of the slots and of "unknown"."""
        distance = -self.log_tau.exp() * cosines(z, prototypes)
        return scores_from_distances(distance, counts > 0, self.beta, self.gamma)

    def stream_loss(
        self,
        features: Float[Tensor, "time batch features"],
        labels: Int[Tensor, "time batch"],
        feedback: Int[Tensor, "time batch"],
    ) -> Float[Tensor, ""]:
        """Ren et al.'s loss (see `known_unknown_loss`)."""
        logits, unknown, _ = self.scores(features, feedback)
        return known_unknown_loss(logits, unknown, labels)

    @torch.no_grad()
    def start(self, features: Float[Tensor, "n features"], targets: Int[Tensor, " n"]) -> None:
        """Begin as the whitened centroid classifier of training data; see `whitening`."""
        centre, projection = whitening(features, targets, self.width)
        self.centre.copy_(centre)
        self.projection.weight.copy_(projection)


class Centroids(PhotoLearner):
    """The references: nearest centroid by cosine, whitened, or projected."""

    config: CentroidsConfig

    def start(self, features: Float[Tensor, "n features"], targets: Int[Tensor, " n"]) -> None:
        """As `PhotoLearner.start`; nothing where the metric is the plain cosine."""
        if self.config.metric != "cosine":
            super().start(features, targets)


def unit(y: Float[Tensor, "*lead width"]) -> Float[Tensor, "*lead width"]:
    """Vectors whose numbers have a mean square of 1."""
    return F.normalize(y, dim=-1, eps=1e-5) * y.shape[-1] ** 0.5


def cosines(
    z: Float[Tensor, "time batch width"], prototypes: Float[Tensor, "time batch ways width"]
) -> Float[Tensor, "time batch ways"]:
    """Cosine of each image with each prototype of its step; 0 for a slot without a sample."""
    z = F.normalize(z, dim=-1, eps=1e-5)
    return torch.einsum("tbd,tbwd->tbw", z, F.normalize(prototypes, dim=-1, eps=1e-5))


def whitening(
    features: Float[Tensor, "n features"],
    targets: Int[Tensor, " n"],
    width: int,
    shrinkage: float = 1.0,
) -> tuple[Float[Tensor, " features"], Float[Tensor, "width features"]]:
    """Centre and map that make the covariance within classes isotropic; features are brought to length 1 first.

    shrinkage: multiple of the mean variance that is added to each. Of the whitened axes the `width` on which
    classes differ most are kept (linear discriminants).
    """
    x = F.normalize(features.double(), dim=-1)
    classes = int(targets.max()) + 1
    which = F.one_hot(targets, classes).double()
    means = (which.T @ x) / which.sum(0).unsqueeze(1)
    within = x - means[targets]
    covariance = within.T @ within / len(x)
    variances, axes = torch.linalg.eigh(covariance)
    whiten = axes / (variances + shrinkage * variances.mean()).sqrt()
    centre = means.mean(0)
    _, _, directions = torch.linalg.svd((means - centre) @ whiten, full_matrices=True)
    projection = directions[:width] @ whiten.T
    return centre.float(), projection.float()
