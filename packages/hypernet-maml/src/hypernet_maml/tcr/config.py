"""Settings of a training on receptors: plain dataclasses, no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from priors_shared.ranges import require, require_positive

KIND = "hypernet-maml receptor hypernetwork"
"""What trained hypernetworks are called in a checkpoint's config.json."""
FITTED_KIND = "hypernet-maml epitope model"
"""What models of one epitope are called there."""
SHOTS = (1, 2, 5, 10, 20)
"""Binders in a support, in trainings and evaluations."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of the hypernetwork and of the network that it writes."""

    features: int = 12
    """similarities of two receptors; a training sets it by its encoder"""
    kernels: int = 8
    """learned similarities"""
    pair_width: int = 32
    """hidden units of the kernels"""
    width: int = 32
    """hidden units of the network that ranks"""
    task_width: int = 32
    """hidden units of the hypernetwork"""
    dropout: float = 0.1
    """in training"""
    hypernetwork: bool = True
    """off: the same network for all epitopes, which sees the binders through the kernels alone"""

    def __post_init__(self) -> None:
        require(self, 1, "features", "kernels", "pair_width", "width", "task_width")
        require(self, 0, "dropout", most=1)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training over epitopes, a fold of which is held out."""

    source: Literal["iedb", "vdjdb"] = "iedb"
    """receptors with the epitopes that they bind"""
    folds: int = 4
    """parts that epitopes are split into, by clusters within three edits"""
    fold: int = 0
    """the part held out, with all its clonotypes"""
    split_seed: int = 0
    """of the parts"""
    encoder: Literal["cdr", "sceptr"] = "cdr"
    """cdr: similarities made of the sequences. sceptr: SCEPTR's vectors besides (extra sceptr)"""
    steps: int = 150
    """updates"""
    batch_size: int = 6
    """tasks an update"""
    positives: int = 30
    """binders to rank in a task, at most"""
    negatives: int = 200
    """binders of other epitopes to rank in a task"""
    learning_rate: float = 3e-3
    """of AdamW, the highest of a one-cycle schedule"""
    weight_decay: float = 1e-2
    """of AdamW"""
    clip_norm: float = 1.0
    """norm that gradients are clipped to"""
    background: int = 256
    """receptors of the training part that stand for receptors in general"""
    calibration: int = 1024
    """receptors of the part held out, which scores are measured against"""
    seed: int = 0
    """of initial weights, tasks and the background"""
    model: ModelConfig = field(default_factory=ModelConfig)
    """the hypernetwork"""

    def __post_init__(self) -> None:
        require(self, 1, "steps", "batch_size", "positives", "negatives", "background")
        require(self, 1, "calibration")
        require(self, 0, "seed", "split_seed", "weight_decay")
        require_positive(self, "learning_rate", "clip_norm")
        if not 0 <= self.fold < self.folds or self.folds < 2:
            raise ValueError(
                f"fold must be in 0 .. folds - 1 and folds at least 2, got {self.fold} of {self.folds}"
            )


def tcr_cpu() -> TrainConfig:
    """IEDB's paired human receptors, similarities made of the sequences: minutes on one core"""
    return TrainConfig(folds=8)


def tcr_sceptr() -> TrainConfig:
    """The same with SCEPTR's vectors besides (extra sceptr)"""
    return TrainConfig(folds=8, encoder="sceptr")


PRESETS: dict[str, Callable[[], TrainConfig]] = {"tcr_cpu": tcr_cpu, "tcr_sceptr": tcr_sceptr}
