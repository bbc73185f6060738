"""`hyperfields view`: scenes in the browser."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated

from hyperfields.cli.options import Model, Resolution, Text
from hyperfields.cli.scenes import load_model, require
from priors_shared.cli import Device
from priors_shared.errors import UserError
from priors_shared.options import described, say


@dataclass(frozen=True, kw_only=True)
class View:
    """A viewer in the browser, on this machine: type a prompt, orbit the scene, morph it into another."""

    model: Model
    prompt: Annotated[str | None, described("PROMPT", "(default: the first trained)")] = None
    """prompt of the first scene"""
    text: Text = None
    host: str = "127.0.0.1"
    """address to listen on; the default is reached from this machine only"""
    port: int = 8080
    """port to listen on"""
    resolution: Resolution = 64
    device: Device = "cpu"

    def __post_init__(self) -> None:
        require("from 2 to 4096", 2, 4096, resolution=self.resolution)
        require("from 1 to 65535", 1, 65535, port=self.port)

    def run(self) -> None:
        """Serve until interrupted."""
        if find_spec("viser") is None:
            raise UserError("view needs viser: pip install 'hyperfields[view]'")
        from hyperfields.viewer import Viewer

        model = load_model(self.model, self.device, self.text)
        first = self.prompt if self.prompt is not None else next(iter(model.prompts), "a chair")
        viewer = Viewer(model, first, host=self.host, port=self.port, resolution=self.resolution)
        say(f"open      {viewer.url}  (stop with Ctrl-C)")
        try:
            viewer.wait()
        except KeyboardInterrupt:
            viewer.stop()
