"""Geometry-aware molecular features from a diffusion model of molecules.

The names below are loaded when they are first asked for: importing this package does not import torch.
"""

import warnings
from typing import TYPE_CHECKING

from priors_shared.lazy import lazy_names

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

__getattr__ = lazy_names(
    __name__,
    {
        "FeatureBlocks": "featurizers.blocks",
        "MLPClassifier": "prediction.heads",
        "MLPRegressor": "prediction.heads",
        "MiDi": "models.diffusion",
        "MiDiFeaturizer": "featurizers.midi",
        "Predictor": "prediction.predictor",
        "SmilesFeaturizer": "featurizers.smiles",
        "load_model": "pretrained",
    },
)
