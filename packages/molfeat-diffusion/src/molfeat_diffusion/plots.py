"""Figures: training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure  # not pyplot: it keeps every figure alive


def training_figure(metrics: Sequence[Mapping[str, Any]], *, title: str) -> Figure:
    """The weighted loss, and its terms on the validation molecules, over updates."""
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([m["step"] for m in metrics], [m["loss"] for m in metrics], label="training")
    validated = [m for m in metrics if "val_loss" in m]
    steps = [m["step"] for m in validated]
    left.plot(steps, [m["val_loss"] for m in validated], "o-", markersize=3, label="validation")
    left.set(title=title, xlabel="updates", ylabel="loss")
    for name in ("positions", "atoms", "charges", "bonds"):
        values = [m[f"val_loss_{name}"] for m in validated]
        right.plot(steps, values, "o-", markersize=3, label=name)
    right.set(title="validation, by term", xlabel="updates", yscale="log")
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize="small")
    return figure
