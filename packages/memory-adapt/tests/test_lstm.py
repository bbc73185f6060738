from __future__ import annotations

import math

import pytest
import torch

from memory_adapt.config import LSTMConfig
from memory_adapt.models.lstm import LSTMLearner


def learner(hidden: int = 64, **options: int) -> LSTMLearner:
    torch.manual_seed(0)
    return LSTMLearner(LSTMConfig(ways=3, width=8, image_size=16, hidden=hidden), **options)


def test_chrono_biases_span_the_time_scales() -> None:
    model = learner(hidden=400, chrono_steps=20)
    i, f, g, o = (model.lstm.bias_ih_l0 + model.lstm.bias_hh_l0).chunk(4)
    assert torch.equal(i, -f)
    assert not g.any()
    assert not o.any()
    time_scale = f.detach().exp()
    assert 1 <= time_scale.min() < 1.5
    assert 18 < time_scale.max() <= 19 + 1e-4
    assert time_scale.mean() == pytest.approx(10, abs=1)


def test_an_undisturbed_cell_keeps_its_content_for_its_time_scale() -> None:
    """Forget gate sigmoid(log u) = u / (1 + u): after u steps about 1 / e is left."""
    model = learner(chrono_steps=50)
    forget = torch.sigmoid(model.lstm.bias_ih_l0.chunk(4)[1])
    u = model.lstm.bias_ih_l0.chunk(4)[1].exp()
    left = (forget**u).detach()
    assert (left > 1 / math.e - 1e-3).all()
    assert (left <= 0.5 + 1e-3).all()


def test_too_short_a_time_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="chrono_steps must be at least 2, got 1"):
        learner(chrono_steps=1)


@torch.no_grad()
def test_the_whole_sequence_follows_the_lstm_equations() -> None:
    model = learner(hidden=5)
    features = torch.randn(4, 2, 8)
    feedback = torch.tensor([[-1, -1], [0, 2], [1, 1], [2, 0]])
    logits, state = model.forward_features(features, feedback)
    hidden = cell = torch.zeros(2, 5)
    for t in range(4):
        one_hot = torch.zeros(2, 3)
        for b in range(2):
            if feedback[t, b] >= 0:
                one_hot[b, feedback[t, b]] = 1
        gates = torch.cat([features[t], one_hot], -1) @ model.lstm.weight_ih_l0.T
        gates = gates + hidden @ model.lstm.weight_hh_l0.T + model.lstm.bias_ih_l0
        i, f, g, o = gates.chunk(4, -1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        torch.testing.assert_close(logits[t], model.classifier(hidden))
    torch.testing.assert_close(state["hidden"], hidden)
    torch.testing.assert_close(state["cell"], cell)


def test_learns_to_bind_a_label_to_what_it_saw() -> None:
    """Two fixed patterns, label slots shuffled per stream: only the fed labels can tell."""
    model = learner(hidden=32, chrono_steps=10)
    optimizer = torch.optim.Adam(
        [*model.lstm.parameters(), *model.classifier.parameters()], lr=1e-2
    )
    patterns = torch.randn(3, 8)
    for _ in range(200):
        slots = torch.rand(64, 3).argsort(-1)  # which label each pattern has, per stream
        shown = torch.randint(3, (10, 64))
        labels = slots[torch.arange(64), shown]
        feedback = torch.cat([torch.full_like(labels[:1], -1), labels[:-1]])
        logits, _ = model.forward_features(patterns[shown], feedback)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    late = (logits.argmax(-1) == labels)[6:].float().mean()
    assert late > 0.75, late
