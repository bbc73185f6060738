"""Figures: accuracy against shots, learning curves, a stream as a strip of pictures."""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure  # not pyplot: it keeps every figure alive
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from memory_adapt.data.fonts import fonts_with
from memory_adapt.data.names import printable
from priors_shared.errors import UserError
from priors_shared.files import write_atomically

_LOG = logging.getLogger(__name__)
COLOURS = ("#1f6fb4", "#d9662b", "#2e8b57", "#8e5bb5", "#b8860b", "#c2427a", "0.2")
LEARNERS = ("CL+LSTM", "CPM", "OPN", "LSTM", "NTM", "APL", "CL+LSTM from scratch")
"""In this order in legends; each has its colour in every figure."""
RIGHT, WRONG, SOFT = "#2e8b57", "#c8372d", "0.45"
STAGE_NAMES = {
    "prototypes": "encoder",
    "readout": "memory on fixed features",
    "episodes": "everything, on streams",
}


def shots_figure(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]],
    *,
    ways: int,
    blind: Sequence[float] | None = None,
    title: str = "",
    zoom: bool = False,
) -> Figure:
    """Accuracy against shots with error bands, the chance level and the blind bound.

    Args:
        curves: label to (mean, low, high) at 0, 1, 2, ... shots, fractions; NaN leaves a gap.
        ways: classes of a stream.
        blind: best accuracy without looking at an image, at each number of shots.
        title: above the axes.
        zoom: leave out first views, and what is far below all curves, to tell like learners apart.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    first = 1 if zoom else 0
    for colour, (label, parts) in zip(_colours(curves), curves.items(), strict=True):
        mean, low, high = (_percent(part)[first:] for part in parts)
        shots = np.arange(first, first + len(mean))
        axes.plot(shots, mean, color=colour, marker="o", markersize=4, label=label)
        axes.fill_between(shots, low, high, color=colour, alpha=0.18, linewidth=0)
    far = axes.get_ylim()[0] - 10 if zoom else 0
    style: dict[str, Any] = {"color": SOFT, "linewidth": 1.2}
    if blind is not None and 100 * max(blind[first:]) > far:
        shots = np.arange(first, len(blind))
        axes.plot(shots, _percent(blind)[first:], "--", label="blind bound", **style)
    if 100 / ways > far:
        axes.axhline(100 / ways, linestyle=":", label="chance", **style)
    longest = max((len(mean) for mean, _, _ in curves.values()), default=1)
    axes.set(
        xlabel="shots: earlier samples of the class",
        ylabel="accuracy (%)",
        ylim=None if zoom else (0, 102),
        xlim=(first - 0.3, longest - 0.7),
    )
    axes.set_title(printable(title), parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _plain(axes)
    axes.legend(frameon=False, fontsize="small")
    return figure


def learning_curve_figure(
    metrics: Sequence[Mapping[str, Any]],
    *,
    ways: int,
    blind: Mapping[int, float] | None = None,
    title: str = "",
) -> Figure:
    """Loss above, validation accuracy below, over the steps of all stages.

    Args:
        metrics: lines of a run's metrics.jsonl.
        ways: classes of a stream; chance is 1 / ways.
        blind: shots to the best accuracy without looking at an image.
        title: above the axes.
    """
    figure = Figure(figsize=(7.2, 5.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.3))
    losses = [(m["step"], m["loss"]) for m in metrics if "loss" in m]
    if losses:
        steps, values = np.array(losses).T
        upper.plot(steps, values, color=COLOURS[0], alpha=0.3, linewidth=0.8)
        for start, stop in _stage_runs(metrics):  # no average over two stages: two losses
            inside = (steps > start) & (steps <= stop)
            upper.plot(steps[inside], _smooth(values[inside]), color=COLOURS[0], linewidth=1.6)
    _loss_axis(upper, ways)
    upper.set_title(printable(title), pad=20, parse_math=False)  # the stages' names stand below it

    shots = sorted({int(k.split("_")[1]) for m in metrics for k in m if k.startswith("val_")})
    for colour, k in zip(COLOURS, shots, strict=False):
        points = [(m["step"], m[f"val_{k}_shot"]) for m in metrics if f"val_{k}_shot" in m]
        steps, values = np.array(points).T
        lower.plot(
            steps, _percent(values), color=colour, marker="o", markersize=3, label=f"{k}-shot"
        )
    if blind:
        low, high = 100 * min(blind.values()), 100 * max(blind.values())
        lower.axhspan(low, high, color="0.85", label="blind bound", linewidth=1)
    lower.axhline(100 / ways, color=SOFT, linestyle=":", linewidth=1.2, label="chance")
    lower.set(xlabel="steps", ylabel="validation accuracy (%)", ylim=(0, 102))
    for axes in (upper, lower):
        _plain(axes)
    lower.legend(frameon=False, fontsize="small", loc="best")
    _mark_stages(upper, lower, metrics)
    return figure


def learners_figure(
    validation: Mapping[str, Sequence[Mapping[str, Any]]],
    losses: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    ways: int,
    title: str = "",
) -> Figure:
    """Learning curves of several learners: loss above, 5-shot validation accuracy below.

    Args:
        validation: "LEARNER, seed N" to points with `step` and `val_5_shot`.
        losses: the same runs to their stages' `steps` and `losses`; without any, there is no upper
            panel.
        ways: classes of a stream; chance is a loss of ln ways.
        title: above the figure.
    """
    figure = Figure(figsize=(6.8, 6.4 if losses else 4.2), layout="constrained")
    *upper, lower = figure.subplots(2 if losses else 1, 1, sharex=True, squeeze=False)[:, 0]
    runs = sorted(validation, key=lambda run: LEARNERS.index(_learner_of(run)))
    for run, colour in zip(runs, _colours(map(_learner_of, runs)), strict=True):
        style: dict[str, Any] = {"color": colour, "linewidth": 1.2, "alpha": 0.8}
        for stage in losses.get(run, ()):  # no line from one stage to the next: another loss
            upper[0].plot(stage["steps"], _smooth(np.array(stage["losses"], float), 3), **style)
        steps = [point["step"] for point in validation[run]]
        values = _percent([point["val_5_shot"] for point in validation[run]])
        lower.plot(steps, values, marker="o", markersize=3, label=_learner_of(run), **style)
    for axes in upper:
        _loss_axis(axes, ways)
    lower.set(xlabel="steps", ylabel="5-shot validation accuracy (%)", xscale="log")
    lower.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    lower.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    lower.xaxis.set_minor_formatter(NullFormatter())
    bottom, top = lower.get_ylim()
    lower.set_ylim(min(bottom, top - 10))  # points: one image more or less must not look like much
    for axes in (*upper, lower):
        _plain(axes)
    handles, labels = lower.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))  # not again for each seed
    lower.legend(once.values(), once, frameon=False, fontsize="small", loc="best")
    figure.suptitle(printable(title), fontsize=11, parse_math=False)
    return figure


def stream_figure(
    images: UInt8[np.ndarray, "steps channels height width"],
    labels: Sequence[str],
    predictions: Sequence[str],
    first_views: Sequence[bool],
    *,
    most: int = 60,
    title: str = "",
) -> Figure:
    """The stream's images in order, each over its prediction: green right, red wrong, grey unseen.

    Args:
        images: as the learner sees them.
        labels: each image's class.
        predictions: the class predicted before its label came.
        first_views: whether no label of its class had arrived: a guess.
        most: steps shown; of a longer stream, the first half of them and the last.
        title: above the pictures.
    """
    steps = list(range(len(labels)))
    if len(steps) > most:
        steps = [*steps[: most // 2], *steps[-(most // 2) :]]
    columns = min(10, len(steps))
    rows = -(-len(steps) // columns)
    figure = Figure(figsize=(columns * 0.95, rows * 1.3 + 0.9), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, step in zip(grid.flat, steps, strict=False):
        right = labels[step] == predictions[step]
        colour = RIGHT if right else SOFT if first_views[step] else WRONG
        picture = images[step].transpose(1, 2, 0)
        axes.axis("on")
        axes.imshow(
            picture if picture.shape[-1] == 3 else picture[..., 0], cmap="gray_r", vmin=0, vmax=255
        )
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"{step + 1}", fontsize=6.5, color=SOFT, pad=2)
        said = _short(predictions[step])
        axes.set_xlabel(
            said if right else f"{said}\nis {_short(labels[step])}",
            parse_math=False,
            fontsize=7,
            color=colour,
            labelpad=2,
        )
        for spine in axes.spines.values():
            spine.set(color=colour, linewidth=2)
    figure.suptitle(printable(title), fontsize=11, parse_math=False)
    figure.supxlabel(
        "below each image: what was predicted; green right, red wrong, grey wrong at the first view",
        fontsize=8,
        color=SOFT,
    )
    return figure


def check_figure_path(path: Path | None) -> None:
    """Refuse an image format that matplotlib does not write, before the work is done.

    Raises:
        UserError: names the formats.
    """
    formats = sorted(Figure().canvas.get_supported_filetypes())
    if path is not None and _format_of(path) not in formats:
        raise UserError(f"plot {path}: no such image format; choose one of {', '.join(formats)}")


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure to an image file, PNG where its name has no ending, making its folder."""
    image = io.BytesIO()
    with warnings.catch_warnings():
        # A box stands for a letter that no font has: one line for all is enough.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        if lacking := draw_with_fonts_for_all_letters(figure):
            _LOG.warning(
                "%s: boxes stand for %s, which no font here has; install one, such as Noto Sans",
                *(path, lacking),
            )
        figure.savefig(image, format=_format_of(path), dpi=150)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, image.getvalue())
    return path


