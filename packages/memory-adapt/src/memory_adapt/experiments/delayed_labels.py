"""Delayed labels (thesis 2.1): the label of x_i arrives at step i + d.

Two questions. Does a learner trained with d = 1 cope with d > 1 as it is? And does training with the
delay, without any change to the model, let CL+LSTM cope (the thesis' claim)? OPN is also shown with the
delay told to it, which no memory learner needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memory_adapt.evaluation import evaluate
from memory_adapt.experiments.table_2_1 import SHOTS, TEST_SEED, WAYS, Sizes
from memory_adapt.experiments.trained import find_learner
from memory_adapt.models.interface import OnlineClassifier
from memory_adapt.models.registry import build_model
from memory_adapt.plots import save_figure
from priors_shared.datasets import ImageDataset, load_dataset
from priors_shared.episodes import OnlineEpisodeSampler
from priors_shared.experiments import Experiment, Lab
from priors_shared.files import write_atomically
from priors_shared.reports import Cell, Curve, Measured, Table, line_figure

DELAYS = (1, 2, 3, 5)
LEARNERS = {
    "CL+LSTM": ("cl-lstm", "omniglot_5way"),
    "CL+LSTM trained with d = 3": ("cl-lstm", "omniglot_5way_delay3"),
    "OPN": ("opn", "omniglot_5way"),
    "CPM": ("cpm", "omniglot_5way"),
}
TOLD = "OPN told the delay"
SIZES = Sizes(episodes=300)


@dataclass(frozen=True, kw_only=True)
class DelayedLabels(Experiment):
    """Learners of one seed at each delay."""

    id: str = "delayed-labels"
    claim: str = "the same network, trained with labels that arrive late, adapts; prototypes must be told the delay"
    seeds: Sequence[int] = (0,)
    sizes: Sizes = SIZES

    @classmethod
    def of(cls, preset: str) -> DelayedLabels:
        """In a preset's sizes."""
        return cls(preset=preset)

    def run(self, lab: Lab) -> None:
        """Evaluate the learners at each delay; the delayed one is trained if missing."""
        suffix = "_cpu" if self.preset == "cpu" else ""
        (seed,) = self.seeds
        found = {
            title: find_learner(lab, stem + suffix, model, seed)
            for title, (model, stem) in LEARNERS.items()
        }
        finished = {title: run for title, run in found.items() if run is not None}
        if not finished:
            return
        dataset = load_dataset("omniglot", "test")  # not before: a plan needs none
        rows: list[dict[str, Any]] = []
        for title, trained in finished.items():
            variants = {title: dict.fromkeys(DELAYS, trained.learner)}
            if LEARNERS[title][0] == "opn":
                variants[TOLD] = {delay: _told(trained.learner, delay) for delay in DELAYS}
            for name, learners in variants.items():
                rows += [
                    {
                        "learner": name,
                        "delay": delay,
                        **_accuracy(learner, dataset, delay, self.sizes),
                    }
                    for delay, learner in learners.items()
                ]
        self._write(lab, rows, {title: run.command for title, run in finished.items()})

    def _write(self, lab: Lab, rows: Sequence[dict[str, Any]], commands: Mapping[str, str]) -> None:
        """The result's JSON, its table and its figure."""
        sizes = self.sizes
        self.write(
            lab,
            rows,
            config=commands,
            seeds=self.seeds,
            data=f"omniglot, test classes, {sizes.episodes} balanced streams of "
            f"{sizes.ways} x {sizes.samples}",
        )
        table = delays_table(rows).to_markdown() + "\n"
        write_atomically(self.path(lab, suffix="md"), table)
        save_figure(delays_figure(rows), self.path(lab))


def _accuracy(
    learner: OnlineClassifier, dataset: ImageDataset, delay: int, sizes: Sizes
) -> dict[str, Measured]:
    """Percent at each number of shots, with the 95 % interval over streams."""
    sampler = OnlineEpisodeSampler(dataset, ways=sizes.ways, shots=sizes.samples, delay=delay)
    accuracy = evaluate(learner, sampler, episodes=sizes.episodes, seed=TEST_SEED)
    mean = (100 * accuracy.mean).tolist()
    half = (50 * (accuracy.high - accuracy.low)).tolist()
    return {f"{k}-shot": Measured(round(mean[k], 2), round(half[k], 2)) for k in SHOTS}


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
