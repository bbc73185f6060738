"""Checkpoints: weights and training state as safetensors + JSON, never pickle; see `pair` for how."""

from priors_shared.checkpoints.names import checkpoint_kind, find_weights, has_weights
from priors_shared.checkpoints.pair import CONFIG, WEIGHTS
from priors_shared.checkpoints.training_state import (
    TrainingState,
    has_training_state,
    load_training_state,
    save_training_state,
)
from priors_shared.checkpoints.weights import load_module, load_state, load_weights, save_weights

__all__ = [
    "CONFIG",
    "WEIGHTS",
    "TrainingState",
    "checkpoint_kind",
    "find_weights",
    "has_training_state",
    "has_weights",
    "load_module",
    "load_state",
    "load_training_state",
    "load_weights",
    "save_training_state",
    "save_weights",
]
