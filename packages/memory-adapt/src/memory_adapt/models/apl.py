"""APL: adaptive posterior learning (Ramalho & Garnelo 2019, arXiv 1902.02527; thesis A.1.4).

    read:    the k nearest stored embeddings with their labels
    decode:  an LSTM over the neighbours, far to near, each given as
             (its embedding, embedding of its label, query, its weight softmax(-distance));
             outputs weighted by the same softmax, then a linear classifier
    write:   (embedding, label) when the prediction was surprising: -log p(label) > sigma ln N

Known deviations:
- Encoder: the thesis' Conv-4, not a residual network. Decoder: an LSTM of 400 (the thesis' choice;
  the public code has self-attention layers, weighted by distance as here).
- The loss is summed over a stream and stepped once, not at each time step: the thesis' protocol. No
  gradient reaches the memory or the distances, so that each step's gradient is the paper's.
- One memory per stream. The prediction that surprise compares is the one made when the image was
  seen, `delay` steps before its label.
- Empty rows are read only when fewer than k are full, with weight zero.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from memory_adapt.config import APLConfig
from memory_adapt.models.encoder import Conv4
from memory_adapt.models.flops import linear_flops, lstm_flops
from memory_adapt.models.interface import OnlineClassifier, State

EMPTY = -1
"""Label of a memory row that was never written."""
LABEL_SIZE = 32
"""Length of a label's embedding, as in the public code."""


class APL(OnlineClassifier):
    """Adaptive posterior learning.

    state: "embeddings" (batch, slots, features), "labels" (batch, slots) int64; "written" (batch)
    int64, rows ever written; "pending" (batch, delay, features), "pending_logits" (batch, delay,
    ways), images whose labels have not arrived and what was predicted for them, oldest first.
    """

    encoder: Conv4
    must_know_delay = True

    def __init__(self, config: APLConfig) -> None:
        super().__init__(config)
        if config.neighbours > config.slots:
            raise ValueError(
                f"neighbours ({config.neighbours}) must be at most slots ({config.slots})"
            )
        self.ways, self.slots = config.ways, config.slots
        self.neighbours = config.neighbours
        self.surprise = config.surprise * math.log(config.ways)
        self.encoder = Conv4(config.image_channels, config.image_size, config.width)
        features = self.encoder.features
        self.label_embedding = nn.Embedding(config.ways + 1, LABEL_SIZE)  # the last one: EMPTY
        self.decoder = nn.LSTM(2 * features + LABEL_SIZE + 1, config.hidden)
        self.classifier = nn.Linear(config.hidden, config.ways)

    def initial_state(self, batch: int) -> State:
        """An empty memory, nothing pending."""
        zeros = self.classifier.weight.new_zeros
        features = self.encoder.features
        return {
            "embeddings": zeros(batch, self.slots, features),
            "labels": zeros(batch, self.slots, dtype=torch.int64) + EMPTY,
            "written": zeros(batch, dtype=torch.int64),
            "pending": zeros(batch, self.delay, features),
            "pending_logits": zeros(batch, self.delay, self.ways),
        }

    def step_flops(self) -> int:
        decoder = self.neighbours * lstm_flops(self.decoder)
        return self.encoder.flops() + decoder + linear_flops(self.classifier)

    def forward_features(
        self,
        features: Float[Tensor, "time batch features"],
        feedback: Int[Tensor, "time batch"],
        state: State | None = None,
    ) -> tuple[Float[Tensor, "time batch ways"], State]:
        """What follows the encoder.

        What is written depends on earlier predictions, so a pass without gradient goes step by
        step. What was read is then decoded once more with gradient, all steps at once: the same
        numbers, as no gradient passes through the memory.
        """
        if state is None:
            state = self.initial_state(features.shape[1])
        logits, reads, state = self._run(features, feedback, state)
        if torch.is_grad_enabled():
            read = [torch.cat(part) for part in zip(*reads, strict=True)]  # (T B, neighbours, ...)
            logits = self.decode(features.flatten(0, 1), *read).unflatten(0, feedback.shape)
        return logits, state

    @torch.no_grad()
    def _run(
        self, features: Tensor, feedback: Tensor, state: State
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor, Tensor]], State]:
        """Step by step: predictions, what was read at each step, and the last state."""
        memory = (state["embeddings"], state["labels"], state["written"])
        pending = [*state["pending"].unbind(1), *features.unbind(0)]
        logits = list(state["pending_logits"].unbind(1))
        reads = []
        for t, labels in enumerate(feedback.unbind(0)):
            # Image t - delay stands at t, as the pending ones come first; so does its prediction.
            memory = write_if_surprised(*memory, pending[t], labels, logits[t], self.surprise)
            reads.append(read_nearest(memory[0], memory[1], features[t], self.neighbours))
            logits.append(self.decode(features[t], *reads[-1]))
        last = {
            "embeddings": memory[0],
            "labels": memory[1],
            "written": memory[2],
            "pending": torch.stack(pending[-self.delay :], 1),
            "pending_logits": torch.stack(logits[-self.delay :], 1),
        }
        return torch.stack(logits[self.delay :]), reads, last

    def decode(
        self,
        query: Float[Tensor, "batch features"],
        embeddings: Float[Tensor, "batch neighbours features"],
        labels: Int[Tensor, "batch neighbours"],
        weights: Float[Tensor, "batch neighbours"],
    ) -> Float[Tensor, "batch ways"]:
        """Logits from what was read, nearest first."""
        label = self.label_embedding(torch.where(labels == EMPTY, self.ways, labels))
        queries = query.unsqueeze(1).expand_as(embeddings)
        inputs = torch.cat([embeddings, label, queries, weights.unsqueeze(-1)], -1)
        outputs, _ = self.decoder(inputs.flip(1).transpose(0, 1))  # far to near
        weighted = (outputs * weights.flip(1).t().unsqueeze(-1)).sum(0)
        return self.classifier(weighted)


