"""Every learner by name: its configuration, its class, its title. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from memory_adapt.config import (
    APLConfig,
    CentroidsConfig,
    CLLSTMConfig,
    CPMConfig,
    LSTMConfig,
    ModelConfig,
    NTMConfig,
    OPNConfig,
    PhotoCPMConfig,
    PhotoMemoryConfig,
    PhotoOPNConfig,
)

if TYPE_CHECKING:
    from memory_adapt.models.interface import OnlineClassifier


@dataclass(frozen=True)
class Learner:
    """One of the learners."""

    config: type[ModelConfig]
    """class of its configuration"""
    network: str
    """module below `memory_adapt.models`, and class"""
    title: str
    """name in tables and figures"""
    photos: bool = False
    """whether it learns on a frozen encoder's features; `reproduce photos` trains these, `train` the others"""


LEARNERS: dict[str, Learner] = {
    "cl-lstm": Learner(CLLSTMConfig, "cl_lstm.CLLSTM", "CL+LSTM"),
    "lstm": Learner(LSTMConfig, "lstm.LSTMLearner", "LSTM"),
    "ntm": Learner(NTMConfig, "ntm.NTM", "NTM"),
    "apl": Learner(APLConfig, "apl.APL", "APL"),
    "opn": Learner(OPNConfig, "opn.OPN", "OPN"),
    "cpm": Learner(CPMConfig, "cpm.CPM", "CPM"),
    "centroids": Learner(CentroidsConfig, "photos.Centroids", "nearest centroids", photos=True),
    "photo-opn": Learner(PhotoOPNConfig, "photo_opn.PhotoOPN", "OPN on features", photos=True),
    "photo-cpm": Learner(PhotoCPMConfig, "photo_cpm.PhotoCPM", "CPM on features", photos=True),
    "photo-memory": Learner(
        PhotoMemoryConfig, "photo_memory.PhotoMemory", "labelled layers", photos=True
    ),
}

IMAGE_LEARNERS = {name: learner for name, learner in LEARNERS.items() if not learner.photos}
"""Those that `train` trains, encoder and all."""


def model_name(config: ModelConfig) -> str:
    """The name of the learner that a configuration belongs to, such as "cl-lstm"."""
    return next(name for name, learner in LEARNERS.items() if type(config) is learner.config)


def build_model(config: ModelConfig, *, delay: int = 1) -> OnlineClassifier:
    """The untrained learner of a configuration; initial weights from torch's global generator.

    delay: steps until a label arrives, for learners that must know which image it belongs to.
    """
    module, _, network = LEARNERS[model_name(config)].network.partition(".")
    imported = import_module(f"memory_adapt.models.{module}")
    model: OnlineClassifier = getattr(imported, network)(config)
    model.delay = delay
    return model


def config_to_json(config: ModelConfig) -> dict[str, Any]:
    """A configuration as JSON values, with its learner's name."""
    return {"model": model_name(config), **asdict(config)}


def config_from_json(values: Mapping[str, Any]) -> ModelConfig:
    """The configuration that `config_to_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: no configuration of a learner.
    """
    options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    # Version 0.1 kept the label delay here, too; it is not the network's.
    options.pop("delay", None)
    return LEARNERS[options.pop("model")].config(**options)
