"""Configurations: plain frozen dataclasses, no torch, so that `--help` answers at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from tyro.conf import arg

from priors_shared import launching
from priors_shared.ranges import require

CHECKPOINT_KIND = "memory-adapt online learner"
"""What checkpoints of this package are called in their config.json."""

DEFAULT_ENCODER = "mobilenet-v3-small"
"""Of photos, offline: that of `priors_shared.encoders`, whose module imports torch."""

LabelInjection = Literal["first", "every", "lstm"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What all online learners share."""

    ways: int = 5
    """label slots: the most classes in one stream"""
    image_channels: int = 1
    """1 for characters, 3 for colour"""
    image_size: int = 28
    """height and width in pixels"""
    width: int = 64
    """feature maps in each convolutional layer"""

    def __post_init__(self) -> None:
        require(self, 2, "ways")
        require(self, 1, "image_size", most=1024)
        require(self, 1, "image_channels", "width", "first_width", "hidden")
        require(self, 1, "slots", "slot_size", "heads", "neighbours")
        require(self, 0, "usage_decay", most=1)
        require(self, 0, "surprise")


@dataclass(frozen=True, kw_only=True)
class CLLSTMConfig(ModelConfig):
    """CL+LSTM (thesis 2.3.3): ConvLSTM layers, an LSTM, a classifier."""

    hidden: int = 400
    """units of the LSTM"""
    label_injection: LabelInjection = "every"
    """where the previous label enters (Fig. 2.2): first ConvLSTM, every ConvLSTM (and the LSTM), or LSTM only"""
    first_width: int | None = None
    """feature maps of the first layer, where most pixels are; None: as `width`"""
    strides: tuple[int, ...] = (1, 1, 1, 1)
    """stride of each layer's input convolution; one entry per layer"""
    pools: tuple[bool, ...] = (True, True, True, True)
    """2 x 2 max-pooling after each layer"""
    skip: bool = True
    """residual connection from layer 2 to layer 4 (A.2)"""
    gate_norm: bool = False
    """GroupNorm on the gates' input convolutions (not in the thesis; the CPU recipe needs it)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.strides) != len(self.pools):
            raise ValueError(
                f"strides and pools need one entry per layer, got {len(self.strides)} and {len(self.pools)}"
            )
        if min(self.strides, default=0) < 1:
            raise ValueError(
                f"strides must be at least 1, in one layer or more, got {self.strides}"
            )


@dataclass(frozen=True, kw_only=True)
class LSTMConfig(ModelConfig):
    """Conv-4 encoder, LSTM, classifier (Santoro et al. 2016)."""

    hidden: int = 400
    """units of the LSTM"""


@dataclass(frozen=True, kw_only=True)
class NTMConfig(ModelConfig):
    """Conv-4 encoder, NTM with least-recently-used access (Santoro et al. 2016; thesis A.1.4)."""

    hidden: int = 400
    """units of the LSTM controller"""
    slots: int = 120
    """rows of the memory"""
    slot_size: int = 40
    """length of a row"""
    heads: int = 4
    """read heads (as many write heads)"""
    usage_decay: float = 0.95
    """decay of the usage weights"""


@dataclass(frozen=True, kw_only=True)
class APLConfig(ModelConfig):
    """Adaptive posterior learning (Ramalho & Garnelo 2019)."""

    hidden: int = 400
    """units of the LSTM decoder"""
    neighbours: int = 5
    """memories read for each image"""
    slots: int = 64
    """rows of the ring memory"""
    surprise: float = 0.75
    """write when the cross-entropy exceeds this times ln(ways)"""


@dataclass(frozen=True, kw_only=True)
class OPNConfig(ModelConfig):
    """Online prototypical network (Ren et al. 2021)."""

    metric: Literal["euclidean", "cosine"] = "euclidean"
    """distance to a prototype"""


@dataclass(frozen=True, kw_only=True)
class CPMConfig(ModelConfig):
    """Contextual prototypical memory (Ren et al. 2021)."""

    hidden: int = 400
    """units of the contextual LSTM"""


@dataclass(frozen=True, kw_only=True)
class PhotoConfig(ModelConfig):
    """What learners of photos share: a frozen encoder by its name, see `priors_shared.encoders`."""

    ways: int = 100
    image_channels: int = 3
    image_size: int = 224
    """of images in folders; those of other sizes are resized, too"""
    width: int = 128
    """length of the projected features"""
    encoder: str = DEFAULT_ENCODER
    """mobilenet-v3-small, onnx:FILE, torchvision:NAME, timm:NAME or hf:NAME"""
    features: int = 576
    """length of the encoder's vectors"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, 1, "features", "layers")
        if self.image_channels != 3:
            raise ValueError(f"image_channels must be 3 for photos, got {self.image_channels}")


