"""Representation Self-Challenging: what is dropped, of which samples, and what gradients do."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypernet_maml.adaptation.rsc import (
    Challenge,
    challenge_mask,
    challenged_logits,
    draw_challenge,
)
from hypernet_maml.config import NetworkConfig
from hypernet_maml.models.hyperconv import generate_once, hyper_layers, reparameterize
from hypernet_maml.models.layers import Linear
from hypernet_maml.models.networks import Classifier, build_network
from priors_shared.errors import UserError

KINDS = pytest.mark.parametrize("by_cell", [True, False], ids=["cells", "channels"])


class Head(Classifier):
    """A classifier of feature maps as they are."""

    def __init__(self, maps: int, classes: int) -> None:
        super().__init__(maps)
        self.classifier = Linear(maps, classes)

    def feature_map(self, images: Tensor) -> Tensor:
        return images

    def hyper_layers(self, name: str, conv: nn.Conv2d) -> bool:
        return False


def agreeing_head(maps: int) -> Head:
    """Every feature speaks for class 0, unequally: whatever is dropped, its probability falls."""
    net = Head(maps, 3)
    with torch.no_grad():
        net.classifier.weight.zero_()
        net.classifier.bias.zero_()
        net.classifier.weight[0] = (1 + torch.rand(maps)) / maps
    return net


def dropped(mask: Tensor) -> Tensor:
    """How many entries each sample's mask is 0 at; the others are 1."""
    assert bool(((mask == 0) | (mask == 1)).all())
    return (mask == 0).flatten(1).sum(1)


@pytest.mark.parametrize(("side", "cells"), [(7, 17), (4, 6), (3, 3), (2, 2), (6, 12)])
@pytest.mark.parametrize(("maps", "channels"), [(512, 160), (64, 20), (16, 5), (10, 4)])
def test_a_third_of_the_cells_or_five_sixteenths_of_the_channels_are_dropped(
    side: int, cells: int, maps: int, channels: int
) -> None:
    torch.manual_seed(0)
    net, features = agreeing_head(maps), torch.rand(4, maps, side, side) + 0.1
    labels = torch.zeros(4, dtype=torch.long)
    mask = challenge_mask(net, features, labels, Challenge(by_cell=True, share=1.0))
    assert mask.shape == (4, 1, side, side)
    assert dropped(mask).tolist() == [cells] * 4
    mask = challenge_mask(net, features, labels, Challenge(by_cell=False, share=1.0))
    assert mask.shape == (4, maps, 1, 1)
    assert dropped(mask).tolist() == [channels] * 4


@KINDS
def test_equal_scores_drop_the_said_number(by_cell: bool) -> None:
    net = agreeing_head(16)
    nn.init.constant_(net.classifier.weight[0], 1 / 16)
    features, labels = torch.ones(2, 16, 4, 4), torch.zeros(2, dtype=torch.long)
    mask = challenge_mask(net, features, labels, Challenge(by_cell, 1.0))
    assert dropped(mask).tolist() == [6 if by_cell else 5] * 2


def brute_force_mask(net: Head, features: Tensor, labels: Tensor, challenge: Challenge) -> Tensor:
    """The mask, (batch, maps, rows, columns), with gradients from differences and loops for the rest."""
    batch, maps, rows, columns = features.shape
    full = torch.ones_like(features)
    falls = []
    for n in range(batch):
        z, y = features[n : n + 1], int(labels[n])

        def logits(z: Tensor) -> Tensor:
            with torch.no_grad():
                return net.classifier(z.mean((2, 3)))[0]

        step = 1e-3
        gradient = torch.zeros_like(z)
        for place in [
            (0, c, i, j) for c in range(maps) for i in range(rows) for j in range(columns)
        ]:
            more, less = z.clone(), z.clone()
            more[place] += step
            less[place] -= step
            gradient[place] = (logits(more)[y] - logits(less)[y]) / (2 * step)
        per_map = [sum(gradient[0, c].flatten().tolist()) / (rows * columns) for c in range(maps)]
        if challenge.by_cell:
            scores = {
                (i, j): sum(per_map[c] * float(z[0, c, i, j]) for c in range(maps))
                for i in range(rows)
                for j in range(columns)
            }
            strongest = sorted(scores, key=scores.__getitem__, reverse=True)
            for i, j in strongest[: math.ceil(rows * columns / 3)]:
                full[n, :, i, j] = 0
        else:
            order = sorted(range(maps), key=per_map.__getitem__, reverse=True)
            for c in order[: math.ceil(maps / 3.2)]:
                full[n, c] = 0
        falls.append(float((logits(z).softmax(0) - logits(z * full[n : n + 1]).softmax(0))[y]))
    hardest = sorted(range(batch), key=falls.__getitem__, reverse=True)
    for n in hardest[round(batch * challenge.share) :]:
        full[n] = 1
    for n in range(batch):
        if falls[n] <= 1e-4:
            full[n] = 1
    return full


