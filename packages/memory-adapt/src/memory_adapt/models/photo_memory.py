"""Recurrent layers with labels injected in each (thesis 2.3.3), on the features of a frozen encoder.

Layer l keeps, of its inputs u, a memory for each label slot and one of the whole stream:

    S_k <- S_k + w u,  N_k <- N_k + w          when the label k of u arrives;  w = sigmoid(write(u))
    c   <- c + (u - c) / t                     at each image
    r   = sum_k softmax_k(theta cos(u, S_k)) S_k / N_k
    u'  = unit(u + V relu(U [u, r, c]))        V = 0 at the start

The last layer's outputs are compared with their running means, as in `photo_opn.py`. All slots share their
weights: any number of ways, and a permutation of the slots permutes the logits. The label enters every layer, as in
CL+LSTM, here through the memory that it writes to; each layer's features can so come to depend on the classes of
the stream. Gates depend on a layer's input alone, so all steps of a stream run at once.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from memory_adapt.config import PhotoMemoryConfig
from memory_adapt.models.flops import linear_flops
from memory_adapt.models.interface import State, encode_feedback
from memory_adapt.models.opn import MASKED, running_prototypes, scores_from_distances
from memory_adapt.models.photo_opn import CountedCosine
from memory_adapt.models.photos import TEMPERATURE, PhotoLearner, cosines, unit


class LabelledLayer(nn.Module):
    """One layer: (u, label of an earlier u) to u'.

    state: "sums" (batch, ways, width), "weights" (batch, ways), "pending" (batch, delay, width),
    "context" (batch, width), "steps" (batch, 1).
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.width = width
        self.write = nn.Linear(width, 1)
        self.inner = nn.Linear(3 * width, hidden)
        self.outer = nn.Linear(hidden, width, bias=False)
        self.log_theta = nn.Parameter(torch.tensor(math.log(TEMPERATURE)))
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(self.write.bias)
        nn.init.zeros_(self.outer.weight)

    def initial_state(self, batch: int, ways: int, delay: int) -> State:
        like = self.write.bias
        return {
            "sums": like.new_zeros(batch, ways, self.width),
            "weights": like.new_zeros(batch, ways),
            "pending": like.new_zeros(batch, delay, self.width),
            "context": like.new_zeros(batch, self.width),
            "steps": like.new_zeros(batch, 1),
        }

    def flops(self, ways: int) -> int:
        """On one image: the linear layers, and comparing and reading what is stored."""
        linear = sum(linear_flops(layer) for layer in (self.write, self.inner, self.outer))
        return linear + 2 * (2 * self.width * ways)

    def forward(
        self,
        u: Float[Tensor, "time batch width"],
        feedback: Int[Tensor, "time batch"],
        state: State,
    ) -> tuple[Float[Tensor, "time batch width"], State]:
        time, ways = len(u), state["weights"].shape[-1]
        waiting = torch.cat([state["pending"].transpose(0, 1), u])  # (delay + T, B, D)
        labelled = waiting[:time]
        which = encode_feedback(feedback, ways).to(u.dtype) * self.write(labelled).sigmoid()
        weights = state["weights"] + which.cumsum(0)
        sums = state["sums"] + (which.unsqueeze(-1) * labelled.unsqueeze(2)).cumsum(0)
        near = self.log_theta.exp() * cosines(u, sums)
        seen = weights > 0
        attention = near.masked_fill(~seen, MASKED).softmax(-1) * seen  # nothing seen: reads 0
        means = sums / weights.unsqueeze(-1).clamp(min=1e-6)
        read = torch.einsum("tbw,tbwd->tbd", attention, means)
        steps = state["steps"] + torch.arange(1, time + 1, device=u.device).view(time, 1, 1)
        context = (state["context"] * state["steps"] + u.cumsum(0)) / steps
        inner = self.inner(torch.cat([u, read, context], -1)).relu()
        last = {
            "sums": sums[-1],
            "weights": weights[-1],
            "pending": waiting[time:].transpose(0, 1),
            "context": context[-1],
            "steps": steps[-1].expand_as(state["steps"]).to(u.dtype),
        }
        return unit(u + self.outer(inner)), last


class PhotoMemory(PhotoLearner):
    """Labelled layers, then prototypes of what they give.

    state: that of `PhotoLearner`, and layer i's, each key with the prefix "i.".
    """

    config: PhotoMemoryConfig

    def __init__(self, config: PhotoMemoryConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(
            LabelledLayer(config.width, config.hidden) for _ in range(config.layers)
        )
        self.cosine = CountedCosine()

    def initial_state(self, batch: int) -> State:
        """Empty memories, nothing pending."""
        state = super().initial_state(batch)
        for i, layer in enumerate(self.layers):
            own = layer.initial_state(batch, self.ways, self.delay)  # type: ignore[operator]
            state |= {f"{i}.{name}": value for name, value in own.items()}
        return state

    def step_flops(self) -> int:
        return super().step_flops() + sum(
            layer.flops(self.ways)  # type: ignore[operator]
            for layer in self.layers
        )

    def scores(
        self,
        features: Float[Tensor, "time batch features"],
        feedback: Int[Tensor, "time batch"],
        state: State | None = None,
    ) -> tuple[Float[Tensor, "time batch ways"], Float[Tensor, "time batch"], State]:
        """Logits of the slots, logit of "a class not seen before", and the last state."""
        state = self.initial_state(features.shape[1]) if state is None else state
        z = self.project(features)
        after: State = {}
        for i, layer in enumerate(self.layers):
            own = {n[len(f"{i}.") :]: v for n, v in state.items() if n.startswith(f"{i}.")}
            z, own = layer(z, feedback, own)
            after |= {f"{i}.{name}": value for name, value in own.items()}
        prototypes, counts, last = running_prototypes(z, feedback, state)
        logits = self.cosine(z, prototypes, counts, self.log_tau.exp())
        logits, unknown = scores_from_distances(-logits, counts > 0, self.beta, self.gamma)
        return logits, unknown, {**last, **after}
