"""Every preset builds every model; the paper's are the thesis' numbers (A.1.4)."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from memory_adapt.config import (
    APLConfig,
    CLLSTMConfig,
    CPMConfig,
    LSTMConfig,
    ModelConfig,
    NTMConfig,
    StageConfig,
    TrainConfig,
    current_names,
)
from memory_adapt.models.registry import (
    IMAGE_LEARNERS,
    build_model,
    config_from_json,
    config_to_json,
    model_name,
)
from memory_adapt.presets import PRESETS
from memory_adapt.training.staged import feature_input, start_readout
from priors_shared.datasets import DATASETS

PAPER = ("omniglot_5way", "cifar_fs_5way")
# Channels and side of each dataset's images.
SHAPES = {"omniglot": (1, 28), "glyphs": (1, 28), "cifar-fs": (3, 32)}


@pytest.mark.parametrize("model", IMAGE_LEARNERS)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_builds_its_model_for_its_data(preset: str, model: str) -> None:
    config = PRESETS[preset](model)
    assert config.dataset in DATASETS
    assert model_name(config.model) == model
    assert (config.model.image_channels, config.model.image_size) == SHAPES[config.dataset]
    channels, side = SHAPES[config.dataset]
    learner = build_model(config.model)
    images, null = torch.zeros(1, 1, channels, side, side), torch.tensor([[-1]])
    with torch.no_grad():
        logits, state = learner(images, null)
        again, _ = learner(images, null + 1, state)
    assert logits.shape == again.shape == (1, 1, config.model.ways)
    for stage in config.stages:
        if stage.kind == "readout":
            start_readout(learner)  # there are units enough
            reads = feature_input(learner)  # what the stage folds its statistics into
            assert (reads is None) == (model == "apl")
            assert reads is None or len(reads[0]) == len(reads[1])
        assert stage.shots <= 20  # Omniglot and Glyphs have so many images of a class


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_trains_cl_lstm_unless_told_otherwise(preset: str) -> None:
    assert PRESETS[preset]() == PRESETS[preset]("cl-lstm")  # type: ignore[call-arg]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_says_in_one_line_what_it_is(preset: str) -> None:
    described = PRESETS[preset].__doc__
    assert described
    assert "\n" not in described.strip()


@pytest.mark.parametrize("model", IMAGE_LEARNERS)
@pytest.mark.parametrize("preset", PAPER)
def test_training_of_the_paper(preset: str, model: str) -> None:
    """Adam 1e-3, meta-batch 16, 100k iterations, streams of 5 x 10; nothing that A.1.4 lacks."""
    config = PRESETS[preset](model)
    assert config.stages == (
        StageConfig(
            kind="episodes",
            steps=100_000,
            batch_size=16,
            shots=10,
            order="balanced",
            learning_rate=1e-3,
            min_lr_ratio=1.0,
            warmup_steps=0,
            clip_norm=None,
        ),
    )
    assert config.delay == 1


@pytest.mark.parametrize("preset", PAPER)
def test_networks_of_the_paper(preset: str) -> None:
    def network(model: str) -> ModelConfig:
        return PRESETS[preset](model).model

    for model in IMAGE_LEARNERS:
        assert (network(model).ways, network(model).width) == (5, 64), model
    cl_lstm, lstm, ntm = network("cl-lstm"), network("lstm"), network("ntm")
    apl, cpm = network("apl"), network("cpm")
    assert isinstance(cl_lstm, CLLSTMConfig)
    assert (len(cl_lstm.strides), len(cl_lstm.pools), cl_lstm.hidden) == (4, 4, 400)
    assert cl_lstm.skip  # A.2
    assert not cl_lstm.gate_norm
    assert isinstance(lstm, LSTMConfig)
    assert lstm.hidden == 400
    assert isinstance(ntm, NTMConfig)
    assert (ntm.hidden, ntm.slots, ntm.slot_size, ntm.usage_decay) == (400, 120, 40, 0.95)
    assert isinstance(apl, APLConfig)
    assert (apl.hidden, apl.neighbours) == (400, 5)
    assert isinstance(cpm, CPMConfig)
    assert cpm.hidden == 400


@pytest.mark.parametrize("model", IMAGE_LEARNERS)
def test_cpu_presets_never_train_on_balanced_streams(model: str) -> None:
    """Balanced streams can be predicted without looking (`blind_bound`): learners find that out."""
    for name, preset in PRESETS.items():
        if name.endswith("_cpu"):
            assert {stage.order for stage in preset(model).stages} == {"iid"}, name


def test_presets_of_late_labels_differ_in_nothing_else() -> None:
    for suffix in ("", "_cpu"):
        late = PRESETS[f"omniglot_5way_delay3{suffix}"]("cl-lstm")
        assert late == dataclasses.replace(PRESETS[f"omniglot_5way{suffix}"]("cl-lstm"), delay=3)


@pytest.mark.parametrize("model", IMAGE_LEARNERS)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_configuration_survives_json(preset: str, model: str) -> None:
    config = PRESETS[preset](model).model
    assert config_from_json(json.loads(json.dumps(config_to_json(config)))) == config


NAN, INF = float("nan"), float("inf")
ONE_STAGE = {"dataset": "glyphs", "model": LSTMConfig(), "stages": (StageConfig(),)}
REFUSED: dict[type, dict[str, tuple[object, ...]]] = {
    CLLSTMConfig: {
        **dict.fromkeys(("ways", "width", "image_size", "image_channels", "hidden"), (0, -1)),
        **{
            "ways": (1,),
            "image_size": (10**6,),
            "first_width": (0,),
            "strides": ((0, 1, 1, 1), ()),
        },
    },
    NTMConfig: {"slots": (0,), "slot_size": (0,), "heads": (0,), "usage_decay": (-0.1, 1.1, NAN)},
    APLConfig: {"neighbours": (0,), "surprise": (-0.1, NAN, INF)},
    StageConfig: {
        **dict.fromkeys(("steps", "batch_size", "shots"), (0, -1)),
        **dict.fromkeys(("learning_rate", "clip_norm"), (0.0, -1.0, NAN, INF)),
        **{"min_lr_ratio": (-0.1, 1.1, NAN), "warmup_steps": (-1,), "jitter": (-1,)},
    },
    TrainConfig: {
        **dict.fromkeys(("validate_every", "checkpoint_every", "log_every", "delay"), (0, -1)),
        **{"validation_episodes": (1,), "seed": (-1, 2**63), "stages": ((),)},
    },
}


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (c, f, value)
        for c, fields in REFUSED.items()
        for f, values in fields.items()
        for value in values
    ],
)
def test_a_number_that_makes_no_sense_is_refused_by_its_name(
    config: type, field: str, value: object
) -> None:
    others = ONE_STAGE if config is TrainConfig else {}
    if field == "strides":
        others = {"pools": (True,) * len(value)}  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"^{field}[: ]"):
        config(**{**others, field: value})


def test_a_delay_beyond_the_stream_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^delay 50: no label would arrive in a stream of 50 images"
    ):
        TrainConfig(**ONE_STAGE, delay=50)
    assert TrainConfig(**ONE_STAGE, delay=49).delay == 49


def test_settings_of_version_0_1_have_their_names_of_today() -> None:
    stage = {
        "kind": "readout",
        "updates": 3,
        "batch": 4,
        "final_rate": 0.5,
        "warmup": 2,
        "clip": 1.0,
    }
    config = current_names({"seed": 1, "stages": [stage]})
    assert config["seed"] == 1
    assert StageConfig(**config["stages"][0]) == StageConfig(
        kind="readout", steps=3, batch_size=4, min_lr_ratio=0.5, warmup_steps=2, clip_norm=1.0
    )
    assert current_names(config) == config


def test_configurations_cannot_be_changed() -> None:
    config = PRESETS["omniglot_5way"]("opn")
    assert isinstance(config, TrainConfig)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]
