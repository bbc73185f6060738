"""The package's part of `reproduce`: shipped weights evaluated, learning shown live, results stored."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from priors_shared.reports import Cell, Code, Figure, Measured, Section, Table, read_result
from priors_shared.runs import Savable

if TYPE_CHECKING:
    from memory_adapt.pretrained import OnlineLearner
    from priors_shared.episodes import OnlineEpisodeSampler

SHIPPED = {"CL+LSTM": "omniglot-5way-cpu", "CPM": "omniglot-5way-cpm-cpu"}
SHOTS = (1, 5, 8)
WAYS, STREAM_SHOTS, SEED = 5, 10, 7
_LIVE_STEPS = {  # about two minutes on two cores, together
    "opn": (("episodes", 120),),
    "cl-lstm": (("prototypes", 90), ("readout", 150)),
}


def run(report_dir: Path, quick: bool, progress: type[Any], results: Path) -> Section:
    """Evaluate the shipped learners, train small ones before the reader's eyes, return the page."""
    if not quick:
        from memory_adapt.experiments import EXPERIMENTS

        for experiment in EXPERIMENTS.values():
            experiment(preset="cpu", out=report_dir, quick=False, runs=report_dir / "runs")
    return Section(
        "memory-adapt: learning online, without gradients",
        [
            "Learners see a stream of images. Each predicts the class of an image, and is told the "
            "right label with the next image. k-shot accuracy is that on images whose class was "
            "seen k times before. All classes here are held out from training.",
            _shipped_section(100 if quick else 1000, progress),
            _live_section(report_dir),
            *_stored_sections(results if quick else report_dir),
        ],
    )


def _shipped_section(episodes: int, progress: type[Any]) -> Section:
    from memory_adapt.evaluation import CONTROLS, blind_bound, evaluate
    from memory_adapt.plots import shots_figure
    from memory_adapt.pretrained import OnlineLearner
    from priors_shared.datasets import load_dataset
    from priors_shared.episodes import OnlineEpisodeSampler

    datasets = ["glyphs", *(["omniglot"] if os.environ.get("PRIORS_DATA") else [])]
    learners = {title: OnlineLearner.from_pretrained(name) for title, name in SHIPPED.items()}
    bound = blind_bound(WAYS, STREAM_SHOTS)
    rows: list[list[Cell]] = []
    parts: list[Any] = []
    with progress(len(datasets) * len(learners), "evaluate shipped weights") as bar:
        for name in datasets:
            sampler = OnlineEpisodeSampler(
                load_dataset(name, "test"), ways=WAYS, shots=STREAM_SHOTS
            )
            curves = {}
            for title, learner in learners.items():
                accuracy = evaluate(learner.model, sampler, episodes=episodes, seed=SEED)
                controls = [
                    evaluate(learner.model, sampler, episodes=50, seed=SEED, control=control)
                    for control in CONTROLS
                ]
                half = (accuracy.high - accuracy.low) / 2
                cells = [
                    Measured(100 * float(accuracy.mean[k]), 100 * float(half[k])) for k in SHOTS
                ]
                worst = [100 * max(float(c.mean[k]) for k in SHOTS) for c in controls]
                rows.append([name, title, *cells, *worst])
                curves[title] = (
                    accuracy.mean.tolist(),
                    accuracy.low.tolist(),
                    accuracy.high.tolist(),
                )
                bar.advance(accuracy_5_shot=float(accuracy.mean[5]))
            figure: Any = shots_figure(
                curves, ways=WAYS, blind=bound, title=f"Shipped weights on held-out {name}"
            )
            parts.append(Figure.from_matplotlib(figure, f"Accuracy against shots, {name}."))
            if name == "glyphs":
                stream: Any = _example_stream(learners["CL+LSTM"], sampler)
                parts.append(
                    Figure.from_matplotlib(
                        stream,
                        "One stream: each image with the shipped CL+LSTM's prediction, made before "
                        "the label arrived.",
                        format="png",
                    )
                )
    rows.append(["", "blind bound", *(100 * bound[k] for k in SHOTS), None, None, None])
    table = Table(
        ["held-out data", "learner", *(f"{k}-shot" for k in SHOTS), *CONTROLS],
        rows,
        f"Accuracy in percent, ± the 95 % interval over {episodes} streams. The last columns are "
        "controls: the highest accuracy with blank images, without labels, with random labels. The "
        "blind bound is what a guess reaches that never looks at an image. The weights were trained "
        "on Omniglot; Glyphs (characters drawn from fonts) are another domain.",
    )
    return Section("Shipped weights", [table, *parts])


