"""Convolutional LSTM layer (thesis Eq. 2.1 to 2.5), run over whole sequences.

Layers have no top-down feedback, so a stack may run layer by layer instead of step by step. That lets
one convolution compute the input part of the gates for all steps at once, one convolution the gradient
of the hidden weights, and leaves only `W_h * h_{t-1}` inside the time loop.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CACHE_BYTES = 2**19
# From the gradient of an activation and its value; here into the place of the value.
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


class ConvLSTM(nn.Module):
    """Sequence in, hidden states out; gates in the order input, forget, output, candidate.

        i = sigmoid(W_ii * x + W_hi * h)      Eq. 2.1
        f = sigmoid(W_if * x + W_hf * h)      Eq. 2.2
        o = sigmoid(W_io * x + W_ho * h)      Eq. 2.3
        c' = f c + i tanh(W_ig * x + W_hg * h)    Eq. 2.4
        h' = o tanh(c')                       Eq. 2.5

    plus a bias per gate, which the thesis leaves out of its notation. `gate_norm` normalises the input
    part W_x * x + b (GroupNorm, one group per gate): not in the thesis.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        gate_norm: bool = False,
        forget_bias: float = 1.0,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd to keep the resolution, got {kernel_size}")
        self.channels = channels
        self.input_conv = nn.Conv2d(
            in_channels,
            4 * channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            bias=not gate_norm,
        )
        self.hidden_conv = nn.Conv2d(
            channels, 4 * channels, kernel_size, padding=kernel_size // 2, bias=False
        )
        self.norm = nn.GroupNorm(4, 4 * channels) if gate_norm else None
        with torch.no_grad():
            self.gate_bias.zero_()
            self.gate_bias[channels : 2 * channels] = forget_bias

    @property
    def gate_bias(self) -> Float[Tensor, " gates"]:
        """The bias of input, forget, output and candidate gates, wherever it lives."""
        bias = self.input_conv.bias if self.norm is None else self.norm.bias
        assert bias is not None
        return bias

    def input_gates(
        self, inputs: Float[Tensor, "images in_channels height width"]
    ) -> Float[Tensor, "images gates out_height out_width"]:
        """The part of the gates that needs no state, for any number of images at once."""
        gates = self.input_conv(inputs)
        return gates if self.norm is None else self.norm(gates)

    def forward(
        self,
        inputs: Float[Tensor, "time batch in_channels height width"],
        state: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Float[Tensor, "time batch channels out_height out_width"], tuple[Tensor, Tensor]]:
        """Hidden states of all steps, and the last (hidden, cell). state None: zeros."""
        time, batch = inputs.shape[:2]
        flat = inputs.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        gates = self.input_gates(flat)  # (T B, 4 C, H, W)
        stateless = state is None
        if state is None:
            zeros = gates.new_zeros(batch, self.channels, *gates.shape[2:])
            state = (zeros, zeros.double() if zeros.dtype == torch.float64 else zeros.float())
        weight = self.hidden_conv.weight.to(gates.dtype)
        hiddens, hidden, cell = _Recurrence.apply(
            gates, weight, state[0].to(gates.dtype), state[1], time, stateless
        )
        return hiddens.unflatten(0, (time, batch)), (hidden, cell)


