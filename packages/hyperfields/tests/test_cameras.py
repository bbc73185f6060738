"""Cameras: handedness, what appears where, and the words for views."""

from __future__ import annotations

import math

import pytest
import torch

from hyperfields.fields.cameras import (
    RADIUS,
    evaluation_views,
    orbit,
    sample_orbit,
    turntable,
    view_of,
    with_view,
)

AROUND = [orbit(a, e, 32) for a in (0, 37, 90, 180, 271) for e in (-30, 0, 45, 90)]


@pytest.mark.parametrize("camera", AROUND)
def test_rotations_are_right_handed_and_look_at_the_origin(camera) -> None:
    rotation = camera.pose[:3, :3]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3), atol=1e-5, rtol=0)
    assert float(torch.linalg.det(rotation)) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(
        camera.project(torch.zeros(1, 3)), torch.tensor([[16.0, 16.0]]), atol=1e-3, rtol=0
    )
    assert float(camera.pose[:3, 3].norm()) == pytest.approx(RADIUS, rel=1e-5)


@pytest.mark.parametrize(
    ("azimuth", "right"), [(0, (1, 0, 0)), (90, (0, 1, 0)), (180, (-1, 0, 0)), (270, (0, -1, 0))]
)
def test_markers_appear_on_the_side_they_are_on(azimuth: int, right: tuple[int, ...]) -> None:
    camera = orbit(azimuth, 0, 100)
    column, row = camera.project(torch.tensor([right]).float() * 0.5)[0].tolist()
    assert column > 60
    assert row == pytest.approx(50, abs=1e-2)
    _, above = camera.project(torch.tensor([[0.0, 0.0, 0.5]]))[0].tolist()
    assert above < 40


def test_rays_pass_through_the_pixels_they_are_projected_to() -> None:
    camera = orbit(200, 35, 8)
    rays = camera.rays()
    points = rays.origins + 2.5 * rays.directions
    columns = (torch.arange(8) + 0.5).repeat(8)
    rows = (torch.arange(8) + 0.5).repeat_interleave(8)
    torch.testing.assert_close(
        camera.project(points), torch.stack([columns, rows], -1), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(rays.directions.norm(dim=-1), torch.ones(64))
    assert camera.project(camera.pose[None, :3, 3] * 2).isnan().all(), "behind the camera"


def test_sampled_cameras_are_uniform_on_their_band() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [sample_orbit(generator, 4, elevations=(-10.0, 50.0)) for _ in range(600)]
    elevations = torch.tensor([e for _, _, e in drawn])
    assert -10 <= float(elevations.min()) < -7
    assert 47 < float(elevations.max()) <= 50
    heights = (elevations * math.pi / 180).sin()  # uniform in height is uniform in area
    middle = (math.sin(math.radians(-10)) + math.sin(math.radians(50))) / 2
    assert float(heights.mean()) == pytest.approx(middle, abs=0.05)
    assert len({view_of(a, 0) for _, a, _ in drawn}) == 3


def test_views_are_sectors_centred_on_the_axes() -> None:
    named = [view_of(a, 10) for a in (0, 44, 46, 134, 136, 224, 226, 314, 316, 359)]
    assert named == ["front", "front", *["side"] * 2, *["back"] * 2, *["side"] * 2, *["front"] * 2]
    assert view_of(0, 75) == "overhead"
    assert with_view("a red chair", 180, 0) == "a red chair, back view"


def test_turntable_and_evaluation_views_go_all_around() -> None:
    for cameras in (turntable(12, 8), evaluation_views(12, 8)):
        positions = torch.stack([camera.pose[:2, 3] for camera in cameras])
        angles = torch.atan2(positions[:, 0], -positions[:, 1]).rad2deg() % 360
        steps = (angles - angles.roll(1)) % 360
        torch.testing.assert_close(steps, torch.full((12,), 30.0), atol=1e-2, rtol=0)
