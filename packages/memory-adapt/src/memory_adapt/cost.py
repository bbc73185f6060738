"""What a step of adaptation costs (thesis 2.4.3, "Analysis of Computational Cost").

A learner with memory adapts in the forward pass (`OnlineClassifier.step_flops`). A network that adapts by
gradient descent pays for the backward pass too: 3 times the forward pass (thesis' reference [122]).

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

from memory_adapt.config import CLLSTMConfig, ModelConfig
from memory_adapt.models.flops import conv_flops, linear_flops
from memory_adapt.models.interface import OnlineClassifier
from memory_adapt.models.registry import IMAGE_LEARNERS, build_model

GRADIENT_STEP = 3  # forward and backward, in forward passes
WITH_MEMORY: dict[str, ModelConfig] = {
    "CL+LSTM, label at layer 1": CLLSTMConfig(label_injection="first"),
    "CL+LSTM, label everywhere": CLLSTMConfig(label_injection="every"),
    **{
        learner.title: learner.config()
        for name, learner in IMAGE_LEARNERS.items()
        if name != "cl-lstm"
    },
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
    for name, config in WITH_MEMORY.items():
        learner = build_model(config).eval()
        step = _memory_step(learner) if measure else None
        rows.append(_row(name, "memory", learner, learner.step_flops(), step, repeats))
    for name, (build, sizes) in BY_GRADIENT.items():
        network = build()
        step = _gradient_step(network) if measure else None
        flops = network_flops(network, sizes)
        rows.append(_row(name, "gradient", network, flops, step, repeats))
    return rows


def oml_network(ways: int = 5) -> nn.Sequential:
    """The thesis' OML baseline on 28 x 28 grey images: six convolutions, no padding, and a classifier."""
    layers: list[nn.Module] = []
    for inputs, stride in zip((1, *[256] * 5), (1, 1, 1, 2, 1, 2), strict=True):
        layers += [nn.Conv2d(inputs, 256, 3, stride), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256 * 3 * 3, ways))


def cnn(ways: int = 5, width: int = 256) -> nn.Sequential:
    """Four convolutions with pooling, 28 x 28 grey images, about as many parameters as CL+LSTM."""
    layers: list[nn.Module] = []
    for inputs in (1, width, width, width):
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, ways))


BY_GRADIENT: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, ...]]] = {
    "OML": (oml_network, (26, 24, 22, 10, 8, 3)),
    "4-layer CNN": (cnn, (28, 14, 7, 3)),
}
"""Networks that adapt by gradient descent: how to build each, and the sizes that its convolutions give."""


def network_flops(network: nn.Sequential, sizes: tuple[int, ...]) -> int:
    """FLOPs of a forward pass of a network of convolutions and linear layers."""
    convolutions = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    linear = sum(linear_flops(layer) for layer in network if isinstance(layer, nn.Linear))
    return linear + sum(map(conv_flops, convolutions, sizes))


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


def _memory_step(learner: OnlineClassifier) -> Callable[[], object]:
    """A step of a stream: predict an image, take in the label of the one before."""
    config = learner.config
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