def draw_with_fonts_for_all_letters(figure: Figure) -> str:
    """Let the figure's texts fall back to fonts that have the letters which the usual one lacks; those left over."""
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    names, lacking = fonts_with({letter for text in texts for letter in text.get_text()})
    for text in texts if names else ():
        text.set_fontfamily([*text.get_fontfamily(), *names])
    return "".join(sorted(lacking))


def _format_of(path: Path) -> str:
    return path.suffix[1:].lower() or "png"


def _colours(labels: Iterable[str]) -> list[str]:
    """A learner's own colour; for any other curve, the next."""
    own = dict(zip(LEARNERS, COLOURS, strict=True))
    return [own.get(label, COLOURS[i % len(COLOURS)]) for i, label in enumerate(labels)]


def _learner_of(run: str) -> str:
    return run.rpartition(", seed ")[0]


def _loss_axis(axes: Any, ways: int) -> None:
    """A logarithmic axis for the loss, with that of chance."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.axhline(math.log(ways), color=SOFT, linestyle=":", linewidth=1.2)
    end = {"xy": (1, math.log(ways)), "xycoords": ("axes fraction", "data")}
    axes.annotate(f"chance: ln {ways}", **end, ha="right", va="bottom", fontsize=8, color=SOFT)
    axes.set(ylabel="training loss")


def _percent(fractions: Sequence[float] | np.ndarray) -> np.ndarray:
    return 100 * np.asarray(fractions, dtype=float)


def _plain(axes: Any) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _smooth(values: np.ndarray, least: int = 5) -> np.ndarray:
    """Running mean over up to a twentieth of the points, at least `least`."""
    width = min(len(values), max(least, len(values) // 20))
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _stage_runs(metrics: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """First (exclusive) and last step of each stage that is in the metrics."""
    last: dict[int, int] = {}
    for m in metrics:
        last[m["stage"]] = m["step"]
    ends = [last[stage] for stage in sorted(last)]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _mark_stages(upper: Any, lower: Any, metrics: Sequence[Mapping[str, Any]]) -> None:
    kinds = {m["stage"]: m["kind"] for m in metrics}
    runs = _stage_runs(metrics)
    if len(runs) < 2:
        return
    for number, (stage, (start, stop)) in enumerate(zip(sorted(kinds), runs, strict=True)):
        for axes in (upper, lower):
            if start:
                axes.axvline(start, color="0.7", linewidth=1)
            if number % 2:
                axes.axvspan(start, stop, color="0.96", zorder=0, linewidth=0)
        place = {"xy": ((start + stop) / 2, 1.01), "xycoords": ("data", "axes fraction")}
        # Narrow stages would write over each other: a number for all, the name where it fits.
        wide = (stop - start) > 0.25 * runs[-1][1]
        name = STAGE_NAMES.get(kinds[stage], kinds[stage])
        text = f"{number + 1}: {name}" if wide else f"{number + 1}"
        upper.annotate(text, **place, ha="center", va="bottom", fontsize=8, color=SOFT)


def _short(name: str, length: int = 12) -> str:
    """A class's name in one line, cut to fit below an image."""
    name = printable(name)
    return name if len(name) <= length else f"{name[: length - 1]}…"
