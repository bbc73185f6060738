"""The interface of River: its own checks of an estimator, and a stream of images."""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from memory_adapt import OnlineLearner
from memory_adapt.config import OPNConfig
from memory_adapt.models.registry import build_model
from priors_shared.errors import UserError

river = pytest.importorskip("river")
checks = pytest.importorskip("river.checks")

from memory_adapt.river import RiverClassifier  # noqa: E402

Sample = tuple[dict[str, Any], Any]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("opn")
    OnlineLearner(build_model(OPNConfig(ways=2, image_size=16, width=4))).save_pretrained(folder)
    return str(folder)


def samples(labels: list[Any], length: int, seed: int = 0) -> list[Sample]:
    """A square in a corner for each class, in noise."""
    generator = np.random.default_rng(seed)
    stream = []
    for place in generator.integers(len(labels), size=length).tolist():
        pixels = generator.integers(0, 30, (16, 16)).astype(np.uint8)
        top, left = divmod(place, 2)
        pixels[8 * top + 1 : 8 * top + 7, 8 * left + 1 : 8 * left + 7] += 180
        stream.append(({"image": Image.fromarray(pixels)}, labels[place]))
    return stream


def test_rivers_own_checks_hold(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On streams of images in place of River's tables."""

    def datasets(model: object, scale: int = 1) -> Iterator[list[Sample]]:
        for labels in ([False, True], [np.bool_(False), np.bool_(True)], ["a", "b", "c", "d"]):
            yield samples(labels, 12 * scale)

    monkeypatch.setattr(checks, "_yield_datasets", datasets)
    model = RiverClassifier(checkpoint)
    ran = []
    for check in checks.yield_checks(model):
        if check.__name__ not in model._unit_test_skips():
            check(model.clone())
            ran.append(check.__name__)
    assert {"check_learn_one", "check_pickling", "check_predict_proba_one"} <= set(ran)
    assert len(set(ran)) > 20


def test_a_stream_is_learned(checkpoint: str) -> None:
    from river import evaluate, metrics

    score = evaluate.progressive_val_score(
        samples(["a", "b", "c", "d"], 60), RiverClassifier(checkpoint), metrics.Accuracy()
    )
    assert score.get() > 0.8


def test_a_pickled_model_goes_on_where_it_was(checkpoint: str) -> None:
    stream = samples(["a", "b", "c"], 20)
    model = RiverClassifier(checkpoint)
    for x, y in stream[:10]:
        model.learn_one(x, y)
    again = pickle.loads(pickle.dumps(model))
    assert len(pickle.dumps(model)) < 20_000  # its memory, not the network
    for x, y in stream[10:]:
        assert again.predict_proba_one(x) == model.predict_proba_one(x)
        again.learn_one(x, y)
        model.learn_one(x, y)


def test_files_images_and_arrays_are_alike(checkpoint: str, tmp_path: Path) -> None:
    stream = samples(["a", "b"], 6)
    model = RiverClassifier(checkpoint, image="photo")
    for x, y in stream:
        model.learn_one({"photo": x["image"]}, y)
    image = stream[0][0]["image"]
    image.save(tmp_path / "one.png")
    array = np.asarray(image, dtype=np.float32)[None] / 255
    forms = [model.predict_proba_one({"photo": f}) for f in (image, tmp_path / "one.png", array)]
    for form in forms[1:]:
        assert form == pytest.approx(forms[0], abs=1e-6)
    with pytest.raises(UserError, match="no feature 'photo'"):
        model.predict_one({"image": image})
    with pytest.raises(UserError, match="does not exist"):
        model.predict_one({"photo": "gone.png"})


def test_without_river_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "river", None)
    monkeypatch.delitem(sys.modules, "memory_adapt.river")
    with pytest.raises(UserError, match=r"pip install 'memory-adapt\[river\]'"):
        importlib.import_module("memory_adapt.river")
