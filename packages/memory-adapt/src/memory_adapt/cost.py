"""What a step of adaptation costs (thesis 2.4.3, "Analysis of Computational Cost").

FLOPs are 2 per multiply-add of convolutions and matrix products, as a profiler counts them; additions,
activations, pooling and normalisation are left out. A learner with memory adapts in the forward pass. A
network that adapts by gradient descent pays for the backward pass too: 3 times the forward pass
(thesis' reference [122]).

The thesis' figures pin the layouts: 0.40 GFLOPs is 28 -> 14 -> 7 -> 3 by pooling with labels at the
first layer (0.404; everywhere 0.410, LSTM only 0.386); 1.46 is six 256-channel convolutions without
padding, strides 1, 1, 1, 2, 1, 2; 0.30 is four 256-channel convolutions with pooling, the width at which
the parameters are about as many as CL+LSTM's.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from memory_adapt.config import (
    APLConfig,
    CLLSTMConfig,
    CPMConfig,
    LSTMConfig,
    ModelConfig,
    NTMConfig,
    OPNConfig,
)
from memory_adapt.models import build_model
from memory_adapt.models.apl import LABEL_SIZE

GRADIENT_STEP = 3  # forward and backward, in forward passes
LEARNERS: dict[str, ModelConfig] = {
    "CL+LSTM, label at layer 1": CLLSTMConfig(label_injection="first"),
    "CL+LSTM, label everywhere": CLLSTMConfig(label_injection="every"),
    "LSTM": LSTMConfig(),
    "NTM": NTMConfig(),
    "APL": APLConfig(),
    "OPN": OPNConfig(),
    "CPM": CPMConfig(),
}
THESIS_FORWARD = {"CL+LSTM, label at layer 1": 0.40, "OML": 1.46, "4-layer CNN": 0.30}
THESIS_STEP = {"CL+LSTM, label at layer 1": 0.40, "OML": 4.38, "4-layer CNN": 0.90}
"""GFLOPs of the thesis, per forward pass of an image and per time step of the adaptation phase."""


def cost_table(measure: bool = True, *, repeats: int = 20) -> list[dict[str, Any]]:
    """One row for each learner of the thesis and each network that it is compared with.

    Args:
        measure: also time adaptation steps, one image at a time, on the CPU with torch's threads.
        repeats: steps timed, after three more.

    Returns:
        Rows with `model`; `adaptation`, "memory" or "gradient"; `forward_gflops` of one image and
        `step_gflops` of one step of adaptation, each with `thesis_...` beside it (None where the thesis
        gives none); `parameters`; `ms_per_step` (None without `measure`), the median.
    """
    rows = []
    for name, config in LEARNERS.items():
        learner = build_model(config).eval()
        flops = forward_flops(config)
        step = _memory_step(learner, config)
        rows.append(_row(name, "memory", learner, flops, step if measure else None, repeats))
    for name, (build, count) in COMPARED.items():
        network = build()
        step = _gradient_step(network)
        rows.append(_row(name, "gradient", network, count(), step if measure else None, repeats))
    return rows


def forward_flops(config: ModelConfig) -> int:
    """FLOPs of one step of a learner on one image, which is also its step of adaptation.

    A learner's whole forward pass: with a state (the first step of a stream, from no state, costs
    less), and reading as many neighbours and memory rows as the configuration says.

    Raises:
        TypeError: not one of the learners of `memory_adapt.models`.
    """
    match config:
        case CLLSTMConfig():
            return _cl_lstm_flops(config)
        case LSTMConfig():
            features, encoder = _conv4(config)
            lstm = _lstm(features + config.ways, config.hidden)
            return encoder + lstm + _linear(config.hidden, config.ways)
        case NTMConfig():
            return _ntm_flops(config)
        case APLConfig():
            features, encoder = _conv4(config)
            decoder = config.neighbours * _lstm(2 * features + LABEL_SIZE + 1, config.hidden)
            return encoder + decoder + _linear(config.hidden, config.ways)
        case OPNConfig():
            return _conv4(config)[1]
        case CPMConfig():
            features, encoder = _conv4(config)
            readout = _linear(config.hidden, 2 * features + 4)
            return encoder + _lstm(features, config.hidden) + readout
    raise TypeError(f"no count for {type(config).__name__}")


def oml_network(ways: int = 5) -> nn.Sequential:
    """The thesis' OML baseline on 28 x 28 grey images: six convolutions, no padding, and a classifier."""
    layers: list[nn.Module] = []
    for inputs, stride in zip((1, 256, 256, 256, 256, 256), OML_STRIDES, strict=True):
        layers += [nn.Conv2d(inputs, 256, 3, stride), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256 * 3 * 3, ways))


