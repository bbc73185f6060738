"""The viewer: what its controls draw, and where it listens."""

from __future__ import annotations

import io
import socket
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from hyperfields.cli import main
from hyperfields.pretrained import HyperFields
from priors_shared.errors import UserError


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., HyperFields]) -> HyperFields:
    return tiny_model("a blue chair", "a red mug")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def viewer(model: HyperFields) -> Iterator:
    pytest.importorskip("viser")
    from hyperfields.viewer import Viewer

    viewer = Viewer(model, "a blue chair", port=free_port(), resolution=12)
    yield viewer
    viewer.stop()


def drawn(viewer) -> np.ndarray:
    """Vertices of the mesh that browsers are given."""
    glb = viewer._server.scene.get_handle_by_name("/scene").glb_data
    loaded = trimesh.load(io.BytesIO(glb), file_type="glb", force="mesh")
    return np.asarray(loaded.vertices)


def test_interpolation_ends_at_the_two_scenes_and_moves_between_them(model: HyperFields) -> None:
    points = torch.rand(40, 3) - 0.5
    one, other = model.generate_all(["a blue chair", "a red mug"])
    ends = [model.interpolate("a blue chair", "a red mug", s) for s in (0, 1)]
    for end, scene in zip(ends, (one, other), strict=True):
        torch.testing.assert_close(end(points), scene(points))
    middle = model.interpolate("a blue chair", "a red mug", 0.5)
    assert middle.prompt == "50% a blue chair, 50% a red mug"
    assert not torch.allclose(middle(points)[1], one(points)[1])
    assert not torch.allclose(middle(points)[1], other(points)[1])


def test_controls_draw_the_scenes_they_name(viewer, model: HyperFields) -> None:
    def expected(prompt: str) -> np.ndarray:
        return np.asarray(model.generate(prompt).to_mesh(12).vertices)

    np.testing.assert_allclose(drawn(viewer), expected("a blue chair"), atol=1e-5)
    viewer.second.value = "a red mug"
    viewer.share.value = 1.0
    viewer.show()
    np.testing.assert_allclose(drawn(viewer), expected("a red mug"), atol=1e-5)
    assert "Out of distribution" not in viewer.status.content
    viewer.prompt.value, viewer.second.value = "a golden chair", ""
    viewer.show()
    assert "no training prompt has golden" in viewer.status.content
    viewer.prompt.value = "  "
    viewer.show()
    assert "empty" in viewer.status.content


def test_it_serves_on_loopback_only_and_refuses_a_taken_port(viewer, model: HyperFields) -> None:
    with urllib.request.urlopen(viewer.url) as page:
        assert page.status == 200
    port = int(viewer.url.rsplit(":", 1)[1])
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    own = [row[1] for row in listening if row[3] == "0A" and row[1].endswith(f":{port:04X}")]
    assert own == [f"0100007F:{port:04X}"]
    from hyperfields.viewer import Viewer

    with pytest.raises(UserError, match=f"port {port} .*: choose another --port"):
        Viewer(model, "a blue chair", port=port)


def test_view_refuses_what_it_cannot_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(["view", "nothing", *arguments])
        assert stop.value.code == 2
        return capsys.readouterr().err

    assert "--port 0: give a number from 1 to 65535" in refused("--port", "0")
    assert "--resolution 1: give a number from 2 to 4096" in refused("--resolution", "1")
    monkeypatch.setattr("hyperfields.cli.view.find_spec", lambda name: None)
    assert "pip install 'hyperfields[view]'" in refused()
