"""Teachers as posed images: written and read back, and what is said of folders that are wrong."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hyperfields.config import FieldConfig
from hyperfields.data.posed_renders import read_views
from hyperfields.data.teachers import read_teachers
from hyperfields.data.views import PosedViews, procedural_views
from hyperfields.fields.cameras import Camera, look_at, orbit
from hyperfields.fields.field import Field
from hyperfields.fields.rendering import composite_over
from priors_shared.errors import UserError

CAMERAS = [orbit(azimuth, 20, 12) for azimuth in (0, 90, 200)]
TINY = FieldConfig(
    width=4, levels=1, level_features=2, log2_rows=6, coarsest=2, finest=2, frequencies=0
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    procedural_views(["a red mug"], CAMERAS)["a red mug"].write(tmp_path / "renders")
    return tmp_path / "renders"


def edited(folder: Path, change) -> Path:
    path = folder / "transforms.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    return folder


def test_views_come_back_from_disk(folder: Path) -> None:
    exact = procedural_views(["a red mug"], CAMERAS)["a red mug"]
    views = read_views(folder)
    assert (views.prompt, views.transparent) == ("a red mug", True)
    torch.testing.assert_close(views.images, exact.images, atol=2 / 255, rtol=0)
    for one, other in zip(views.cameras, CAMERAS, strict=True):
        torch.testing.assert_close(one.rays().directions, other.rays().directions)
        torch.testing.assert_close(one.pose, other.pose)


def test_samples_are_rays_of_one_view_with_what_it_shows(folder: Path) -> None:
    views = read_views(folder)
    generator = torch.Generator().manual_seed(0)
    seen_views = set()
    for _ in range(12):
        rays, seen = views.sample(40, generator)
        (view,) = [
            i for i, c in enumerate(views.cameras) if torch.allclose(c.pose[:3, 3], rays.origins[0])
        ]
        seen_views.add(view)
        camera = views.cameras[view]
        column, row = camera.project(rays.origins + rays.directions).floor().long().T
        assert torch.equal(seen, views.images[view][row, column])
    assert seen_views == {0, 1, 2}


def test_a_share_of_the_rays_is_aimed_at_the_object() -> None:
    """Those meet it or pass within two pixels; without transparency there is nothing to aim at."""
    camera = orbit(30, 20, 40)
    (views,) = procedural_views(["a red mug"], [camera]).values()
    alpha = views.images[0, ..., 3]
    near = torch.nn.functional.max_pool2d(alpha[None], 5, 1, 2)[0] > 0
    assert near.float().mean() < 0.6

    def pixels_near(of: PosedViews, share: float) -> torch.Tensor:
        rays, _ = of.sample(400, torch.Generator().manual_seed(0), object_fraction=share)
        points = rays.origins + rays.directions
        column, row = camera.project(points).floor().long().unbind(-1)
        return near[row, column]

    assert pixels_near(views, 0.5)[:200].all()
    assert pixels_near(views, 0.5)[200:].float().mean() < 0.7
    assert torch.equal(pixels_near(replace(views, transparent=False), 0.5), pixels_near(views, 0.0))


def test_procedural_views_are_the_scenes_renders_each_under_its_prompt() -> None:
    from hyperfields.scenes import scene_of

    prompts = ["a red mug", "An Orange Lamp", "a blue mug"]
    views = procedural_views(prompts, CAMERAS[:2], samples=1)
    assert list(views) == ["a red mug", "a orange lamp", "a blue mug"]
    for prompt, held in views.items():
        assert held.prompt == prompt
        for camera, image in zip(held.cameras, held.images, strict=True):
            assert torch.equal(image, scene_of(prompt).render(camera))


def test_other_systems_conventions_are_understood(tmp_path: Path) -> None:
    """Blender's: no suffix, camera_angle_x; no alpha; poses of a scene twice as large; named by folder."""
    root = tmp_path / "a-plaid_toaster"
    root.mkdir()
    Image.new("RGB", (8, 6), (255, 0, 51)).save(root / "r_0.png")
    pose = look_at(torch.tensor([0.0, -6.0, 0.0])).tolist()
    frame = {"file_path": "./r_0", "transform_matrix": pose}
    (root / "transforms.json").write_text(json.dumps({"camera_angle_x": 0.8, "frames": [frame]}))
    views = read_views(root, pose_scale=0.5)
    assert (views.prompt, views.transparent) == ("a plaid toaster", False)
    camera = views.cameras[0]
    assert camera.pose[:3, 3].tolist() == pytest.approx([0, -3, 0])
    angles = camera.rays().directions[[0, 7]] @ torch.tensor([1.0, 0, 0])
    assert float(angles[0]) == pytest.approx(-float(angles[1]))
    edge = camera.project(torch.tensor([[2.6 * 0.42279 + 0, -0.4, 0.0]]))  # tan(0.4) = 0.42279
    assert float(edge[0, 0]) == pytest.approx(8, abs=0.01)
    torch.testing.assert_close(composite_over(views.images)[0, 0, 0], torch.tensor([1.0, 0.0, 0.2]))


