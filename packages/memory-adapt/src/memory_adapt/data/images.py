"""Datasets as a learner takes them: its image size and channels."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F

from memory_adapt.config import ModelConfig, PhotoConfig
from priors_shared.datasets import FOLDER, ImageDataset, load_dataset
from priors_shared.datasets.image_folder import classes_needed
from priors_shared.errors import UserError

_LOG = logging.getLogger(__name__)


def load_images(
    name: str,
    split: str,
    data_root: str | Path | None,
    model: ModelConfig,
    ways: int | None = None,
) -> ImageDataset:
    """The dataset of that name (see `load_dataset`) with images that fit the model.

    The images of "folder:PATH" are resized and converted; files that cannot be read are logged as
    warnings. Raises UserError when another dataset's images have another shape, it is not there, or it has
    fewer classes than `ways` (None: the model's).
    """
    fit = {"image_size": model.image_size, "channels": model.image_channels}
    dataset = load_dataset(name, split, data_root, **(fit if name.startswith(FOLDER) else {}))
    for path, reason in dataset.skipped:
        _LOG.warning("skipped %s: %s", path, reason)
    wanted = (model.image_channels, model.image_size, model.image_size)
    frozen = isinstance(model, PhotoConfig)  # its encoder takes any size
    if dataset.image_shape != wanted and not (frozen and dataset.image_shape[0] == 3):
        raise UserError(
            f"{dataset.name} has images of {_shape(dataset.image_shape)}, but the model is for "
            f"{_shape(wanted)}: set image_channels and image_size to the data's, or use another "
            "dataset"
        )
    ways = model.ways if ways is None else ways
    if name.startswith(FOLDER) and dataset.classes < ways:
        few = f"{dataset.source} has {dataset.classes} classes"
        if split != "all":
            few += (
                f" in its {split} part, fewer than ways {ways}: without folders train, val and test, split "
                f"64 / 16 / 20 %, it needs {classes_needed(ways)} classes or more"
            )
        raise UserError(few if split != "all" else f"{few}, fewer than ways {ways}: add some")
    return dataset


def jittered(
    images: UInt8[Tensor, "items channels height width"], generator: torch.Generator
) -> UInt8[Tensor, "items channels height width"]:
    """Each image turned by up to 12 degrees, scaled by up to 12 %, sheared by up to 0.15 and shifted by
    up to 7 % of its side, all uniform; its border pixels fill what comes in.
    """
    parts = []
    for part in images.split(4096):
        turn, zoom, shear_x, shear_y, shift_x, shift_y = (
            (2 * torch.rand(len(part), generator=generator) - 1) * most
            for most in (math.radians(12), 0.12, 0.15, 0.15, 0.14, 0.14)  # the grid spans [-1, 1]
        )
        cos, sin = turn.cos() * (1 + zoom), turn.sin() * (1 + zoom)
        rows = [
            torch.stack([cos, shear_x - sin, shift_x], -1),
            torch.stack([sin + shear_y, cos, shift_y], -1),
        ]
        grid = F.affine_grid(torch.stack(rows, 1), list(part.shape), align_corners=False)
        moved = F.grid_sample(part.float(), grid, align_corners=False, padding_mode="border")
        parts.append(moved.round_().to(torch.uint8))
    return torch.cat(parts)


def _shape(shape: tuple[int, int, int]) -> str:
    return " x ".join(map(str, shape))
