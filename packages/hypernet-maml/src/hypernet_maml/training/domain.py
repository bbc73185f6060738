"""Domain generalisation on PACS (thesis 3.5), resumable at any epoch: one domain is held out.

Trained on the official train lists of three domains; the network kept is the best on their crossval
lists; tested once, at the end, on all images of the fourth. Every random draw depends only on
(seed, epoch, batch).

Settings of RSC's public code (DeLightCMU/RSC, Domain_Generalization): SGD with rate 0.01, momentum 0.9 and
weight decay 5e-4; the rate times 0.1 after four fifths of the epochs; 64 images per update, each beside its
mirror image, incomplete batches left out; random resized crops of 0.8 to 1, grey with probability 0.1;
222 x 222 pixels. Known deviations: Nesterov's momentum as in our other trainings (there plain); 30 epochs
(there 20); its rate falls an epoch earlier in torch >= 1.1, where a scheduler stepped before its epoch
counts one too many; no random flip, which the mirror images make needless; no colour jitter; crops
without antialiasing, their borders not rounded to pixels.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn import functional as F

from hypernet_maml.adaptation.rsc import Challenge, challenged_logits, draw_challenge
from hypernet_maml.config import DomainConfig, LaunchConfig
from hypernet_maml.data.augment import as_input, crop_and_grey
from hypernet_maml.data.sources import InMemory, domain_sets
from hypernet_maml.evaluation import evaluate
from hypernet_maml.models.hyperconv import generate_once
from hypernet_maml.models.networks import Classifier, build_network, with_new_classifier
from hypernet_maml.training.supervised import (
    INITIAL_WEIGHTS,
    Objective,
    build_optimizer,
    learning_rate,
    save_network,
)
from priors_shared.datasets import ImageDataset
from priors_shared.devices import end_followers, launch, refuse_compile, set_threads
from priors_shared.episodes import generator_for
from priors_shared.errors import UserError
from priors_shared.files import write_atomically
from priors_shared.runs import Run
from priors_shared.training import TrainingLoop


class DomainObjective(Objective):
    """`Objective`, whose cross-entropy may be that of self-challenged features."""

    net: Classifier

    def forward(
        self,
        images: Float[Tensor, "batch channels height width"],
        labels: Int[Tensor, " batch"],
        challenge: Challenge | None = None,
    ) -> Float[Tensor, ""]:
        if challenge is None:
            return super().forward(images, labels)
        with generate_once(self.net):
            logits = challenged_logits(self.net, images, labels, challenge)
            return F.cross_entropy(logits, labels) + self.penalty()


def train_domains(
    config: DomainConfig, pretrained: Classifier | None, where: LaunchConfig, run: Run
) -> Classifier:
    """Train, or go on from the run's last checkpoint; returns the network and writes it to OUT/model.

    Logs loss, learning rate and crossval accuracy once an epoch. The network written is the best in
    crossval; its accuracy on the held-out domain goes to OUT/test.json.

    Args:
        config: the setting; its network is that of `pretrained`, where there is one.
        pretrained: network whose features and normalisation are kept and whose classifier is replaced;
            None: from initial weights.
        where: device, threads, data.
        run: the run folder.
    """
    refuse_compile(where, "this training")
    set_threads(where.threads)
    fabric = launch(where.accelerator, where.devices, where.precision)
    train_set, val_set, test_set = domain_sets(config.held_out, where.data_root, config.network)
    config = replace(config, network=replace(config.network, classes=train_set.classes))
    net = _begin(config, pretrained, train_set)
    net.to(fabric.device).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(net, config)
    crossval, test = InMemory(val_set), InMemory(test_set)
    loop = TrainingLoop(
        run,
        model=net,
        optimizer=optimizer,
        steps=config.epochs,
        checkpoint_every=config.checkpoint_every,
        validate=lambda: {"val_accuracy": evaluate(net, crossval, fabric.device)},
        best="val_accuracy",
    )
    objective, optimizer = fabric.setup(DomainObjective(net, config.output_l2), optimizer)
    for epoch in loop:
        rate = learning_rate(config, epoch)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = _run_epoch(objective, optimizer, train_set, config, epoch, fabric)
        loop.step(loss, learning_rate=rate)
    end_followers(fabric)
    assert loop.best_state is not None, "the last epoch is validated"
    net.load_state_dict(loop.best_state)
    found = {
        "held_out": config.held_out,
        "accuracy": evaluate(net, test, fabric.device),
        "images": len(test_set),
        "val_accuracy": loop.best,
    }
    save_network(run.out / "model", net, config, val_accuracy=loop.best)
    write_atomically(run.out / "test.json", json.dumps(found, indent=2) + "\n")
    return net


def _begin(
    config: DomainConfig, pretrained: Classifier | None, train_set: ImageDataset
) -> Classifier:
    torch.manual_seed(generator_for(config.seed, INITIAL_WEIGHTS).initial_seed())
    if pretrained is not None:
        return with_new_classifier(pretrained, config.network)
    net = build_network(config.network)
    net.normalise.fit(train_set.images)
    return net


def _run_epoch(
    objective: Any,
    optimizer: Any,
    dataset: ImageDataset,
    config: DomainConfig,
    epoch: int,
    fabric: Fabric,
) -> float:
    """One pass over whole batches; returns the mean loss."""
    if len(dataset) < config.batch_size * fabric.world_size:
        raise UserError(
            f"{dataset.name}: {len(dataset)} images make no batch of {config.batch_size}"
        )
    order = torch.randperm(len(dataset), generator=generator_for(config.seed, epoch))
    # As many images for each process: one that had a batch more would wait for the others for ever.
    order = order[: len(order) // fabric.world_size * fabric.world_size]
    order = order[fabric.global_rank :: fabric.world_size]
    objective.train()
    losses = []
    for number, items in enumerate(order.split(config.batch_size)):
        if len(items) < config.batch_size:
            break
        generator = generator_for(config.seed, epoch, number, fabric.global_rank)
        images = as_input(dataset.images[items].to(fabric.device))
        if config.augment:
            images = crop_and_grey(images, generator)
        images = torch.cat([images, images.flip(3)]).contiguous(memory_format=torch.channels_last)
        labels = dataset.targets[items].to(fabric.device).repeat(2)
        challenge = draw_challenge(epoch, generator) if config.rsc else None
        loss = objective(images, labels, challenge)
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())
