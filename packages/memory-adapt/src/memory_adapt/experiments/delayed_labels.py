"""Delayed labels (thesis 2.1): the label of x_i arrives at step i + d.

Two questions. Does a learner trained with d = 1 cope with d > 1 as it is? And does training with the
delay, without any change to the model, let CL+LSTM cope (the thesis' claim)? OPN is also shown with the
delay told to it, which no memory learner needs.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from memory_adapt.config import LaunchConfig, OPNConfig
from memory_adapt.evaluation import evaluate
from memory_adapt.experiments.table_2_1 import SHOTS, STREAM_SHOTS, TEST_SEED, WAYS
from memory_adapt.experiments.trained import (
    load_learner,
    run_folder,
    train_command,
    train_or_resume,
)
from memory_adapt.models import OnlineClassifier, build_model
from priors_shared.datasets import load_dataset
from priors_shared.devices import hardware
from priors_shared.episodes import OnlineEpisodeSampler
from priors_shared.reports import Table, write_result

CLAIM = "the same network, trained with labels that arrive late, adapts; prototypes must be told the delay"
DELAYS = (1, 2, 3, 5)
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
            row: dict[str, Any] = {"learner": name}
            for delay in DELAYS:
                sampler = OnlineEpisodeSampler(dataset, ways=WAYS, shots=STREAM_SHOTS, delay=delay)
                accuracy = evaluate(learner_at(delay), sampler, episodes=300, seed=TEST_SEED)
                row[f"d = {delay}"] = " / ".join(f"{100 * accuracy.mean[k]:.1f}" for k in SHOTS)
            rows.append(row)
    if not rows:
        return
    write_result(
        out / f"delayed-labels-{preset}.json",
        experiment="delayed-labels",
        claim=CLAIM,
        rows=rows,
        config={name: train_command(p, m, 0) for name, (m, p) in learners.items()},
        seeds=[0],
        data=f"omniglot, test classes, 300 balanced streams of {WAYS} x {STREAM_SHOTS}",
        hardware=hardware(),
        command=f"memory-adapt reproduce delayed-labels --preset {preset}",
    )
    columns = list(rows[0])
    table = Table(
        columns,
        [[row[c] for c in columns] for row in rows],
        caption="1 / 5 / 8-shot accuracy in percent (k counts views of the class, labelled or not yet)",
    )
    (out / f"delayed-labels-{preset}.md").write_text(table.to_markdown() + "\n")


def _told(opn: OnlineClassifier, delay: int) -> OnlineClassifier:
    """The same prototypes network, attributing each label to the image `delay` steps back."""
    assert isinstance(opn.config, OPNConfig)
    told = build_model(replace(opn.config, delay=delay))
    told.load_state_dict(opn.state_dict())
    return told.eval()
