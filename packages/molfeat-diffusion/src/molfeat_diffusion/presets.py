"""Presets: functions that return a complete training configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from molfeat_diffusion.config import (
    UNIFORM,
    LanguageConfig,
    LossConfig,
    ModelConfig,
    NetworkConfig,
    NoiseConfig,
    TrainConfig,
    VocabularyName,
)

TEN_LAYERS = NetworkConfig(layers=10)
SMALL = NetworkConfig(
    layers=6,
    mlp_atoms=128,
    mlp_bonds=32,
    mlp_global=64,
    mlp_positions=32,
    width_atoms=128,
    width_bonds=32,
    width_global=64,
    heads=4,
    feed_forward_atoms=128,
    feed_forward_bonds=32,
    feed_forward_global=128,
    dropout=0.0,
)
MEDIUM = replace(
    SMALL,
    mlp_atoms=192,
    mlp_bonds=48,
    width_atoms=192,
    width_bonds=48,
    feed_forward_atoms=192,
    feed_forward_bonds=48,
    feed_forward_global=256,
    dropout=0.05,
)


def qm9_no_h_adaptive() -> TrainConfig:
    """QM9 without hydrogens, adaptive noise: 10 layers"""
    return TrainConfig(
        model=ModelConfig(vocabulary="qm9_no_h", network=TEN_LAYERS),
        loss=LossConfig(weight_positions=5.0),
        learning_rate=1e-4,
    )


def qm9_no_h_uniform() -> TrainConfig:
    """QM9 without hydrogens, uniform noise: 10 layers"""
    return _uniform(qm9_no_h_adaptive())


def qm9_h_adaptive() -> TrainConfig:
    """QM9 with hydrogens, adaptive noise: 12 layers"""
    return TrainConfig(model=ModelConfig(vocabulary="qm9"))


def qm9_h_uniform() -> TrainConfig:
    """QM9 with hydrogens, uniform noise: 12 layers"""
    return _uniform(qm9_h_adaptive())


def geom_no_h_adaptive() -> TrainConfig:
    """GEOM-drugs without hydrogens (give its .sdf by --data), adaptive noise: 12 layers"""
    return replace(geom_h_adaptive(), model=ModelConfig(vocabulary="geom_no_h"))


def geom_no_h_uniform() -> TrainConfig:
    """GEOM-drugs without hydrogens (give its .sdf by --data), uniform noise: 12 layers"""
    return replace(_uniform(geom_no_h_adaptive()), loss=LossConfig())


def geom_h_adaptive() -> TrainConfig:
    """GEOM-drugs with hydrogens (give its .sdf by --data), adaptive noise: 12 layers"""
    return TrainConfig(data=("geom.sdf",), loss=LossConfig(weight_positions=5.0))


def geom_h_uniform() -> TrainConfig:
    """GEOM-drugs with hydrogens (give its .sdf by --data), uniform noise: 12 layers"""
    return replace(_uniform(geom_h_adaptive()), loss=LossConfig())


def midi_cpu() -> TrainConfig:
    """GEOM's vocabulary without hydrogens, 6 layers of half the width: the shipped midi-cpu"""
    return TrainConfig(
        model=ModelConfig(vocabulary="geom_no_h", network=SMALL, noise=NoiseConfig()),
        loss=LossConfig(weight_positions=5.0),
        steps=5000,
        batch_size=32,
        learning_rate=1e-3,
        warmup_steps=50,
        decay="cosine",
        clip_norm=10.0,
        ema=0.995,
        max_atoms=30,
        validation_fraction=0.03,
        validate_every=500,
        checkpoint_every=100,
    )


def qm9_no_h_cpu() -> TrainConfig:
    """QM9 without hydrogens, for sampling: 6 layers of half the width; an hour on a core"""
    return replace(_for_sampling(SMALL, "qm9_no_h"), steps=7000)


def qm9_no_h_gpu() -> TrainConfig:
    """QM9 without hydrogens, for sampling: 6 layers of three quarters of the width; minutes on a GPU"""
    return replace(
        _for_sampling(MEDIUM, "qm9_no_h"), steps=16_000, batch_size=1024, checkpoint_every=2000
    )


def drugs_no_h_gpu() -> TrainConfig:
    """GEOM's vocabulary without hydrogens, up to 30 atoms (give them by --data), for sampling; minutes on a GPU"""
    return replace(
        _for_sampling(MEDIUM, "geom_no_h"), steps=10_000, batch_size=256, checkpoint_every=2000
    )


TRAIN: dict[str, Callable[[], TrainConfig]] = {
    preset.__name__: preset
    for preset in (
        qm9_no_h_adaptive,
        qm9_no_h_uniform,
        qm9_h_adaptive,
        qm9_h_uniform,
        geom_no_h_adaptive,
        geom_no_h_uniform,
        geom_h_adaptive,
        geom_h_uniform,
        midi_cpu,
        qm9_no_h_cpu,
        qm9_no_h_gpu,
        drugs_no_h_gpu,
    )
}


def _for_sampling(network: NetworkConfig, vocabulary: VocabularyName) -> TrainConfig:
    """What made samples of small models better, and the paper does without."""
    config = midi_cpu()
    return replace(
        config,
        model=ModelConfig(
            vocabulary=vocabulary,
            kekulized=True,
            network=replace(network, self_conditioning=True),
        ),
        batch_size=128,
        learning_rate=1.5e-3,
        warmup_steps=200,
        ema=0.999,
        distortion=0.25,
        checkpoint_every=500,
    )


def _uniform(config: TrainConfig) -> TrainConfig:
    return replace(config, model=replace(config.model, noise=UNIFORM))


def smiles_mlm() -> LanguageConfig:
    """masked-language model of SMILES of ChemBERTa-77M's size"""
    return LanguageConfig()


def smiles_mlm_cpu() -> LanguageConfig:
    """masked-language model of SMILES, 0.7 million parameters; minutes on a core"""
    return LanguageConfig(
        max_smiles=60_000,
        width=128,
        layers=4,
        heads=4,
        feed_forward=384,
        steps=1500,
        batch_size=64,
        learning_rate=2e-3,
        validation_fraction=0.01,
        validate_every=250,
        checkpoint_every=100,
        log_every=25,
    )


LANGUAGE: dict[str, Callable[[], LanguageConfig]] = {
    preset.__name__: preset for preset in (smiles_mlm, smiles_mlm_cpu)
}
