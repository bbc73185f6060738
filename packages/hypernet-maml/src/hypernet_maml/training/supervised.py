"""Image classification with SGD (thesis 3.3 and 3.4.1), resumable at any epoch.

The recipe of hypernetworks: no weight decay on embeddings and hypernetworks, instead an L2 penalty on
the weights they generate; stochastic weight averaging of embeddings and hypernetworks (not of weights).
Every random draw depends only on (seed, epoch), so that a resumed run needs no sampler state.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from hypernet_maml.config import CHECKPOINT_KIND, DomainConfig, StreamLaunchConfig, TrainConfig
from hypernet_maml.data.interface import ImageSource
from hypernet_maml.data.sources import classification_sources
from hypernet_maml.data.streaming import is_streamed
from hypernet_maml.evaluation import as_batch, evaluate
from hypernet_maml.models.hyperconv import (
    generate_once,
    hyper_layers,
    is_hyper_parameter,
    output_l2,
)
from hypernet_maml.models.layers import BatchNorm2d
from hypernet_maml.models.networks import Classifier, build_network
from priors_shared.checkpoints import save_weights
from priors_shared.devices import end_followers, launch, set_threads
from priors_shared.episodes import generator_for
from priors_shared.errors import UserError
from priors_shared.runs import Run
from priors_shared.training import TrainingLoop

DATA_PATH, INITIAL_WEIGHTS = 2**31 - 1, 2**31 - 2  # paths of generators beside the updates'


class Objective(nn.Module):
    """Cross-entropy, plus `output_l2` times the sum of squares of the generated weights."""

    def __init__(self, net: nn.Module, output_l2: float) -> None:
        super().__init__()
        self.net = net
        self.output_l2 = output_l2 if any(True for _ in hyper_layers(net)) else 0.0

    def forward(self, images: Tensor, labels: Tensor) -> Float[Tensor, ""]:
        with generate_once(self.net):
            return F.cross_entropy(self.net(images), labels) + self.penalty()

    def penalty(self) -> Float[Tensor, ""] | float:
        """The part that depends on the weights alone."""
        return self.output_l2 * output_l2(self.net) if self.output_l2 else 0.0


def train(config: TrainConfig, where: StreamLaunchConfig, run: Run) -> Classifier:
    """Train, or go on from the run's last checkpoint; returns the network and writes it to OUT/model.

    Logs once an epoch: loss, learning rate, validation accuracy, and for each embedding E the ratio
    |E| / |grad E| (Fig. 3.3). With weight averaging, the network returned is the average.
    """
    if where.workers is not None and not is_streamed(config.dataset):
        raise UserError(f"workers: {config.dataset} is held in memory; leave the option out")
    set_threads(where.threads)
    fabric = launch(where.accelerator, where.devices, where.precision, compile=where.compile)
    train_set, val_set = classification_sources(
        config.dataset,
        where.data_root,
        config.network,
        per_class=config.per_class,
        generator=generator_for(config.seed, DATA_PATH),
        workers=4 if where.workers is None else where.workers,
    )
    config = replace(config, network=replace(config.network, classes=train_set.classes))
    torch.manual_seed(generator_for(config.seed, INITIAL_WEIGHTS).initial_seed())
    net = build_network(config.network)
    net.normalise.fit(train_set.sample())
    net.to(fabric.device).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(net, config)
    average = AveragedModel(net) if config.swa_from is not None else None
    loop = TrainingLoop(
        run,
        model=net,
        optimizer=optimizer,
        steps=config.epochs,
        checkpoint_every=config.checkpoint_every,
        validate_every=config.validate_every,
        validate=lambda: {"val_accuracy": evaluate(net, val_set, fabric.device)},
        modules={} if average is None else {"average": average},
    )
    objective, optimizer = fabric.setup(Objective(net, config.output_l2), optimizer)
    for epoch in loop:
        rate = learning_rate(config, epoch)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = _run_epoch(objective, optimizer, train_set, config, epoch, fabric)
        if average is not None and config.swa_from is not None and epoch >= config.swa_from:
            average.update_parameters(net)
        loop.step(loss, learning_rate=rate, **embedding_ratios(net))
    end_followers(fabric)
    final = net
    if average is not None:
        assert isinstance(average.module, Classifier)
        final = average.module
        renew_statistics(final, train_set, config.batch_size, fabric.device)
    accuracy = evaluate(final, val_set, fabric.device)
    save_network(run.out / "model", final, config, val_accuracy=accuracy)
    return final


def save_network(
    folder: Path, net: Classifier, config: TrainConfig | DomainConfig, **extra: object
) -> None:
    """Write a network that `load_network`, meta-training and the commands read."""
    save_weights(
        folder,
        net,
        kind=CHECKPOINT_KIND,
        config=asdict(config.network),
        extra={"trained": asdict(config), **extra},
    )


def build_optimizer(net: nn.Module, config: TrainConfig | DomainConfig) -> torch.optim.SGD:
    """SGD with Nesterov's momentum 0.9; weight decay on all that is neither embedding nor hypernetwork."""
    named = list(net.named_parameters())
    plain = [p for name, p in named if not is_hyper_parameter(name)]
    hyper = [p for name, p in named if is_hyper_parameter(name)]
    groups = [{"params": plain, "weight_decay": config.weight_decay}]
    if hyper:
        groups.append({"params": hyper, "weight_decay": 0.0})
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=0.9, nesterov=True)