def _example_stream(learner: OnlineLearner, sampler: OnlineEpisodeSampler) -> Any:
    import numpy as np
    import torch

    from memory_adapt.plots import stream_figure
    from priors_shared.episodes import generator_for

    streams = sampler.sample(1, generator_for(SEED, 1))
    with torch.no_grad():
        predicted = learner.model(streams.images, streams.feedback)[0].argmax(-1)[:, 0].tolist()
    names = "ABCDE"
    return stream_figure(
        (streams.images[:, 0] * 255).to(torch.uint8).numpy().astype(np.uint8),
        [names[label] for label in streams.labels[:, 0].tolist()],
        [names[label] for label in predicted],
        [count == 0 for count in streams.seen[:, 0].tolist()],
        title="A stream of five characters that the learner has never seen",
    )


def _live_section(report_dir: Path) -> Section:
    from memory_adapt.config import LaunchConfig, StageConfig, TrainConfig
    from memory_adapt.plots import learning_curve_figure
    from memory_adapt.presets import glyphs_5way_cpu
    from memory_adapt.training.online import run_config, train
    from priors_shared.runs import Run, read_metrics

    parts: list[Any] = [
        "Trained from random weights while this report was made: online prototypes (OPN), which "
        "learn at once, and the first two stages of the CL+LSTM recipe: its encoder, then its LSTM, "
        "which starts as a prototype memory. Too short for good accuracy; long enough to see it rise."
    ]
    for model, stages in _LIVE_STEPS.items():
        recipe = glyphs_5way_cpu(model)
        by_kind: dict[str, StageConfig] = {stage.kind: stage for stage in recipe.stages[::-1]}
        config: TrainConfig = replace(
            recipe,
            stages=tuple(
                replace(by_kind[kind], steps=steps, warmup_steps=10, jitter=0)
                for kind, steps in stages
            ),
            validate_every=30,
            validation_episodes=32,
            log_every=2,
        )
        out = _fresh(report_dir / "live" / model)
        with Run.create(out, run_config(config), command="reproduce", tensorboard=False) as live:
            train(config, LaunchConfig(accelerator="cpu"), live)
        figure: Any = learning_curve_figure(
            read_metrics(out), ways=WAYS, title=f"{model}, live on Glyphs"
        )
        parts.append(Figure.from_matplotlib(figure, f"Loss and validation accuracy of {model}."))
    return Section("Learning, live", parts)


def _fresh(folder: Path) -> Path:
    """The folder, without what an earlier report left in it."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _stored_sections(folder: Path) -> Sequence[Section]:
    """The long CPU runs' results, where the repository (or --full) holds them."""
    from memory_adapt.experiments.delayed_labels import delays_figure, delays_table
    from memory_adapt.experiments.table_2_1 import (
        THESIS,
        curves_figure,
        result_table,
        shots_figure,
        steps_done,
    )

    sections = []
    for dataset in THESIS:
        for path in sorted(folder.glob(f"table-2.1-{dataset}-*.json")):
            result = read_result(path)
            table = result_table(
                result["rows"], result["thesis"], result["blind_bounds"], steps_done(result)
            )
            figures = shots_figure(result), curves_figure(result)
            sections.append(_stored(f"Table 2.1, {dataset}", result, table, *figures))
    for path in sorted(folder.glob("delayed-labels-*.json")):
        result = read_result(path)
        rows = result["rows"]
        sections.append(_stored("delayed labels", result, delays_table(rows), delays_figure(rows)))
    return sections


def _stored(title: str, result: Mapping[str, Any], table: Table, *figures: Savable) -> Section:
    said = (
        f"Claim: {result['claim']}. Small-scale runs on a CPU, seeds {result['seeds']}, "
        f"{result['date']}, commit {str(result['commit'])[:10]}."
    )
    pictures = [Figure.from_matplotlib(figure) for figure in figures]
    parts: list[Any] = [said, table, *pictures, Code(result["command"])]
    return Section(f"Stored result: {title}", parts, folded=True)
