"""Meshes, videos and images: geometry, colours and orientation of what is written."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from hyperfields.fields.cameras import orbit
from hyperfields.fields.rendering import render_image
from hyperfields.fields.surface import to_mesh
from hyperfields.output.mesh import write_mesh
from hyperfields.output.sheet import contact_sheet
from hyperfields.output.video import write_turntable
from priors_shared.errors import UserError


def ball(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A ball of radius 0.4 around (0.3, 0, 0.2): red where x is large, blue where z is."""
    centre = torch.tensor([0.3, 0.0, 0.2])
    density = torch.exp(12 * (0.4 - (points - centre).norm(dim=-1)) + 2.302585)  # 10 at the surface
    colour = torch.stack([points[:, 0], 0 * points[:, 0], points[:, 2]], -1) * 0.5 + 0.5
    return density, colour.clamp(0, 1)


def test_the_mesh_is_the_surface_with_its_colours_and_faces_outward() -> None:
    mesh = to_mesh(ball, resolution=40, threshold=10)
    centre = np.array([0.3, 0, 0.2])
    distance = np.linalg.norm(mesh.vertices - centre, axis=1)
    assert np.abs(distance - 0.4).max() < 0.01
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=0.03)  # positive: outward
    expected = ball(torch.from_numpy(mesh.vertices).float())[1].numpy() * 255
    assert np.abs(mesh.visual.vertex_colors[:, :3] - expected).max() < 1.5


def test_a_mesh_that_reaches_the_box_is_closed_there() -> None:
    def full(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return points.new_full((len(points),), 100.0), points.new_ones(len(points), 3)

    mesh = to_mesh(full, resolution=8)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(8, rel=0.25)


@pytest.mark.parametrize("suffix", [".glb", ".ply", ".obj"])
def test_files_open_with_colours_and_orientation(suffix: str, tmp_path: Path) -> None:
    mesh = to_mesh(ball, resolution=24)
    write_mesh(mesh, tmp_path / "out" / f"ball{suffix}")
    loaded = trimesh.load(tmp_path / "out" / f"ball{suffix}", force="mesh")
    # glTF is y-up, its front at +z: what was up (0.2) is y, what was the front (-y) is +z.
    centre = [0.3, 0.2, 0.0] if suffix == ".glb" else [0.3, 0.0, 0.2]
    assert loaded.bounds.mean(0) == pytest.approx(centre, abs=0.02)
    up = loaded.vertices[:, 1 if suffix == ".glb" else 2]
    colours = loaded.visual.vertex_colors
    assert colours[up.argmax(), 2] > colours[up.argmin(), 2] + 60, "bluer at the top"
    right = loaded.vertices[:, 0]
    assert colours[right.argmax(), 0] > colours[right.argmin(), 0] + 60, "redder at the right"
    assert loaded.volume > 0, "not mirrored"


def test_mesh_and_render_agree() -> None:
    def sharp(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        density, colour = ball(points)
        return density**5 / 1e4, colour  # still 10 at the surface

    camera = orbit(35, 25, 24)
    mesh = to_mesh(sharp, resolution=48)
    seen = camera.project(torch.from_numpy(mesh.vertices).float())
    opaque = (render_image(sharp, camera, 128)[..., 3] > 0.5).nonzero().float() + 0.5
    for axis in (0, 1):
        low, high = seen[:, axis].min(), seen[:, axis].max()
        assert float(opaque[:, 1 - axis].min()) == pytest.approx(float(low), abs=1)
        assert float(opaque[:, 1 - axis].max()) == pytest.approx(float(high), abs=1)


def test_nothing_dense_and_unknown_formats_are_said(tmp_path: Path) -> None:
    def empty(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return points.new_zeros(len(points)), points.new_zeros(len(points), 3)

    with pytest.raises(UserError, match="no surface to mesh"):
        to_mesh(empty, resolution=8)
    with pytest.raises(UserError, match=r"unknown mesh format: use one of .glb, .ply, .obj"):
        write_mesh(to_mesh(ball, resolution=8), tmp_path / "a.stl")
    with pytest.raises(UserError, match="unknown video format"):
        write_turntable(ball, tmp_path / "a.avi")


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_turntables_turn(suffix: str, tmp_path: Path) -> None:
    path = write_turntable(ball, tmp_path / f"a{suffix}", size=32, frames=4, samples=16)
    frames = iio.imread(path)
    assert frames.shape == (4, 32, 32, 3)
    dark = [(frame.astype(float).sum(-1) < 600).nonzero()[1].mean() for frame in frames]
    assert dark[0] > 17, "from the front, +x is on the right"
    assert dark[2] < 15, "from behind, on the left"


def test_without_ffmpeg_a_gif_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperfields.output.video._has_ffmpeg", lambda: False)
    path = write_turntable(ball, tmp_path / "a.mp4", size=8, frames=2, samples=4)
    assert path == tmp_path / "a.gif"
    assert path.read_bytes()[:3] == b"GIF"


def test_contact_sheets_hold_every_view_in_its_place(tmp_path: Path) -> None:
    shades = torch.linspace(0, 1, 6)
    views = [[torch.full((20, 20, 3), float(s)) for s in row] for row in shades.view(2, 3)]
    contact_sheet(views, ["one", "two"], tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        sheet = np.asarray(image)
    assert sheet.shape == (2 * 34, 60, 3)
    centres = sheet[[24, 58]][:, [10, 30, 50], 0].flatten() / 255
    assert centres == pytest.approx(shades.numpy(), abs=1 / 255)
