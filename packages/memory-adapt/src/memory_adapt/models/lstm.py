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

    def start_readout(self) -> None:
        bind_init(self.lstm, self.classifier, self.encoder.features, self.ways)

    def feature_input(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the gates' input map; its first columns read the features."""
        parameters = dict(self.lstm.named_parameters())
        return parameters["weight_ih_l0"], parameters["bias_ih_l0"]

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


def bind_init(lstm: nn.LSTM, classifier: nn.Linear, features: int, ways: int) -> None:
    """Initialise an LSTM and its classifier as an online prototype memory. Not in the thesis.

    An LSTM with fewer than features (2 ways + 1) units has no room for it and is left as it is.

    For standardised features x and one-hot labels y (zeros: null) as inputs, in this order:

    - `features` units buffer the last image: input and output gates open, forget gate shut.
    - For each label slot k, two copies of `features` units keep a decaying mean of the images with
      label k: input and forget gates listen to y_k, the candidate reads the buffer.
    - Their output gates are sigmoid(+2 x) in one copy and sigmoid(-2 x) in the other; the classifier
      takes the difference, so that logit k is about x . prototype_k.

    Everything stays trainable, all other weights start as small noise, and spare units are free.
    Without it, binding images to labels is found only after a long plateau at chance.
    """
    size = lstm.hidden_size
    if size < features * (2 * ways + 1):
        return
    shut, open_ = -7.0, 4.0
    with torch.no_grad():
        named = dict(lstm.named_parameters())
        weight_x, weight_h, bias = (named[f"{n}_l0"] for n in ("weight_ih", "weight_hh", "bias_ih"))
        for weight in (weight_x, weight_h, classifier.weight):
            weight.normal_(0, 0.02)
        for offset in (bias, named["bias_hh_l0"], classifier.bias):
            offset.zero_()
        in_gate, forget_gate, candidate, out_gate = (
            slice(n * size, (n + 1) * size) for n in range(4)
        )
        feature = torch.arange(features)
        buffer = feature
        bias[in_gate][buffer], bias[forget_gate][buffer] = open_, -open_
        bias[out_gate][buffer] = open_
        weight_x[candidate][buffer, feature] = 0.5  # where tanh is nearly linear
        for label in range(ways):
            for copy, sign in enumerate((1.0, -1.0)):
                unit = features * (1 + 2 * label + copy) + feature
                # Label absent: keep. Label present: both gates at 1/2, a mean over recent images.
                bias[in_gate][unit], weight_x[in_gate][unit, features + label] = shut, -shut
                bias[forget_gate][unit], weight_x[forget_gate][unit, features + label] = -shut, shut
                weight_h[candidate][unit, buffer] = 2.0
                weight_x[out_gate][unit, feature] = 2.0 * sign
                classifier.weight[label, unit] = 2.0 * sign