@dataclass(frozen=True, kw_only=True)
class CentroidsConfig(PhotoConfig):
    """Nearest centroids on the encoder's features: what learners of photos are compared with."""

    width: int = 576
    """as `features`, where the metric is the plain cosine"""
    metric: Literal["cosine", "whitened", "projected"] = "cosine"
    """of the features as they are, whitened within classes, or by a learned linear map that starts there"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.metric == "cosine" and self.width != self.features:
            raise ValueError(
                f"width must be features for cosine: {self.features}, got {self.width}"
            )


@dataclass(frozen=True, kw_only=True)
class PhotoOPNConfig(PhotoConfig):
    """Online prototypes on projected features, whose scores know how many samples are behind them."""

    hidden: int = 128
    """units of the non-linear part of the projection"""


@dataclass(frozen=True, kw_only=True)
class PhotoCPMConfig(PhotoConfig):
    """Contextual prototypical memory on projected features."""

    hidden: int = 128
    """units of the contextual LSTM"""


@dataclass(frozen=True, kw_only=True)
class PhotoMemoryConfig(PhotoConfig):
    """Recurrent layers on projected features, labels injected in each."""

    hidden: int = 128
    """units in each layer"""
    layers: int = 2
    """recurrent layers"""


StageKind = Literal["prototypes", "readout", "episodes"]


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage of training; the thesis has a single one, `episodes`."""

    kind: StageKind = "episodes"
    """episodes: everything, on streams (2.3.4). prototypes: the encoder alone, each image by itself, with an
    online-prototype loss. readout: what follows the encoder, on cached, standardised features"""
    steps: int = 100_000
    """steps of the optimizer, Adam"""
    batch_size: int = 16
    """streams in a step"""
    shots: int = 10
    """samples of each class in a stream; its length is ways x shots"""
    order: Literal["balanced", "iid"] = "iid"
    """label order: iid draws each label anew (no shortcut to learn); balanced is the evaluation protocol"""
    learning_rate: float = 1e-3
    """highest learning rate"""
    min_lr_ratio: float = 1.0
    """fraction of the learning rate that remains at the end (cosine decay; 1 keeps it constant)"""
    warmup_steps: int = 0
    """steps over which the learning rate rises from zero"""
    clip_norm: float | None = 5.0
    """largest norm of the gradient; None: any"""
    jitter: int = 0
    """readout: turned, bent and shifted copies of each training image whose features are used, too"""

    def __post_init__(self) -> None:
        require(self, 1, "steps", "batch_size", "shots")
        require(self, 0, "warmup_steps", "jitter")
        require(self, 0, "min_lr_ratio", most=1)
        for name in ("learning_rate", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be a positive number, got {value}")
        if self.jitter and self.kind != "readout":
            raise ValueError(f"jitter is for readout stages, not for {self.kind}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole training: data, model, stages."""

    dataset: str
    """omniglot, glyphs, cifar-fs, or folder:PATH"""
    model: Annotated[ModelConfig, arg(name="")]  # as options: --width, not --model.width
    """the learner"""
    stages: tuple[StageConfig, ...]
    """one after the other"""
    delay: int = 1
    """steps until a label arrives"""
    seed: int = 0
    """seed of initial weights and streams"""
    validate_every: int = 500
    """steps between two validations"""
    validation_episodes: int = 64
    """streams of held-out classes per validation"""
    checkpoint_every: int = 200
    """steps between two checkpoints to resume from"""
    log_every: int = 20
    """steps between two lines in metrics.jsonl"""

    def __post_init__(self) -> None:
        require(self, 1, "delay", "validate_every", "checkpoint_every", "log_every")
        require(self, 2, "validation_episodes")
        require(self, 0, "seed", most=2**63 - 1)
        if not self.stages:
            raise ValueError("stages: a training needs one or more")
        binds = isinstance(self.model, CLLSTMConfig | LSTMConfig)
        if binds and any(stage.kind == "readout" for stage in self.stages):
            # It begins as a memory of one prototype a slot, twice, behind a buffer.
            require(self.model, 2 * self.model.ways + 1, "hidden")
        shortest = self.model.ways * min(stage.shots for stage in self.stages)
        if self.delay >= shortest:
            raise ValueError(
                f"delay {self.delay}: no label would arrive in a stream of {shortest} images"
            )


@dataclass(frozen=True, kw_only=True)
class LaunchConfig(launching.LaunchConfig):
    """Where and how it runs; a resumed run may change all of it."""

    data_root: str | None = None
    """folder with the datasets (else the environment variable PRIORS_DATA)"""
    devices: int = 1
    """number of accelerators, or of processes on the CPU; each draws whole batches of its own, so that a step
    sees so many times `batch_size` streams"""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"  # type: ignore[assignment]
    """arithmetic"""


def current_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded training with the names that its settings have now, whichever version wrote it."""
    renamed = {
        "updates": "steps",
        "batch": "batch_size",
        "final_rate": "min_lr_ratio",
        "warmup": "warmup_steps",
        "clip": "clip_norm",
    }
    stages = [
        {renamed.get(k, k): v for k, v in stage.items()} for stage in values.get("stages", ())
    ]
    return {**values, "stages": stages} if stages else dict(values)
