"""A user's image folder as a stream: predict each image, then learn from its label."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from memory_adapt.plots import save_figure, shots_figure, stream_figure
from memory_adapt.pretrained import OnlineLearner
from memory_adapt.stream import StreamClassifier, calibrated_threshold
from priors_shared.datasets import ImageDataset
from priors_shared.datasets.base import as_float
from priors_shared.episodes import delay_labels, generator_for
from priors_shared.errors import UserError
from priors_shared.files import write_atomically
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
    unknown: float | None
    """how surely it is of none of the classes seen, 0 .. 1; None of learners that do not tell"""
    seen: int
    """earlier images of the class in the stream: the k of k-shot"""
    known: int
    """how many of their labels had arrived"""

    @property
    def correct(self) -> bool:
        """Whether the prediction is the class."""
        return self.predicted == self.label


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
        raise UserError(f"repeats must be at least 1, got {repeats}")
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
        if feedback[step] >= 0:
            known[feedback[step]] += 1
        image = as_float(dataset.images[item]).unsqueeze(0)
        label = torch.tensor([feedback[step]])
        (logits,), unknown, state = learner.score_batch(image, label, state)
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
            unknown=None if unknown is None else float(unknown),
            seen=seen[slot],
            known=known[slot],
        )
        seen[slot] += 1


def remember(
    learner: OnlineLearner, dataset: ImageDataset, predictions: Sequence[Prediction]
) -> StreamClassifier:
    """What the learner knows at the end of the first pass, with its own scores for "none of the known classes"."""
    first = [p for p in predictions if p.repeat == 1]
    scores = [p.unknown for p in first if p.known and p.unknown is not None]
    classifier = StreamClassifier(learner, unknown_above=calibrated_threshold(scores))
    for p in first:
        classifier.observe(as_float(dataset.images[p.item]), p.label)
    return classifier


def accuracy_of(predictions: Sequence[Prediction]) -> ShotAccuracy:
    """Accuracy against shots, over all repeats; intervals need two repeats at least."""
    repeats = max(p.repeat for p in predictions)
    correct = torch.tensor([p.correct for p in predictions]).view(repeats, -1).t()
    seen = torch.tensor([p.seen for p in predictions]).view(repeats, -1).t()
    return accuracy_by_shot(correct, seen, int(seen.max()))


def balanced_shots(dataset: ImageDataset) -> int | None:
    """Images of each class if all have as many."""
    counts = torch.bincount(dataset.targets, minlength=dataset.classes)
    return None if bool((counts != counts[0]).any()) else int(counts[0])


def save_figures(
    folder: Path,
    predictions: Sequence[Prediction],
    dataset: ImageDataset,
    *,
    blind: Sequence[float] | None,
    title: str,
) -> None:
    """Write shots.png, accuracy against shots, and stream.png, the images of the first pass over what was said."""
    accuracy = accuracy_of(predictions)
    curve = (accuracy.mean.tolist(), accuracy.low.tolist(), accuracy.high.tolist())
    shots = shots_figure({"accuracy": curve}, ways=dataset.classes, blind=blind, title=title)
    first = [p for p in predictions if p.repeat == 1]
    strip = stream_figure(
        dataset.images[[p.item for p in first]].numpy(),
        [p.label for p in first],
        [p.predicted for p in first],
        [not p.known for p in first],
        title=title,
    )
    save_figure(shots, folder / "shots.png")
    save_figure(strip, folder / "stream.png")


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """One row per prediction, as CSV, with the column `correct` (0 or 1) at the end."""
    names = [field.name for field in fields(Prediction) if field.name != "item"]
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, [*names, "correct"], extrasaction="ignore")
    writer.writeheader()
    for prediction in predictions:
        row = asdict(prediction)
        row["probability"] = f"{prediction.probability:.4f}"
        row["unknown"] = "" if prediction.unknown is None else f"{prediction.unknown:.4f}"
        writer.writerow(row | {"correct": int(prediction.correct)})
    path.parent.mkdir(parents=True, exist_ok=True)
    # File names need not be text: what is none keeps its bytes.
    write_atomically(path, table.getvalue().encode("utf-8", "surrogateescape"))
