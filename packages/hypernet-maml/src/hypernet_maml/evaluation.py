"""Scores of networks and of learners: accuracy, and how far the inner loop moves weights (Fig. 3.5)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from hypernet_maml.adaptation.maml import MetaLearner, Parameters, evaluate_tasks, movement
from hypernet_maml.data.augment import as_input
from hypernet_maml.data.interface import ImageSource
from hypernet_maml.models.hyperconv import generate_once
from hypernet_maml.models.networks import Classifier
from priors_shared.episodes import FewShotSampler, generator_for

EVALUATION_BATCH = 500
VALIDATION_SEED = 2**31 - 1
TASKS_AT_ONCE = 4  # of which the images are drawn and kept


@torch.no_grad()
def evaluate(net: Classifier, source: ImageSource, device: torch.device) -> float:
    """Share of images that the network classifies right, in evaluation mode."""
    training = net.training
    net.eval()
    right = seen = 0
    with generate_once(net):
        for images, targets in source.batches(EVALUATION_BATCH):
            logits = net(as_batch(images, device))
            right += int((logits.argmax(-1) == targets.to(device)).sum())
            seen += len(targets)
    net.train(training)
    return right / seen


def as_batch(images: Tensor, device: torch.device) -> Tensor:
    """Images of a data set as a network takes them, on its device."""
    return as_input(images.to(device)).contiguous(memory_format=torch.channels_last)


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
