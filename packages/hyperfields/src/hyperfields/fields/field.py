"""The NeRF: encoding, MLP with residuals every two layers, and what its outputs mean (B.1).

The MLP's weights come from elsewhere: written by the hypernetwork for many scenes at once, or a scene's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hyperfields.config import FIELD_KIND, FieldConfig
from hyperfields.fields.cameras import Camera
from hyperfields.fields.encoding import HashGrid, PositionEncoding
from hyperfields.fields.rendering import (
    BOUND,
    CHUNK,
    OCCUPANCY_RESOLUTION,
    Occupancy,
    grid_points,
    render_image,
)
from hyperfields.fields.surface import to_mesh
from hyperfields.records import config_from
from priors_shared.checkpoints import load_module, load_weights, save_weights

if TYPE_CHECKING:
    import trimesh

Layer = tuple[Float[Tensor, "scenes out in"], Float[Tensor, "scenes out"]]
"""Weights and biases of one layer, for each scene."""
MAX_LOG_DENSITY = 10.0
"""exp beyond it would only overflow: a density of 20,000 is opaque within a thousandth of the scene."""


def build_encoding(config: FieldConfig) -> PositionEncoding:
    """A freshly initialised position encoding."""
    grid = HashGrid(
        levels=config.levels,
        features=config.level_features,
        log2_rows=config.log2_rows,
        coarsest=config.coarsest,
        finest=config.finest,
    )
    return PositionEncoding(grid, config.frequencies)


def layer_shapes(config: FieldConfig) -> list[tuple[int, int]]:
    """(outputs, inputs) of each layer; the last has density, red, green, blue and the features."""
    inputs = config.levels * config.level_features + 6 * config.frequencies
    widths = [inputs, *[config.width] * (config.layers - 1), 4 + config.features]
    return [(out, into) for into, out in itertools.pairwise(widths)]


def run_mlp(
    inputs: Float[Tensor, "scenes points in"],
    layer: Callable[[int, Tensor | None], Layer],
    layers: int,
) -> Float[Tensor, "scenes points out"]:
    """The MLP: ReLU between layers, and residuals 0 -> 2, 2 -> 4, ... between hidden layers (Eq. 4.3).

    Args:
        inputs: encoded positions.
        layer: gives layer i's weights and biases; it is handed the activations before it (None for i = 0).
        layers: how many.
    """
    hidden, residual = inputs, inputs
    for i in range(layers):
        weight, bias = layer(i, hidden if i else None)
        hidden = torch.baddbmm(bias[:, None], hidden, weight.transpose(1, 2))
        if i == layers - 1:
            break
        hidden = torch.relu(hidden)
        if i % 2 == 0:
            hidden = hidden + residual if i else hidden
            residual = hidden
    return hidden


def decode(
    outputs: Float[Tensor, "*shape out"], points: Float[Tensor, "*shape 3"], config: FieldConfig
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape values"]]:
    """Densities, exp of the first output plus the initial blob; colours in [0, 1] and features."""
    blob = config.blob_height * (1 - points.norm(dim=-1) / config.blob_radius)
    densities = torch.exp((outputs[..., 0].float() + blob).clamp(max=MAX_LOG_DENSITY))
    # Nothing outside of the box that rays are sampled in: renders and meshes agree.
    densities = densities * (points.abs().amax(-1) <= BOUND)
    colours = torch.sigmoid(outputs[..., 1:4].float())
    return densities, torch.cat([colours, outputs[..., 4:].float()], -1)


class Field(nn.Module):
    """One scene: a NeRF with its own weights. Callable on points, as the renderer wants it.

    Example:
        field = model.generate("a red chair")
        image = field.render(orbit(azimuth=30, elevation=20, size=128))  # (128, 128, 4)
        field.to_mesh().export("chair.glb")
    """

    def __init__(
        self,
        config: FieldConfig,
        *,
        prompt: str = "",
        encoding: PositionEncoding | None = None,
        layers: list[tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        """Make a field; freshly initialised where weights are not given.

        Args:
            config: its sizes.
            prompt: what it shows.
            encoding: shared with other fields; None makes its own.
            layers: weights (outputs, inputs) and biases (outputs,) of each layer.
        """
        super().__init__()
        self.config = config
        self.prompt = prompt
        self.encoding = encoding if encoding is not None else build_encoding(config)
        if layers is None:
            linears = [nn.Linear(into, out) for out, into in layer_shapes(config)]
            for linear in linears[:-1]:
                nn.init.kaiming_normal_(linear.weight)
            layers = [(linear.weight.detach(), linear.bias.detach()) for linear in linears]
        self.weights = nn.ParameterList(weight for weight, _ in layers)
        self.biases = nn.ParameterList(bias for _, bias in layers)
        self._kept: tuple[list[Any], Occupancy] | None = None

    def forward(
        self, points: Float[Tensor, "points 3"]
    ) -> tuple[Float[Tensor, " points"], Float[Tensor, "points values"]]:
        """Densities, and colours followed by features."""
        outputs = run_mlp(
            self.encoding(points)[None],
            lambda i, _: (self.weights[i][None], self.biases[i][None]),
            self.config.layers,
        )
        return decode(outputs[0], points, self.config)

    def render(self, camera: Camera, samples: int = 96) -> Float[Tensor, "height width 4"]:
        """Premultiplied RGBA; see `render_image`. On the field's device.

        Images of more points than an occupancy grid skip empty space: colours then differ by less than a
        byte's step.
        """
        return self._render(camera, samples, camera.width * camera.height * samples)

    def render_all(
        self, cameras: Sequence[Camera], samples: int = 96
    ) -> Float[Tensor, "views height width 4"]:
        """Images from cameras of one size, as `render` makes them; on the CPU."""
        points = sum(camera.width * camera.height for camera in cameras) * samples
        return torch.stack([self._render(camera, samples, points).cpu() for camera in cameras])

    def _render(self, camera: Camera, samples: int, points: int) -> Tensor:
        device = self.weights[0].device
        occupancy = self._occupancy() if points > OCCUPANCY_RESOLUTION**3 else None
        return render_image(self, _moved(camera, device), samples, occupancy=occupancy)

    def _occupancy(self) -> Occupancy:
        # Kept for the next image, until a weight is written to or moved.
        state = [(p.device, p._version, p.data_ptr()) for p in self.parameters()]
        if self._kept is None or self._kept[0] != state:
            self._kept = state, Occupancy.of(self, device=self.weights[0].device)
        return self._kept[1]

    def bake(self, resolution: int = 96) -> BakedField:
        """The field on a grid of points: coarser, but many times faster to render."""
        return BakedField.from_field(self, resolution)

    def to_mesh(self, resolution: int = 128, threshold: float | int = 10) -> trimesh.Trimesh:
        """The surface where the density is `threshold`, with colours at its vertices; see `export.to_mesh`."""
        device = self.weights[0].device
        return to_mesh(self, resolution=resolution, threshold=threshold, device=device)

    def save(self, folder: Path, **extra: object) -> None:
        """Write the field: its weights, encoding included."""
        save_weights(
            folder,
            self,
            kind=FIELD_KIND,
            config=asdict(self.config),
            extra={"prompt": self.prompt, **extra},
        )

    @classmethod
    def load(cls, folder: str | Path) -> Field:
        """The field that `save` wrote.

        Raises:
            UserError: nothing there, a checkpoint of another kind, or damaged files.
        """
        record, weights = load_weights(folder, kind=FIELD_KIND)
        prompt = str(record.get("prompt", ""))
        return load_module(
            folder, lambda: cls(config_from(FieldConfig, record["config"]), prompt=prompt), weights
        )


class BakedField:
    """A field on a regular grid, interpolated trilinearly: for turntables and viewers."""

    def __init__(self, grid: Float[Tensor, "channels depth height width"]) -> None:
        self.grid = grid
        """Density in the interval between two grid points, then values; axes z, y, x."""

    @classmethod
    @torch.no_grad()
    def from_field(cls, field: Any, resolution: int) -> BakedField:
        """Evaluate a field at `resolution`^3 points of the box."""
        device = next(field.parameters()).device
        rows = [
            torch.cat([densities[:, None], values], -1)
            for points in grid_points(resolution, device).split(CHUNK)
            for densities, values in [field(points)]
        ]
        grid = torch.cat(rows).view(resolution, resolution, resolution, -1)
        return cls(grid.permute(3, 2, 1, 0).contiguous())

    def __call__(
        self, points: Float[Tensor, "points 3"]
    ) -> tuple[Float[Tensor, " points"], Float[Tensor, "points values"]]:
        """Densities and values at points; zero density outside of the box."""
        channels = torch.nn.functional.grid_sample(
            self.grid[None],
            points[None, None, None] / BOUND,
            align_corners=True,
            padding_mode="border",
        )[0, :, 0, 0]
        inside = points.abs().amax(-1) <= BOUND
        return channels[0] * inside, channels[1:].T


def _moved(camera: Camera, device: torch.device) -> Camera:
    pose = camera.pose.to(device)
    return Camera(pose, camera.focal, camera.centre, camera.width, camera.height)
