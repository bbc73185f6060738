from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from memory_adapt.config import APLConfig
from memory_adapt.models.apl import APL, EMPTY, read_nearest, write_if_surprised

SMALL = {"ways": 3, "width": 8, "image_size": 16, "hidden": 12, "neighbours": 3}


def learner(**options: int) -> APL:
    torch.manual_seed(0)
    return APL(APLConfig(**{**SMALL, **options}))  # type: ignore[arg-type]


def memory(slots: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.zeros(1, slots, 2),
        torch.full((1, slots), EMPTY),
        torch.zeros(1, dtype=torch.int64),
    )


def test_writes_only_what_surprises() -> None:
    """Surprise -log p(label) against 0.75 ln 3 = 0.824."""
    threshold = 0.75 * math.log(3)
    image = torch.tensor([[1.0, 2.0]])
    for p, expected in ((0.45, 0), (0.43, 1)):  # -log: 0.799, 0.844
        logits = torch.tensor([[p, (1 - p) / 2, (1 - p) / 2]]).log()
        _, labels, written = write_if_surprised(
            *memory(), image, torch.tensor([0]), logits, threshold
        )
        assert written.item() == expected
        assert (labels != EMPTY).sum().item() == expected


def test_threshold_is_that_of_the_config() -> None:
    assert learner().surprise == pytest.approx(0.75 * math.log(3))


def test_each_stream_writes_for_itself_and_never_a_null() -> None:
    sure = [10.0, 0.0, 0.0]
    embeddings, labels, written = write_if_surprised(
        torch.zeros(3, 2, 1),
        torch.full((3, 2), EMPTY),
        torch.zeros(3, dtype=torch.int64),
        torch.tensor([[5.0], [6.0], [7.0]]),
        torch.tensor([0, 1, -1]),  # right, wrong, null
        torch.tensor([sure, sure, sure]),
        0.5,
    )
    assert written.tolist() == [0, 1, 0]
    assert labels.tolist() == [[EMPTY, EMPTY], [1, EMPTY], [EMPTY, EMPTY]]
    assert embeddings[1].tolist() == [[6], [0]]


def test_the_ring_overwrites_its_oldest_row() -> None:
    ring = memory(slots=3)
    for n in range(5):
        image = torch.full((1, 2), float(n))
        ring = write_if_surprised(*ring, image, torch.tensor([n]), torch.zeros(1, 9), 0.5)
    embeddings, labels, written = ring
    assert embeddings[0, :, 0].tolist() == [3, 4, 2]
    assert labels.tolist() == [[3, 4, 2]]
    assert written.item() == 5


def test_reads_the_nearest_full_rows_in_order() -> None:
    embeddings = torch.tensor([[[4.0], [0.0], [1.0], [9.0]]])
    labels = torch.tensor([[2, EMPTY, 0, 1]])
    read, read_labels, weights = read_nearest(embeddings, labels, torch.tensor([[0.0]]), 4)
    assert read_labels.tolist() == [[0, 2, 1, EMPTY]]  # the empty row is last, near as it is
    assert read.flatten()[:3].tolist() == [1, 4, 9]
    e = [math.exp(-1), math.exp(-16), math.exp(-81), 0.0]
    assert weights.flatten().tolist() == pytest.approx([x / sum(e) for x in e])


def test_an_empty_memory_reads_as_empty() -> None:
    _, labels, weights = read_nearest(*memory()[:2], torch.ones(1, 2), 2)
    assert labels.tolist() == [[EMPTY, EMPTY]]
    assert weights.tolist() == [[0.5, 0.5]]


@torch.no_grad()
@pytest.mark.parametrize("delay", [1, 3])
def test_a_late_label_is_stored_with_its_image(delay: int) -> None:
    model = learner(slots=8)
    model.delay = delay
    model.surprise = 0.0  # everything surprises
    features = torch.rand(6, 1, 8)
    feedback = torch.tensor([-1] * delay + [2, 0, 1, 2, 0][: 6 - delay]).unsqueeze(1)
    _, state = model.forward_features(features, feedback)
    n = 6 - delay
    assert state["written"].item() == n
    assert torch.equal(state["embeddings"][0, :n], features[:n, 0])
    assert state["labels"][0, :n].tolist() == feedback[delay:, 0].tolist()
    assert torch.equal(state["pending"][0], features[n:, 0])


@torch.no_grad()
@pytest.mark.parametrize("delay", [1, 2])
def test_surprise_is_that_of_the_prediction_made_for_the_image(delay: int) -> None:
    """What is written, counted again from the logits that were returned."""
    model = learner(slots=32)
    model.delay = delay
    for parameter in model.parameters():
        parameter.mul_(4)  # opinionated, so that some predictions surprise and some do not
    time, batch = 12, 8
    labels = torch.randint(3, (time, batch))
    feedback = torch.cat([torch.full((delay, batch), -1), labels[:-delay]])
    logits, state = model.forward_features(torch.rand(time, batch, 8), feedback)
    log_p = logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    surprising = -log_p[:-delay] > 0.75 * math.log(3)
    assert 0.2 < surprising.float().mean() < 0.8
    assert state["written"].tolist() == surprising.sum(0).tolist()


@torch.no_grad()
def test_decodes_from_far_to_near() -> None:
    model = learner()
    query, labels = torch.rand(1, 8), torch.tensor([[0, 1, 2]])
    neighbours = torch.rand(1, 3, 8)
    all_near, all_far = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    for weights, moved, expected in (
        (all_near, 2, True),  # the output at the nearest has read all
        (all_far, 0, False),  # the output at the farthest has not read the nearest yet
    ):
        other = neighbours.clone()
        other[:, moved] += 1
        one = model.decode(query, neighbours, labels, weights)
        two = model.decode(query, other, labels, weights)
        assert (not torch.equal(one, two)) == expected


def test_no_gradient_enters_the_memory() -> None:
    """A loss on the last step reaches its own image only, not those it reads."""
    model = learner(slots=8)
    model.surprise = 0.0
    features = torch.rand(5, 2, 8, requires_grad=True)
    feedback = torch.tensor([[-1, -1], [0, 1], [1, 2], [2, 2], [0, 0]])
    logits, state = model.forward_features(features, feedback)
    logits[-1].square().sum().backward()
    assert features.grad is not None
    assert not features.grad[:-1].any()
    assert features.grad[-1].any(-1).all()
    assert not any(tensor.requires_grad for tensor in state.values())


def test_gradient_is_that_of_decoding_what_was_read() -> None:
    """The one batched decoding of all steps against decoding step by step."""
    model = learner(slots=8)
    features = torch.rand(4, 2, 8)
    feedback = torch.tensor([[-1, -1], [0, 1], [1, 2], [2, 2]])
    model.forward_features(features, feedback)[0].square().sum().backward()
    batched = model.decoder.weight_ih_l0.grad
    model.zero_grad()
    state = model.initial_state(2)
    for t in range(4):
        logits, state = model.forward_features(features[[t]], feedback[[t]], state)
        logits.square().sum().backward()
    torch.testing.assert_close(model.decoder.weight_ih_l0.grad, batched)


def test_more_neighbours_than_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"neighbours \(5\) must be at most slots \(4\)"):
        APL(APLConfig(slots=4, neighbours=5))
