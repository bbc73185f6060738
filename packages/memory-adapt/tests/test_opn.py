from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from memory_adapt.config import OPNConfig
from memory_adapt.models.opn import (
    MASKED,
    OPN,
    initial_prototypes,
    known_unknown_loss,
    running_prototypes,
    scores_from_distances,
)

N = -1  # null


def feedback(*steps: int) -> Tensor:
    return torch.tensor(steps).unsqueeze(1)  # one stream


def test_a_prototype_is_the_running_mean_of_its_samples() -> None:
    x = torch.tensor([[1.0, 0.0], [3.0, 2.0], [10.0, 10.0], [5.0, 4.0]]).unsqueeze(1)
    state = initial_prototypes(x, batch=1, ways=3, features=2, delay=1)
    prototypes, counts, last = running_prototypes(x, feedback(N, 2, 2, 0), state)
    p = prototypes[:, 0]
    assert p[0].tolist() == [[0, 0], [0, 0], [0, 0]]
    assert p[1].tolist() == [[0, 0], [0, 0], [1, 0]]  # x_1 has label 2
    assert p[2].tolist() == [[0, 0], [0, 0], [2, 1]]  # and x_2: (1 + 3) / 2, (0 + 2) / 2
    assert p[3].tolist() == [[10, 10], [0, 0], [2, 1]]  # x_3 has label 0
    assert counts[:, 0].tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [1, 0, 2]]
    assert last["pending"].tolist() == [[[5, 4]]]  # x_4 waits for its label


def test_running_mean_goes_on_from_a_state() -> None:
    """p <- (n p + x) / (n + 1) with n = 3."""
    state = {
        "prototypes": torch.tensor([[[2.0], [0.0]]]),
        "counts": torch.tensor([[3.0, 0.0]]),
        "pending": torch.tensor([[[6.0]]]),
    }
    prototypes, counts, _ = running_prototypes(torch.zeros(1, 1, 1), feedback(0), state)
    assert prototypes.flatten().tolist() == [3.0, 0.0]
    assert counts.flatten().tolist() == [4.0, 0.0]


def test_a_late_label_goes_to_the_image_that_many_steps_earlier() -> None:
    x = torch.arange(1.0, 7.0).reshape(6, 1, 1)
    state = initial_prototypes(x, batch=1, ways=6, features=1, delay=3)
    prototypes, _, last = running_prototypes(x, feedback(N, N, N, 4, 1, 0), state)
    assert prototypes[-1].flatten().tolist() == [3, 2, 0, 0, 1, 0]  # x_1: 4, x_2: 1, x_3: 0
    assert last["pending"].flatten().tolist() == [4, 5, 6]


def test_nulls_in_between_shift_nothing() -> None:
    x = torch.arange(1.0, 5.0).reshape(4, 1, 1)
    state = initial_prototypes(x, batch=1, ways=2, features=1, delay=1)
    prototypes, counts, _ = running_prototypes(x, feedback(N, N, 0, N), state)
    assert prototypes[-1].flatten().tolist() == [2, 0]  # the label at step 3 is that of x_2
    assert counts[-1].flatten().tolist() == [1, 0]


def test_logits_are_negative_squared_distances_to_seen_prototypes() -> None:
    torch.manual_seed(0)
    model = OPN(OPNConfig(ways=3, width=8, image_size=16))
    x = torch.rand(3, 1, 8)
    logits, _ = model.forward_features(x, feedback(N, 1, 2))
    assert logits[0].tolist() == [[MASKED] * 3]  # nothing seen: uniform
    torch.testing.assert_close(logits[2, 0, 1], -(x[2] - x[0]).square().sum())
    torch.testing.assert_close(logits[2, 0, 2], -(x[2] - x[1]).square().sum())
    assert logits[2, 0, 0] == MASKED


def test_cosine_logits_do_not_depend_on_length() -> None:
    model = OPN(OPNConfig(ways=2, width=8, image_size=16, metric="cosine"))
    x = torch.rand(2, 1, 8)
    logits, _ = model.forward_features(x, feedback(N, 1))
    expected = 10 * torch.cosine_similarity(x[0, 0], x[1, 0], dim=0)
    torch.testing.assert_close(logits[1, 0, 1], expected)
    scaled, _ = model.forward_features(torch.stack([x[0] * 7, x[1]]), feedback(N, 1))
    torch.testing.assert_close(scaled, logits)


def test_unknown_looks_at_seen_slots_only() -> None:
    distance = torch.tensor([[[0.0, 30.0, 50.0]]])  # slot 0 is empty: its prototype is the origin
    seen = torch.tensor([[[False, True, True]]])
    _, unknown = scores_from_distances(distance, seen, torch.tensor(10.0), torch.tensor(2.0))
    assert unknown.item() == (30 - 10) / 2


def test_before_anything_is_seen_the_class_is_unknown_and_nothing_is_nan() -> None:
    distance = torch.zeros(1, 1, 3, requires_grad=True)
    beta, gamma = torch.tensor(10.0, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    seen = torch.zeros(1, 1, 3, dtype=torch.bool)
    logits, unknown = scores_from_distances(distance, seen, beta, gamma)
    loss = known_unknown_loss(logits, unknown, torch.tensor([[1]]))
    loss.backward()
    assert loss.item() == 0
    for parameter in (beta, gamma):
        assert parameter.grad is not None
        assert parameter.grad.item() == 0


def test_loss_is_cross_entropy_on_known_items_plus_binary_on_unknown() -> None:
    logits = torch.tensor([[[-1.0, -2.0, MASKED]], [[-1.0, -2.0, MASKED]]])
    unknown = torch.tensor([[0.5], [-0.25]])
    labels = torch.tensor([[1], [2]])  # the first is known, the second new
    cross_entropy = math.log(math.exp(-1) + math.exp(-2)) + 2
    # log(1 + e^u) for the known, log(1 + e^-u) for the unknown
    binary = (math.log1p(math.exp(0.5)) + math.log1p(math.exp(0.25))) / 2
    loss = known_unknown_loss(logits, unknown, labels)
    assert loss.item() == pytest.approx(cross_entropy + binary, abs=1e-6)


def test_learns_to_tell_held_out_patterns_apart() -> None:
    """Classes are stripes at angles drawn anew for each stream, at random phase and in noise."""
    torch.manual_seed(0)
    model = OPN(OPNConfig(ways=3, width=8, image_size=16))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    accuracies = []
    for _ in range(40):
        images, labels = stripes()
        given = torch.cat([torch.full_like(labels[:1], N), labels[:-1]])
        loss, logits = model.episode_loss(images, labels, given)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        accuracies.append((logits.argmax(-1) == labels)[6:].float().mean().item())
    assert sum(accuracies[:5]) / 5 < 0.7
    assert sum(accuracies[-5:]) / 5 > 0.9


def stripes(time: int = 12, batch: int = 8, ways: int = 3, size: int = 16) -> tuple[Tensor, Tensor]:
    angles = math.pi * (torch.arange(ways) / ways + torch.rand(batch, 1))  # (B, W), well apart
    labels = torch.randint(ways, (time, batch))
    angle = angles[torch.arange(batch), labels].reshape(time, batch, 1, 1)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    phase = 2 * math.pi * torch.rand(time, batch, 1, 1)
    waves = torch.sin(x * torch.cos(angle) + y * torch.sin(angle) + phase)
    return (waves + 0.5 * torch.randn(waves.shape)).unsqueeze(2), labels
