"""Figures: training curves, held-out domains, embedding ratios (Fig. 3.3), meta-training, movement (Fig. 3.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure  # not pyplot: it keeps every figure alive
from torch import Tensor

COLOURS = ("#1f6fb4", "#d9662b", "#2e8b57", "#8e5bb5", "#b8860b", "#c2427a")
Metrics = Sequence[Mapping[str, Any]]


def training_figure(metrics: Metrics, *, title: str) -> Figure:
    """Loss and validation accuracy over epochs."""
    return _two_panels(
        metrics,
        ("loss", "training loss"),
        ("val_accuracy", "validation accuracy (%)"),
        x="epochs",
        title=title,
    )


def domain_figure(metrics: Metrics, *, held_out: str, accuracy: float, title: str) -> Figure:
    """Loss and crossval accuracy over epochs, beside the accuracy on the held-out domain (Table 3.8)."""
    figure = training_figure(metrics, title=title)
    axes = figure.axes[1]
    axes.set(ylabel="accuracy (%)")
    axes.lines[0].set_label("crossval images of the training domains")
    axes.axhline(
        100 * accuracy, color=COLOURS[1], linestyle="--", label=f"{held_out}, network kept"
    )
    axes.legend(frameon=False, fontsize="small")
    return figure


def meta_figure(metrics: Metrics, *, ways: int, title: str) -> Figure:
    """Query loss and accuracies over outer updates (Fig. 3.6)."""
    figure = _two_panels(
        metrics,
        ("loss", "query loss"),
        ("accuracy", "accuracy (%)"),
        x="outer updates",
        title=title,
        smooth=True,
    )
    axes = figure.axes[1]
    points = [(m["step"], 100 * m["val_accuracy"]) for m in metrics if "val_accuracy" in m]
    if points:
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, "o-", color=COLOURS[1], markersize=3, label="validation classes")
    axes.axhline(100 / ways, color="0.45", linestyle=":", linewidth=1.2, label="chance")
    axes.legend(frameon=False, fontsize="small")
    return figure


def ratio_figure(metrics: Metrics, *, title: str) -> Figure:
    """|E| / |grad E| of each embedding over epochs, log scale (Fig. 3.3); one colour a stage."""
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    names = [key for key in (metrics[-1] if metrics else {}) if key.startswith("ratio/")]
    stages = list(dict.fromkeys(name.split("/")[1].split(".")[0] for name in names))
    for name in names:
        stage = name.split("/")[1].split(".")[0]
        points = [(m["step"], m[name]) for m in metrics if name in m]
        steps, values = zip(*points, strict=True)
        first = all(line.get_label() != stage for line in axes.lines)
        colour = COLOURS[stages.index(stage) % len(COLOURS)]
        label = stage if first else None
        axes.plot(steps, values, color=colour, alpha=0.8, label=label, marker=_marker(steps))
    axes.set(xlabel="epochs", ylabel="|E| / |grad E|", title=title, yscale="log")
    if names:
        axes.legend(frameon=False, fontsize="small")
    _plain(axes)
    return figure


def movement_figure(moved: Mapping[str, Mapping[str, float]], *, title: str) -> Figure:
    """|dW| / |W| of each layer in the inner loop, a group of bars per layer, a bar per network (Fig. 3.5)."""
    layers = list(dict.fromkeys(name for values in moved.values() for name in values))
    figure = Figure(figsize=(max(5.0, 0.5 * len(layers) + 2), 4.2), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / max(1, len(moved))
    for i, (label, values) in enumerate(moved.items()):
        places = [layers.index(name) + i * width for name in values]
        colour = COLOURS[i % len(COLOURS)]
        axes.bar(
            places, list(values.values()), width=width, align="edge", color=colour, label=label
        )
    axes.set_xticks(
        [i + 0.4 for i in range(len(layers))], layers, rotation=60, ha="right", fontsize=7
    )
    axes.set(ylabel="movement in the inner loop, |dW| / |W|", title=title)
    axes.legend(frameon=False, fontsize="small")
    _plain(axes)
    return figure


def task_figure(
    support: Tensor,
    support_labels: Tensor,
    query: Tensor,
    query_labels: Tensor,
    predicted: Tensor,
    *,
    title: str,
) -> Figure:
    """A few-shot task, a row per class: support images, then queries framed by whether they are told right.

    Images are float in [0, 1], (items, channels, h, w); labels int64.
    """
    ways = int(support_labels.max()) + 1
    left, right = (int((labels == 0).sum()) for labels in (support_labels, query_labels))
    figure = Figure(figsize=(0.75 * (left + right) + 0.6, 0.8 * ways + 0.7), layout="constrained")
    cells = figure.subplots(
        ways, left + right + 1, squeeze=False, width_ratios=[1] * left + [0.3] + [1] * right
    )
    for axes in cells.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    names = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    for row in range(ways):
        cells[row][0].set_ylabel(names[row % 26], rotation=0, ha="right", va="center")
        for place, item in enumerate((support_labels == row).nonzero().flatten()[:left]):
            _picture(cells[row][place], support[item])
        for place, item in enumerate((query_labels == row).nonzero().flatten()[:right]):
            axes = cells[row][left + 1 + place]
            _picture(axes, query[item])
            said = int(predicted[item])
            colour = COLOURS[2] if said == row else COLOURS[1]
            axes.spines[:].set(visible=True, color=colour, linewidth=2.5)
            axes.set_xlabel(names[said % 26], color=colour, labelpad=1)
    figure.suptitle(f"{title}: learned from (left), predicted (right)", fontsize=10)
    return figure


def _picture(axes: Any, image: Tensor) -> None:
    pixels = image.permute(1, 2, 0).numpy()
    axes.imshow(
        pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels, cmap="gray_r", vmin=0, vmax=1
    )


def _two_panels(
    metrics: Metrics,
    upper: tuple[str, str],
    lower: tuple[str, str],
    *,
    x: str,
    title: str,
    smooth: bool = False,
) -> Figure:
    figure = Figure(figsize=(7.2, 5.4), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    for axes, (key, label), scale in zip(panels, (upper, lower), (1, 100), strict=True):
        points = [(m["step"], scale * m[key]) for m in metrics if key in m]
        if points:
            steps, values = zip(*points, strict=True)
            style: dict[str, Any] = {"alpha": 0.3 if smooth else 1.0, "marker": _marker(steps)}
            axes.plot(steps, values, color=COLOURS[0], linewidth=1, markersize=3, **style)
            if smooth:
                label_of = "training tasks, running mean"
                axes.plot(steps, _running_mean(values), color=COLOURS[0], label=label_of)
        axes.set(ylabel=label)
        _plain(axes)
    panels[0].set_title(title)
    panels[1].set_xlabel(x)
    return figure


def _marker(steps: Sequence[int]) -> str | None:
    """A short curve needs its points: a line through one is nothing."""
    return "o" if len(steps) <= 30 else None


def _running_mean(values: Sequence[float]) -> list[float]:
    """Over up to a twentieth of the points, at least 5."""
    width = min(len(values), max(5, len(values) // 20))
    means = []
    for i in range(len(values)):
        part = values[max(0, i - width + 1) : i + 1]
        means.append(sum(part) / len(part))
    return means


def _plain(axes: Any) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
