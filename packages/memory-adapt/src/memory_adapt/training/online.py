"""The one training loop (thesis 2.3.4), in stages, resumable at any moment.

Every random draw depends only on (seed, stage, update), so that a resumed run needs no sampler state.
"""

from __future__ import annotations

import math
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
from memory_adapt.training.staged import STAGES, TrainedLearner
from memory_adapt.training.validation import evaluate_predictions
from priors_shared.checkpoints import (
    has_training_state,
    load_training_state,
    save_training_state,
    save_weights,
)
from priors_shared.datasets import ImageDataset
from priors_shared.devices import end_followers, launch, set_threads
from priors_shared.episodes import OnlineEpisodeSampler, generator_for
from priors_shared.errors import UserError
from priors_shared.runs import Run

VALIDATION_SEED = 2**31 - 1
VALIDATION_SHOTS = 10
REPORTED_SHOTS = (1, 5, 8)  # thesis Table 2.1


def train(config: TrainConfig, where: LaunchConfig, run: Run) -> OnlineClassifier:
    """Train, or go on from the run's last checkpoint; returns the learner and writes it to OUT/model.

    Logs the loss and the validation accuracy at 1, 5 and 8 shots; updates count over all stages.
    """
    _check(config)
    if where.threads is not None:
        set_threads(where.threads)
    fabric = launch(where.accelerator, where.devices, where.precision, compile=where.compile)
    train_set = load_images(config.dataset, "train", where.data_root, config.model)
    val_set = load_images(config.dataset, "val", where.data_root, config.model)
    torch.manual_seed(config.seed)
    learner = TrainedLearner(build_model(config.model, delay=config.delay)).to(fabric.device)
    stage_index, update = 0, 0
    optimizer_state: dict[str, Any] | None = None
    if run.resumed and has_training_state(run.checkpoints):
        state = load_training_state(run.checkpoints)
        stage_index, update, optimizer_state = int(state.stage), state.step, state.optimizer_state
        learner.load_state_dict(state.model_state)
    if run.resumed:
        # Killed before the first checkpoint, too: what was logged then is logged anew.
        run.truncate_after(sum(s.updates for s in config.stages[:stage_index]) + update)
    for index in range(stage_index, len(config.stages)):
        _run_stage(index, update, optimizer_state, learner, train_set, val_set, config, fabric, run)
        update, optimizer_state = 0, None
    end_followers(fabric)
    save_learner(run.out / "model", learner.model, trained=asdict(config))
    return learner.model


def _check(config: TrainConfig) -> None:
    """Refuse what could only stay at chance, before hours are spent on it."""
    blind = isinstance(config.model, CLLSTMConfig) and config.model.label_injection == "first"
    if blind and any(stage.kind == "readout" for stage in config.stages):
        raise UserError(
            "--label-injection first: the preset's readout stage trains the LSTM alone, which then "
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


def learning_rate(stage: StageConfig, update: int) -> float:
    """Linear warm-up, then half a cosine from the learning rate to `final_rate` times it."""
    warm = min(1.0, (update + 1) / stage.warmup) if stage.warmup else 1.0
    cosine = 0.5 * (1 + math.cos(math.pi * update / stage.updates))
    return stage.learning_rate * warm * (stage.final_rate + (1 - stage.final_rate) * cosine)


def _run_stage(
    index: int,
    start: int,
    optimizer_state: dict[str, Any] | None,
    learner: TrainedLearner,
    train_set: ImageDataset,
    val_set: ImageDataset,
    config: TrainConfig,
    fabric: Fabric,
    run: Run,
) -> None:
    """Stage `index` from update `start` to its end."""
    settings = config.stages[index]
    stage = STAGES[settings.kind](learner, settings)
    if start == 0:
        # Else what a stage draws for its start would depend on where the run was resumed.
        torch.manual_seed(generator_for(config.seed, index).initial_seed())
        stage.start()
    device = fabric.device
    # Prototypes would take late labels for the wrong image's; the encoder's stage needs none late.
    delay = 1 if settings.kind == "prototypes" else config.delay
    common: dict[str, Any] = {"ways": config.model.ways, "delay": delay, "device": device}
    sampler = OnlineEpisodeSampler(train_set, shots=settings.shots, order=settings.order, **common)
    fewest = int(torch.bincount(val_set.targets).min())  # a user's own classes may be small
    validation = OnlineEpisodeSampler(val_set, shots=min(VALIDATION_SHOTS, fewest), **common)
    train_inputs, val_inputs = (stage.prepare(part, device) for part in (train_set, val_set))

    learner.requires_grad_(False)
    parameters = stage.trained()
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate)
    if optimizer_state is not None:
        optimizer.load_state_dict(optimizer_state)
    objective, optimizer = fabric.setup(stage, optimizer)

    def validate() -> dict[str, float]:
        accuracy = evaluate_predictions(
            lambda streams: stage.predict(val_inputs(streams, torch.Generator()), streams.feedback),
            validation,
            episodes=config.validation_episodes,
            seed=VALIDATION_SEED,
        )
        reported = [k for k in REPORTED_SHOTS if k < validation.shots]
        return {f"val_{k}_shot": float(accuracy.mean[k]) for k in reported}

    def save(next_stage: int, updates: int) -> None:
        save_training_state(
            run.checkpoints,
            model=learner,
            optimizer=optimizer if updates else None,
            step=updates,
            stage=next_stage,
        )

    before = sum(s.updates for s in config.stages[:index])
    title = f"stage {index + 1}/{len(config.stages)} {settings.kind}"
    with run.progress(settings.updates, title, start=start) as progress:
        for update in range(start, settings.updates):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, update)
            generator = generator_for(config.seed, index, update, fabric.global_rank)
            streams = sampler.sample_streams(settings.batch, generator)
            loss = objective(train_inputs(streams, generator), streams.labels, streams.feedback)
            optimizer.zero_grad()
            fabric.backward(loss)
            if settings.clip:
                nn.utils.clip_grad_norm_(parameters, settings.clip)
            optimizer.step()
            done = update + 1
            last = done == settings.updates
            metrics: dict[str, float] = {}
            if done % config.log_every == 0 or last:
                metrics["loss"] = float(loss.detach())
            if done % config.validate_every == 0 or last:
                metrics |= validate()
            progress.advance(**metrics)
            if metrics:
                run.log(before + done, stage=index, kind=settings.kind, **metrics)
            if done % config.checkpoint_every == 0 and not last:
                save(index, done)
    stage.finish()
    save(index + 1, 0)
