"""What must hold for every online learner, whatever it computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from memory_adapt.config import (
    APLConfig,
    CLLSTMConfig,
    CPMConfig,
    LSTMConfig,
    ModelConfig,
    NTMConfig,
    OPNConfig,
)
from memory_adapt.models.apl import APL
from memory_adapt.models.cl_lstm import CLLSTM
from memory_adapt.models.interface import OnlineClassifier, State
from memory_adapt.models.lstm import LSTMLearner
from memory_adapt.models.ntm import NTM
from memory_adapt.models.registry import build_model

WAYS, TIME, BATCH, SIZE = 3, 14, 3, 16
SMALL = {"ways": WAYS, "width": 8, "image_size": SIZE}

MODELS: dict[str, ModelConfig] = {
    "opn": OPNConfig(**SMALL),
    "opn-delay-3": OPNConfig(**SMALL),
    "opn-cosine": OPNConfig(**SMALL, metric="cosine"),
    "cpm": CPMConfig(**SMALL, hidden=12),
    "cpm-delay-3": CPMConfig(**SMALL, hidden=12),
    "lstm": LSTMConfig(**SMALL, hidden=12),
    "ntm": NTMConfig(**SMALL, hidden=12, slots=6, slot_size=5, heads=2),
    "apl": APLConfig(**SMALL, hidden=12, neighbours=3, slots=5),
    "apl-delay-3": APLConfig(**SMALL, hidden=12, neighbours=3, slots=5),
    "cl-lstm": CLLSTMConfig(**SMALL, hidden=12),
    "cl-lstm-first": CLLSTMConfig(**SMALL, hidden=12, label_injection="first", gate_norm=True),
    "cl-lstm-lstm": CLLSTMConfig(**SMALL, hidden=12, label_injection="lstm", skip=False),
    "cl-lstm-strided": CLLSTMConfig(
        **SMALL, hidden=12, first_width=2, strides=(2, 1, 1, 1), pools=(True, True, False, True)
    ),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> OnlineClassifier:
    """A learner whose weights are far from their initial values, so that every path matters."""
    torch.manual_seed(0)
    delay = 3 if request.param.endswith("delay-3") else 1
    model = build_model(MODELS[request.param], delay=delay)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model


def stream(delay: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(TIME, BATCH, 1, SIZE, SIZE, generator=generator)
    labels = torch.randint(WAYS, (TIME, BATCH), generator=generator)
    return images, labels, feedback_of(labels, delay)


def feedback_of(labels: Tensor, delay: int) -> Tensor:
    return torch.cat([torch.full_like(labels[:delay], -1), labels[:-delay]])


def run_in_chunks(
    model: OnlineClassifier, images: Tensor, feedback: Tensor, sizes: list[int]
) -> tuple[Tensor, State]:
    state = model.initial_state(images.shape[1])
    logits = []
    for x, y in zip(images.split(sizes), feedback.split(sizes), strict=True):
        part, state = model(x, y, state)
        logits.append(part)
    return torch.cat(logits), state


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_streaming_steps_give_the_numbers_of_the_whole_stream(model: OnlineClassifier) -> None:
    images, _, feedback = stream(model.delay)
    whole, last = model(images, feedback)
    state = model.initial_state(BATCH)
    for t in range(TIME):
        logits, state = model.step(images[t], feedback[t], state)
        close(logits, whole[t])
    assert state.keys() == last.keys()
    for name in state:
        assert state[name].shape == last[name].shape
        assert state[name].dtype == last[name].dtype
        assert len(state[name]) == BATCH
        close(state[name], last[name])
    chunked, _ = run_in_chunks(model, images, feedback, [1, 2, 4, 7])
    close(chunked, whole)


def test_training_and_evaluation_give_the_same_logits(model: OnlineClassifier) -> None:
    images, labels, feedback = stream(model.delay)
    _, with_gradient = model.episode_loss(images, labels, feedback)
    with torch.no_grad():
        without, _ = model(images, feedback)
    close(with_gradient.detach(), without)


@torch.no_grad()
@pytest.mark.parametrize("i", [0, 4, TIME - 2])
def test_a_prediction_knows_neither_its_label_nor_the_future(
    model: OnlineClassifier, i: int
) -> None:
    delay = model.delay
    images, labels, feedback = stream(delay)
    logits, _ = model(images, feedback)
    other_labels = labels.clone()
    other_labels[i:] = (labels[i:] + 1) % WAYS  # from y_i on
    other_images = images.clone()
    other_images[i + 1 :] = 1 - images[i + 1 :]
    perturbed, _ = model(other_images, feedback_of(other_labels, delay))
    close(perturbed[: i + 1], logits[: i + 1])
    assert not torch.allclose(perturbed[i + 1 :], logits[i + 1 :])


@torch.no_grad()
def test_a_prediction_uses_earlier_images_and_their_labels(model: OnlineClassifier) -> None:
    delay = model.delay
    images, labels, feedback = stream(delay)
    logits, _ = model(images, feedback)
    i = TIME - 1
    other_labels = labels.clone()
    other_labels[i - delay - 2 : i - delay + 1] += 1  # the last labels that have arrived at step i
    relabelled, _ = model(images, feedback_of(other_labels % WAYS, delay))
    assert not torch.allclose(relabelled[i], logits[i], atol=1e-4)
    other_images = images.clone()
    other_images[i - delay - 2 : i - delay + 1] = torch.rand(3, BATCH, 1, SIZE, SIZE)
    redrawn, _ = model(other_images, feedback)
    assert not torch.allclose(redrawn[i], logits[i], atol=1e-4)


@torch.no_grad()
def test_streams_in_a_batch_do_not_interact(model: OnlineClassifier) -> None:
    images, _, feedback = stream(model.delay)
    together, _ = model(images, feedback)
    for b in range(BATCH):
        alone, _ = model(images[:, [b]], feedback[:, [b]])
        close(together[:, [b]], alone)


@torch.no_grad()
def test_a_state_can_be_forked(model: OnlineClassifier) -> None:
    images, _, feedback = stream(model.delay)
    other_images, _, other_feedback = stream(model.delay, seed=1)
    _, state = model(images[:6], feedback[:6])
    before = {name: tensor.clone() for name, tensor in state.items()}
    one, _ = model(images[6:], feedback[6:], state)
    two, _ = model(other_images[6:], other_feedback[6:].clamp(min=0), state)
    again, _ = model(images[6:], feedback[6:], state)
    assert not torch.allclose(one, two)
    assert torch.equal(one, again)
    for name in state:
        assert torch.equal(state[name], before[name]), name


@torch.no_grad()
def test_a_new_stream_starts_from_the_initial_state(model: OnlineClassifier) -> None:
    images, _, feedback = stream(model.delay)
    fresh, _ = model(images, feedback)
    given, _ = model(images, feedback, model.initial_state(BATCH))
    assert torch.equal(fresh, given)


@torch.no_grad()
def test_permuting_label_slots_permutes_the_logits(model: OnlineClassifier) -> None:
    """Exactly for prototypes; else with the parameters of the slots permuted likewise."""
    images, _, feedback = stream(model.delay)
    logits, _ = model(images, feedback)
    to = torch.tensor([2, 0, 1])  # slot k becomes to[k]
    permuted_feedback = torch.where(feedback < 0, feedback, to[feedback.clamp(min=0)])
    if isinstance(model, CLLSTM):
        for layer in (layer for i, layer in enumerate(model.layers) if model.injects(i)):
            permute_(layer.input_conv.weight.transpose(0, 1)[-WAYS:], to)
        if model.inject_lstm:
            permute_(model.lstm.weight_ih_l0.mT[-WAYS:], to)
    if isinstance(model, LSTMLearner):
        permute_(model.lstm.weight_ih_l0.mT[-WAYS:], to)
    if isinstance(model, NTM):
        permute_(model.input_gates.weight.mT[-WAYS:], to)
    if isinstance(model, APL):
        permute_(model.label_embedding.weight[:WAYS], to)
    if isinstance(model, CLLSTM | LSTMLearner | NTM | APL):
        permute_(model.classifier.weight, to)
        permute_(model.classifier.bias, to)
    permuted, _ = model(images, permuted_feedback)
    close(permuted[..., to], logits)
    assert not torch.allclose(permuted, logits)


def permute_(rows: Tensor, to: Tensor) -> None:
    """Row k becomes row to[k]."""
    rows[to] = rows.clone()


def test_every_parameter_gets_a_finite_gradient(model: OnlineClassifier) -> None:
    images, labels, feedback = stream(model.delay)
    loss, _ = model.episode_loss(images, labels, feedback)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@torch.no_grad()
@pytest.mark.parametrize("model", ["opn", "cpm", "apl"], indirect=True)
def test_null_feedback_teaches_nothing(model: OnlineClassifier) -> None:
    """Without labels the memories of labelled samples stay empty."""
    images, _, feedback = stream(model.delay)
    _, state = model(images, torch.full_like(feedback, -1))
    if isinstance(model, APL):
        assert (state["labels"] == -1).all()
        assert not state["written"].any()
    else:
        assert not state["counts"].any()
        assert not state["prototypes"].any()
