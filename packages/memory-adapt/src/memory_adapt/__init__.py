"""Learners that adapt online, without gradients, to a stream whose labels arrive late.

`OnlineLearner` and `StreamClassifier` are loaded when they are first asked for: importing this package does
not import torch.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memory_adapt.pretrained import OnlineLearner
    from memory_adapt.stream import StreamClassifier

__version__ = "0.1.0"
__all__ = ["OnlineLearner", "StreamClassifier", "__version__"]


def __getattr__(name: str) -> object:
    if name == "OnlineLearner":
        from memory_adapt.pretrained import OnlineLearner

        return OnlineLearner
    if name == "StreamClassifier":
        from memory_adapt.stream import StreamClassifier

        return StreamClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
