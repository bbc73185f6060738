"""Text to 3D in one forward pass, from a hypernetwork that writes a NeRF's weights.

The names below are loaded when they are first asked for: importing this package does not import torch.
"""

from typing import TYPE_CHECKING

from priors_shared.lazy import lazy_names

if TYPE_CHECKING:
    from hyperfields.fields.cameras import Camera, orbit
    from hyperfields.fields.field import Field
    from hyperfields.pretrained import HyperFields

__version__ = "0.1.0"
__all__ = ["Camera", "Field", "HyperFields", "__version__", "orbit"]

__getattr__ = lazy_names(
    __name__,
    {
        "Camera": "fields.cameras",
        "Field": "fields.field",
        "HyperFields": "pretrained",
        "orbit": "fields.cameras",
    },
)