def learning_rate(config: TrainConfig | DomainConfig, epoch: int) -> float:
    """Times `decay` at each milestone passed; constant while weights are averaged."""
    if isinstance(config, TrainConfig) and config.swa_from is not None and epoch >= config.swa_from:
        return config.swa_learning_rate
    return config.learning_rate * config.decay ** sum(epoch >= m for m in config.milestones)


def embedding_ratios(net: nn.Module) -> dict[str, float]:
    """|E| / |grad E| of each hyper-convolution (Fig. 3.3), by "ratio/" and its name."""
    ratios = {}
    for name, layer in hyper_layers(net):
        gradient = layer.embedding.grad
        if gradient is not None:
            norm = float(gradient.norm().clamp(min=1e-12))
            ratios[f"ratio/{name}"] = float(layer.embedding.detach().norm()) / norm
    return ratios


@torch.no_grad()
def renew_statistics(
    net: Classifier, source: ImageSource, batch: int, device: torch.device
) -> None:
    """Batch norm's running statistics anew, as an equal average over the training images.

    Averaged weights have other activations than those the statistics were gathered from.
    """
    norms = [m for m in net.modules() if isinstance(m, BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    training = net.training
    net.train()
    with generate_once(net):
        for images, _ in source.batches(batch):
            if len(images) == batch or len(source) < batch:
                net(as_batch(images, device))
    net.train(training)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _run_epoch(
    objective: nn.Module,
    optimizer: Any,
    source: ImageSource,
    config: TrainConfig,
    epoch: int,
    fabric: Fabric,
) -> float:
    """One pass; returns the mean loss. Leaves the last update's gradients in place."""
    order = torch.randperm(len(source), generator=generator_for(config.seed, epoch))
    # As many images for each process: one that had a batch more would wait for the others for ever.
    order = order[: len(order) // fabric.world_size * fabric.world_size]
    order = order[fabric.global_rank :: fabric.world_size]
    objective.train()
    losses = []
    path = config.seed, epoch, fabric.global_rank
    for images, targets in source.epoch(
        order, config.batch_size, path=path, augment=config.augment
    ):
        if len(images) == 1:
            continue  # batch norm needs two
        loss = objective(as_batch(images, fabric.device), targets.to(fabric.device))
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
        losses.append(loss.detach())
    if not losses:
        raise UserError(f"{source.name}: {len(source)} images are too few to train on")
    return float(torch.stack(losses).mean())
