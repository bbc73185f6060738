"""Configurations: what is out of range is refused by its field's name, what earlier versions wrote is read."""

from __future__ import annotations

from dataclasses import asdict, fields

import pytest
import torch

from hyperfields.config import (
    Config,
    DistillConfig,
    FieldConfig,
    FinetuneConfig,
    GuidanceConfig,
    ModelConfig,
    SegmentConfig,
    TeachConfig,
    UNetConfig,
)
from hyperfields.presets import DISTILL, FINETUNE, GUIDANCE, SEGMENT, TEACH
from hyperfields.records import config_from, with_present_names
from hyperfields.training.score_distillation import build_guidance
from priors_shared.errors import UserError

CONFIGS = (
    FieldConfig,
    ModelConfig,
    DistillConfig,
    SegmentConfig,
    TeachConfig,
    FinetuneConfig,
    UNetConfig,
    GuidanceConfig,
)
MAY_BE_ZERO = {"seed", "warmup_steps", "object_fraction", "min_lr_ratio", "features", "frequencies"}
MAY_BE_ZERO |= {"scale", "blob_height", "blob_radius"}


@pytest.mark.parametrize("kind", CONFIGS)
def test_no_number_is_nan_or_infinite_and_no_size_or_rate_is_zero(kind: type[Config]) -> None:
    default = kind()
    for spec in fields(kind):
        value = getattr(default, spec.name)
        if isinstance(value, float):
            for bad in (float("nan"), float("inf")):
                with pytest.raises(ValueError, match=f"^{spec.name} must be a finite number"):
                    kind(**{spec.name: bad})
        if isinstance(value, int | float) and not isinstance(value, bool):
            bad = [] if spec.name in MAY_BE_ZERO else [type(value)(0)]
            bad += [-1] if isinstance(value, int) else []
            for number in bad:
                with pytest.raises(ValueError, match=f"^{spec.name}"):
                    kind(**{spec.name: number})


def test_choices_that_there_are_not_and_options_without_effect_are_refused() -> None:
    for wrong, message in (
        ({"conditioning": "static", "stop_gradient": False}, "^stop_gradient"),
        ({"conditioning": "grid", "weights": "modulated"}, "^weights"),
    ):
        with pytest.raises(ValueError, match=message):
            ModelConfig(**wrong)  # type: ignore[arg-type]
    featured = FieldConfig(features=3)
    with pytest.raises(ValueError, match=r"^features"):
        TeachConfig(field=featured)
    with pytest.raises(ValueError, match=r"^features"):
        DistillConfig(model=ModelConfig(field=featured))


@pytest.mark.parametrize(
    ("guidance", "option"),
    [
        ("empirical", {"scale": 7.5}),
        ("empirical", {"guidance_text": "bert"}),
        ("procedural-unet", {"views": 8}),
        ("stable-diffusion", {"views": 8}),
    ],
)
@pytest.mark.parametrize("kind", [TeachConfig, FinetuneConfig])
def test_what_a_guidance_does_not_read_is_refused_by_name(
    kind: type[Config], guidance: str, option: dict[str, object]
) -> None:
    (name,) = option
    with pytest.raises(
        ValueError, match=f"^{name} .* has no effect with guidance {guidance}: leave"
    ):
        kind(guidance=guidance, **option)  # type: ignore[call-arg]


def test_a_pipeline_takes_no_text_encoder() -> None:
    config = TeachConfig(guidance="stable-diffusion", guidance_text="bert")
    with pytest.raises(
        UserError, match=r"^guidance_text bert: the pipeline stable-diffusion brings"
    ):
        build_guidance(config, ["a mug"], torch.device("cpu"))


def test_every_preset_comes_back_from_its_json() -> None:
    for presets in (DISTILL, SEGMENT, TEACH, FINETUNE, GUIDANCE):
        for preset in presets.values():
            config = preset()
            assert config_from(type(config), asdict(config)) == config


def test_keys_of_earlier_versions_are_read_at_all_depths() -> None:
    old = {"iterations": 7, "batch": 2, "unet": {"layers": 2}}
    config = config_from(GuidanceConfig, old)
    assert (config.steps, config.batch_size, config.unet.layers) == (7, 2, 2)
    assert with_present_names({"trained": {"iterations": 4}}) == {"trained": {"steps": 4}}


def test_records_of_other_types_are_refused() -> None:
    for record, message in (
        ([], "is no object"),
        ({"width": "9"}, "width is a str"),
        ({"width": True}, "width is a bool"),
        ({"widths": 3}, "unknown key 'widths'"),
        ({"width": 10**9}, "width must be in 1 .. 16384"),
        ({"blob_height": float("nan")}, "finite"),
    ):
        with pytest.raises(ValueError, match=message):
            config_from(FieldConfig, record)
