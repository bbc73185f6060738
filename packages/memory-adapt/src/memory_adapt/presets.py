"""Presets: functions of a model's name that return a complete training configuration.

`paper` settings are the thesis' (A.1.4): Adam 1e-3, meta-batch 16, 100,000 steps, balanced streams of
5 x 10. `cpu` settings train in minutes on one core; `staged` names the recipe they need.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from memory_adapt.config import (
    APLConfig,
    CLLSTMConfig,
    CPMConfig,
    LSTMConfig,
    ModelConfig,
    NTMConfig,
    StageConfig,
    TrainConfig,
)
from memory_adapt.models.registry import LEARNERS

CPU_WIDTH = 32


def omniglot_5way(model: str = "cl-lstm") -> TrainConfig:
    """Table 2.1, Omniglot, as published: 100,000 steps from scratch"""
    return TrainConfig(
        dataset="omniglot",
        model=LEARNERS[model].config(),
        stages=(StageConfig(order="balanced", clip_norm=None),),
        validate_every=1000,
        checkpoint_every=1000,
    )


def cifar_fs_5way(model: str = "cl-lstm") -> TrainConfig:
    """Table 2.1, CIFAR-FS, as published: 100,000 steps from scratch"""
    config = LEARNERS[model].config(image_channels=3, image_size=32)
    return replace(omniglot_5way(model), dataset="cifar-fs", model=config)


def omniglot_5way_cpu(model: str = "cl-lstm") -> TrainConfig:
    """Omniglot on one core: small networks; memory learners by the staged recipe"""
    return TrainConfig(dataset="omniglot", model=_small(model), stages=_CPU_STAGES[model]())


def omniglot_5way_scratch_cpu(model: str = "cl-lstm") -> TrainConfig:
    """Omniglot on one core: small networks, everything from scratch on streams (the thesis' claim)"""
    stage = StageConfig(steps=20_000, shots=5, learning_rate=1e-3, warmup_steps=100)
    return TrainConfig(dataset="omniglot", model=_small(model), stages=(stage,))


def omniglot_5way_delay3(model: str = "cl-lstm") -> TrainConfig:
    """omniglot_5way with labels that arrive 3 steps late"""
    return replace(omniglot_5way(model), delay=3)


def omniglot_5way_delay3_cpu(model: str = "cl-lstm") -> TrainConfig:
    """omniglot_5way_cpu with labels that arrive 3 steps late"""
    return replace(omniglot_5way_cpu(model), delay=3)


def glyphs_5way_cpu(model: str = "cl-lstm") -> TrainConfig:
    """Glyphs (drawn from fonts, nothing to download) on one core, as omniglot_5way_cpu"""
    return replace(omniglot_5way_cpu(model), dataset="glyphs")


def cifar_fs_5way_cpu(model: str = "cl-lstm") -> TrainConfig:
    """CIFAR-FS on one core: small networks, half of omniglot_5way_cpu's steps"""
    config = _small(model, image_channels=3, image_size=32)
    if isinstance(config, CLLSTMConfig):
        # The last layer's stride leaves 32 features, few enough for the LSTM to bind to labels.
        config = replace(config, first_width=16, strides=(1, 1, 1, 2))
    stages = tuple(replace(s, steps=s.steps // 2) for s in _CPU_STAGES[model]())
    return TrainConfig(dataset="cifar-fs", model=config, stages=stages)


PRESETS: dict[str, Callable[[str], TrainConfig]] = {
    preset.__name__: preset
    for preset in (
        omniglot_5way,
        omniglot_5way_cpu,
        omniglot_5way_scratch_cpu,
        omniglot_5way_delay3,
        omniglot_5way_delay3_cpu,
        glyphs_5way_cpu,
        cifar_fs_5way,
        cifar_fs_5way_cpu,
    )
}


def _small(model: str, **data: Any) -> ModelConfig:
    """A narrow network. CL+LSTM: few maps in the first layer, where most pixels are, and normalised
    gates, which the encoder's own stage needs.
    """
    small: dict[str, ModelConfig] = {
        "cl-lstm": CLLSTMConfig(width=CPU_WIDTH, first_width=8, gate_norm=True, **data),
        "lstm": LSTMConfig(width=CPU_WIDTH, **data),
        "ntm": NTMConfig(width=CPU_WIDTH, **data),
        "apl": APLConfig(width=CPU_WIDTH, hidden=128, **data),
        "cpm": CPMConfig(width=CPU_WIDTH, **data),
    }
    return small[model] if model in small else LEARNERS[model].config(width=CPU_WIDTH, **data)


def _prototypes(steps: int) -> StageConfig:
    return StageConfig(
        kind="prototypes",
        steps=steps,
        shots=5,
        learning_rate=2e-3,
        warmup_steps=50,
        min_lr_ratio=0.02,
    )


def _readout(steps: int = 3000) -> StageConfig:
    return StageConfig(
        kind="readout",
        steps=steps,
        batch_size=32,
        learning_rate=2e-3,
        warmup_steps=50,
        min_lr_ratio=0.02,
        clip_norm=1.0,
        jitter=4,
    )


def _episodes(steps: int, shots: int, learning_rate: float) -> StageConfig:
    return StageConfig(
        steps=steps,
        shots=shots,
        learning_rate=learning_rate,
        warmup_steps=20,
        min_lr_ratio=0.02,
    )


_CPU_STAGES: dict[str, Callable[[], tuple[StageConfig, ...]]] = {
    "cl-lstm": lambda: (
        _prototypes(1200),
        _readout(),
        _episodes(150, 10, 1.5e-4),
    ),
    "lstm": lambda: (_prototypes(800), _readout(), _episodes(200, 10, 2e-4)),
    "ntm": lambda: (_prototypes(800), _readout(1500), _episodes(200, 10, 2e-4)),
    "apl": lambda: (_prototypes(800), _readout(1500), _episodes(200, 10, 2e-4)),
    "opn": lambda: (_episodes(1200, 5, 2e-3),),
    "cpm": lambda: (_episodes(1200, 5, 2e-3),),
}
