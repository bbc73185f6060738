"""Convolutions whose weights a small hypernetwork generates, and MAML that adapts their embeddings.

The names below are loaded when they are first asked for: importing this package does not import torch.
"""

from typing import TYPE_CHECKING

from priors_shared.lazy import lazy_names

if TYPE_CHECKING:
    from hypernet_maml.models.hyperconv import hyperize, reparameterize
    from hypernet_maml.pretrained import FewShotLearner, load_network

__version__ = "0.1.0"
__all__ = ["FewShotLearner", "__version__", "hyperize", "load_network", "reparameterize"]

__getattr__ = lazy_names(
    __name__,
    {
        "FewShotLearner": "pretrained",
        "hyperize": "models.hyperconv",
        "load_network": "pretrained",
        "reparameterize": "models.hyperconv",
    },
)
