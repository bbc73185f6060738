"""Figures of trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.figure import Figure
    from torch import Tensor


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


def guidance_figure(metrics: Sequence[Mapping[str, Any]], *, title: str) -> Figure:
    """Loss over updates."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([m["step"] for m in metrics], [m["loss"] for m in metrics])
    axes.set(xlabel="updates", ylabel="squared error of v", yscale="log", title=title)
    axes.grid(alpha=0.3)
    return figure


def images_figure(images: Float[Tensor, "images 3 height width"], labels: Sequence[str]) -> Figure:
    """Images in [0, 1] with their labels, up to eight in a row."""
    from matplotlib.figure import Figure

    columns = min(8, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.5 * columns, 1.75 * rows), layout="constrained")
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.set_axis_off()
    for axes, image, label in zip(figure.axes, images, labels, strict=False):
        axes.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
        axes.set_title(label.replace(", ", "\n"), fontsize=7)
    return figure
