"""Layers that can hold the weights of several tasks at once.

Meta-learning runs one network with the adapted weights of many tasks. With parameters that have a leading
task dimension (put in by `torch.func.functional_call`), these layers take activations whose channels hold
the tasks side by side, (batch, tasks * channels, h, w), and fold the tasks into convolution groups: one
call for all tasks. With ordinary parameters they are the torch layers of the same name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from hypernet_maml.models import derivatives

Statistics = Literal["running", "batch"]
Order = Literal["first", "second", "any"]
_order: ContextVar[Order] = ContextVar("_order", default="any")


@contextmanager
def differentiated(order: Order) -> Iterator[None]:
    """How often what runs within this context will be differentiated: the layers choose what is fastest.

    "first": torch's fused operations. "second": those of `derivatives.py`. "any": the default, right for
    all transforms of `torch.func` too, where both of the former are not.
    """
    token = _order.set(order)
    try:
        yield
    finally:
        _order.reset(token)


def convolve(
    images: Float[Tensor, "batch channels height width"],
    weight: Float[Tensor, "*tasks out in k k"],
    bias: Float[Tensor, "*tasks out"] | None,
    *,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Float[Tensor, "batch out_channels out_height out_width"]:
    """`F.conv2d`, where weights stacked by task become groups.

    images: (batch, in, h, w), or (batch, tasks * in, h, w) for weights (tasks, out, in, k, k).
    """
    if weight.dim() == 5:
        groups *= len(weight)
        weight = weight.flatten(0, 1)
        bias = None if bias is None else bias.flatten()
    if _order.get() == "any":
        return F.conv2d(images, weight, bias, stride, padding, dilation, groups)
    if _order.get() == "second" and not isinstance(padding, str):
        geometry = (stride, padding, dilation, groups)
        out = derivatives.convolution(images, weight, bias, geometry)
    else:
        out = F.conv2d(images, weight, bias, stride, padding, dilation, groups)
    # Images of one channel have both memory formats, and torch takes the slow one.
    return out.contiguous(memory_format=torch.channels_last) if out.device.type == "cpu" else out


class Conv2d(nn.Conv2d):
    """`nn.Conv2d`; weights (tasks, out, in, k, k) become groups."""

    def forward(
        self, input: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        return convolve(
            input,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )


class Linear(nn.Linear):
    """`nn.Linear`; weights (tasks, out, in) map (batch, tasks * in) to (batch, tasks, out)."""

    def forward(self, input: Float[Tensor, "batch features"]) -> Float[Tensor, "batch *tasks out"]:
        if self.weight.dim() == 2:
            return F.linear(input, self.weight, self.bias)
        tasks = len(self.weight)
        by_task = input.unflatten(1, (tasks, -1)).transpose(0, 1)  # (tasks, batch, in)
        out = by_task @ self.weight.transpose(1, 2)
        if self.bias is not None:
            out = out + self.bias.unsqueeze(1)
        return out.transpose(0, 1)


class BatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` with an explicit choice of statistics for meta-learning.

    statistics: None, as in torch: the batch's in training mode (and running ones updated), else the
    running ones. "batch": always the batch's, running ones untouched: transductive, as MAML's public
    code. "running": always the running ones.

    Where the statistics are chosen, that is in meta-learning, scale and shift are separate operations
    unless `differentiated` says that they may be fused, which is faster: `torch.vmap` over `F.batch_norm`
    with an affine part in training mode has given wrong second derivatives.
    """

    statistics: Statistics | None = None

    def forward(
        self, input: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        tasks = len(self.weight) if self.weight.dim() == 2 else 1
        use_batch = self.statistics == "batch" or (self.statistics is None and self.training)
        mean, var = self.running_mean, self.running_var
        if self.statistics == "batch":
            mean = var = None
        elif tasks > 1 and mean is not None and var is not None:
            mean, var = mean.repeat(tasks), var.repeat(tasks)
        elif use_batch and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:  # an equal average over batches, as stochastic weight averaging needs
            momentum = 1 / max(1, int(self.num_batches_tracked or 1))
        if self.statistics is None and tasks == 1:
            affine = self.weight, self.bias
            return F.batch_norm(input, mean, var, *affine, use_batch, momentum, self.eps)
        scale, shift = self.weight.flatten(), self.bias.flatten()
        order = _order.get()
        if self.statistics == "batch" and order == "second":
            return derivatives.batch_norm(input, scale, shift, self.eps)
        if self.statistics == "batch" and order == "first":
            return F.batch_norm(input, None, None, scale, shift, True, momentum, self.eps)
        out = F.batch_norm(input, mean, var, None, None, use_batch, momentum, self.eps)
        return out * scale[:, None, None] + shift[:, None, None]


def set_batch_statistics(net: nn.Module, statistics: Statistics | None) -> None:
    """Choose what every batch norm of a network normalises with; see `BatchNorm2d`.

    Raises ValueError for a network whose batch norms are torch's own and statistics "batch".
    """
    for name, module in net.named_modules():
        if isinstance(module, BatchNorm2d):
            module.statistics = statistics
        elif isinstance(module, nn.modules.batchnorm._BatchNorm) and statistics == "batch":
            raise ValueError(
                f"{name} is a {type(module).__name__} of torch: only hypernet_maml.models.layers.BatchNorm2d can "
                "use a batch's statistics without moving its running ones"
            )


class Normalise(nn.Module):
    """(images - mean) / std per channel: part of the network, so that who exports it need not know.

    Images are float in [0, 1]; the channels of several tasks may lie side by side.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def fit(self, images: UInt8[Tensor, "items channels height width"]) -> None:
        """Take the statistics of a data set."""
        parts = [part.double() / 255 for part in images.split(4096)]
        mean = torch.stack([p.mean((2, 3)).sum(0) for p in parts]).sum(0) / len(images)
        square = torch.stack([p.square().mean((2, 3)).sum(0) for p in parts]).sum(0) / len(images)
        self.mean.copy_(mean)
        self.std.copy_((square - mean.square()).clamp(min=1e-6).sqrt())

    def forward(
        self, input: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        tasks = input.shape[1] // len(self.mean)
        mean, std = self.mean.repeat(tasks), self.std.repeat(tasks)
        return (input - mean[:, None, None]) / std[:, None, None]
