"""CPM: contextual prototypical memory (Ren et al. 2021, arXiv 2007.04546; thesis A.1.4).

    c_t = LSTM(x_1 .. x_t)                                 the context: images only, never labels
    h, scale, gamma, beta, g_x, g_h = readout(c_t)
    x' = sigmoid(g_x) x + sigmoid(g_h) h
    logit_k = -|softplus(scale) (x' - p_k)|^2              p_k: running mean of x', as in OPN
    unknown = (min_k |softplus(scale) (x' - p_k)|^2 - beta) / softplus(gamma + 1)

Known deviations from the public code: those listed in `opn.py`; one LSTM layer without layer
normalisation. As the context never depends on a label, all steps run at once.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from memory_adapt.config import CPMConfig
from memory_adapt.models.encoder import Conv4
from memory_adapt.models.flops import linear_flops, lstm_flops
from memory_adapt.models.interface import State
from memory_adapt.models.opn import (
    PrototypeLearner,
    at_least_float32,
    initial_prototypes,
    running_prototypes,
    scores_from_distances,
)


class CPM(PrototypeLearner):
    """Contextual prototypical memory.

    state: that of `OPN` ("pending" and "prototypes" hold fused features x'), and the context's
    "hidden", "cell" (batch, hidden).
    """

    encoder: Conv4

    def __init__(self, config: CPMConfig) -> None:
        super().__init__(config)
        self.ways, self.hidden = config.ways, config.hidden
        self.encoder = Conv4(config.image_channels, config.image_size, config.width)
        features = self.encoder.features
        self.context = nn.LSTM(features, config.hidden)
        # h and scale of the features' size; gamma, beta, x gate, h gate.
        self.sizes = (features, features, 1, 1, 1, 1)
        self.readout = nn.Linear(config.hidden, sum(self.sizes))
        with torch.no_grad():  # Ren et al.'s initial values
            _, _, gamma, beta, x_gate, h_gate = self.readout.bias.zero_().split(self.sizes)
            gamma.fill_(0.0)
            beta.fill_(10.0)
            x_gate.fill_(1.0)
            h_gate.fill_(-1.0)

    def initial_state(self, batch: int) -> State:
        """No context, no prototypes, nothing pending."""
        like = self.readout.bias
        zeros = like.new_zeros(batch, self.hidden)
        memory = initial_prototypes(like, batch, self.ways, self.encoder.features, self.delay)
        return {**memory, "hidden": zeros, "cell": zeros.clone()}

    def step_flops(self) -> int:
        return self.encoder.flops() + lstm_flops(self.context) + linear_flops(self.readout)

    def scores(
        self,
        features: Float[Tensor, "time batch features"],
        feedback: Int[Tensor, "time batch"],
        state: State | None = None,
    ) -> tuple[Float[Tensor, "time batch ways"], Float[Tensor, "time batch"], State]:
        """Logits of the slots, logit of "a class not seen before", and the last state."""
        if state is None:
            state = self.initial_state(features.shape[1])
        context, (hidden, cell) = self.context(
            features, (state["hidden"].unsqueeze(0), state["cell"].unsqueeze(0))
        )
        readout = at_least_float32(self.readout(context))
        h, scale, gamma, beta, x_gate, h_gate = readout.split(self.sizes, dim=-1)
        fused = x_gate.sigmoid() * features + h_gate.sigmoid() * h
        prototypes, counts, last = running_prototypes(fused, feedback, state)
        difference = F.softplus(scale).unsqueeze(2) * (fused.unsqueeze(2) - prototypes)
        logits, unknown = scores_from_distances(
            difference.square().sum(-1),
            counts > 0,
            beta.squeeze(-1),
            F.softplus(gamma.squeeze(-1) + 1),
        )
        return logits, unknown, {**last, "hidden": hidden.squeeze(0), "cell": cell.squeeze(0)}
