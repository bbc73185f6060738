"""Figures of trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def distillation_figure(metrics: Sequence[Mapping[str, Any]], *, title: str) -> Figure:
    """PSNR on training rays over updates."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5))
    axes = figure.add_subplot()
    steps = [m["step"] for m in metrics]
    axes.plot(steps, [m["psnr"] for m in metrics], marker="." if len(steps) < 20 else "")
    axes.set(xlabel="updates", ylabel="PSNR on training rays (dB)", title=title)
    axes.grid(alpha=0.3)
    return figure
