"""Hand-written derivatives: against torch's own, and against finite differences, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hypernet_maml.models import derivatives

GEOMETRIES = {
    "plain": ((1, 1), (1, 1), (1, 1), 1),
    "strided": ((2, 2), (1, 1), (1, 1), 1),
    "groups": ((2, 1), (0, 1), (1, 1), 2),
    "dilated": ((1, 1), (2, 2), (2, 2), 1),
}


def draw(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes
    ]


def compare(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], inputs: list[Tensor]
) -> None:
    """Outputs, first and second derivatives in a random direction of each."""
    found = []
    for function in (ours, theirs):
        out = function(*inputs)
        weight = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
        first = torch.autograd.grad((out.sin() * weight).sum(), inputs, create_graph=True)
        scalar = sum(
            (g * torch.linspace(-2, 1, g.numel(), dtype=g.dtype).view_as(g)).sum() for g in first
        )
        second = torch.autograd.grad(scalar, inputs, allow_unused=True)  # type: ignore[arg-type]
        found.append([out, *first, *second])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", GEOMETRIES)
def test_convolution_has_the_derivatives_of_torch(kind: str) -> None:
    geometry = GEOMETRIES[kind]
    inputs = draw((2, 4, 6, 5), (6, 4 // geometry[3], 3, 3), (6,))
    compare(
        lambda x, w, b: derivatives.convolution(x, w, b, geometry),
        lambda x, w, b: F.conv2d(x, w, b, *geometry),
        inputs,
    )
    images = inputs[0].detach()  # the first layer: no gradient of images
    compare(
        lambda w, b: derivatives.convolution(images, w, b, geometry),
        lambda w, b: F.conv2d(images, w, b, *geometry),
        inputs[1:],
    )


@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_batch_norm_has_the_derivatives_of_torch_and_of_finite_differences(offset: float) -> None:
    inputs = draw((3, 2, 4, 3), (2,), (2,))
    inputs[0] = (inputs[0] + offset).detach().requires_grad_()

    def ours(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return derivatives.batch_norm(x, scale, shift, 1e-2)

    def theirs(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        mean = x.mean((0, 2, 3), keepdim=True)
        var = (x - mean).square().mean((0, 2, 3), keepdim=True)
        normal = (x - mean) / (var + 1e-2).sqrt()
        return normal * scale[:, None, None] + shift[:, None, None]

    compare(ours, theirs, inputs)
    assert torch.autograd.gradgradcheck(ours, inputs)
