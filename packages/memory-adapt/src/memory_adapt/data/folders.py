"""A user's image folder as a stream: which of its images, and what was done to make them fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from PIL import Image

from memory_adapt.config import ModelConfig
from priors_shared.datasets import ImageDataset, subset_per_class
from priors_shared.datasets.image_folder import load_image_folder
from priors_shared.episodes import generator_for
from priors_shared.errors import UserError

SHOTS_DRAW = 2**31 - 3


def load_stream_folder(
    folder: Path,
    model: ModelConfig,
    *,
    classes: Sequence[str] = (),
    shots: int | None = None,
    seed: int = 0,
    any_ways: bool = False,
    invert: bool | Literal["auto"] = "auto",
) -> ImageDataset:
    """The folder's images as the learner takes them: resized, converted, `shots` random ones a class.

    classes: names of the subfolders to use, none for all. seed: draws the shots. any_ways: more
    classes than the model's label slots will do.
    `skipped` lists what could not be read.
    Raises UserError when there are more classes than label slots or fewer than two, a class is
    unknown or has no image, or one has fewer images than `shots`.
    """
    if model.image_channels not in (1, 3):
        raise UserError(
            f"the learner takes images of {model.image_channels} channels; folders give 1 or 3"
        )
    if shots is not None and shots < 1:
        raise UserError(f"shots must be at least 1, got {shots}")
    dataset = load_image_folder(
        folder, image_size=model.image_size, channels=model.image_channels, invert=invert
    )
    empty = {Path(path).name: path for path, _ in dataset.skipped if Path(path).is_dir()}
    names = list(dataset.class_names)
    wanted = list(dict.fromkeys(classes)) or sorted([*names, *empty])
    for name in wanted:
        if name in empty:
            raise UserError(
                f"class folder {empty[name]} has no images: add some, remove the folder, or name "
                "the others in classes"
            )
        if name not in names:
            raise UserError(f"classes {name}: {folder} has {', '.join(names)}")
    if len(wanted) > model.ways and not any_ways:
        raise UserError(
            f"{folder} has {len(wanted)} classes, more than the learner's {model.ways} label "
            f"slots: choose up to {model.ways} classes (there are {_listed(wanted)})"
        )
    if len(wanted) < 2:
        raise UserError(f"a stream needs at least two classes, {folder} gives {len(wanted)}")
    dataset = dataset.select_classes([names.index(name) for name in wanted])
    if shots is None:
        return dataset
    try:
        # By a stream of draws of its own: `adapt` orders the images by the others.
        return subset_per_class(dataset, shots, generator_for(seed, SHOTS_DRAW))
    except UserError as error:
        raise UserError(f"shots {shots}: {error}") from None


def describe_conversions(dataset: ImageDataset, model: ModelConfig) -> str | None:
    """What was done to make the files fit the learner, in one line; None if nothing was."""
    resized = recoloured = 0
    for path in dataset.paths:
        with Image.open(path) as image:  # reads the header alone
            resized += image.size != (model.image_size, model.image_size)
            recoloured += (image.mode == "L") != (model.image_channels == 1)
    size, total = model.image_size, len(dataset)
    colour = "grey" if model.image_channels == 1 else "RGB"
    parts = [f"{resized} of {total} images resized to {size} x {size}"] if resized else []
    parts += [f"{recoloured} converted to {colour}"] if recoloured else []
    return ", ".join(parts) or None


def _listed(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, ... {len(names)} in all"