@KINDS
@pytest.mark.parametrize("share", [0.3, 0.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_mask_against_brute_force(by_cell: bool, share: float, seed: int) -> None:
    torch.manual_seed(seed)
    net = Head(7, 4).double()
    nn.init.normal_(net.classifier.weight)
    features, labels = torch.rand(6, 7, 3, 4).double(), torch.arange(6) % 4
    challenge = Challenge(by_cell, share)
    mask = challenge_mask(net, features, labels, challenge)
    expected = brute_force_mask(net, features, labels, challenge)
    assert torch.equal(mask.expand_as(features), expected)
    assert 0 < expected.mean() < 1


@KINDS
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5])
def test_only_samples_whose_probability_fell_most_are_masked(by_cell: bool, share: float) -> None:
    torch.manual_seed(0)
    net, labels = agreeing_head(16), torch.zeros(10, dtype=torch.long)
    features = torch.rand(10, 16, 4, 4) * torch.rand(10, 1, 1, 1)  # of very different falls
    everywhere = challenge_mask(net, features, labels, Challenge(by_cell, 1.0))
    with torch.no_grad():
        before, after = (
            net.classifier(net.pool(z)).softmax(1)[:, 0] for z in (features, features * everywhere)
        )
    fallen = (before - after).argsort(descending=True)[: int(10 * share)]
    mask = challenge_mask(net, features, labels, Challenge(by_cell, share))
    assert set((dropped(mask) > 0).nonzero().flatten().tolist()) == set(fallen.tolist())
    assert torch.equal(mask[fallen], everywhere[fallen])


@KINDS
def test_a_sample_whose_probability_does_not_fall_keeps_everything(by_cell: bool) -> None:
    net = agreeing_head(16)
    net.classifier.weight.data.neg_()  # all speaks against class 0
    labels = torch.zeros(4, dtype=torch.long)
    mask = challenge_mask(net, torch.rand(4, 16, 4, 4), labels, Challenge(by_cell, 1.0))
    assert not dropped(mask).any()


@KINDS
def test_no_gradient_flows_through_the_mask(by_cell: bool) -> None:
    torch.manual_seed(0)
    net, labels = Head(16, 3), torch.arange(8) % 3
    features = torch.rand(8, 16, 4, 4, requires_grad=True)
    challenge = Challenge(by_cell, 0.5)
    mask = challenge_mask(net, features, labels, challenge)
    assert not mask.requires_grad
    assert features.grad is None
    assert all(parameter.grad is None for parameter in net.parameters())
    leaves = [features, *net.parameters()]
    loss = F.cross_entropy(challenged_logits(net, features, labels, challenge), labels)
    found = torch.autograd.grad(loss, leaves)
    constant = mask.detach().clone()
    expected = torch.autograd.grad(
        F.cross_entropy(net.classifier((features * constant).mean((2, 3))), labels), leaves
    )
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two)
    assert dropped(mask).any()
    gone = (mask == 0).expand_as(features)
    assert not found[0][gone].any()
    assert found[0][~gone].all()


def test_the_challenge_works_without_a_graph() -> None:
    net, labels = Head(16, 3), torch.arange(4) % 3
    with torch.no_grad():
        mask = challenge_mask(net, torch.rand(4, 16, 4, 4), labels, Challenge(True, 1.0))
    assert dropped(mask).any()


@KINDS
@pytest.mark.parametrize(("image_size", "side"), [(222, 7), (112, 4), (64, 2)])
def test_plain_and_hyper_residual_networks(by_cell: bool, image_size: int, side: int) -> None:
    """One generation of weights serves challenge and training; a plain network of these weights agrees."""
    torch.manual_seed(0)
    config = NetworkConfig(
        kind="resnet18", width=2, classes=3, stem="imagenet", image_size=image_size
    )
    hyper = build_network(config)
    plain = reparameterize(hyper)
    assert isinstance(plain, Classifier)
    images, labels = torch.rand(6, 3, image_size, image_size), torch.arange(6) % 3
    challenge = Challenge(by_cell, 0.5)
    generated: list[str] = []
    for name, layer in hyper_layers(hyper):
        layer.generator.register_forward_hook(lambda *_, name=name: generated.append(name))
    with generate_once(hyper):
        assert hyper.feature_map(images).shape == (6, 16, side, side)
        logits = challenged_logits(hyper, images, labels, challenge)
        F.cross_entropy(logits, labels).backward()
    assert sorted(generated) == sorted(name for name, _ in hyper_layers(hyper))
    torch.testing.assert_close(logits, challenged_logits(plain, images, labels, challenge))
    assert not torch.allclose(logits, plain(images))
    for name, parameter in hyper.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_without_samples_to_challenge_the_logits_are_the_networks() -> None:
    torch.manual_seed(0)
    net = build_network(NetworkConfig(kind="resnet18", width=2, sharing="none"))
    images, labels = torch.rand(4, 3, 16, 16), torch.arange(4)
    logits = challenged_logits(net, images, labels, Challenge(True, 0.0))
    torch.testing.assert_close(logits, net(images), rtol=0, atol=0)


def test_a_feature_map_of_one_cell_is_refused() -> None:
    with pytest.raises(UserError, match="the whole feature map of 1 x 1: use larger images"):
        challenge_mask(Head(16, 3), torch.rand(2, 16, 1, 1), torch.arange(2), Challenge(True, 0.5))


def test_the_published_curriculum_and_a_fair_coin() -> None:
    generator = torch.Generator().manual_seed(0)
    shares = [draw_challenge(epoch, generator).share for epoch in (0, 9, 10, 19, 29)]
    assert shares == [0.3, 0.3, 0.5, 0.5, 0.5]
    drawn = [draw_challenge(0, generator).by_cell for _ in range(400)]
    assert 160 < sum(drawn) < 240
    again = torch.Generator().manual_seed(0)
    assert [draw_challenge(0, again).by_cell for _ in range(405)][5:] == drawn
