"""A viewer in the browser: type a prompt, orbit the scene, morph it into another.

Listens on loopback unless told otherwise. The browser draws meshes, so that orbiting needs no server.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import numpy as np
import viser

from hyperfields.pretrained import HyperFields
from priors_shared.errors import UserError

_EYE = (0.6, -2.8, 1.3)
"""Where the camera begins: before the scene's front, which looks along -y."""


class Viewer:
    """A running server.

    Example:
        viewer = Viewer(model, "a red chair")
        print(viewer.url)
        viewer.wait()
    """

    def __init__(
        self,
        model: HyperFields,
        prompt: str,
        *,
        host: str = "127.0.0.1",
        port: int = 8080,
        resolution: int = 64,
    ) -> None:
        """Begin to serve.

        Args:
            model: what generates.
            prompt: of the first scene.
            host: address to listen on.
            port: to listen on.
            resolution: points along an edge of the grid that meshes are made on.

        Raises:
            UserError: the port is taken, or the address not this machine's.
        """
        _check_free(host, port)
        self.model, self.resolution = model, resolution
        self._lock = threading.Lock()  # each callback runs in a thread of its own
        self._server = server = viser.ViserServer(host, port, label="hyperfields", verbose=False)
        self.url = f"http://{'localhost' if host == '127.0.0.1' else host}:{server.get_port()}"
        server.scene.set_up_direction("+z")
        server.initial_camera.position = _EYE
        server.initial_camera.look_at = (0.0, 0.0, 0.0)
        self.prompt = server.gui.add_text("Prompt", prompt, hint="such as: a red chair")
        self.second = server.gui.add_text("Second prompt", "", hint="to morph into; may be empty")
        self.share = server.gui.add_slider("Share of the second", 0.0, 1.0, 0.05, 0.0)
        self.generate = server.gui.add_button("Generate")
        self.status = server.gui.add_markdown("")
        self._drawn: tuple[str, str, float] | None = None
        # Not of the prompts: they change with every letter that is typed.
        self.generate.on_click(lambda _: self.show())
        self.share.on_update(lambda _: self.show())
        self.show()

    def show(self) -> None:
        """Generate what the controls say, and draw it."""
        with self._lock:
            one, other = self.prompt.value.strip(), self.second.value.strip()
            wanted = one, other, float(self.share.value)
            if wanted == self._drawn:  # what queued behind another call is done
                return
            self._drawn = wanted
            began = time.perf_counter()
            try:
                field = (
                    self.model.interpolate(one, other, self.share.value)
                    if other
                    else self.model.generate(one)
                )
                generated = time.perf_counter()
                mesh = field.to_mesh(self.resolution)
            except UserError as error:
                self.status.content = f"**{error}**"
                return
            # Browsers take colours at vertices for linear light, and shade smoothly where there are normals.
            shown: Any = mesh.visual
            colours = shown.vertex_colors
            linear = 255 * (colours[:, :3] / 255.0) ** 2.2
            shown.vertex_colors = np.concatenate(
                [linear.round().astype(np.uint8), colours[:, 3:]], 1
            )
            mesh.vertex_normals  # noqa: B018  computed here, they are written with the mesh
            self._server.scene.add_mesh_trimesh("/scene", mesh)
            lines = [
                f"weights in {1000 * (generated - began):.0f} ms, mesh in "
                f"{time.perf_counter() - generated:.1f} s: {len(mesh.faces):,} faces"
            ]
            words = [w for p in (one, other) if p for w in self.model.unknown_words(p)]
            if words:
                lines.append(
                    f"**Out of distribution:** no training prompt has {' or '.join(words)}; this is the "
                    "nearest scene."
                )
            self.status.content = "\n\n".join(lines)

    def wait(self) -> None:
        """Serve until interrupted."""
        self._server.sleep_forever()

    def stop(self) -> None:
        """Stop serving."""
        self._server.stop()


def _check_free(host: str, port: int) -> None:
    """viser itself would take the next port that is free, where nobody looks."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"cannot listen on {host}, port {port} ({error.strerror}): choose another --port"
            ) from error
