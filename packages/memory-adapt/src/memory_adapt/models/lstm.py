"""LSTM on a Conv-4 encoder, fed the previous label (Santoro et al. 2016, Section 4; thesis A.1.4).

Known deviations: chrono initialisation (Tallec & Ollivier 2018) of the input and forget gates, as
the default forgets within a few steps what must last a whole stream; a convolutional encoder in
place of raw pixels (as in the thesis), which normalises by group, not by batch (see `encoder.py`).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from memory_adapt.config import LSTMConfig
from memory_adapt.models.encoder import Conv4
from memory_adapt.models.flops import linear_flops, lstm_flops
from memory_adapt.models.interface import OnlineClassifier, State, encode_feedback


class LSTMLearner(OnlineClassifier):
    """Encoder, LSTM over (features, one-hot previous label), linear classifier.

    chrono_steps: the longest dependency to hold, in steps (T_max of Tallec & Ollivier).
    state: "hidden", "cell" (batch, hidden).
    """

    encoder: Conv4

    def __init__(self, config: LSTMConfig, chrono_steps: int = 50) -> None:
        super().__init__(config)
        self.ways, self.hidden = config.ways, config.hidden
        self.encoder = Conv4(config.image_channels, config.image_size, config.width)
        self.lstm = nn.LSTM(self.encoder.features + config.ways, config.hidden)
        self.classifier = nn.Linear(config.hidden, config.ways)
        chrono_init(self.lstm, chrono_steps)

    def initial_state(self, batch: int) -> State:
        """Zeros."""
        zeros = self.classifier.weight.new_zeros(batch, self.hidden)
        return {"hidden": zeros, "cell": zeros.clone()}

    def step_flops(self) -> int:
        return self.encoder.flops() + lstm_flops(self.lstm) + linear_flops(self.classifier)

    def forward_features(
        self,
        features: Float[Tensor, "time batch features"],
        feedback: Int[Tensor, "time batch"],
        state: State | None = None,
    ) -> tuple[Float[Tensor, "time batch ways"], State]:
        """What follows the encoder."""
        if state is None:
            state = self.initial_state(features.shape[1])
        inputs = torch.cat([features, encode_feedback(feedback, self.ways).to(features.dtype)], -1)
        outputs, (hidden, cell) = self.lstm(
            inputs, (state["hidden"].unsqueeze(0), state["cell"].unsqueeze(0))
        )
        return self.classifier(outputs), {"hidden": hidden.squeeze(0), "cell": cell.squeeze(0)}


def chrono_init(lstm: nn.LSTM, steps: int) -> None:
    """Forget bias log(u), input bias -log(u), u uniform in [1, steps - 1] (Tallec & Ollivier 2018).

    Each unit starts with a time scale of u steps. The other gates' biases become zero.
    """
    if steps < 2:
        raise ValueError(f"chrono_steps must be at least 2, got {steps}")
    if lstm.weight_hh_l0.is_meta:
        return  # shapes alone: arithmetic on them would load torch's compiler, for seconds
    size = lstm.hidden_size
    with torch.no_grad():
        for layer in range(lstm.num_layers):
            for name in ("bias_ih", "bias_hh"):
                getattr(lstm, f"{name}_l{layer}").zero_()
            bias = getattr(
                lstm, f"bias_ih_l{layer}"
            )  # gates in the order input, forget, cell, output
            time_scale = torch.empty(size).uniform_(1, steps - 1).log()
            bias[:size] = -time_scale
            bias[size : 2 * size] = time_scale