def convlstm_step(
    layer: ConvLSTM,
    inputs: Float[Tensor, "batch in_channels height width"],
    hidden: Float[Tensor, "batch channels out_height out_width"],
    cell: Float[Tensor, "batch channels out_height out_width"],
) -> tuple[Tensor, Tensor]:
    """Eq. 2.1 to 2.5 as they are written, one step: the reference for `ConvLSTM.forward`."""
    gates = layer.input_gates(inputs) + layer.hidden_conv(hidden)
    i, f, o, g = gates.chunk(4, dim=1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


class _Recurrence(torch.autograd.Function):
    """The time loop of a ConvLSTM with a hand-written backward.

    Saves the activated gates (in place of the input gates), cells and hidden states and nothing else;
    in backward the gate gradients replace the gates. So a graph can be walked back only once.
    """

    @staticmethod
    def forward(
        ctx: Any,
        gates: Tensor,
        weight: Tensor,
        hidden: Tensor,
        cell: Tensor,
        time: int,
        stateless: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        # gates (T B, 4 C, H, W) is overwritten: nothing upstream needs it (convolution and GroupNorm
        # keep their inputs, not their outputs).
        batch, channels, height, width = hidden.shape
        space = (channels, height, width)
        hiddens = _channels_last(gates, (time + 1) * batch, *space)
        cells = _channels_last(cell, (time + 1) * batch, *space)
        hiddens[:batch], cells[:batch] = hidden, cell
        weight = weight.contiguous(memory_format=torch.channels_last)
        padding = weight.shape[-1] // 2
        gate, h, c = gates.split(batch), hiddens.split(batch), cells.split(batch)
        for t in range(time):
            if t > 0 or not stateless:  # a zero state adds nothing
                gate[t].add_(F.conv2d(h[t], weight, padding=padding))
            for rows in _cache_sized(gate[t]):
                _activate(gate[t][rows], c[t][rows], c[t + 1][rows], h[t + 1][rows])
        # Detached: not the input of this name, which is no more.
        ctx.save_for_backward(weight, gates.detach(), hiddens, cells)
        ctx.batch, ctx.time, ctx.stateless, ctx.walked = batch, time, stateless, False
        ctx.set_materialize_grads(False)
        # Clones: who keeps the last state must not keep the states of all steps alive.
        return hiddens[batch:], hiddens[-batch:].clone(), cells[-batch:].clone()

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_hiddens: Tensor | None, grad_hidden: Tensor | None, grad_cell: Tensor | None
    ) -> Any:
        if ctx.walked:
            raise RuntimeError(
                "a ConvLSTM's graph can be walked back only once (its buffers are reused)"
            )
        ctx.walked = True
        weight, gates, hiddens, cells = ctx.saved_tensors
        batch, time = ctx.batch, ctx.time
        padding = weight.shape[-1] // 2
        # The gradient of a same-size convolution is one with the kernel turned and channels swapped.
        turned = weight.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)
        gate, c = gates.split(batch), cells.split(batch)
        grad_h = grad_hiddens.split(batch) if grad_hiddens is not None else None
        dc = (
            torch.zeros_like(c[0])
            if grad_cell is None
            else grad_cell.clone(memory_format=torch.channels_last)
        )
        dh = None if grad_hidden is None else grad_hidden.clone(memory_format=torch.channels_last)
        for t in reversed(range(time)):
            if grad_h is not None:
                dh = grad_h[t] if dh is None else dh.add_(grad_h[t])
            for rows in _cache_sized(gate[t]):
                dh_rows = None if dh is None else dh[rows]
                _gate_gradients(gate[t][rows], c[t][rows], c[t + 1][rows], dh_rows, dc[rows])
            if t > 0 or ctx.needs_input_grad[2]:
                dh = F.conv2d(gate[t], turned, padding=padding)
        grad_weight = None
        if ctx.needs_input_grad[1]:
            part = slice(batch if ctx.stateless else 0, None)  # a zero state has no part in it
            grad_weight = torch.ops.aten.convolution_backward(
                gates[part], hiddens[:-batch][part], weight, None, [1, 1], [padding, padding], [1, 1], False, [0, 0],
                1, [False, True, False],
            )[1]  # fmt: skip
        return gates, grad_weight, dh if ctx.needs_input_grad[2] else None, dc, None, None


def _activate(gates: Tensor, cell: Tensor, next_cell: Tensor, next_hidden: Tensor) -> None:
    """Eq. 2.1 to 2.5 after the convolutions. Activates `gates` in place, fills the last two."""
    channels = cell.shape[1]
    gates[:, : 3 * channels].sigmoid_()
    gates[:, 3 * channels :].tanh_()
    i, f, o, g = gates.split(channels, dim=1)
    torch.mul(f, cell, out=next_cell).addcmul_(i, g)
    torch.tanh(next_cell, out=next_hidden).mul_(o)


def _gate_gradients(
    gates: Tensor, cell: Tensor, next_cell: Tensor, dh: Tensor | None, dc: Tensor
) -> None:
    """Replaces activated `gates` by the gradients before activation, and `dc` by that of `cell`."""
    i, f, o, g = gates.split(cell.shape[1], dim=1)
    if dh is None:
        o.zero_()
    else:
        tanh_c = next_cell.tanh()
        dc.add_(torch.ops.aten.tanh_backward(dh * o, tanh_c))
        _sigmoid_backward(tanh_c.mul_(dh), o, grad_input=o)
    d_i, d_f, d_g = dc * g, dc * cell, dc * i
    dc.mul_(f)
    _sigmoid_backward(d_f, f, grad_input=f)
    _sigmoid_backward(d_i, i, grad_input=i)
    _tanh_backward(d_g, g, grad_input=g)


def _cache_sized(gates: Tensor) -> list[slice]:
    """Runs of images whose gates fit into a core's cache: each is read a dozen times by small operations."""
    if gates.is_cuda:
        return [slice(None)]
    rows = max(1, CACHE_BYTES // (gates[0].numel() * gates.element_size()))
    return [slice(start, start + rows) for start in range(0, len(gates), rows)]


def _channels_last(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(
        shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last
    )
