"""Online learners, one file each."""

from __future__ import annotations

from dataclasses import asdict
from importlib import import_module
from typing import Any

from memory_adapt.config import MODEL_CONFIGS, ModelConfig
from memory_adapt.models.interface import OnlineClassifier, State

__all__ = ["OnlineClassifier", "State", "build_model", "config_from_json", "config_to_json"]

_CLASSES = {
    "cl-lstm": "cl_lstm.CLLSTM",
    "lstm": "lstm.LSTMLearner",
    "ntm": "ntm.NTM",
    "apl": "apl.APL",
    "opn": "opn.OPN",
    "cpm": "cpm.CPM",
}


def model_name(config: ModelConfig) -> str:
    """The name of the model that a configuration belongs to, such as "cl-lstm"."""
    return next(name for name, cls in MODEL_CONFIGS.items() if type(config) is cls)


def build_model(config: ModelConfig) -> OnlineClassifier:
    """The untrained model of a configuration; initial weights from torch's global generator."""
    module, _, cls = _CLASSES[model_name(config)].partition(".")
    model: OnlineClassifier = getattr(import_module(f"memory_adapt.models.{module}"), cls)(config)
    return model


def config_to_json(config: ModelConfig) -> dict[str, Any]:
    """A configuration as JSON values, with its model's name."""
    return {"model": model_name(config), **asdict(config)}


def config_from_json(values: dict[str, Any]) -> ModelConfig:
    """The configuration that `config_to_json` wrote."""
    rest: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k != "model"
    }
    return MODEL_CONFIGS[values["model"]](**rest)
