"""Datasets as a learner takes them: its image size and channels."""

from __future__ import annotations

import logging
from pathlib import Path

from memory_adapt.config import ModelConfig
from priors_shared.datasets import FOLDER, ImageDataset, load_dataset
from priors_shared.errors import UserError

_LOG = logging.getLogger(__name__)


def load_images(
    name: str, split: str, data_root: str | Path | None, model: ModelConfig
) -> ImageDataset:
    """The dataset of that name (see `load_dataset`) with images that fit the model.

    The images of "folder:PATH" are resized and converted; files that cannot be read are logged as
    warnings. Raises UserError when another dataset's images have another shape, or it is not there.
    """
    fit = {"image_size": model.image_size, "channels": model.image_channels}
    dataset = load_dataset(name, split, data_root, **(fit if name.startswith(FOLDER) else {}))
    for path, reason in dataset.skipped:
        _LOG.warning("skipped %s: %s", path, reason)
    wanted = (model.image_channels, model.image_size, model.image_size)
    if dataset.image_shape != wanted:
        raise UserError(
            f"{dataset.name} has images of {_shape(dataset.image_shape)}, but the model is for "
            f"{_shape(wanted)}: set image_channels and image_size to the data's, or use another "
            "dataset"
        )
    return dataset


def _shape(shape: tuple[int, int, int]) -> str:
    return " x ".join(map(str, shape))
