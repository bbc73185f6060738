from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from memory_adapt.config import CPMConfig
from memory_adapt.models.cpm import CPM
from memory_adapt.models.opn import MASKED

TIME, BATCH = 6, 2
FEEDBACK = torch.tensor([[-1, -1], [0, 2], [1, 1], [0, 0], [-1, 2], [2, 1]])


def learner() -> CPM:
    torch.manual_seed(0)
    model = CPM(CPMConfig(ways=3, width=8, image_size=16, hidden=12))
    with torch.no_grad():
        model.readout.weight.add_(torch.randn(model.readout.weight.shape))
    return model


@torch.no_grad()
def test_the_context_never_sees_labels() -> None:
    model = learner()
    features = torch.rand(TIME, BATCH, 8)
    _, one = model.forward_features(features, FEEDBACK)
    _, two = model.forward_features(features, FEEDBACK.roll(1, 1))
    for name in ("hidden", "cell", "pending"):
        assert torch.equal(one[name], two[name]), name
    assert not torch.equal(one["prototypes"], two["prototypes"])


@torch.no_grad()
def test_the_context_sees_earlier_images() -> None:
    """An unlabelled image changes later predictions; in OPN it could not."""
    model = learner()
    features = torch.rand(TIME, BATCH, 8)
    feedback = FEEDBACK.clone()
    feedback[2] = -1  # image 1 gets no label
    logits, _ = model.forward_features(features, feedback)
    other = features.clone()
    other[1] = torch.rand(BATCH, 8)
    changed, _ = model.forward_features(other, feedback)
    seen = logits[3:] != MASKED
    assert not torch.isclose(changed[3:][seen], logits[3:][seen]).any()


@torch.no_grad()
def test_follows_the_published_equations_step_by_step() -> None:
    model = learner()
    features = torch.rand(TIME, BATCH, 8)
    logits, unknown, _ = model.scores(features, FEEDBACK)
    context, _ = model.context(features)
    stored: list[dict[int, list[Tensor]]] = [{}, {}]
    previous = torch.zeros(BATCH, 8)
    for t in range(TIME):
        readout = model.readout(context[t])
        for b in range(BATCH):
            r = readout[b]
            h, scale = r[:8], F.softplus(r[8:16])
            gamma, beta = F.softplus(r[16] + 1), r[17]
            fused = r[18].sigmoid() * features[t, b] + r[19].sigmoid() * h
            label = int(FEEDBACK[t, b])
            if label >= 0:
                stored[b].setdefault(label, []).append(previous[b].clone())
            distances = {
                k: (scale * (fused - torch.stack(xs).mean(0))).square().sum()
                for k, xs in stored[b].items()
            }
            for k in range(3):
                expected = -distances[k] if k in distances else torch.tensor(MASKED)
                torch.testing.assert_close(logits[t, b, k], expected, rtol=1e-4, atol=1e-5)
            if distances:
                nearest = torch.stack(list(distances.values())).min()
                expected = (nearest - beta) / gamma
                torch.testing.assert_close(unknown[t, b], expected, rtol=1e-4, atol=1e-4)
            else:
                assert unknown[t, b] == -MASKED
            previous[b] = fused


def test_starts_from_the_published_gates() -> None:
    """x gate sigmoid(1), h gate sigmoid(-1), beta 10: at first nearly OPN."""
    model = CPM(CPMConfig(ways=3, width=8, image_size=16, hidden=12))
    assert model.readout.bias.tolist() == [0.0] * 17 + [10.0, 1.0, -1.0]
