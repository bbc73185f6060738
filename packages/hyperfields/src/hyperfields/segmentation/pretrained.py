"""`HyperSegmentationFields`: a trained network; views in, fields with features out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hyperfields.config import SEGMENT_KIND, SHIPPED, ModelConfig
from hyperfields.fields.cameras import Camera
from hyperfields.fields.field import Field
from hyperfields.records import config_from, with_present_names
from hyperfields.scenes.variations import PARTS
from hyperfields.segmentation.network import SegmentationNetwork
from hyperfields.segmentation.scenes import resized, view_inputs
from priors_shared.checkpoints import find_weights, load_module, load_weights, save_weights
from priors_shared.errors import UserError

TRAIN_COMMAND = "hyperfields train segmentation_cpu"


class HyperSegmentationFields:
    """A trained network; views in, fields with features out.

    Example:
        model = HyperSegmentationFields.from_pretrained("segmentation-cpu")
        field = model.generate(images, cameras)
        colours, labels = render_labels(field, orbit(azimuth=30, elevation=20, size=64))
    """

    def __init__(
        self,
        net: SegmentationNetwork,
        image_size: int,
        parts: Sequence[str] = PARTS,
        trained: dict[str, Any] | None = None,
    ) -> None:
        self.net = net.eval()
        self.image_size = image_size
        self.parts = tuple(parts)
        self.trained = dict(trained or {})

    @classmethod
    def from_pretrained(cls, name: str | Path) -> HyperSegmentationFields:
        """The model of that name: shipped weights, run folder, checkpoint folder or Hugging Face Hub id.

        Raises:
            UserError: nothing there, a checkpoint of something else, damaged files.
        """
        source = find_weights(name, shipped=SHIPPED, command=TRAIN_COMMAND)
        record, weights = load_weights(source, kind=SEGMENT_KIND)
        net = load_module(
            source, lambda: SegmentationNetwork(config_from(ModelConfig, record["config"])), weights
        )
        size, parts, trained = (record.get(key) for key in ("image_size", "parts", "trained"))
        if (
            type(size) is not int
            or not 0 < size <= 2**13
            or not isinstance(parts, list)
            or len(parts) != net.hypernetwork.config.field.features
            or not isinstance(trained, Mapping)
        ):
            raise UserError(f"{source}: image_size, parts or trained are not those of a model")
        return cls(net, size, tuple(map(str, parts)), with_present_names(trained))

    def save(self, folder: Path, *, half: bool = False) -> None:
        """Write the model, in half precision where asked for."""
        save_weights(
            folder,
            self.net,
            kind=SEGMENT_KIND,
            config=asdict(self.net.hypernetwork.config),
            extra={
                "image_size": self.image_size,
                "parts": list(self.parts),
                "trained": self.trained,
            },
            half=half,
        )

    @torch.no_grad()
    def generate(
        self,
        images: Float[Tensor, "views height width 4"],
        cameras: Sequence[Camera],
        name: str = "views",
    ) -> Field:
        """The scene of some views, in one forward pass.

        Args:
            images: premultiplied RGBA, resized to the model's size.
            cameras: where they were taken from, the object in [-1, 1]^3.
            name: of the field.
        """
        shown, placed = resized(images, cameras, self.image_size)
        device = next(self.net.parameters()).device
        token = self.net.condition(view_inputs(shown, placed)[None].to(device))
        return self.net.hypernetwork.materialize(token, [name])[0]
