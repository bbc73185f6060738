"""Text to 3D in one forward pass, from a hypernetwork that writes a NeRF's weights.

The names below are loaded when they are first asked for: importing this package does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyperfields.fields.cameras import Camera, orbit
    from hyperfields.fields.field import Field
    from hyperfields.pretrained import HyperFields

__version__ = "0.1.0"
__all__ = ["Camera", "Field", "HyperFields", "__version__", "orbit"]

_MODULE_OF = {
    "Camera": "fields.cameras",
    "Field": "fields.field",
    "HyperFields": "pretrained",
    "orbit": "fields.cameras",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
