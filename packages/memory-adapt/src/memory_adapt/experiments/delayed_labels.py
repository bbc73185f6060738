"""Delayed labels (thesis 2.1): the label of x_i arrives at step i + d.

Two questions. Does a learner trained with d = 1 cope with d > 1 as it is? And does training with the
delay, without any change to the model, let CL+LSTM cope (the thesis' claim)? OPN is also shown with the
delay told to it, which no memory learner needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memory_adapt.config import LaunchConfig
from memory_adapt.evaluation import evaluate
from memory_adapt.experiments.table_2_1 import SHOTS, STREAM_SHOTS, TEST_SEED, WAYS
from memory_adapt.experiments.trained import (
    load_learner,
    run_folder,
    train_command,
    train_or_resume,
)
from memory_adapt.models.interface import OnlineClassifier
from memory_adapt.models.registry import build_model
from priors_shared.datasets import load_dataset
from priors_shared.devices import hardware
from priors_shared.episodes import OnlineEpisodeSampler
from priors_shared.reports import Cell, Curve, Measured, Table, line_figure, write_result

CLAIM = "the same network, trained with labels that arrive late, adapts; prototypes must be told the delay"
DELAYS = (1, 2, 3, 5)
EPISODES = 300
LEARNERS = {
    "CL+LSTM": ("cl-lstm", "omniglot_5way"),
    "CL+LSTM trained with d = 3": ("cl-lstm", "omniglot_5way_delay3"),
    "OPN": ("opn", "omniglot_5way"),
    "CPM": ("cpm", "omniglot_5way"),
}
TOLD = "OPN told the delay"


def run(
    preset: str = "cpu",
    out: Path = Path("docs/results"),
    quick: bool = False,
    runs: Path = Path("runs"),
) -> None:
    """Evaluate the learners of seed 0 at each delay; train the delayed one if missing (unless quick)."""
    suffix = "_cpu" if preset == "cpu" else ""
    learners = {title: (model, stem + suffix) for title, (model, stem) in LEARNERS.items()}
    dataset = load_dataset("omniglot", "test")
    rows: list[dict[str, Any]] = []
    for title, (model, preset_name) in learners.items():
        folder = run_folder(runs, preset_name, model, 0)
        if quick and not (folder / "model").is_dir():
            continue
        learner = (
            load_learner(folder / "model")
            if quick
            else train_or_resume(preset_name, model, 0, runs=runs, where=LaunchConfig())
        )
        variants: dict[str, Any] = {title: lambda delay, learner=learner: learner}
        if model == "opn":
            variants[TOLD] = lambda delay, learner=learner: _told(learner, delay)
        for name, learner_at in variants.items():
            for delay in DELAYS:
                sampler = OnlineEpisodeSampler(dataset, ways=WAYS, shots=STREAM_SHOTS, delay=delay)
                accuracy = evaluate(learner_at(delay), sampler, episodes=EPISODES, seed=TEST_SEED)
                mean = (100 * accuracy.mean).tolist()
                half = (50 * (accuracy.high - accuracy.low)).tolist()
                cells = {f"{k}-shot": Measured(round(mean[k], 2), round(half[k], 2)) for k in SHOTS}
                rows.append({"learner": name, "delay": delay, **cells})
    if not rows:
        return
    stem = out / f"delayed-labels-{preset}"
    write_result(
        stem.with_suffix(".json"),
        experiment="delayed-labels",
        claim=CLAIM,
        rows=rows,
        config={name: train_command(p, m, 0) for name, (m, p) in learners.items()},
        seeds=[0],
        data=f"omniglot, test classes, {EPISODES} balanced streams of {WAYS} x {STREAM_SHOTS}",
        hardware=hardware(),
        command=f"memory-adapt reproduce delayed-labels --preset {preset}",
    )
    stem.with_suffix(".md").write_text(delays_table(rows).to_markdown() + "\n")
    delays_figure(rows).savefig(stem.with_suffix(".png"), dpi=150)


def delays_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A line per learner, a column per delay."""
    lines: dict[str, list[Cell]] = {}
    for row in rows:
        means = " / ".join(f"{row[f'{k}-shot'].mean:.1f}" for k in SHOTS)
        lines.setdefault(row["learner"], [row["learner"]]).append(means)
    widest = max(row[f"{k}-shot"].spread for row in rows for k in SHOTS)
    return Table(
        ["learner", *(f"d = {delay}" for delay in DELAYS)],
        list(lines.values()),
        caption="1 / 5 / 8-shot accuracy in percent (k counts views of the class, labelled or not "
        f"yet); 95 % intervals over streams are ± {widest:.1f} or narrower.",
    )


def delays_figure(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Accuracy at 5 shots against the delay, band: 95 % interval over streams."""
    curves = {}
    for name in dict.fromkeys(row["learner"] for row in rows):
        cells = [row["5-shot"] for row in rows if row["learner"] == name]
        curves[name] = Curve(DELAYS, [c.mean for c in cells], [c.spread for c in cells])
    curves["chance"] = Curve((DELAYS[0], DELAYS[-1]), (100 / WAYS, 100 / WAYS), dashed=True)
    figure = line_figure(
        curves,
        x="delay d: steps until a label arrives",
        y="accuracy at 5 shots (%)",
        title="Delayed labels, omniglot, held-out",
    )
    figure.axes[0].set(xticks=DELAYS, ylim=(0, 102))
    return figure


def _told(opn: OnlineClassifier, delay: int) -> OnlineClassifier:
    """The same prototypes network, attributing each label to the image `delay` steps back."""
    told = build_model(opn.config, delay=delay)
    told.load_state_dict(opn.state_dict())
    return told.eval()
