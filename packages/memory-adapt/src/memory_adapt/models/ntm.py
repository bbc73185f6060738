"""NTM with least-recently-used access, "MANN" (Santoro et al. 2016; thesis A.1.4).

Notation: key k, written row a, memory M; weights w^r read, w^w write, w^u usage, w^lu least used.

    w^w_t = sigmoid(alpha) w^r_{t-1} + (1 - sigmoid(alpha)) w^lu_{t-1}
    M_t = (M_{t-1}, least-used rows cleared) + w^w_t a_t
    w^r_t = softmax(beta_t cos(k_t, M_t)),      r_t = w^r_t M_t
    w^u_t = gamma w^u_{t-1} + w^r_t + w^w_t

Known deviations:
- Head j writes to (and clears) the j-th least-used row, as in Ren et al.'s public code; the paper
  writes each head to all of the n least-used rows.
- What is written (a) and the key (k) are two outputs, as in the public code; in the paper one.
- The read softmax has a key strength beta >= 1 (Graves et al. 2014, Eq. 5): without one, weights
  over 120 rows cannot differ by more than a factor e^2.
- Images pass a convolutional encoder, normalised by group (see `encoder.py`), not raw pixels.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from memory_adapt.config import NTMConfig
from memory_adapt.models.encoder import Conv4
from memory_adapt.models.flops import linear_flops
from memory_adapt.models.interface import OnlineClassifier, State, encode_feedback


class NTM(OnlineClassifier):
    """Encoder, LSTM controller with external memory, linear classifier.

    state: "hidden", "cell" (batch, hidden), "memory" (batch, slots, slot_size), "usage" (batch,
    slots), "read_weights" (batch, heads, slots).
    """

    encoder: Conv4

    def __init__(self, config: NTMConfig) -> None:
        super().__init__(config)
        if config.heads > config.slots:
            raise ValueError(f"heads ({config.heads}) must be at most slots ({config.slots})")
        self.ways, self.hidden, self.usage_decay = config.ways, config.hidden, config.usage_decay
        self.heads, self.slots, self.slot_size = config.heads, config.slots, config.slot_size
        self.encoder = Conv4(config.image_channels, config.image_size, config.width)
        read = config.heads * config.slot_size
        self.input_gates = nn.Linear(self.encoder.features + config.ways, 4 * config.hidden)
        self.recurrent_gates = nn.Linear(config.hidden + read, 4 * config.hidden, bias=False)
        # Per head: key, written row, key strength, write gate.
        self.interface = nn.Linear(config.hidden, config.heads * (2 * config.slot_size + 2))
        self.classifier = nn.Linear(config.hidden + read, config.ways)
        with torch.no_grad():
            forget = slice(config.hidden, 2 * config.hidden)
            self.input_gates.bias[forget] = 1.0  # or the controller forgets before it learns
            # Write gates start towards the least-used row (as Ren et al.): new things are kept.
            self.interface.bias.view(config.heads, -1)[:, -1] = -2.0

    def initial_state(self, batch: int) -> State:
        """An all but empty memory; nothing used, nothing read."""
        zeros = self.classifier.weight.new_zeros
        return {
            "hidden": zeros(batch, self.hidden),
            "cell": zeros(batch, self.hidden),
            "memory": zeros(batch, self.slots, self.slot_size) + 1e-6,
            "usage": zeros(batch, self.slots),
            "read_weights": zeros(batch, self.heads, self.slots),
        }

    def step_flops(self) -> int:
        layers = (self.input_gates, self.recurrent_gates, self.interface, self.classifier)
        # Read where the last weights point, write, compare the keys, read.
        access = 4 * 2 * self.slots * self.heads * self.slot_size
        return self.encoder.flops() + sum(map(linear_flops, layers)) + access

    def forward_features(
        self,
        features: Float[Tensor, "time batch features"],
        feedback: Int[Tensor, "time batch"],
        state: State | None = None,
    ) -> tuple[Float[Tensor, "time batch ways"], State]:
        """What follows the encoder."""
        if state is None:
            state = self.initial_state(features.shape[1])
        hidden, cell, memory = state["hidden"], state["cell"], state["memory"]
        usage, read_weights = state["usage"], state["read_weights"]
        labels = encode_feedback(feedback, self.ways).to(features.dtype)
        input_gates = self.input_gates(torch.cat([features, labels], -1))  # for all steps at once
        read = (read_weights @ memory).flatten(1)
        outputs = []
        # unbind, not input_gates[t]: backward of an index costs the whole sequence at every step.
        for gates in input_gates.unbind(0):
            gates = gates + self.recurrent_gates(torch.cat([hidden, read], -1))
            i, f, o, g = gates.chunk(4, -1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh()
            interface = self.interface(hidden).unflatten(-1, (self.heads, -1))
            key, row, strength, gate = interface.split([self.slot_size, self.slot_size, 1, 1], -1)
            memory, usage, read_weights = access(
                memory,
                usage,
                read_weights,
                key=key.tanh(),
                row=row.tanh(),
                strength=1 + F.softplus(strength),
                gate=gate.sigmoid(),
                usage_decay=self.usage_decay,
            )
            read = (read_weights @ memory).flatten(1)
            outputs.append(torch.cat([hidden, read], -1))
        state = {
            "hidden": hidden,
            "cell": cell,
            "memory": memory,
            "usage": usage,
            "read_weights": read_weights,
        }
        return self.classifier(torch.stack(outputs)), state


def access(
    memory: Float[Tensor, "batch slots size"],
    usage: Float[Tensor, "batch slots"],
    read_weights: Float[Tensor, "batch heads slots"],
    *,
    key: Float[Tensor, "batch heads size"],
    row: Float[Tensor, "batch heads size"],
    strength: Float[Tensor, "batch heads 1"],
    gate: Float[Tensor, "batch heads 1"],
    usage_decay: float,
) -> tuple[
    Float[Tensor, "batch slots size"],
    Float[Tensor, "batch slots"],
    Float[Tensor, "batch heads slots"],
]:
    """Write, then read: memory, usage and read weights after the step (equations at the top).

    row: what each head writes; gate: 1 writes where the head read last, 0 to its least-used row.
    Gradients flow through memory, not through the choice of the least-used rows.
    """
    heads, slots = read_weights.shape[1:]
    # stable: rows of equal usage are taken in order, on every device and batch size.
    least_used = usage.argsort(dim=-1, stable=True)[:, :heads]
    w_lu = F.one_hot(least_used, slots).to(memory.dtype)  # (B, heads, slots)
    w_w = gate * read_weights + (1 - gate) * w_lu
    memory = memory * (1 - w_lu.sum(1)).unsqueeze(-1) + w_w.transpose(1, 2) @ row
    cosine = F.normalize(key, dim=-1, eps=1e-6) @ F.normalize(memory, dim=-1, eps=1e-6).mT
    w_r = (strength * cosine).softmax(-1)
    usage = usage_decay * usage + (w_r + w_w).detach().sum(1)
    return memory, usage, w_r
