"""Figures of trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def training_figure(metrics: Sequence[Mapping[str, Any]], name: str, *, title: str) -> Figure:
    """A metric over steps: "psnr" of training rays, or the "loss" of the guidance."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot()
    steps = [line["step"] for line in metrics]
    axes.plot(steps, [line[name] for line in metrics], marker="." if len(steps) < 20 else "")
    label = {"psnr": "PSNR on training rays (dB)", "loss": "squared error of v"}[name]
    axes.set(xlabel="steps", ylabel=label, title=title)
    if name == "loss":
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    return figure
