"""The shipped weights: what was held out stayed out, and held-out scenes look as asked for."""

from __future__ import annotations

import pytest

from hyperfields.config import SHIPPED, SHIPPED_SEGMENTATION
from hyperfields.data.views import procedural_views
from hyperfields.evaluation import score_scenes
from hyperfields.fields.cameras import evaluation_views
from hyperfields.guidance.procedural import draw, load_procedural
from hyperfields.presets import HELD_OUT, TRAINED
from hyperfields.pretrained import HyperFields
from hyperfields.segmentation.evaluation import score_field
from hyperfields.segmentation.pretrained import HyperSegmentationFields
from hyperfields.segmentation.scenes import labelled_scenes


@pytest.fixture(scope="module")
def model() -> HyperFields:
    return HyperFields.from_pretrained("procedural-cpu")


def test_trained_and_held_out_scenes_are_the_presets(model: HyperFields) -> None:
    assert set(model.prompts) == set(TRAINED)
    assert set(model.trained["held_out"]) == set(HELD_OUT)


def test_they_are_small() -> None:
    sizes = {}
    for name in ("procedural-cpu", "procedural-unet", "segmentation-cpu"):
        files = list((SHIPPED / name).iterdir())
        assert {p.name for p in files} == {"README.md", "config.json", "model.safetensors"}
        sizes[name] = sum(p.stat().st_size for p in files)
    assert sizes["procedural-cpu"] + sizes["procedural-unet"] < 20e6
    assert sizes["segmentation-cpu"] < 6e6


def test_parts_of_a_novel_object_are_found_from_four_views() -> None:
    model = HyperSegmentationFields.from_pretrained(SHIPPED_SEGMENTATION)
    for scene in labelled_scenes(2, 6, 32, seed=7, novel=True):
        field = model.generate(scene.images[:4], scene.cameras[:4])
        found = score_field(field, scene, [4, 5], samples=32)
        assert found["miou_3d"] > 0.7, (scene.scene.prompt, found)
        assert found["miou_2d"] > 0.4, (scene.scene.prompt, found)


def test_the_guidance_draws_the_colour_asked_for_where_an_object_is() -> None:
    pytest.importorskip("diffusers")
    guidance = load_procedural("procedural-unet")
    assert set(guidance.trained["prompts"]) == set(TRAINED)
    names = ("red", "green", "blue")
    images = draw(guidance, [f"a {name} mug" for name in names], seed=0, steps=12)
    for channel, image in enumerate(images):
        whole = image.flatten(1)
        object_ = whole[:, (whole.min(0).values < 0.5)]
        assert 0.03 < object_.shape[1] / whole.shape[1] < 0.6
        assert int(object_.mean(1).argmax()) == channel


def test_held_out_scenes_have_colour_and_shape_asked_for(model: HyperFields) -> None:
    chosen = ["a red chair", "a blue bowl", "a purple stool"]
    assert set(chosen) <= set(HELD_OUT)
    cameras = evaluation_views(1, 16)
    others = [p for p in (*TRAINED, *HELD_OUT) if p.split()[2] in ("chair", "bowl", "stool")]
    references = procedural_views(others, cameras)
    fields = dict(zip(chosen, model.generate_all(chosen), strict=True))
    for score in score_scenes(fields, cameras, references, samples=48):
        assert score.attribute_right, score
        assert score.shape_right, score
        assert score.psnr > 18, score
        assert score.iou > 0.7, score


def test_words_it_never_saw_are_named(model: HyperFields) -> None:
    assert model.unknown_words("a red chair") == []
    assert model.unknown_words("a golden toaster") == ["golden", "toaster"]
