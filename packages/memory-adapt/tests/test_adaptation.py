"""A user's folder as a stream: order, shots, what is skipped and what is refused."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from memory_adapt import OnlineLearner
from memory_adapt.adaptation import (
    accuracy_of,
    adapt,
    balanced_shots,
    write_predictions,
)
from memory_adapt.config import OPNConfig
from memory_adapt.data.folders import describe_conversions, load_stream_folder
from memory_adapt.models.registry import build_model
from priors_shared.datasets import ImageDataset
from priors_shared.errors import UserError

CONFIG = OPNConfig(ways=3, image_size=16, width=4)
NAMES = ("ant", "bee", "cat")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes, 2, 3 and 4 images: a bright square in a corner of its own, on black."""
    for target, name in enumerate(NAMES):
        (tmp_path / name).mkdir()
        for i in range(2 + target):
            pixels = np.zeros((16, 16), np.uint8)
            top, left = divmod(target, 2)
            pixels[8 * top + 1 : 8 * top + 6, 8 * left + 1 : 8 * left + 6] = 250 - i
            Image.fromarray(pixels).save(tmp_path / name / f"{i}-{name}.png")
    return tmp_path


@pytest.fixture(scope="module")
def learner() -> OnlineLearner:
    torch.manual_seed(0)
    return OnlineLearner(build_model(CONFIG))


def test_every_image_is_predicted_once_a_repeat(learner: OnlineLearner, folder: Path) -> None:
    dataset = load_stream_folder(folder, CONFIG)
    predictions = list(adapt(learner, dataset, repeats=2))
    assert Counter(p.file for p in predictions) == dict.fromkeys(dataset.paths, 2)
    for repeat in (1, 2):
        seen: Counter[str] = Counter()
        for p in (p for p in predictions if p.repeat == repeat):
            assert Path(p.file).parent.name == p.label
            assert p.seen == p.known == seen[p.label]
            seen[p.label] += 1
    orders = [[p.file for p in predictions if p.repeat == r] for r in (1, 2)]
    assert orders[0] != orders[1]


def test_prototypes_of_distinct_images_adapt(learner: OnlineLearner, folder: Path) -> None:
    predictions = list(adapt(learner, load_stream_folder(folder, CONFIG), repeats=4))
    assert all(p.correct for p in predictions if p.known)
    assert not all(p.correct for p in predictions)  # the first view of a class is a guess
    accuracy = accuracy_of(predictions)
    assert accuracy.mean[1:].tolist() == [1.0, 1.0, 1.0]
    assert accuracy.views.tolist() == [12, 12, 8, 4]


def test_sorted_order_is_that_of_the_file_names(learner: OnlineLearner, folder: Path) -> None:
    steps = adapt(learner, load_stream_folder(folder, CONFIG), order="sorted")
    names = [Path(p.file).name for p in steps]
    assert names == sorted(names)
    assert names[:3] == ["0-ant.png", "0-bee.png", "0-cat.png"]


def test_late_labels_are_known_late(folder: Path) -> None:
    late = OnlineLearner(build_model(CONFIG, delay=3))
    predictions = list(adapt(late, load_stream_folder(folder, CONFIG), delay=3))
    for p in predictions:
        arrived = predictions[: max(p.step - 3, 0)]
        assert p.known == sum(q.label == p.label for q in arrived)


def test_shots_and_classes_choose(folder: Path) -> None:
    dataset = load_stream_folder(folder, CONFIG, classes=["cat", "bee"], shots=3)
    assert dataset.class_names == ("cat", "bee")
    assert torch.bincount(dataset.targets).tolist() == [3, 3]
    assert [Path(p).parent.name for p in dataset.paths] == ["cat"] * 3 + ["bee"] * 3
    assert balanced_shots(dataset) == 3
    assert balanced_shots(load_stream_folder(folder, CONFIG)) is None


