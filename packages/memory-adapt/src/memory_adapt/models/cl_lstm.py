"""CL+LSTM: memory in every layer (thesis 2.3.3, Fig. 2.2)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from memory_adapt.config import CLLSTMConfig
from memory_adapt.models.convlstm import ConvLSTM
from memory_adapt.models.flops import conv_flops, linear_flops, lstm_flops
from memory_adapt.models.interface import OnlineClassifier, State, encode_feedback
from memory_adapt.models.lstm import chrono_init

SKIP_FROM, SKIP_TO = 1, 3  # layers 2 and 4 (A.2)
CHRONO_STEPS = 50  # the longest stream of the thesis' few-shot tasks


class CLLSTM(OnlineClassifier):
    """ConvLSTM layers with pooling, a residual connection from layer 2 to 4, an LSTM, a classifier.

    With the default configuration this is the thesis' network: 28 -> 14 -> 7 -> 3 -> 1, 0.40 GFLOPs an
    image. A label enters a ConvLSTM as `ways` planes, of which the true class' is all ones.
    """

    config: CLLSTMConfig
    encoder: nn.ModuleList

    def __init__(self, config: CLLSTMConfig) -> None:
        super().__init__(config)
        self.encoder = nn.ModuleList()
        channels, size = config.image_channels, config.image_size
        self._shapes: list[tuple[int, int, int]] = []  # of each layer's states
        for i, (stride, pool) in enumerate(zip(config.strides, config.pools, strict=True)):
            width = config.first_width or config.width if i == 0 else config.width
            self.encoder.append(
                ConvLSTM(
                    channels + (config.ways if self.injects(i) else 0),
                    width,
                    stride=stride,
                    gate_norm=config.gate_norm,
                )
            )
            size = -(-size // stride)
            self._shapes.append((width, size, size))
            size = size // 2 if pool else size
            channels = width
        if size < 1:
            raise ValueError(f"{config.image_size} pixels are too few for pooling {config.pools}")
        self.features = config.width * size**2
        self.inject_lstm = config.label_injection in ("every", "lstm")
        self.lstm = nn.LSTM(self.features + (config.ways if self.inject_lstm else 0), config.hidden)
        chrono_init(self.lstm, CHRONO_STEPS)
        self.classifier = nn.Linear(config.hidden, config.ways)
        self.checkpoint_steps: int | None = None
        """recompute the forward pass in segments of this many steps during backward: less memory, a third more work"""

    def injects(self, layer: int) -> bool:
        """Whether labels enter a layer, counted from 0, as planes."""
        mode = self.config.label_injection
        return mode == "every" or (mode == "first" and layer == 0)

    @property
    def layers(self) -> list[ConvLSTM]:
        """The ConvLSTM layers, first to last."""
        return [layer for layer in self.encoder if isinstance(layer, ConvLSTM)]

    def initial_state(self, batch: int) -> State:
        like = self.classifier.weight
        state: State = {}
        for i, shape in enumerate(self._shapes):
            for part in ("hidden", "cell"):
                state[f"layer{i + 1}.{part}"] = like.new_zeros(batch, *shape)
        for part in ("hidden", "cell"):
            state[f"lstm.{part}"] = like.new_zeros(batch, self.config.hidden)
        return state

    def forward(
        self,
        images: Float[Tensor, "time batch channels height width"],
        feedback: Int[Tensor, "time batch"],
        state: State | None = None,
    ) -> tuple[Float[Tensor, "time batch ways"], State]:
        steps = self.checkpoint_steps
        if steps is None or not torch.is_grad_enabled():
            return self._run(images, feedback, state)
        logits = []
        for start in range(0, len(images), steps):
            part = slice(start, start + steps)
            out, state = checkpoint(
                self._run, images[part], feedback[part], state, use_reentrant=False
            )
            logits.append(out)
        assert state is not None
        return torch.cat(logits), state

    def _run(self, images: Tensor, feedback: Tensor, state: State | None) -> tuple[Tensor, State]:
        features, after = self.encode(images, feedback, state)
        logits, lstm_state = self.forward_features(features, feedback, state)
        return logits, after | lstm_state

    def encode(
        self,
        images: Float[Tensor, "time batch channels height width"],
        feedback: Int[Tensor, "time batch"],
        state: State | None = None,
        *,
        remember: bool = True,
    ) -> tuple[Float[Tensor, "time batch features"], State]:
        """Flattened activations of the ConvLSTM stack. remember False: every image is seen from the zero
        state (a feed-forward encoder; the first stage of the staged recipe).
        """
        lead = images.shape[:2]
        x = images if remember else images.flatten(0, 1).unsqueeze(0)
        if not remember:
            feedback = feedback.flatten().unsqueeze(0)
        one_hot = encode_feedback(feedback, self.config.ways).to(x.dtype)
        after: State = {}
        skipped: Tensor | None = None
        for i, (layer, pool) in enumerate(zip(self.layers, self.config.pools, strict=True)):
            name = f"layer{i + 1}"
            if self.injects(i):
                planes = one_hot[..., None, None].expand(*one_hot.shape, *x.shape[-2:])
                x = torch.cat([x, planes], dim=2)
            before = None if state is None else (state[f"{name}.hidden"], state[f"{name}.cell"])
            x, (after[f"{name}.hidden"], after[f"{name}.cell"]) = layer(x, before)
            if self.config.skip and i == SKIP_TO and skipped is not None:
                x = x + _resize(skipped, x.shape[-1])
            if pool:
                x = F.max_pool2d(x.flatten(0, 1), 2).unflatten(0, x.shape[:2])
            if i == SKIP_FROM:
                skipped = x
        return x.reshape(*lead, self.features), after if remember else {}

    def step_flops(self) -> int:
        """See the base class. Hidden convolutions work at the resolution of their layer's states."""
        convolutions = sum(
            conv_flops(layer.input_conv, shape[-1]) + conv_flops(layer.hidden_conv, shape[-1])
            for layer, shape in zip(self.layers, self._shapes, strict=True)
        )
        return convolutions + lstm_flops(self.lstm) + linear_flops(self.classifier)

    def forward_features(
        self,
        features: Float[Tensor, "time batch features"],
        feedback: Int[Tensor, "time batch"],
        state: State | None = None,
    ) -> tuple[Float[Tensor, "time batch ways"], State]:
        """LSTM and classifier."""
        if self.inject_lstm:
            one_hot = encode_feedback(feedback, self.config.ways).to(features.dtype)
            features = torch.cat([features, one_hot], dim=-1)
        before = None
        if state is not None:
            before = (state["lstm.hidden"].unsqueeze(0), state["lstm.cell"].unsqueeze(0))
        out, (hidden, cell) = self.lstm(features, before)
        return self.classifier(out), {
            "lstm.hidden": hidden.squeeze(0),
            "lstm.cell": cell.squeeze(0),
        }


def _resize(x: Tensor, size: int) -> Tensor:
    """Max-pool `time batch channels s s` down to size x size, so that the residual fits."""
    if x.shape[-1] == size:
        return x
    return F.adaptive_max_pool2d(x.flatten(0, 1), size).unflatten(0, x.shape[:2])