def test_teachers_are_found_by_prompt_whatever_they_are(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "teachers"
    shutil.copytree(folder, root / "zzz")
    Field(TINY, prompt="a blue lamp").save(root / "trained" / "model")
    Field(TINY, prompt="a green lamp").save(root / "plain")
    teachers = read_teachers(root, CAMERAS)
    assert set(teachers) == {"a red mug", "a blue lamp", "a green lamp"}
    expected = Field.load(root / "plain").render(CAMERAS[1])
    torch.testing.assert_close(teachers["a green lamp"].images[1], expected)
    assert set(read_teachers(root / "zzz", CAMERAS)) == {"a red mug"}
    shutil.copytree(folder, root / "again")
    with pytest.raises(UserError, match="second teacher of 'a red mug'"):
        read_teachers(root, CAMERAS)


def test_folders_that_are_wrong_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    def refuse(change, message: str) -> None:
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        with pytest.raises(UserError, match=message):
            read_views(edited(copy, change))

    refuse(lambda r: r["frames"][1].pop("transform_matrix"), "frame 1 has no transform_matrix")
    refuse(lambda r: r["frames"][2].update(transform_matrix=[[1, 2]]), "frame 2: .* is no pose")
    refuse(
        lambda r: r["frames"][0]["transform_matrix"][0].__setitem__(0, "x"), "no matrix of numbers"
    )

    def mirror(record) -> None:
        for row in record["frames"][0]["transform_matrix"]:
            row[0] *= -1

    refuse(mirror, r"determinant \+1")
    refuse(lambda r: r["frames"][0].update(file_path="gone.png"), "gone.png cannot be read")
    refuse(lambda r: r.update(frames=[]), "has no frames")
    refuse(lambda r: r.pop("fl_x"), "no focal length")
    Image.new("RGBA", (5, 5)).save(folder / "images" / "0002.png")
    with pytest.raises(UserError, match="frame 2 is 5 x 5 pixels, the first is 12 x 12"):
        read_views(folder)
    (folder / "transforms.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        read_views(folder)
    (tmp_path / "empty" / "nothing").mkdir(parents=True)
    with pytest.raises(UserError, match="neither posed renders"):
        read_teachers(tmp_path / "empty", CAMERAS)
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="holds no teacher"):
        read_teachers(tmp_path / "bare", CAMERAS)
    with pytest.raises(UserError, match="no such folder"):
        read_teachers(tmp_path / "missing", CAMERAS)


def test_transparent_pixels_stay_transparent(tmp_path: Path) -> None:
    image = torch.zeros(1, 2, 2, 4)
    image[0, 0, 0] = torch.tensor([0.5, 0.25, 0.0, 0.5])  # premultiplied
    camera = Camera(look_at(torch.tensor([0.0, -3, 0])), (2.0, 2.0), (1.0, 1.0), 2, 2)
    PosedViews("x", [camera], image).write(tmp_path / "x")
    torch.testing.assert_close(read_views(tmp_path / "x").images, image, atol=2 / 255, rtol=0)


def one_frame(folder: Path, image: Path | None = None, **record: object) -> Path:
    folder.mkdir(exist_ok=True)
    if image is None:
        image = folder / "image.png"
        Image.new("RGB", (4, 4)).save(image)
    pose = look_at(torch.tensor([0.0, -3, 0])).tolist()
    frame = {"file_path": image.name, "transform_matrix": pose}
    text = json.dumps({"camera_angle_x": 0.8, "frames": [frame]} | record)
    (folder / "transforms.json").write_text(text)
    return folder


def test_grey_of_16_bits_and_of_floats_is_read_right(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    sixteen, floats = tmp_path / "grey.png", tmp_path / "grey.tiff"
    Image.fromarray((values * 65535).round().astype(np.uint16)).save(sixteen)
    Image.fromarray(values).save(floats)
    for image in (sixteen, floats):
        views = read_views(one_frame(tmp_path, image))
        for channel in range(3):
            torch.testing.assert_close(
                views.images[0, ..., channel], torch.from_numpy(values), atol=1e-4, rtol=0
            )
    Image.fromarray(values * 3).save(floats)
    with pytest.raises(UserError, match=r"grey.tiff cannot be read .*outside of \[0, 1\]"):
        read_views(one_frame(tmp_path, floats))


def test_images_that_unpack_to_gigabytes_or_stop_short_are_one_line(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.png"
    Image.new("1", (20000, 20000)).save(bomb)
    assert bomb.stat().st_size < 1e6
    with pytest.raises(UserError, match=r"bomb"):
        read_views(one_frame(tmp_path, bomb))
    whole = tmp_path / "whole.png"
    Image.effect_noise((16, 16), 20).save(whole)
    content = whole.read_bytes()
    for length in (0, 7, 12, 20, 30, len(content) // 2):
        whole.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"whole\.png cannot be read as an image"):
            read_views(one_frame(tmp_path, whole))


def test_json_that_is_deep_or_has_huge_numbers_is_one_line(tmp_path: Path) -> None:
    folder = one_frame(tmp_path)
    (folder / "transforms.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="cannot be read as JSON"):
        read_views(folder)
    deep: list = []
    for _ in range(500):
        deep = [deep]
    huge = 10**400
    for wrong in (
        {"camera_angle_x": huge},
        {"camera_angle_x": 0},
        {"fl_x": huge},
        {"fl_x": "NaN"},
        {"fl_x": -50},
        {"fl_x": 5, "w": 0},
        {"fl_x": 5, "h": [3]},
        {"frames": [3]},
        {"frames": [{"file_path": "image.png", "transform_matrix": deep}]},
        {"frames": [{"file_path": "image.png", "transform_matrix": [[huge] * 4] * 4}]},
        {"frames": [{"file_path": 3, "transform_matrix": torch.eye(4).tolist()}]},
    ):
        with pytest.raises(UserError) as error:
            read_views(one_frame(tmp_path, **wrong))
        assert "\n" not in str(error.value), wrong
