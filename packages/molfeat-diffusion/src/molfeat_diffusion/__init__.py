"""Geometry-aware molecular features from a diffusion model of molecules.

The names below are loaded when they are first asked for: importing this package does not import torch.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from molfeat_diffusion.featurizers.blocks import FeatureBlocks
    from molfeat_diffusion.featurizers.midi import MiDiFeaturizer
    from molfeat_diffusion.featurizers.smiles import SmilesFeaturizer
    from molfeat_diffusion.models.diffusion import MiDi
    from molfeat_diffusion.prediction.heads import MLPClassifier, MLPRegressor
    from molfeat_diffusion.prediction.predictor import Predictor
    from molfeat_diffusion.pretrained import load_model

# torch_geometric uses what torch deprecates, each time that it is imported: no user of ours can mend it.
warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", FutureWarning)

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
    "FeatureBlocks": "featurizers.blocks",
    "MLPClassifier": "prediction.heads",
    "MLPRegressor": "prediction.heads",
    "MiDi": "models.diffusion",
    "MiDiFeaturizer": "featurizers.midi",
    "Predictor": "prediction.predictor",
    "SmilesFeaturizer": "featurizers.smiles",
    "load_model": "pretrained",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
