"""Learners for an experiment: trained now, resumed, or taken from their run folders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from memory_adapt.config import LaunchConfig, TrainConfig
from memory_adapt.models.interface import OnlineClassifier
from memory_adapt.models.registry import build_model
from memory_adapt.presets import PRESETS
from memory_adapt.pretrained import OnlineLearner
from memory_adapt.training.online import run_config, steps_before, train
from priors_shared.checkpoints import (
    has_training_state,
    load_state,
    load_training_state,
)
from priors_shared.experiments import Lab
from priors_shared.runs import read_metrics, training_seconds


@dataclass(frozen=True)
class TrainedRun:
    """A run folder's learner, and the step that its weights are of."""

    folder: Path
    config: TrainConfig
    command: str
    learner: OnlineClassifier
    step: int

    @property
    def seed(self) -> int:
        """The seed of initial weights and streams."""
        return self.config.seed

    def metrics(self) -> list[dict[str, Any]]:
        """What was logged up to the weights' step: another process may train on in the folder."""
        return [line for line in read_metrics(self.folder) if line["step"] <= self.step]

    def record(self) -> dict[str, Any]:
        """What a result says of the run."""
        return {
            "seed": self.seed,
            "command": self.command,
            "training_seconds": training_seconds(self.folder, self.step),
            "steps": self.step,
            "finished": self.step == steps_before(self.config, len(self.config.stages)),
        }


def find_learner(
    lab: Lab, preset: str, model: str, seed: int, *, unfinished: bool = False
) -> TrainedRun | None:
    """The trained learner of a preset, from its folder in the lab; trained first where it is missing.

    None where a quick lab lacks it. unfinished: then the last checkpoint of a training that still runs or was
    interrupted will do.
    """
    config = replace(PRESETS[preset](model), seed=seed)
    folder = lab.runs / preset / f"{model}-{seed}"
    command = f"memory-adapt train {preset} --model {model} --seed {seed}"
    if lab.has(folder, run_config(config), partial(train, config, LaunchConfig())):
        learner = OnlineLearner.from_pretrained(folder / "model").model
        total = steps_before(config, len(config.stages))
        return TrainedRun(folder, config, command, learner, total)
    checkpoint = _last_checkpoint(folder, config) if unfinished and lab.planned is None else None
    return TrainedRun(folder, config, command, *checkpoint) if checkpoint else None


def _last_checkpoint(folder: Path, config: TrainConfig) -> tuple[OnlineClassifier, int] | None:
    """The learner at its last checkpoint, and the steps done."""
    if not has_training_state(folder / "checkpoints"):
        return None
    state = load_training_state(folder / "checkpoints")
    prefix = "model."
    weights = {
        k.removeprefix(prefix): v for k, v in state.model_state.items() if k.startswith(prefix)
    }
    model = build_model(config.model, delay=config.delay)
    load_state(model, weights, folder)
    return model.eval(), steps_before(config, int(state.stage)) + state.step
