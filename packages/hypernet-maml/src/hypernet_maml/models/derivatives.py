"""Convolution and batch norm whose second derivatives are as cheap as their first.

torch differentiates its own backward passes of both, but at a price: the weights' second-order gradient
of a convolution becomes a convolution with kernels as large as the image, and that of batch norm some
thirty passes over the activations. Here both are written out: the derivatives of a convolution's
gradients are convolutions and gradients of convolutions again, and those of batch norm's are sums of
its inputs scaled per channel. Equal numbers up to rounding; twice differentiable, no more.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

Geometry = tuple[Any, Any, Any, int]
"""Stride, padding, dilation and groups of a convolution; pairs of integers but for the last."""
_batch_norm_backward = torch.ops.aten.native_batch_norm_backward


def convolution(
    images: Float[Tensor, "batch channels height width"],
    weight: Float[Tensor, "out in k k"],
    bias: Float[Tensor, " out"] | None,
    geometry: Geometry,
) -> Float[Tensor, "batch out out_height out_width"]:
    """`F.conv2d`."""
    result: Tensor = _Convolution.apply(images, weight, bias, geometry)
    return result


def batch_norm(
    images: Float[Tensor, "batch channels height width"],
    scale: Float[Tensor, " channels"],
    shift: Float[Tensor, " channels"],
    eps: float,
) -> Float[Tensor, "batch channels height width"]:
    """`F.batch_norm` by the batch's own statistics."""
    result: Tensor = _BatchNorm.apply(images, scale, shift, eps)
    return result


def _gradients(
    gradient: Tensor, images: Tensor, weight: Tensor, geometry: Geometry, mask: list[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Of a convolution with respect to images, weight and bias, where the mask wants them."""
    stride, padding, dilation, groups = geometry
    sizes = [len(weight)] if mask[2] else None
    found: tuple[Tensor | None, Tensor | None, Tensor | None] = torch.ops.aten.convolution_backward(
        *(gradient, images, weight, sizes, stride, padding, dilation),
        *(False, [0, 0], groups, mask),
    )
    return found


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.geometry = geometry
        return torch.conv2d(images, weight, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        mask = list(ctx.needs_input_grad[:3])
        return *_ConvolutionBackward.apply(gradient, images, weight, ctx.geometry, mask), None


class _ConvolutionBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        gradient: Tensor,
        images: Tensor,
        weight: Tensor,
        geometry: Geometry,
        mask: list[bool],
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        ctx.save_for_backward(gradient, images, weight)
        ctx.geometry = geometry
        ctx.set_materialize_grads(False)
        return _gradients(gradient, images, weight, geometry, mask)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, to_images: Tensor | None, to_weight: Tensor | None, to_bias: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        gradient, images, weight = ctx.saved_tensors
        parts = []
        of_images = of_weight = None
        if to_images is not None:
            parts.append(torch.conv2d(to_images, weight, None, *ctx.geometry))
            if ctx.needs_input_grad[2]:
                mask = [False, True, False]
                of_weight = _gradients(gradient, to_images, weight, ctx.geometry, mask)[1]
        if to_weight is not None:
            parts.append(torch.conv2d(images, to_weight, None, *ctx.geometry))
            if ctx.needs_input_grad[1]:
                mask = [True, False, False]
                of_images = _gradients(gradient, images, to_weight, ctx.geometry, mask)[0]
        of_gradient = parts[0] if parts else torch.zeros_like(gradient)
        for part in parts[1:]:
            of_gradient += part
        if to_bias is not None:
            of_gradient += to_bias[:, None, None]
        return of_gradient, of_images, of_weight, None, None


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
        out, mean, rstd = torch.native_batch_norm(images, scale, shift, None, None, True, 0.0, eps)
        ctx.save_for_backward(images, scale, mean, rstd)
        ctx.eps = eps
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return *_BatchNormBackward.apply(gradient, *ctx.saved_tensors, ctx.eps), None


class _BatchNormBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        gradient: Tensor,
        images: Tensor,
        scale: Tensor,
        mean: Tensor,
        rstd: Tensor,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        of_images, of_scale, of_shift = _batch_norm_backward(
            gradient, images, scale, None, None, mean, rstd, True, eps, [True] * 3
        )
        ctx.save_for_backward(gradient, images, scale, mean, rstd, of_scale, of_shift)
        ctx.eps = eps
        return of_images, of_scale, of_shift

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, to_images: Tensor, to_scale: Tensor, to_shift: Tensor
    ) -> tuple[Tensor | None, ...]:
        """With x the normalised images, g their gradient, v what comes for the gradient of images, and
        m the mean over a channel, the gradient of images is scale * rstd * (g - m(g) - x m(g x)); its
        derivatives by g, scale and images need m(v), m(v x) and m(v g) alone besides.
        """
        gradient, images, scale, mean, rstd, gx, g = ctx.saved_tensors
        count = images.numel() // images.shape[1]
        of_gradient, vx, v = _batch_norm_backward(
            to_images, images, scale, None, None, mean, rstd, True, ctx.eps, [True] * 3
        )
        vg = (to_images * gradient).sum((0, 2, 3))
        g, gx, v, vx, vg = (total / count for total in (g, gx, v, vx, vg))
        covariance = vg - v * g - vx * gx
        of_scale = rstd * covariance * count

        slope = to_scale * rstd
        of_gradient.addcmul_(images, slope[:, None, None])
        of_gradient += (to_shift - slope * mean)[:, None, None]

        by_v = -scale * rstd * gx
        by_g = to_scale - scale * rstd * vx
        offset = by_v * v + by_g * g
        by_x = rstd * (by_v * vx + by_g * gx + scale * rstd * covariance)
        constant = rstd * (by_x * mean - offset)
        of_images = torch.addcmul(constant[:, None, None], images, (-rstd * by_x)[:, None, None])
        of_images.addcmul_(to_images, (rstd * by_v)[:, None, None])
        of_images.addcmul_(gradient, (rstd * by_g)[:, None, None])
        return of_gradient, of_images, of_scale, None, None, None
