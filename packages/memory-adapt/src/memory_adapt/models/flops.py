"""What layers cost on one image: 2 FLOPs per multiply-add. Bias, activations, pooling and norms are left out."""

from __future__ import annotations

from torch import nn


def conv_flops(layer: nn.Conv2d, size: int) -> int:
    """A convolution with `size` x `size` outputs per channel."""
    return 2 * layer.weight.numel() * size**2


def linear_flops(layer: nn.Linear) -> int:
    """A matrix product."""
    return 2 * layer.weight.numel()


def lstm_flops(layer: nn.LSTM) -> int:
    """One step of one layer."""
    return 8 * layer.hidden_size * (layer.input_size + layer.hidden_size)
