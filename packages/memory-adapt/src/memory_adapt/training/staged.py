"""The stages of a training (`StageConfig.kind`): what each minimises, what it moves, how it begins and ends.

The thesis trains everything from scratch on streams ("episodes"). That sits on a plateau at chance for very
long, so the CPU presets first train the encoder alone with an online-prototype loss ("prototypes"), then the
memory on its cached features ("readout"). What the last two must know of each learner is at the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from memory_adapt.config import StageConfig
from memory_adapt.data.images import jittered
from memory_adapt.models.cl_lstm import CLLSTM
from memory_adapt.models.interface import OnlineClassifier
from memory_adapt.models.lstm import LSTMLearner
from memory_adapt.models.ntm import NTM
from memory_adapt.models.opn import (
    initial_prototypes,
    known_unknown_loss,
    running_prototypes,
    scores_from_distances,
)
from priors_shared.datasets import ImageDataset
from priors_shared.datasets.base import as_float
from priors_shared.episodes import OnlineStreams, generator_for

JITTER_SEED = 2**31 - 2

Inputs = Callable[[OnlineStreams, torch.Generator], Tensor]
"""What a stage is fed for streams. The generator is for what is drawn anew at every update."""


class PrototypeHead(nn.Module):
    """Online prototypes on any features (Ren et al. 2021, see models/opn.py), with a learned scale."""

    def __init__(self, ways: int) -> None:
        super().__init__()
        self.ways = ways
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.beta = nn.Parameter(torch.tensor(10.0))
        self.gamma = nn.Parameter(torch.tensor(1.0))

    def forward(
        self, features: Float[Tensor, "time batch features"], feedback: Int[Tensor, "time batch"]
    ) -> tuple[Float[Tensor, "time batch ways"], Float[Tensor, "time batch"]]:
        """Logits of the slots, and of "not seen before"."""
        empty = initial_prototypes(
            features, features.shape[1], self.ways, features.shape[2], delay=1
        )
        prototypes, counts, _ = running_prototypes(features, feedback, empty)
        distance = (features.unsqueeze(2) - prototypes).square().sum(-1) * self.log_scale.exp()
        return scores_from_distances(distance, counts > 0, self.beta, self.gamma)


class TrainedLearner(nn.Module):
    """A learner, and the head that its first stage trains beside it."""

    def __init__(self, model: OnlineClassifier) -> None:
        super().__init__()
        self.model = model
        self.head = PrototypeHead(model.config.ways)


class Stage(nn.Module, ABC):
    """What one kind of stage minimises. Inputs: images, or what `inputs` returns for streams."""

    def __init__(self, learner: TrainedLearner, settings: StageConfig) -> None:
        super().__init__()
        self.learner = learner
        self.settings = settings

    def start(self) -> None:
        """Initialise what the stage needs initialised, before its first update."""

    @abstractmethod
    def trained(self) -> list[nn.Parameter]:
        """The parameters that this stage moves."""

    @abstractmethod
    def forward(self, inputs: Tensor, labels: Tensor, feedback: Tensor) -> Tensor:
        """The loss."""

    @abstractmethod
    def predict(self, inputs: Tensor, feedback: Tensor) -> Float[Tensor, "time batch ways"]:
        """Logits, for validation."""

    def prepare(self, dataset: ImageDataset, device: torch.device) -> Inputs:
        """How to get the inputs of streams of a dataset: here, their images."""
        images = dataset.images.to(device)
        return lambda streams, _: as_float(images[streams.items])

    def finish(self) -> None:
        """Leave the learner as the next stage, or its user, wants it."""


class EpisodesStage(Stage):
    """Everything, on streams, as the thesis trains (2.3.4)."""

    def trained(self) -> list[nn.Parameter]:
        return list(self.learner.model.parameters())

    def forward(self, inputs: Tensor, labels: Tensor, feedback: Tensor) -> Tensor:
        loss: Tensor = self.learner.model.episode_loss(inputs, labels, feedback)[0]
        return loss

    def predict(self, inputs: Tensor, feedback: Tensor) -> Tensor:
        logits: Tensor = self.learner.model(inputs, feedback)[0]
        return logits


class PrototypesStage(Stage):
    """The encoder alone: each image seen from the zero state, classified by online prototypes."""

    def start(self) -> None:
        start_encoder(self.learner.model)

    def trained(self) -> list[nn.Parameter]:
        return [*encoder_parameters(self.learner.model), *self.learner.head.parameters()]

    def forward(self, inputs: Tensor, labels: Tensor, feedback: Tensor) -> Tensor:
        logits, unknown = self.learner.head(image_features(self.learner.model, inputs), feedback)
        return known_unknown_loss(logits, unknown, labels)

    def predict(self, inputs: Tensor, feedback: Tensor) -> Tensor:
        logits: Tensor = self.learner.head(image_features(self.learner.model, inputs), feedback)[0]
        return logits


class ReadoutStage(Stage):
    """What follows the encoder, on features computed once, and standardised.

    The encoder maps the classes that it was trained on to tighter clusters than new ones. Features of
    jittered copies (`settings.jitter` of each training image) make up for some of it.

    `finish` folds the standardisation into the weights that read the features: the same function.
    A learner that compares features (`feature_input` is None) gets them as they are.
    """

    mean: Tensor
    std: Tensor

    def start(self) -> None:
        start_readout(self.learner.model)

    def trained(self) -> list[nn.Parameter]:
        encoder = set(self.learner.model.encoder.parameters())
        return [p for p in self.learner.model.parameters() if p not in encoder]

    def prepare(self, dataset: ImageDataset, device: torch.device) -> Inputs:
        versions = [self._features(dataset.images, device)]
        if dataset.split == "train":
            self.mean, self.std = versions[0].mean(0), versions[0].std(0).clamp(min=1e-3)
            if feature_input(self.learner.model) is None:
                self.mean, self.std = torch.zeros_like(self.mean), torch.ones_like(self.std)
            for copy in range(self.settings.jitter):
                generator = generator_for(JITTER_SEED, copy)
                versions.append(self._features(jittered(dataset.images, generator), device))
        features = (torch.stack(versions) - self.mean) / self.std  # (versions, items, features)

        def inputs(streams: OnlineStreams, generator: torch.Generator) -> Tensor:
            version = torch.randint(len(features), streams.items.shape, generator=generator)
            return features[version.to(device), streams.items]

        return inputs

    @torch.no_grad()
    def _features(self, images: Tensor, device: torch.device) -> Float[Tensor, "items features"]:
        parts = [as_float(part.to(device)).unsqueeze(1) for part in images.split(512)]
        return torch.cat([image_features(self.learner.model, part).squeeze(1) for part in parts])

    def forward(self, inputs: Tensor, labels: Tensor, feedback: Tensor) -> Tensor:
        logits = self.predict(inputs, feedback)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())

    def predict(self, inputs: Tensor, feedback: Tensor) -> Tensor:
        logits: Tensor = self.learner.model.forward_features(inputs, feedback)[0]
        return logits

    @torch.no_grad()
    def finish(self) -> None:
        reads = feature_input(self.learner.model)
        if reads is None:
            return
        weight, bias = reads
        columns = weight[:, : len(self.mean)]
        columns.div_(self.std)
        bias.sub_(columns @ self.mean)


STAGES: dict[str, type[Stage]] = {
    "episodes": EpisodesStage,
    "prototypes": PrototypesStage,
    "readout": ReadoutStage,
}


# --- what the stages must know of a learner ---


def image_features(
    model: OnlineClassifier, images: Float[Tensor, "time batch channels height width"]
) -> Float[Tensor, "time batch features"]:
    """Features of each image alone, without state or labels (a feed-forward encoder)."""
    if isinstance(model, CLLSTM):
        null = torch.full(images.shape[:2], -1, device=images.device)
        return model.encode(images, null, remember=False)[0]
    features: Tensor = model.encoder(images)
    return features


def encoder_parameters(model: OnlineClassifier) -> list[nn.Parameter]:
    """The parameters that `image_features` depends on."""
    return [p for name, p in model.encoder.named_parameters() if "hidden_conv" not in name]


def start_encoder(model: OnlineClassifier) -> None:
    """Silence memory and labels in the ConvLSTMs of CL+LSTM, so that training can begin without them.

    Hidden convolutions and label maps start at zero: hidden states and labels have no effect on
    the stack. Cell states still have: its features equal `image_features` at a stream's first
    step, and later but for what the forget gates keep, about sigmoid(-2) = 0.12 a step. The high
    input bias makes up for what low forget gates take from the cells.
    """
    if not isinstance(model, CLLSTM):
        return
    with torch.no_grad():
        for i, layer in enumerate(model.layers):
            layer.hidden_conv.weight.zero_()
            if model.injects(i):
                layer.input_conv.weight[:, -model.config.ways :].zero_()
            layer.gate_bias[: layer.channels] = 1.0
            layer.gate_bias[layer.channels : 2 * layer.channels] = -2.0


def start_readout(model: OnlineClassifier) -> None:
    """Begin the LSTM that follows an encoder, if it sees labels, as a prototype memory."""
    if isinstance(model, CLLSTM) and model.inject_lstm:
        bind_init(model.lstm, model.classifier, model.features, model.config.ways)
    elif isinstance(model, LSTMLearner):
        bind_init(model.lstm, model.classifier, model.encoder.features, model.ways)


def feature_input(model: OnlineClassifier) -> tuple[Tensor, Tensor] | None:
    """Weight (out, features + ...) and bias of the linear map that alone reads the features; None
    where there is none, as where distances between features matter.
    """
    match model:
        case CLLSTM() | LSTMLearner():
            parameters = dict(model.lstm.named_parameters())
            return parameters["weight_ih_l0"], parameters["bias_ih_l0"]
        case NTM():
            return model.input_gates.weight, model.input_gates.bias
    return None


def bind_init(lstm: nn.LSTM, classifier: nn.Linear, features: int, ways: int) -> None:
    """Initialise an LSTM and its classifier as an online prototype memory. Not in the thesis.

    For standardised features x and one-hot labels y (zeros: null) as inputs, in this order, and
    z = x, or where an LSTM has fewer than features (2 ways + 1) units, z = P x with as many random
    orthonormal rows P as there is room for:

    - A buffer of z's size keeps the last image: input and output gates open, forget gate shut.
    - For each label slot k, two copies of as many units keep a decaying mean of the images with
      label k: input and forget gates listen to y_k, the candidate reads the buffer.
    - Their output gates are sigmoid(+2 z) in one copy and sigmoid(-2 z) in the other; the classifier
      takes the difference, so that logit k is about z . prototype_k.

    Everything stays trainable, all other weights start as small noise, and spare units are free.
    Without it, binding images to labels is found only after a long plateau at chance.

    Raises:
        ValueError: not even one number of z has room.
    """
    size, copies = lstm.hidden_size, 2 * ways + 1
    kept = min(features, size // copies)
    if kept < 1:
        raise ValueError(f"hidden must be at least {copies} for {ways} ways, got {size}")
    shut, open_ = -7.0, 4.0
    with torch.no_grad():
        named = dict(lstm.named_parameters())
        weight_x, weight_h, bias = (named[f"{n}_l0"] for n in ("weight_ih", "weight_hh", "bias_ih"))
        for weight in (weight_x, weight_h, classifier.weight):
            weight.normal_(0, 0.02)
        for offset in (bias, named["bias_hh_l0"], classifier.bias):
            offset.zero_()
        in_gate, forget_gate, candidate, out_gate = (
            slice(n * size, (n + 1) * size) for n in range(4)
        )
        reads = weight_x.new_empty(kept, features)
        reads = nn.init.eye_(reads) if kept == features else nn.init.orthogonal_(reads)
        row, column = reads.nonzero(as_tuple=True)
        axis = torch.arange(kept)
        buffer = axis
        bias[in_gate][buffer], bias[forget_gate][buffer] = open_, -open_
        bias[out_gate][buffer] = open_
        weight_x[candidate][row, column] = 0.5 * reads[row, column]  # where tanh is nearly linear
        for label in range(ways):
            for copy, sign in enumerate((1.0, -1.0)):
                first = kept * (1 + 2 * label + copy)
                unit = first + axis
                # Label absent: keep. Label present: both gates at 1/2, a mean over recent images.
                bias[in_gate][unit], weight_x[in_gate][unit, features + label] = shut, -shut
                bias[forget_gate][unit], weight_x[forget_gate][unit, features + label] = -shut, shut
                weight_h[candidate][unit, buffer] = 2.0
                weight_x[out_gate][first + row, column] = 2.0 * sign * reads[row, column]
                classifier.weight[label, unit] = 2.0 * sign