def test_the_seed_draws_the_shots(folder: Path) -> None:
    chosen = [
        load_stream_folder(folder, CONFIG, classes=["cat", "bee"], shots=1, seed=s).paths
        for s in (*range(20), 0)
    ]
    assert chosen[0] == chosen[-1]
    for place, images in ((0, 4), (1, 3)):  # every image has its turn: not the first by name
        assert len({paths[place] for paths in chosen}) == images


def test_unreadable_image_is_listed_and_the_rest_goes_on(folder: Path) -> None:
    (folder / "ant" / "broken.png").write_bytes(b"not an image")
    dataset = load_stream_folder(folder, CONFIG)
    assert [Path(path).name for path, _ in dataset.skipped] == ["broken.png"]
    assert len(dataset) == 9


def test_conversions_are_told(folder: Path) -> None:
    assert describe_conversions(load_stream_folder(folder, CONFIG), CONFIG) is None
    Image.new("RGB", (40, 20), "white").save(folder / "bee" / "wide.png")
    dataset = load_stream_folder(folder, CONFIG)
    assert describe_conversions(dataset, CONFIG) == (
        "1 of 10 images resized to 16 x 16, 1 converted to grey"
    )
    colour = OPNConfig(ways=3, image_channels=3, image_size=16, width=4)
    dataset = load_stream_folder(folder, colour)
    assert dataset.image_shape == (3, 16, 16)
    assert "9 converted to RGB" in str(describe_conversions(dataset, colour))


@pytest.mark.parametrize("dark_ink", [True, False])
def test_ink_is_bright_whatever_the_polarity(folder: Path, dark_ink: bool) -> None:
    if dark_ink:
        for path in folder.rglob("*.png"):
            with Image.open(path) as image:
                inverted = 255 - np.asarray(image)
            Image.fromarray(inverted).save(path)
    images = load_stream_folder(folder, CONFIG).images
    assert int(images[:, :, 0, 0].max()) < 10
    assert int(images.amax((1, 2, 3)).min()) > 240


def add_class(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    Image.new("L", (16, 16)).save(folder / name / "0.png")


def load(folder: Path, **options: object) -> ImageDataset:
    return load_stream_folder(folder, CONFIG, **options)  # type: ignore[arg-type]


def test_more_classes_than_slots_ask_for_a_choice(folder: Path) -> None:
    add_class(folder, "dog")
    with pytest.raises(
        UserError, match=r"4 classes.*3 label slots.*choose up to 3 classes .*ant, bee, cat, dog"
    ):
        load(folder)
    assert load(folder, classes=["dog", "ant"]).classes == 2


def test_class_without_an_image_is_named(folder: Path) -> None:
    (folder / "dog").mkdir()
    with pytest.raises(UserError, match="dog has no images"):
        load(folder)
    assert load(folder, classes=NAMES).classes == 3
    with pytest.raises(UserError, match="dog has no images"):
        load(folder, classes=["ant", "dog"])


def test_bad_choices_are_named(folder: Path) -> None:
    with pytest.raises(UserError, match=r"classes cow: .* has ant, bee, cat"):
        load(folder, classes=["ant", "cow"])
    with pytest.raises(UserError, match="at least two classes"):
        load(folder, classes=["ant"])
    with pytest.raises(UserError, match=r"'ant' .* 2 images, fewer than the 3 per class"):
        load(folder, shots=3)
    with pytest.raises(UserError, match="does not exist"):
        load(folder / "nowhere")


def test_predictions_are_written_as_csv(
    learner: OnlineLearner, folder: Path, tmp_path: Path
) -> None:
    predictions = list(adapt(learner, load_stream_folder(folder, CONFIG)))
    write_predictions(tmp_path / "new" / "predictions.csv", predictions)
    with open(tmp_path / "new" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["predicted"] for row in rows] == [p.predicted for p in predictions]
    assert [row["correct"] == "1" for row in rows] == [p.correct for p in predictions]
