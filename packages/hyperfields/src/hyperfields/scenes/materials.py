"""Colours and materials: reflectance at points of a surface."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from hyperfields.conditioning.vocabulary import COLOURS, NOVEL_COLOURS

Material = Callable[[Tensor], Tensor]
"""Points (points, 3) to reflectance (points, 3) in [0, 1]."""


def _mix(share: Tensor, one: tuple[float, ...], other: tuple[float, ...]) -> Tensor:
    """`other` where the share is 0, `one` where it is 1."""
    return share[:, None] * share.new_tensor(one) + (1 - share[:, None]) * share.new_tensor(other)


def _band(x: Tensor, period: float, duty: float = 0.5) -> Tensor:
    """1 on a share `duty` of each period, else 0."""
    return (torch.remainder(x / period, 1.0) < duty).to(x.dtype)


def _plaid(p: Tensor) -> Tensor:
    across = _band(p[:, 0] + p[:, 1], 0.3, 0.4)
    along = _band(p[:, 2] + 0.05, 0.3, 0.4)
    return _mix((across + along) / 2, (0.08, 0.15, 0.35), (0.85, 0.2, 0.2))


def _striped(p: Tensor) -> Tensor:
    return _mix(_band(p[:, 0] + 0.06, 0.24), (0.12, 0.25, 0.6), (0.95, 0.93, 0.88))


def _terracotta(p: Tensor) -> Tensor:
    grain = torch.sin(23 * p[:, 0]) * torch.sin(29 * p[:, 1]) * torch.sin(19 * p[:, 2])
    return _mix(0.5 + 0.5 * grain, (0.66, 0.32, 0.2), (0.8, 0.44, 0.3))


def _stained_glass(p: Tensor) -> Tensor:
    panes = torch.floor((p + 2) / 0.28)
    pick = torch.remainder(panes @ p.new_tensor([1.0, 3.0, 2.0]), 5).long()
    glass = p.new_tensor(
        [(0.8, 0.1, 0.15), (0.1, 0.3, 0.8), (0.95, 0.75, 0.1), (0.1, 0.6, 0.3), (0.55, 0.2, 0.7)]
    )[pick]
    lead = (torch.remainder((p + 2) / 0.28, 1) < 0.12).any(-1)
    return torch.where(lead[:, None], p.new_tensor([0.06, 0.06, 0.06]), glass)


def _tiger_striped(p: Tensor) -> Tensor:
    wave = p[:, 2] + 0.06 * torch.sin(9 * p[:, 0]) + 0.05 * torch.sin(7 * p[:, 1] + 1)
    return _mix(_band(wave, 0.22, 0.35), (0.08, 0.05, 0.03), (0.95, 0.55, 0.1))


def _origami(p: Tensor) -> Tensor:
    fold = _band(p[:, 0] - p[:, 2], 0.5) - _band(p[:, 1] + p[:, 2], 0.4)
    return _mix(0.5 + 0.5 * fold, (0.98, 0.96, 0.9), (0.72, 0.7, 0.66))


def _glacier(p: Tensor) -> Tensor:
    depth = 0.5 + 0.5 * torch.sin(5 * p[:, 2] + 2 * torch.sin(4 * p[:, 0]) + p[:, 1])
    return _mix(depth, (0.92, 0.97, 1.0), (0.35, 0.65, 0.85))


MATERIALS: Mapping[str, Material] = {
    "plaid": _plaid,
    "striped": _striped,
    "terracotta": _terracotta,
    "stained glass": _stained_glass,
    "tiger striped": _tiger_striped,
    "origami": _origami,
    "glacier": _glacier,
}
"""Patterns in the scene's space, by name."""


def reflectance(attribute: str, points: Tensor) -> Tensor:
    """Reflectance (points, 3) of a colour or material at points."""
    colour = COLOURS.get(attribute) or NOVEL_COLOURS.get(attribute)
    if colour is not None:
        return points.new_tensor(colour).expand_as(points)
    return MATERIALS[attribute](points)
