"""Presets: functions that return a complete configuration.

Those whose names end in `_cpu` train in minutes on a core; the others are the thesis' setting (B.1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hyperfields.conditioning.vocabulary import (
    held_out_materials,
    held_out_prompts,
    material_prompts,
    procedural_prompts,
    prompt_of,
)
from hyperfields.config import (
    SHIPPED_GUIDANCE,
    DistillConfig,
    FieldConfig,
    FinetuneConfig,
    GuidanceConfig,
    ModelConfig,
    SegmentConfig,
    TeachConfig,
)

HELD_OUT = held_out_prompts()
TRAINED = tuple(prompt for prompt in procedural_prompts() if prompt not in HELD_OUT)
MATERIALS_CPU = tuple(
    prompt_of(material, shape)
    for shape in ("chair", "bowl", "vase", "table")
    for material in ("plaid", "terracotta", "tiger striped", "stained glass")
)
"""Four shapes in four materials."""
MATERIALS_TRAINED = tuple(p for p in material_prompts() if p not in held_out_materials())
FOUR_MATERIALS = tuple(
    prompt_of(style, "vase") for style in ("origami", "glacier", "stained glass", "plaid")
)

SMALL_FIELD = FieldConfig(levels=8, level_features=4, log2_rows=15, finest=128, frequencies=4)
SMALL = ModelConfig(text="minilm", blocks=2, heads=8, head_dim=16, field=SMALL_FIELD)


def procedural() -> DistillConfig:
    """45 of 72 colour-shape scenes with the thesis' model: BERT, 6 blocks, 16 grids; needs a GPU"""
    return DistillConfig(prompts=TRAINED, held_out=HELD_OUT)


def procedural_cpu() -> DistillConfig:
    """45 of 72 colour-shape scenes, 27 held out, with a small model: MiniLM, 2 blocks, 8 grids"""
    return DistillConfig(
        model=SMALL,
        prompts=TRAINED,
        held_out=HELD_OUT,
        views=48,
        image_size=32,
        prompts_per_step=6,
        rays=256,
        samples=24,
        object_fraction=0.5,
        steps=4000,
        learning_rate=1e-3,
        grid_learning_rate=1e-2,
        min_lr_ratio=0.03,
        checkpoint_every=100,
    )


def procedural_cpu_short() -> DistillConfig:
    """procedural_cpu with 1,200 steps: minutes a run, to compare arms over seeds"""
    return replace(procedural_cpu(), steps=1200)


def materials_cpu() -> DistillConfig:
    """four shapes in four materials (plaid, terracotta, ...) with a small model"""
    return DistillConfig(
        model=SMALL,
        prompts=MATERIALS_CPU,
        views=48,
        image_size=64,
        prompts_per_step=4,
        rays=384,
        samples=32,
        steps=4000,
        learning_rate=1e-3,
        grid_learning_rate=1e-2,
        min_lr_ratio=0.03,
    )


def materials_held_out() -> DistillConfig:
    """24 of 32 shapes in materials, 8 combinations held out (B.2), with the thesis' model; needs a GPU"""
    return DistillConfig(prompts=MATERIALS_TRAINED, held_out=held_out_materials())


def materials_held_out_cpu() -> DistillConfig:
    """materials_held_out with a small model: minutes"""
    return replace(
        materials_cpu(),
        prompts=MATERIALS_TRAINED,
        held_out=held_out_materials(),
        views=32,
        image_size=48,
        rays=256,
        samples=24,
        object_fraction=0.5,
        steps=1200,
        checkpoint_every=100,
    )


def four_materials() -> DistillConfig:
    """one vase in four materials (Fig. 4.9) with the thesis' model; needs a GPU"""
    return DistillConfig(prompts=FOUR_MATERIALS)


def four_materials_cpu() -> DistillConfig:
    """four_materials with a small model: a minute a run, to compare arms"""
    return replace(materials_held_out_cpu(), prompts=FOUR_MATERIALS, held_out=(), steps=400)


DISTILL: dict[str, Callable[[], DistillConfig]] = {
    preset.__name__: preset
    for preset in (
        procedural,
        procedural_cpu,
        procedural_cpu_short,
        materials_cpu,
        materials_held_out,
        materials_held_out_cpu,
        four_materials,
        four_materials_cpu,
    )
}
"""By name, for `hyperfields distill` and `hyperfields train`."""


def teacher() -> TeachConfig:
    """the thesis' NeRF; for a diffusion pipeline, on a GPU"""
    return TeachConfig()


def teacher_cpu() -> TeachConfig:
    """a small NeRF on 32 x 32 renders; for the empirical guidance of a procedural scene"""
    return TeachConfig(
        field=SMALL_FIELD,
        image_size=32,
        samples=32,
        batch_size=2,
        steps=400,
        learning_rate=5e-3,
        grid_learning_rate=2e-2,
        checkpoint_every=100,
        log_every=20,
    )


def teacher_unet_cpu() -> TeachConfig:
    """a small NeRF on 32 x 32 renders, guided by the diffusion model procedural-unet"""
    return replace(teacher_cpu(), guidance=SHIPPED_GUIDANCE, scale=7.5)


TEACH: dict[str, Callable[[], TeachConfig]] = {
    preset.__name__: preset for preset in (teacher, teacher_cpu, teacher_unet_cpu)
}
"""By name, for `hyperfields teach`."""


def finetune() -> FinetuneConfig:
    """the thesis' setting: up to 2,000 steps guided by a diffusion pipeline, on a GPU"""
    return FinetuneConfig()


def finetune_cpu() -> FinetuneConfig:
    """a small model on 32 x 32 renders; for the empirical guidance of a procedural scene"""
    return FinetuneConfig(
        image_size=32,
        samples=32,
        batch_size=2,
        steps=400,
        learning_rate=5e-4,
        grid_learning_rate=5e-3,
        checkpoint_every=100,
        log_every=20,
    )


FINETUNE: dict[str, Callable[[], FinetuneConfig]] = {
    preset.__name__: preset for preset in (finetune, finetune_cpu)
}
"""By name, for `hyperfields finetune`."""


def procedural_unet() -> GuidanceConfig:
    """a small diffusion model of the 45 trained scenes, to guide teach and finetune: procedural-unet"""
    return GuidanceConfig(prompts=TRAINED)


GUIDANCE: dict[str, Callable[[], GuidanceConfig]] = {"procedural_unet": procedural_unet}
"""By name, for `hyperfields train`."""


def segmentation_cpu() -> SegmentConfig:
    """fields with part labels from four views: 240 procedural scenes of random proportions"""
    return SegmentConfig(
        model=SMALL,
        views=10,
        image_size=32,
        prompts_per_step=8,
        rays=128,
        samples=24,
        object_fraction=0.5,
        steps=4000,
        learning_rate=1e-3,
        grid_learning_rate=1e-2,
        min_lr_ratio=0.03,
        checkpoint_every=100,
    )


SEGMENT: dict[str, Callable[[], SegmentConfig]] = {"segmentation_cpu": segmentation_cpu}
"""By name, for `hyperfields train`."""
