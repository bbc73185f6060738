"""Meta-training and its evaluation (thesis 3.3.2, 3.4.3), resumable at any update.

A pre-trained network gets a new linear classifier, then MAML (`maml.py`) trains it on few-shot tasks.
Every random draw depends only on (seed, step).
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from hypernet_maml.adaptation.maml import (
    MetaLearner,
    accumulate_meta_gradient,
)
from hypernet_maml.config import (
    META_KIND,
    LaunchConfig,
    MetaConfig,
    NetworkConfig,
)
from hypernet_maml.data.sources import load_images
from hypernet_maml.evaluation import VALIDATION_SEED, evaluate_learner, inner_movement
from hypernet_maml.models.networks import Classifier, with_new_classifier
from hypernet_maml.training.supervised import INITIAL_WEIGHTS
from priors_shared.checkpoints import save_weights
from priors_shared.devices import end_followers, launch, refuse_compile, set_threads
from priors_shared.episodes import FewShotSampler, generator_for
from priors_shared.errors import UserError
from priors_shared.runs import Run
from priors_shared.training import TrainingLoop


def metatrain(
    config: MetaConfig,
    pretrained: Classifier,
    network: NetworkConfig,
    where: LaunchConfig,
    run: Run,
) -> MetaLearner:
    """Meta-train, or go on from the run's last checkpoint; returns the learner and writes it to OUT/model.

    Logs query loss and accuracy over the meta-batch, validation accuracy with its interval, and how far
    the inner loop moves the convolutions (Fig. 3.5). The learner written is the best in validation.

    Args:
        config: the setting.
        pretrained: network whose features are kept; its classifier is replaced.
        network: its configuration.
        where: device, threads, data.
        run: the run folder.
    """
    refuse_compile(where, "meta-training")
    set_threads(where.threads)
    fabric = launch(where.accelerator, where.devices, where.precision)
    train_set, val_set = (
        load_images(config.dataset, split, where.data_root, network) for split in ("train", "val")
    )
    drawn: dict[str, Any] = {
        "ways": config.ways,
        "shots": config.shots,
        "queries": config.queries,
        "device": fabric.device,
    }
    sampler, validation = FewShotSampler(train_set, **drawn), FewShotSampler(val_set, **drawn)
    learner = new_learner(pretrained, network, config).to(fabric.device)
    optimizer = torch.optim.Adam(learner.parameters(), lr=config.learning_rate)

    def validate() -> dict[str, float]:
        tasks = config.validation_tasks
        accuracy = evaluate_learner(learner, validation, tasks=tasks, seed=VALIDATION_SEED)
        moved = inner_movement(learner, validation)
        mean = sum(moved.values()) / max(1, len(moved))
        return {"val_accuracy": float(accuracy.mean()), "movement": mean}

    loop = TrainingLoop(
        run,
        model=learner,
        optimizer=optimizer,
        steps=config.steps,
        checkpoint_every=config.checkpoint_every,
        validate_every=config.validate_every,
        validate=validate,
        best="val_accuracy",
        title="meta-train",
        advice="lower it, or that of the inner loop",
    )
    for step in loop:
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * 0.5 ** (step // config.halve_every)
        generator = generator_for(config.seed, step, fabric.global_rank)
        batch = sampler.sample(config.tasks, generator)
        optimizer.zero_grad()
        with fabric.autocast():
            losses, accuracies = accumulate_meta_gradient(learner, batch, config.batching)
        if fabric.world_size > 1:
            for parameter in learner.parameters():
                if parameter.grad is not None:
                    summed: Any = fabric.all_reduce(parameter.grad, reduce_op="mean")
                    parameter.grad = summed
        optimizer.step()
        loop.step(losses.mean(), accuracy=accuracies.mean())
    end_followers(fabric)
    assert loop.best_state is not None, "the last step is validated"
    learner.load_state_dict(loop.best_state)
    save_learner(run.out / "model", learner, network, config, val_accuracy=loop.best)
    return learner


def new_learner(pretrained: Classifier, network: NetworkConfig, config: MetaConfig) -> MetaLearner:
    """A meta-learner with the features of a network and a new linear classifier.

    Raises UserError where network and algorithm do not fit.
    """
    torch.manual_seed(generator_for(config.seed, INITIAL_WEIGHTS).initial_seed())
    net = with_new_classifier(pretrained, replace(network, classes=config.ways))
    try:
        return MetaLearner(net, config.inner)
    except ValueError as error:
        raise UserError(f"algorithm: {config.inner.algorithm}: {error}") from error


def save_learner(
    folder: Path, learner: MetaLearner, network: NetworkConfig, config: MetaConfig, **extra: object
) -> None:
    """Write a learner that `FewShotLearner.from_pretrained` and the commands read."""
    shape = {
        "network": asdict(replace(network, classes=config.ways)),
        "inner": asdict(config.inner),
    }
    extra = {"trained": asdict(config), **extra}
    save_weights(folder, learner, kind=META_KIND, config=shape, extra=extra)
