"""Learners that adapt online, without gradients, to a stream whose labels arrive late.

`OnlineLearner` and `StreamClassifier` are loaded when they are first asked for: importing this package does
not import torch.
"""

from typing import TYPE_CHECKING

from priors_shared.lazy import lazy_names

if TYPE_CHECKING:
    from memory_adapt.pretrained import OnlineLearner
    from memory_adapt.stream import StreamClassifier

__version__ = "0.1.0"
__all__ = ["OnlineLearner", "StreamClassifier", "__version__"]

__getattr__ = lazy_names(__name__, {"OnlineLearner": "pretrained", "StreamClassifier": "stream"})