def oml_flops(ways: int = 5) -> int:
    """FLOPs of a forward pass of `oml_network`: 28 -> 26 -> 24 -> 22 -> 10 -> 8 -> 3."""
    size, channels, flops = 28, 1, 0
    for stride in OML_STRIDES:
        size = (size - 3) // stride + 1
        flops += _conv(channels, 256, size)
        channels = 256
    return flops + _linear(256 * size**2, ways)


def cnn(ways: int = 5, width: int = 256) -> nn.Sequential:
    """Four convolutions with pooling, 28 x 28 grey images, about as many parameters as CL+LSTM."""
    layers: list[nn.Module] = []
    for inputs in (1, width, width, width):
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, ways))


def cnn_flops(ways: int = 5, width: int = 256) -> int:
    """FLOPs of a forward pass of `cnn`."""
    config = OPNConfig(width=width)  # the same convolutions, then a classifier
    return _conv4(config)[1] + _linear(width, ways)


OML_STRIDES = (1, 1, 1, 2, 1, 2)
COMPARED: dict[str, tuple[Callable[[], nn.Module], Callable[[], int]]] = {
    "OML": (oml_network, oml_flops),
    "4-layer CNN": (cnn, cnn_flops),
}
"""Networks that adapt by gradient descent: how to build each, and its FLOPs per forward pass."""


def _row(
    name: str,
    adaptation: str,
    network: nn.Module,
    flops: int,
    step: Callable[[], object] | None,
    repeats: int,
) -> dict[str, Any]:
    passes = GRADIENT_STEP if adaptation == "gradient" else 1
    return {
        "model": name,
        "adaptation": adaptation,
        "forward_gflops": flops / 1e9,
        "thesis_forward_gflops": THESIS_FORWARD.get(name),
        "step_gflops": passes * flops / 1e9,
        "thesis_step_gflops": THESIS_STEP.get(name),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "ms_per_step": None if step is None else 1e3 * _median_seconds(step, repeats),
    }


def _memory_step(learner: Any, config: ModelConfig) -> Callable[[], object]:
    """A step of a stream: predict an image, take in the label of the one before."""
    image = torch.rand(1, config.image_channels, config.image_size, config.image_size)
    label = torch.zeros(1, dtype=torch.int64)
    state = learner.initial_state(1)

    @torch.inference_mode()
    def step() -> None:
        nonlocal state
        _, state = learner.step(image, label, state)

    return step


def _gradient_step(network: nn.Module) -> Callable[[], object]:
    """Predict an image, then one step of gradient descent on its label, all parameters."""
    image, label = torch.rand(1, 1, 28, 28), torch.zeros(1, dtype=torch.int64)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(image), label).backward()
        optimizer.step()

    return step


def _median_seconds(step: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats + 3):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times[3:])


# --- counts ---


def _cl_lstm_flops(config: CLLSTMConfig) -> int:
    size, channels, flops = config.image_size, config.image_channels, 0
    mode, ways = config.label_injection, config.ways
    for i, (stride, pool) in enumerate(zip(config.strides, config.pools, strict=True)):
        label_planes = ways if mode == "every" or (mode == "first" and i == 0) else 0
        size = -(-size // stride)
        flops += _conv(channels + label_planes + config.width, 4 * config.width, size)
        size = size // 2 if pool else size
        channels = config.width
    inputs = config.width * size**2 + (0 if mode == "first" else ways)
    return flops + _lstm(inputs, config.hidden) + _linear(config.hidden, ways)


def _ntm_flops(config: NTMConfig) -> int:
    features, encoder = _conv4(config)
    read = config.heads * config.slot_size
    controller = _linear(features + config.ways + config.hidden + read, 4 * config.hidden)
    interface = _linear(config.hidden, config.heads * (2 * config.slot_size + 2))
    # Read what the last weights point at, write, compare the keys, read.
    access = 4 * config.slots * _linear(config.heads, config.slot_size)
    return encoder + controller + interface + access + _linear(config.hidden + read, config.ways)


def _conv4(config: ModelConfig) -> tuple[int, int]:
    """Features and FLOPs of `Conv4`."""
    size, channels, flops = config.image_size, config.image_channels, 0
    for _ in range(4):
        flops += _conv(channels, config.width, size)
        size, channels = size // 2, config.width
    return config.width * size**2, flops


def _conv(inputs: int, outputs: int, size: int, kernel: int = 3) -> int:
    """A convolution with `size` x `size` outputs per channel."""
    return 2 * kernel**2 * inputs * outputs * size**2


def _lstm(inputs: int, hidden: int) -> int:
    return 2 * (inputs + hidden) * 4 * hidden


def _linear(inputs: int, outputs: int) -> int:
    return 2 * inputs * outputs
