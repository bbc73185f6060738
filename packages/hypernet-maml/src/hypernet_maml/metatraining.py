"""Meta-training and its evaluation (thesis 3.3.2, 3.4.3), resumable at any update.

A pre-trained network gets a new linear classifier, then MAML (`maml.py`) trains it on few-shot tasks.
Every random draw depends only on (seed, iteration).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hypernet_maml.config import (
    META_KIND,
    InnerLoop,
    LaunchConfig,
    MetaConfig,
    NetworkConfig,
)
from hypernet_maml.data import load_images
from hypernet_maml.maml import (
    MetaLearner,
    Parameters,
    accumulate_meta_gradient,
    evaluate_tasks,
    movement,
)
from hypernet_maml.networks import Classifier, build_network, with_new_classifier
from hypernet_maml.training import INITIAL_WEIGHTS, copied_state
from priors_shared.checkpoints import (
    resume_training,
    save_training_state,
    save_weights,
)
from priors_shared.devices import end_followers, launch, set_threads
from priors_shared.episodes import FewShotSampler, generator_for
from priors_shared.errors import UserError
from priors_shared.runs import Run

VALIDATION_SEED = 2**31 - 1
TASKS_AT_ONCE = 4  # evaluation draws and keeps the images of so many tasks


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
    begun, best, best_state = 0, -1.0, copied_state(learner)
    state = resume_training(run, learner, optimizer)
    if state is not None:
        begun, best, best_state = state.step, float(state.extra["best"]), state.extra_tensors

    with run.progress(config.iterations, "meta-train", start=begun) as progress:
        for iteration in range(begun, config.iterations):
            rate = config.learning_rate * 0.5 ** (iteration // config.halve_every)
            for group in optimizer.param_groups:
                group["lr"] = rate
            generator = generator_for(config.seed, iteration, fabric.global_rank)
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
            done = iteration + 1
            metrics = {"loss": float(losses.mean()), "accuracy": float(accuracies.mean())}
            last = done == config.iterations
            if done % config.validate_every == 0 or last:
                found = evaluate_learner(
                    learner, validation, tasks=config.validation_tasks, seed=VALIDATION_SEED
                )
                metrics["val_accuracy"] = float(found.mean())
                moved = inner_movement(learner, validation)
                metrics["movement"] = sum(moved.values()) / max(1, len(moved))
                if metrics["val_accuracy"] > best:
                    best, best_state = metrics["val_accuracy"], copied_state(learner)
            progress.advance(**metrics)
            run.log(done, **metrics)
            if done % config.checkpoint_every == 0 or last:
                save_training_state(
                    run.checkpoints,
                    model=learner,
                    optimizer=optimizer,
                    step=done,
                    extra={"best": best},
                    extra_tensors=best_state,
                )
    end_followers(fabric)
    learner.load_state_dict(best_state)
    save_learner(run.out / "model", learner, network, config, val_accuracy=best)
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
        raise UserError(f"--algorithm {config.inner.algorithm}: {error}") from error


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


def build_learner(shape: dict[str, Any]) -> MetaLearner:
    """The untrained learner of a checkpoint's configuration."""
    net = build_network(NetworkConfig(**shape["network"]))
    return MetaLearner(net, InnerLoop(**shape["inner"]))


def evaluate_learner(
    learner: MetaLearner,
    sampler: FewShotSampler,
    *,
    tasks: int,
    seed: int,
    each: Callable[[int], object] = lambda done: None,
) -> Float[Tensor, " tasks"]:
    """Query accuracy of each of `tasks` tasks: the same tasks for every learner with the same seed.

    each: called with the number of tasks just done.
    """
    accuracies = []
    for start in range(0, tasks, TASKS_AT_ONCE):
        count = min(TASKS_AT_ONCE, tasks - start)
        batch = sampler.sample(count, generator_for(seed, start))
        accuracies.append(evaluate_tasks(learner, batch).cpu())
        each(count)
    return torch.cat(accuracies)


def inner_movement(
    learner: MetaLearner, sampler: FewShotSampler, *, tasks: int = 1
) -> dict[str, float]:
    """How far the inner loop moves each convolution that adapts, |dW| / |W|, mean over tasks (Fig. 3.5)."""
    before, _ = learner.start()
    kept = [n for n in learner.fast if before[n].dim() == 4 and before[n].shape[-1] > 1]
    weights = {name: before[name].detach() for name in kept}
    total = dict.fromkeys(kept, 0.0)
    for task in range(tasks):
        batch = sampler.sample(1, generator_for(VALIDATION_SEED, task))
        after = adapted(learner, batch.support_images[0], batch.support_labels[0])
        for name, moved in movement(weights, after).items():
            total[name] += moved / tasks
    return total


def adapted(learner: MetaLearner, images: Tensor, labels: Tensor) -> Parameters:
    """Parameters after the inner loop on one support set, detached."""
    params, steps = ({n: v.detach() for n, v in part.items()} for part in learner.start())
    return learner.adapt(params, steps, images, labels, create_graph=False)
