"""The one training loop (thesis 2.3.4), in stages, resumable at any moment.

Every random draw depends only on (seed, stage, update), so that a resumed run needs no sampler state.

Stages (`StageConfig.kind`): the thesis trains everything from scratch on streams ("episodes"). That sits
on a plateau at chance for very long, so the CPU presets first train the encoder alone with an
online-prototype loss ("prototypes"), then the memory on its cached features ("readout").
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from memory_adapt.config import (
    CHECKPOINT_KIND,
    CLLSTMConfig,
    LaunchConfig,
    StageConfig,
    TrainConfig,
)
from memory_adapt.data import jittered, load_images
from memory_adapt.evaluation import evaluate_predictions
from memory_adapt.models import OnlineClassifier, build_model, config_to_json
from memory_adapt.models.opn import (
    initial_prototypes,
    known_unknown_loss,
    running_prototypes,
    scores_from_distances,
)
from priors_shared.checkpoints import (
    has_training_state,
    load_training_state,
    save_training_state,
    save_weights,
)
from priors_shared.datasets import ImageDataset
from priors_shared.datasets.base import as_float
from priors_shared.devices import end_followers, launch, set_threads
from priors_shared.episodes import (
    OnlineEpisodeSampler,
    OnlineStreams,
    generator_for,
)
from priors_shared.errors import UserError
from priors_shared.runs import Run

VALIDATION_SEED = 2**31 - 1
VALIDATION_SHOTS = 10
JITTER_SEED = 2**31 - 2
REPORTED_SHOTS = (1, 5, 8)  # thesis Table 2.1

Inputs = Callable[[OnlineStreams, torch.Generator], Tensor]
"""What a stage is fed for streams. The generator is for what is drawn anew at every update."""


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
    learner = TrainedLearner(build_model(config.model)).to(fabric.device)
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
        folder, model, kind=CHECKPOINT_KIND, config=config_to_json(model.config), extra=extra
    )


def learning_rate(stage: StageConfig, update: int) -> float:
    """Linear warm-up, then half a cosine from the learning rate to `final_rate` times it."""
    warm = min(1.0, (update + 1) / stage.warmup) if stage.warmup else 1.0
    cosine = 0.5 * (1 + math.cos(math.pi * update / stage.updates))
    return stage.learning_rate * warm * (stage.final_rate + (1 - stage.final_rate) * cosine)


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
        self.learner.model.start_feed_forward()

    def trained(self) -> list[nn.Parameter]:
        return [*self.learner.model.feed_forward_parameters(), *self.learner.head.parameters()]

    def forward(self, inputs: Tensor, labels: Tensor, feedback: Tensor) -> Tensor:
        logits, unknown = self.learner.head(self.learner.model.image_features(inputs), feedback)
        return known_unknown_loss(logits, unknown, labels)

    def predict(self, inputs: Tensor, feedback: Tensor) -> Tensor:
        logits: Tensor = self.learner.head(self.learner.model.image_features(inputs), feedback)[0]
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
        self.learner.model.start_readout()

    def trained(self) -> list[nn.Parameter]:
        encoder = set(self.learner.model.encoder.parameters())
        return [p for p in self.learner.model.parameters() if p not in encoder]

    def prepare(self, dataset: ImageDataset, device: torch.device) -> Inputs:
        versions = [self._features(dataset.images, device)]
        if dataset.split == "train":
            self.mean, self.std = versions[0].mean(0), versions[0].std(0).clamp(min=1e-3)
            if self.learner.model.feature_input() is None:
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
        return torch.cat([self.learner.model.image_features(part).squeeze(1) for part in parts])

    def forward(self, inputs: Tensor, labels: Tensor, feedback: Tensor) -> Tensor:
        logits = self.predict(inputs, feedback)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())

    def predict(self, inputs: Tensor, feedback: Tensor) -> Tensor:
        logits: Tensor = self.learner.model.forward_features(inputs, feedback)[0]
        return logits

    @torch.no_grad()
    def finish(self) -> None:
        reads = self.learner.model.feature_input()
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
