"""The one training loop (thesis 2.3.4), in stages, resumable at any moment.

Every random draw depends only on (seed, stage, step), so that a resumed run needs no sampler state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from memory_adapt.config import (
    CHECKPOINT_KIND,
    CLLSTMConfig,
    LaunchConfig,
    StageConfig,
    TrainConfig,
)
from memory_adapt.data.images import load_images
from memory_adapt.models.interface import OnlineClassifier
from memory_adapt.models.registry import build_model, config_to_json
from memory_adapt.training.staged import STAGES, Inputs, Stage, TrainedLearner
from memory_adapt.training.validation import evaluate_predictions
from priors_shared.checkpoints import (
    has_training_state,
    load_state,
    load_training_state,
    save_weights,
)
from priors_shared.datasets import ImageDataset
from priors_shared.devices import end_followers, launch, set_threads
from priors_shared.episodes import OnlineEpisodeSampler, generator_for
from priors_shared.errors import UserError
from priors_shared.runs import Run
from priors_shared.training import TrainingLoop

VALIDATION_SEED = 2**31 - 1
VALIDATION_SHOTS = 10
REPORTED_SHOTS = (1, 5, 8)  # thesis Table 2.1


def train(config: TrainConfig, where: LaunchConfig, run: Run) -> OnlineClassifier:
    """Train, or go on from the run's last checkpoint; returns the learner and writes it to OUT/model.

    Logs the loss and the validation accuracy at 1, 5 and 8 shots; steps count over all stages.

    Raises:
        UserError: the options fit no training, the data is not there or does not fit, or it diverged.
    """
    check(config)
    set_threads(where.threads)
    fabric = launch(where.accelerator, where.devices, where.precision, compile=where.compile)
    data = [load_images(config.dataset, s, where.data_root, config.model) for s in ("train", "val")]
    torch.manual_seed(config.seed)
    model = build_model(config.model, delay=config.delay)
    learner = TrainedLearner(model).to(fabric.device)
    begin = 0
    if run.resumed and has_training_state(run.checkpoints):
        state = load_training_state(run.checkpoints)
        load_state(learner, state.model_state, run.checkpoints)
        begin = int(state.stage)
    for index in range(begin, len(config.stages)):
        _run_stage(index, learner, data, config, fabric, run)
    end_followers(fabric)
    save_learner(run.out / "model", model, trained=asdict(config))
    return model


def check(config: TrainConfig) -> None:
    """Refuse what is no network, or could only stay at chance, before hours are spent on it.

    Raises:
        UserError: says which.
    """
    try:
        with torch.device("meta"):  # without its weights
            build_model(config.model)
    except ValueError as error:
        raise UserError(f"these options make no network: {error}") from None
    blind = isinstance(config.model, CLLSTMConfig) and config.model.label_injection == "first"
    if blind and any(stage.kind == "readout" for stage in config.stages):
        raise UserError(
            "label_injection first: the preset's readout stage trains the LSTM alone, which then "
            "sees no label; use every or lstm, or a preset without that stage "
            "(omniglot_5way, omniglot_5way_scratch_cpu)"
        )


def save_learner(folder: Path, model: OnlineClassifier, **extra: object) -> None:
    """Write a learner that `OnlineLearner.from_pretrained` and the commands load."""
    save_weights(
        folder,
        model,
        kind=CHECKPOINT_KIND,
        config=config_to_json(model.config),
        extra={"delay": model.delay, **extra},
    )


def run_config(config: TrainConfig) -> dict[str, Any]:
    """What a run folder's config.json holds."""
    return asdict(config) | {"model": config_to_json(config.model)}


def steps_before(config: TrainConfig, stage: int) -> int:
    """Steps of the stages before one."""
    return sum(s.steps for s in config.stages[:stage])


def learning_rate(stage: StageConfig, step: int) -> float:
    """Linear warm-up, then half a cosine from the learning rate to `min_lr_ratio` times it."""
    warm = min(1.0, (step + 1) / stage.warmup_steps) if stage.warmup_steps else 1.0
    cosine = 0.5 * (1 + math.cos(math.pi * step / stage.steps))
    return stage.learning_rate * warm * (stage.min_lr_ratio + (1 - stage.min_lr_ratio) * cosine)


def _run_stage(
    index: int,
    learner: TrainedLearner,
    data: list[ImageDataset],
    config: TrainConfig,
    fabric: Fabric,
    run: Run,
) -> None:
    """Stage `index`, from where the run's checkpoint stood to its end."""
    settings = config.stages[index]
    stage = STAGES[settings.kind](learner, settings)
    learner.requires_grad_(False)
    parameters = stage.trained()
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer: Any = torch.optim.Adam(parameters, lr=settings.learning_rate)
    loop = TrainingLoop(
        run,
        model=learner,
        optimizer=optimizer,
        steps=settings.steps,
        checkpoint_every=config.checkpoint_every,
        log_every=config.log_every,
        validate_every=config.validate_every,
        validate=lambda: validate(),
        means=(),
        stage=index,
        steps_before=steps_before(config, index),
        title=f"stage {index + 1}/{len(config.stages)} {settings.kind}",
        advice="lower it, or clip_norm, in its stage",
    )
    if loop.done == 0:
        # Else what a stage draws for its start would depend on where the run was resumed.
        torch.manual_seed(generator_for(config.seed, index).initial_seed())
        stage.start()
    # Prototypes would take late labels for the wrong image's; the encoder's stage needs none late.
    delay = 1 if settings.kind == "prototypes" else config.delay
    common: dict[str, Any] = {"ways": config.model.ways, "delay": delay, "device": fabric.device}
    train_set, val_set = data
    sampler = OnlineEpisodeSampler(train_set, shots=settings.shots, order=settings.order, **common)
    fewest = int(torch.bincount(val_set.targets).min())  # a user's own classes may be small
    val_sampler = OnlineEpisodeSampler(val_set, shots=min(VALIDATION_SHOTS, fewest), **common)
    # After the loop has put the encoder where the checkpoint stood: a stage may keep its features.
    train_inputs, val_inputs = (stage.prepare(part, fabric.device) for part in data)
    validate = _validation(stage, val_inputs, val_sampler, config.validation_episodes)
    objective, optimizer = fabric.setup(stage, optimizer)
    for step in loop:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, step)
        generator = generator_for(config.seed, index, step, fabric.global_rank)
        streams = sampler.sample_streams(settings.batch_size, generator)
        loss = objective(train_inputs(streams, generator), streams.labels, streams.feedback)
        optimizer.zero_grad()
        fabric.backward(loss)
        if settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
        optimizer.step()
        loop.step(loss, stage=index, kind=settings.kind)
    stage.finish()


def _validation(
    stage: Stage, inputs: Inputs, sampler: OnlineEpisodeSampler, episodes: int
) -> Callable[[], dict[str, float]]:
    """What measures a stage's accuracy at the shots reported, on the same streams each time."""

    def validate() -> dict[str, float]:
        accuracy = evaluate_predictions(
            lambda streams: stage.predict(inputs(streams, torch.Generator()), streams.feedback),
            sampler,
            episodes=episodes,
            seed=VALIDATION_SEED,
        )
        reported = [k for k in REPORTED_SHOTS if k < sampler.shots]
        return {f"val_{k}_shot": float(accuracy.mean[k]) for k in reported}

    return validate
