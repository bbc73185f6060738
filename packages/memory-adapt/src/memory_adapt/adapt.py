"""A user's image folder as a stream: predict each image, then learn from its label."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from memory_adapt.config import ModelConfig
from memory_adapt.learner import OnlineLearner
from priors_shared.datasets import ImageDataset
from priors_shared.datasets.base import as_float
from priors_shared.datasets.image_folder import load_image_folder
from priors_shared.episodes import delay_labels, generator_for
from priors_shared.errors import UserError
from priors_shared.statistics import ShotAccuracy, accuracy_by_shot

Order = Literal["shuffled", "sorted"]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One step of a stream."""

    repeat: int
    """pass over the images, from 1"""
    step: int
    """place in the stream, from 1"""
    item: int
    """index of the image in the dataset"""
    file: str
    """path of the image"""
    label: str
    """its class"""
    predicted: str
    """the class that was predicted before its label came"""
    probability: float
    """of the predicted class, as the learner sees it"""
    seen: int
    """earlier images of the class in the stream: the k of k-shot"""
    known: int
    """how many of their labels had arrived"""

    @property
    def correct(self) -> bool:
        """Whether the prediction is the class."""
        return self.predicted == self.label


def load_stream_folder(
    folder: Path,
    model: ModelConfig,
    *,
    classes: Sequence[str] = (),
    shots: int | None = None,
    invert: bool | Literal["auto"] = "auto",
) -> ImageDataset:
    """The folder's images as the learner takes them: resized, converted, at most `shots` a class.

    classes: names of the subfolders to use, none for all. `skipped` lists what could not be read.
    Raises UserError when there are more classes than label slots or fewer than two, a class is
    unknown or has no image, or one has fewer images than `shots`.
    """
    if model.image_channels not in (1, 3):
        raise UserError(
            f"the learner takes images of {model.image_channels} channels; folders give 1 or 3"
        )
    if shots is not None and shots < 1:
        raise UserError(f"--shots must be at least 1, got {shots}")
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
                "the others with --classes"
            )
        if name not in names:
            raise UserError(f"--classes {name}: {folder} has {', '.join(names)}")
    if len(wanted) > model.ways:
        raise UserError(
            f"{folder} has {len(wanted)} classes, more than the learner's {model.ways} label "
            f"slots: choose up to {model.ways} with --classes (there are {_listed(wanted)})"
        )
    if len(wanted) < 2:
        raise UserError(f"a stream needs at least two classes, {folder} gives {len(wanted)}")
    dataset = dataset.select_classes([names.index(name) for name in wanted])
    return dataset if shots is None else _first_of_each(dataset, shots)


def _first_of_each(dataset: ImageDataset, shots: int) -> ImageDataset:
    kept = []
    for target, name in enumerate(dataset.class_names):
        items = dataset.items_of(target)
        if len(items) < shots:
            raise UserError(
                f"class {name!r} of {dataset.source} has {len(items)} images, fewer than the "
                f"{shots} shots asked for: lower --shots or add images"
            )
        kept.append(items[:shots])
    chosen = torch.cat(kept)
    paths = tuple(dataset.paths[i] for i in chosen.tolist())
    return replace(
        dataset, images=dataset.images[chosen], targets=dataset.targets[chosen], paths=paths
    )


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


def adapt(
    learner: OnlineLearner,
    dataset: ImageDataset,
    *,
    order: Order = "shuffled",
    delay: int = 1,
    seed: int = 0,
    repeats: int = 1,
) -> Iterator[Prediction]:
    """Predict image after image; the label of each reaches the learner `delay` steps later.

    order: "shuffled", or "sorted" by file name whatever the class, as for frames with time stamps.
    Each repeat begins without memory, in an order of its own when shuffled. Which class has which
    label slot is drawn anew too: no slot means anything before its first label.
    """
    learner.check_delay(delay)
    if repeats < 1:
        raise UserError(f"--repeats must be at least 1, got {repeats}")
    for repeat in range(repeats):
        generator = generator_for(seed, repeat)
        slots = torch.randperm(dataset.classes, generator=generator)
        if order == "sorted":
            names = [Path(path).name for path in dataset.paths]
            items = torch.tensor(sorted(range(len(dataset)), key=lambda i: (names[i], i)))
        else:
            items = torch.randperm(len(dataset), generator=generator)
        yield from _one_stream(learner, dataset, items, slots, delay, repeat)


def _one_stream(
    learner: OnlineLearner,
    dataset: ImageDataset,
    items: Tensor,
    slots: Tensor,
    delay: int,
    repeat: int,
) -> Iterator[Prediction]:
    labels = slots[dataset.targets[items]]
    feedback = delay_labels(labels.unsqueeze(1), delay).squeeze(1).tolist()
    class_of_slot = slots.argsort().tolist()
    state = learner.reset(dataset.classes)
    seen, known = [0] * dataset.classes, [0] * dataset.classes
    for step, item in enumerate(items.tolist()):
        arrived = None if feedback[step] < 0 else feedback[step]
        if arrived is not None:
            known[arrived] += 1
        logits, state = learner.step(as_float(dataset.images[item]), arrived, state)
        best = int(logits.argmax())
        slot = int(labels[step])
        yield Prediction(
            repeat=repeat + 1,
            step=step + 1,
            item=item,
            file=dataset.paths[item],
            label=dataset.class_names[class_of_slot[slot]],
            predicted=dataset.class_names[class_of_slot[best]],
            probability=float(logits.softmax(-1)[best]),
            seen=seen[slot],
            known=known[slot],
        )
        seen[slot] += 1


def accuracy_of(predictions: Sequence[Prediction]) -> ShotAccuracy:
    """Accuracy against shots, over all repeats; intervals need two repeats at least."""
    repeats = max(p.repeat for p in predictions)
    correct = torch.tensor([p.correct for p in predictions]).view(repeats, -1).t()
    seen = torch.tensor([p.seen for p in predictions]).view(repeats, -1).t()
    return accuracy_by_shot(correct, seen, int(seen.max()))


def balanced_shots(dataset: ImageDataset) -> int | None:
    """Images of each class if all have as many, and few enough for an exact blind bound."""
    counts = torch.bincount(dataset.targets, minlength=dataset.classes)
    shots = int(counts[0])
    if bool((counts != shots).any()):
        return None
    return shots if math.comb(dataset.classes + shots, shots) <= 50_000 else None


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """One row per prediction, as CSV, with the column `correct` (0 or 1) at the end."""
    names = [field.name for field in fields(Prediction) if field.name != "item"]
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*names, "correct"], extrasaction="ignore")
        writer.writeheader()
        for prediction in predictions:
            row = asdict(prediction)
            row["probability"] = f"{prediction.probability:.4f}"
            writer.writerow(row | {"correct": int(prediction.correct)})


def _listed(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, ... {len(names)} in all"
