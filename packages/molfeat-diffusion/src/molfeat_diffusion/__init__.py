"""Geometry-aware molecular features from a diffusion model of molecules.

The names below are loaded when they are first asked for: importing this package does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from molfeat_diffusion.checkpoint import load_model
    from molfeat_diffusion.diffusion import MiDi
    from molfeat_diffusion.features import MiDiFeaturizer
    from molfeat_diffusion.language import SmilesFeaturizer
    from molfeat_diffusion.predict import FeatureBlocks, MLPClassifier, MLPRegressor, Predictor

__version__ = "0.1.0"
__all__ = [
    "FeatureBlocks",
    "MLPClassifier",
    "MLPRegressor",
    "MiDi",
    "MiDiFeaturizer",
    "Predictor",
    "SmilesFeaturizer",
    "__version__",
    "load_model",
]

_MODULE_OF = {
    "FeatureBlocks": "predict",
    "MLPClassifier": "predict",
    "MLPRegressor": "predict",
    "MiDi": "diffusion",
    "MiDiFeaturizer": "features",
    "Predictor": "predict",
    "SmilesFeaturizer": "language",
    "load_model": "checkpoint",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
