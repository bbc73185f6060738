"""Convolutions whose weights a small hypernetwork generates, and MAML that adapts their embeddings.

The names below are loaded when they are first asked for: importing this package does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hypernet_maml.models.hyperconv import hyperize, reparameterize
    from hypernet_maml.pretrained import FewShotLearner, load_network

__version__ = "0.1.0"
__all__ = ["FewShotLearner", "__version__", "hyperize", "load_network", "reparameterize"]

_MODULE_OF = {
    "FewShotLearner": "pretrained",
    "hyperize": "models.hyperconv",
    "load_network": "pretrained",
    "reparameterize": "models.hyperconv",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
