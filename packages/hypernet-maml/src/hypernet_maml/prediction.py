"""A user's folder of images: learn its classes from a few images each, predict the others."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import torch

from hypernet_maml.data.augment import as_input
from hypernet_maml.data.sources import split_per_class
from hypernet_maml.pretrained import FewShotLearner
from priors_shared.datasets import load_dataset
from priors_shared.episodes import generator_for
from priors_shared.errors import UserError
from priors_shared.files import write_atomically

BATCH = 75  # query images at once: as many as a task of meta-training has


@dataclass(frozen=True)
class FolderPredictions:
    """rows: path, class, predicted class, probability of each image that was not learned from."""

    rows: list[tuple[str, str, str, float]]
    class_names: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]

    @property
    def accuracy(self) -> float:
        """Share of right predictions."""
        return sum(true == predicted for _, true, predicted, _ in self.rows) / len(self.rows)

    def write(self, path: Path) -> None:
        """Write the rows as CSV."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(("path", "class", "predicted", "probability"))
        writer.writerows((p, t, y, f"{q:.4f}") for p, t, y, q in self.rows)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.getvalue())


def adapt_to_folder(
    learner: FewShotLearner, folder: Path, *, shots: int, seed: int
) -> FolderPredictions:
    """Adapt to `shots` random images of each class below `folder`, and predict the others.

    Raises UserError for fewer than 2 classes, more than the learner has outputs, or a class with no
    image left to predict.
    """
    network = learner.network
    dataset = load_dataset(
        f"folder:{folder}",
        "all",
        image_size=network.image_size,
        channels=network.channels,
        invert="auto" if network.channels == 1 else False,  # characters: ink is light
    )
    if not 2 <= dataset.classes <= learner.ways:
        raise UserError(
            f"{folder} has {dataset.classes} classes; this learner takes 2 to {learner.ways}"
        )
    support, query = split_per_class(dataset, shots, generator_for(seed, 0))
    left = torch.bincount(query.targets, minlength=dataset.classes)
    if int(left.min()) < 1:
        poor = dataset.class_names[int(left.argmin())]
        raise UserError(
            f"class {poor!r} of {folder} has {shots} images, none left to predict: lower shots"
        )
    classifier = learner.adapt(as_input(support.images), support.targets)
    rows = []
    # In random order: transductive batch norm must not see one class at a time.
    order = torch.randperm(len(query), generator=generator_for(seed, 1))
    for items in order.split(BATCH):
        probabilities = classifier.logits(as_input(query.images[items])).softmax(-1)
        for item, each in zip(items.tolist(), probabilities, strict=True):
            best = int(each.argmax())
            true = dataset.class_names[int(query.targets[item])]
            rows.append((query.paths[item], true, dataset.class_names[best], float(each[best])))
    return FolderPredictions(sorted(rows), dataset.class_names, dataset.skipped)
