"""Pictures of rankings of receptors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

_COLOURS = {
    "hypernetwork": "#c0392b",
    "hypernetwork, SCEPTR": "#8e44ad",
    "no hypernetwork": "#e59866",
}


def few_shot_figure(result: Mapping[str, Any]) -> Figure:
    """AUROC and AUC0.1 over the number of known binders, an arm a line. result: of `read_result`."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    arms = list(dict.fromkeys(row["arm"] for row in result["rows"]))
    for axes, metric, title in (
        (left, "auroc", "AUROC"),
        (right, "auc01", "AUC0.1 (standardised)"),
    ):
        for arm in arms:
            rows = [row for row in result["rows"] if row["arm"] == arm]
            trained = arm in _COLOURS
            axes.plot(
                [row["shots"] for row in rows],
                [row[metric].mean for row in rows],
                marker="o" if trained else ".",
                linewidth=2 if trained else 1,
                color=_COLOURS.get(arm),
                linestyle="-" if trained else ("--" if "permuted" not in arm else ":"),
                label=arm,
            )
        axes.axhline(0.5, color="0.8", linewidth=1, zorder=0)
        shots = sorted({row["shots"] for row in result["rows"]})
        axes.set_xscale("log")
        axes.set_xticks(shots, [str(k) for k in shots])
        axes.minorticks_off()
        axes.set(xlabel="known binders", ylabel=title)
    right.legend(fontsize=7, bbox_to_anchor=(1.02, 1), loc="upper left")
    figure.suptitle("Unseen epitopes, receptors that no training saw (chance 0.5)", fontsize=10)
    return figure


def ranking_figure(scores: np.ndarray, verdicts: np.ndarray, title: str) -> Figure:
    """How many receptors are called binders, over the ranking, and the distribution of scores."""
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    order = np.argsort(-scores)
    for verdict in sorted(set(verdicts.tolist())):
        chosen = np.flatnonzero(verdicts[order] == verdict)
        axes.scatter(chosen + 1, scores[order][chosen], s=6, label=f"{verdict} ({len(chosen)})")
    axes.set(xlabel="rank", ylabel="score", title=title)
    if len(scores) > 100:
        axes.set_xscale("log")
    axes.legend(fontsize=8)
    return figure
