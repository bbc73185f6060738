"""What generated scenes are scored against, and how."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from hyperfields.config import FieldConfig
from hyperfields.data.views import procedural_views
from hyperfields.evaluation import (
    exact_views,
    means,
    psnr,
    score_scenes,
    silhouette_iou,
)
from hyperfields.fields.cameras import Camera, evaluation_views
from hyperfields.fields.field import Field

PROMPTS = ("a red chair", "a blue plate", "a mint lamp")


class Shown(Field):
    """Shows images whatever is asked for."""

    def __init__(self, images: torch.Tensor) -> None:
        super().__init__(FieldConfig(levels=1, log2_rows=4, coarsest=2, finest=2, width=4))
        self.images = images

    def render_all(self, cameras: Sequence[Camera], samples: int = 96) -> torch.Tensor:
        return self.images


def test_the_same_scene_finely_rendered_is_all_but_perfect() -> None:
    cameras = evaluation_views(3, 32)
    references = exact_views(PROMPTS, cameras)
    fine = procedural_views(PROMPTS, cameras, samples=9)
    fields = {prompt: Shown(views.images) for prompt, views in fine.items()}
    found = means(score_scenes(fields, cameras, references))
    assert found["iou"] > 0.98
    assert found["psnr"] > 37
    assert found["colour_accuracy"] == found["shape_accuracy"] == 1


def test_scores_by_hand() -> None:
    image = torch.zeros(2, 2, 4)
    image[0, :, 3] = 1
    other = image.clone()
    other[0, 0, 3], other[1, 0, 3] = 0.2, 0.9
    assert silhouette_iou(image, other) == pytest.approx(1 / 3)
    assert silhouette_iou(0 * image, 0 * image) == 1
    assert psnr(image + 0.1, image) == pytest.approx(20)


def test_a_scene_in_the_wrong_colour_is_told_from_one_in_the_wrong_shape() -> None:
    cameras = evaluation_views(2, 16)
    references = exact_views(("a red chair", "a blue chair", "a red plate"), cameras)
    shown = {"a red chair": Shown(references["a blue chair"].images)}
    (score,) = score_scenes(shown, cameras, references)
    assert (score.nearest, score.attribute_right, score.shape_right) == (
        "a blue chair",
        False,
        True,
    )
    shown = {"a red chair": Shown(references["a red plate"].images)}
    (score,) = score_scenes(shown, cameras, references)
    assert (score.attribute_right, score.shape_right) == (True, False)
