"""Learners for an experiment: trained now, resumed, or taken from their run folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from memory_adapt.config import CHECKPOINT_KIND, LaunchConfig, TrainConfig
from memory_adapt.models.interface import OnlineClassifier
from memory_adapt.models.registry import build_model, config_from_json, config_to_json
from memory_adapt.presets import PRESETS
from memory_adapt.training.online import run_config, train
from priors_shared.checkpoints import has_training_state, load_training_state, load_weights
from priors_shared.runs import Run


def run_folder(runs: Path, preset: str, model: str, seed: int) -> Path:
    """Where `memory-adapt train` keeps this training."""
    return runs / preset / f"{model}-{seed}"


def train_command(preset: str, model: str, seed: int) -> str:
    """The command line that repeats a training."""
    return f"memory-adapt train {preset} --model {model} --seed {seed}"


def train_or_resume(
    preset: str, model: str, seed: int, *, runs: Path, where: LaunchConfig
) -> OnlineClassifier:
    """The trained learner; at once if its run folder holds it."""
    out = run_folder(runs, preset, model, seed)
    if (out / "model").is_dir():
        return load_learner(out / "model")
    config = replace(PRESETS[preset](model), seed=seed)
    with Run.create(
        out,
        run_config(config),
        command=train_command(preset, model, seed),
        resume=True,
        quiet=where.quiet,
    ) as run:
        return train(config, where, run).eval()


def load_learner(folder: Path) -> OnlineClassifier:
    """The learner that `training.save_learner` wrote, in evaluation mode on the CPU."""
    record, weights = load_weights(folder, kind=CHECKPOINT_KIND)
    return _with_weights(record["config"], weights)


def load_unfinished(run: Path, config: TrainConfig) -> tuple[OnlineClassifier, int] | None:
    """A running or interrupted training's learner at its last checkpoint, and the steps done."""
    checkpoints = run / "checkpoints"
    if not has_training_state(checkpoints):
        return None
    state = load_training_state(checkpoints)
    prefix = "model."
    weights = {
        k.removeprefix(prefix): v for k, v in state.model_state.items() if k.startswith(prefix)
    }
    done = sum(s.steps for s in config.stages[: int(state.stage)]) + state.step
    return _with_weights(config_to_json(config.model), weights), done


def _with_weights(config: Mapping[str, Any], weights: Mapping[str, Any]) -> OnlineClassifier:
    model = build_model(config_from_json(dict(config)))
    model.load_state_dict(weights)
    return model.eval()