def read_nearest(
    embeddings: Float[Tensor, "batch slots features"],
    labels: Int[Tensor, "batch slots"],
    query: Float[Tensor, "batch features"],
    neighbours: int,
) -> tuple[
    Float[Tensor, "batch neighbours features"],
    Int[Tensor, "batch neighbours"],
    Float[Tensor, "batch neighbours"],
]:
    """Embeddings, labels and weights softmax(-|x - m|^2) of the nearest full rows, nearest first.

    Empty rows come last, with label EMPTY and weight 0; all are alike when the memory is empty.
    """
    distance = (embeddings - query.unsqueeze(1)).square().sum(-1)
    # Large and finite: a memory with no full row gives uniform weights, not NaN.
    distance = distance.masked_fill(labels == EMPTY, torch.finfo(distance.dtype).max)
    nearest, rows = distance.sort(dim=-1, stable=True)
    nearest, rows = nearest[:, :neighbours], rows[:, :neighbours]
    read = embeddings.gather(1, rows.unsqueeze(-1).expand(-1, -1, embeddings.shape[-1]))
    return read, labels.gather(1, rows), (-nearest).softmax(-1)


def write_if_surprised(
    embeddings: Float[Tensor, "batch slots features"],
    labels: Int[Tensor, "batch slots"],
    written: Int[Tensor, " batch"],
    image: Float[Tensor, "batch features"],
    label: Int[Tensor, " batch"],
    logits: Float[Tensor, "batch ways"],
    threshold: float,
) -> tuple[
    Float[Tensor, "batch slots features"], Int[Tensor, "batch slots"], Int[Tensor, " batch"]
]:
    """The memory with (image, label) in the next row, where -log p(label) exceeds the threshold.

    logits: what was predicted for the image. Null labels (-1) are never written; the oldest row is
    overwritten when all are full.
    """
    arrived = label >= 0
    cross_entropy = F.cross_entropy(logits, label.clamp(min=0), reduction="none")
    write = arrived & (cross_entropy > threshold)
    slots = torch.arange(labels.shape[1], device=labels.device)
    here = write.unsqueeze(1) & (slots == (written % len(slots)).unsqueeze(1))  # (B, slots)
    embeddings = torch.where(here.unsqueeze(-1), image.unsqueeze(1), embeddings)
    labels = torch.where(here, label.unsqueeze(1), labels)
    return embeddings, labels, written + write
