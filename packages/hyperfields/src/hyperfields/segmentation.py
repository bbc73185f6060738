"""HyperSegmentationFields: a few posed views to a radiance and feature field in one forward pass (4.4.8).

A view encoder takes the place of the text encoder; the written MLP also outputs a feature vector per point, which
is rendered as colour is and learns to match 2D feature maps. Offline these are one-hot labels of parts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from hyperfields.cameras import Camera, orbit, sample_orbit
from hyperfields.config import SEGMENT_KIND, LaunchConfig, ModelConfig, SegmentConfig
from hyperfields.distillation import INITIAL_WEIGHTS, Distillation, build_optimizer, fit
from hyperfields.export import as_bytes, contact_sheet
from hyperfields.field import Field
from hyperfields.hypernetwork import HyperNetwork
from hyperfields.model import SHIPPED, model_config
from hyperfields.rendering import CHUNK, over, points_along, render_rays
from hyperfields.scenes.scene import Scene
from hyperfields.scenes.variations import PARTS, random_scene, render_labelled
from priors_shared.checkpoints import CONFIG, find_weights, load_weights, save_weights
from priors_shared.episodes import generator_for
from priors_shared.errors import UserError
from priors_shared.runs import Run

if TYPE_CHECKING:
    import trimesh

TRAIN_COMMAND = "hyperfields train segmentation_cpu"
VIEW_CHANNELS = 10
"""Red, green, blue, premultiplied; opacity; direction and moment of each pixel's ray."""
ALPHA = 3
BLOCK = 8
"""Pixels along each side of what a token stands for."""
TOKEN_DIM = 128
SCENES, NOVEL = 2**31 - 3, 2**31 - 4  # paths of generators beside the updates'


@dataclass(frozen=True, eq=False)
class LabelledViews:
    """A scene with its cameras, images and labels."""

    scene: Scene
    cameras: Sequence[Camera]
    images: Float[Tensor, "views height width 4"]
    """Premultiplied RGBA."""
    labels: Int[Tensor, "views height width"]
    """Indices into PARTS; -1: background."""

    @cached_property
    def inputs(self) -> Float[Tensor, "views 10 height width"]:
        """What the view encoder sees."""
        return view_inputs(self.images, self.cameras)


def view_inputs(
    images: Float[Tensor, "views height width 4"], cameras: Sequence[Camera]
) -> Float[Tensor, "views 10 height width"]:
    """Premultiplied RGBA in [0, 1], with direction and moment (origin x direction) of each pixel's ray."""
    height, width = images.shape[1:3]
    rays = [camera.rays() for camera in cameras]
    directions = torch.stack([r.directions for r in rays])
    moments = torch.linalg.cross(torch.stack([r.origins for r in rays]), directions)
    placed = torch.cat([directions, moments], -1).view(len(cameras), height, width, 6)
    return torch.cat([images, placed.to(images)], -1).permute(0, 3, 1, 2)


class ViewEncoder(nn.Module):
    """A small convolutional net: each view to tokens, one for each block of pixels."""

    def __init__(self, dim: int = TOKEN_DIM) -> None:
        super().__init__()
        widths = (VIEW_CHANNELS, 32, 64, dim)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(into, out, 3, stride=2, padding=1), nn.GroupNorm(8, out), nn.ReLU()
                )
                for into, out in pairwise(widths)
            )
        )

    def forward(
        self, inputs: Float[Tensor, "scenes views 10 height width"]
    ) -> Float[Tensor, "scenes tokens dim"]:
        """Tokens of all views of a scene, in one sequence: which view they come from, their rays say."""
        scenes, views = inputs.shape[:2]
        found = self.layers(inputs.flatten(0, 1)).flatten(2).transpose(1, 2)
        return found.reshape(scenes, views * found.shape[1], -1)


class SegmentationNetwork(nn.Module):
    """View encoder and hypernetwork; called as a `HyperNetwork`, with views in place of tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = ViewEncoder()
        self.hypernetwork = HyperNetwork(config, TOKEN_DIM)

    def forward(
        self,
        inputs: Float[Tensor, "scenes views 10 height width"],
        real: Bool[Tensor, "scenes views"],
        points: Float[Tensor, "scenes points 3"],
    ) -> tuple[Float[Tensor, "scenes points"], Float[Tensor, "scenes points values"]]:
        """Densities and values (colours, then features) at each scene's points."""
        return self.hypernetwork(*self._tokens(inputs, real), points)

    def condition(
        self, inputs: Float[Tensor, "scenes views 10 height width"]
    ) -> Float[Tensor, "scenes dim"]:
        """The conditioning token of each scene."""
        real = torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
        return self.hypernetwork.transformer(*self._tokens(inputs, real))

    def grid_parameters(self) -> list[nn.Parameter]:
        """Those of the hash grid."""
        return self.hypernetwork.grid_parameters()

    def _tokens(self, inputs: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens, and which are real: those of blocks where something is seen, if there are any."""
        shown = F.max_pool2d(inputs[:, :, ALPHA], BLOCK).flatten(2) > 0
        seen = (shown & real[:, :, None]).flatten(1)
        everywhere = real.repeat_interleave(shown.shape[2], 1)
        return self.encoder(inputs), torch.where(seen.any(1, keepdim=True), seen, everywhere)

    @torch.no_grad()
    def spread_tokens(self, inputs: Float[Tensor, "scenes views 10 height width"]) -> None:
        """Set the last normalisation's scale and shift so that conditioning tokens of these scenes differ.

        As new, all views make nearly the same token (text encoders come trained, this one does not), and the
        weights that are written hardly depend on it: training stood still for hundreds of updates. Afterwards each
        channel has mean 0 and variance 1 over the scenes, as activation normalisation begins (Kingma and
        Dhariwal 2018).
        """
        tokens = self.condition(inputs)
        norm = self.hypernetwork.transformer.norm
        norm.weight.div_(tokens.std(0).clamp_min(1e-3))
        norm.bias.copy_(-tokens.mean(0) * norm.weight)


class HyperSegmentationFields:
    """A trained network; views in, fields with features out.

    Example:
        model = HyperSegmentationFields.from_pretrained("segmentation-cpu")
        field = model.generate(images, cameras)
        colours, labels = render_labels(field, orbit(azimuth=30, elevation=20, size=64))
    """

    def __init__(
        self,
        net: SegmentationNetwork,
        image_size: int,
        parts: Sequence[str] = PARTS,
        trained: dict[str, Any] | None = None,
    ) -> None:
        self.net = net.eval()
        self.image_size = image_size
        self.parts = tuple(parts)
        self.trained = dict(trained or {})

    @classmethod
    def from_pretrained(cls, name: str | Path) -> HyperSegmentationFields:
        """The model of that name: shipped weights, run folder, checkpoint folder or Hugging Face Hub id.

        Raises:
            UserError: nothing there, a checkpoint of something else, damaged files.
        """
        source = find_weights(name, shipped=SHIPPED, command=TRAIN_COMMAND)
        record, weights = load_weights(source, kind=SEGMENT_KIND)
        try:
            net = SegmentationNetwork(model_config(record["config"]))
            net.load_state_dict(weights)
            return cls(net, int(record["image_size"]), record["parts"], record["trained"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            detail = " ".join(str(error).split())
            raise UserError(
                f"{source}: the checkpoint's {CONFIG} and weights make no model ({detail}); was it written "
                "by another version?"
            ) from error

    def save(self, folder: Path, *, half: bool = False) -> None:
        """Write the model, in half precision where asked for."""
        save_weights(
            folder,
            self.net,
            kind=SEGMENT_KIND,
            config=asdict(self.net.hypernetwork.config),
            extra={
                "image_size": self.image_size,
                "parts": list(self.parts),
                "trained": self.trained,
            },
            half=half,
        )

    @torch.no_grad()
    def generate(
        self,
        images: Float[Tensor, "views height width 4"],
        cameras: Sequence[Camera],
        name: str = "views",
    ) -> Field:
        """The scene of some views, in one forward pass.

        Args:
            images: premultiplied RGBA, resized to the model's size.
            cameras: where they were taken from, the object in [-1, 1]^3.
            name: of the field.
        """
        shown, placed = resized(images, cameras, self.image_size)
        device = next(self.net.parameters()).device
        token = self.net.condition(view_inputs(shown, placed)[None].to(device))
        return self.net.hypernetwork.materialize(token, [name])[0]


def resized(
    images: Float[Tensor, "views height width 4"], cameras: Sequence[Camera], size: int
) -> tuple[Float[Tensor, "views size size 4"], list[Camera]]:
    """Images averaged or interpolated to size x size, and the cameras that took them so."""
    placed = []
    for camera in cameras:
        across, down = size / camera.width, size / camera.height
        focal = camera.focal[0] * across, camera.focal[1] * down
        centre = camera.centre[0] * across, camera.centre[1] * down
        placed.append(replace(camera, focal=focal, centre=centre, width=size, height=size))
    found = F.interpolate(images.permute(0, 3, 1, 2), (size, size), mode="bilinear", antialias=True)
    return found.permute(0, 2, 3, 1), placed


@torch.no_grad()
def render_labels(
    field: Field, camera: Camera, samples: int = 64
) -> tuple[Float[Tensor, "height width 4"], Int[Tensor, "height width"]]:
    """Premultiplied RGBA, and the index of the largest rendered feature; -1 where less than half is opaque."""
    rays = camera.rays()
    colours, labels = [], []
    for start in range(0, len(rays), CHUNK // samples):
        seen, opacity = render_rays(field, rays[start : start + CHUNK // samples], samples)
        colours.append(torch.cat([seen[:, :3], opacity[:, None]], -1))
        labels.append(torch.where(opacity > 0.5, seen[:, 3:].argmax(-1), -1))
    shape = camera.height, camera.width
    return torch.cat(colours).view(*shape, 4), torch.cat(labels).view(*shape)


@torch.no_grad()
def point_labels(field: Field, points: Float[Tensor, "points 3"]) -> Int[Tensor, " points"]:
    """The index of the largest feature at points, which are best on the surface."""
    found = [field(some)[1][:, 3:].argmax(-1) for some in points.split(CHUNK)]
    return torch.cat(found)


def palette(parts: int) -> Float[Tensor, "parts 3"]:
    """A colour in [0, 1] for each part."""
    from matplotlib import colormaps

    return torch.tensor([colormaps["tab20"](i % 20)[:3] for i in range(parts)])


def paint(labels: Int[Tensor, "height width"], parts: int) -> Float[Tensor, "height width 3"]:
    """Labels in their colours; -1 is white."""
    white = torch.ones(1, 3)
    return torch.cat([palette(parts), white])[labels]


def labelled_mesh(
    field: Field, resolution: int = 128
) -> tuple[trimesh.Trimesh, Int[Tensor, " vertices"]]:
    """The field's surface in the colours of its parts, and each vertex' part, also its attribute "label".

    Raises:
        UserError: there is no surface.
    """
    from trimesh.visual import ColorVisuals

    mesh = field.to_mesh(resolution)
    at = torch.from_numpy(np.asarray(mesh.vertices, dtype=np.float32))
    labels = point_labels(field, at.to(field.weights[0].device)).cpu()
    colours = palette(field.config.features)[labels]
    opaque = as_bytes(torch.cat([colours, torch.ones_like(colours[:, :1])], -1))
    mesh.visual = ColorVisuals(mesh, vertex_colors=opaque)
    mesh.vertex_attributes["label"] = labels.numpy().astype(np.int32)
    return mesh, labels


def mean_iou(found: Int[Tensor, "*shape"], wanted: Int[Tensor, "*shape"]) -> float:
    """Intersection over union of each part that is wanted somewhere, averaged; -1 is no part."""
    values = []
    for part in wanted.unique().tolist():
        if part >= 0:
            one, other = found == part, wanted == part
            values.append(float((one & other).sum() / (one | other).sum()))
    return sum(values) / len(values)


# --- training ---


def labelled_scenes(
    count: int, views: int, size: int, seed: int, *, novel: bool = False
) -> list[LabelledViews]:
    """Random scenes from random cameras; `novel` ones are drawn apart from those to train on."""
    generator = generator_for(seed, NOVEL if novel else SCENES)
    found = []
    for _ in range(count):
        scene = random_scene(generator)
        cameras = [sample_orbit(generator, size)[0] for _ in range(views)]
        found.append(LabelledViews(scene, cameras, *render_labelled(scene, cameras)))
    return found


def train_segmentation(
    config: SegmentConfig, where: LaunchConfig, run: Run
) -> HyperSegmentationFields:
    """Train, or go on from the run's last checkpoint; writes OUT/model and returns it."""
    features = replace(config.model.field, features=len(PARTS))
    model = replace(config.model, field=features)
    torch.manual_seed(generator_for(config.seed, INITIAL_WEIGHTS).initial_seed())
    net = SegmentationNetwork(model)
    scenes = labelled_scenes(config.scenes, config.views, config.image_size, config.seed)
    if len(scenes) > 1:
        net.spread_tokens(torch.stack([scene.inputs[: config.input_views] for scene in scenes]))
    fit(
        config,
        net,
        build_optimizer(net, config),
        lambda step: sample_batch(config, scenes, step),
        where,
        run,
    )
    trained = {"scenes": config.scenes, "iterations": config.iterations, "seed": config.seed}
    trained["input_views"] = config.input_views
    found = HyperSegmentationFields(net.cpu(), config.image_size, PARTS, trained)
    found.save(run.out / "model")
    return found


def sample_batch(
    config: SegmentConfig, scenes: Sequence[LabelledViews], step: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """For each of some scenes, views to condition on and rays of another view to match.

    Returns the arguments of `Distillation`: its targets are colours and one-hot labels, all zero where
    nothing is.
    """
    generator = generator_for(config.seed, step)
    count = min(config.prompts_per_step, len(scenes))
    inputs, points, lengths, targets, backgrounds = [], [], [], [], []
    for index in torch.randperm(len(scenes), generator=generator)[:count].tolist():
        scene = scenes[index]
        order = torch.randperm(config.views, generator=generator)
        given, shown = order[: config.input_views], int(order[config.input_views])
        inputs.append(scene.inputs[given])
        rays, target, background = _rays(config, scene, shown, generator)
        at, length = points_along(rays, config.samples, generator)
        points.append(at)
        lengths.append(length)
        targets.append(target)
        backgrounds.append(background)
    stacked = [torch.stack(part) for part in (inputs, points, lengths, targets, backgrounds)]
    real = torch.ones(count, config.input_views, dtype=torch.bool)
    return stacked[0], real, stacked[1], stacked[2], stacked[3], stacked[4]


def _rays(
    config: SegmentConfig, scene: LabelledViews, view: int, generator: torch.Generator
) -> tuple[Any, Tensor, Tensor]:
    """Random rays of a view, what is seen along them (colours, one-hot labels), and what lies behind."""
    labels = scene.labels[view].flatten()
    pixels = torch.randint(len(labels), (config.rays,), generator=generator)
    aimed = round(config.object_share * config.rays)
    candidates = (labels >= 0).nonzero().squeeze(-1)
    if aimed and len(candidates):
        pixels[:aimed] = candidates[torch.randint(len(candidates), (aimed,), generator=generator)]
    colour = torch.rand(config.rays, 3, generator=generator)
    background = torch.cat([colour, torch.zeros(config.rays, len(PARTS))], -1)
    seen = scene.images[view].reshape(-1, 4)[pixels]
    one_hot = F.one_hot(labels[pixels] + 1, len(PARTS) + 1)[:, 1:].to(seen)
    target = torch.cat([over(seen, colour), one_hot], -1)
    return scene.cameras[view].rays()[pixels], target, background


def distil_scene(
    config: SegmentConfig, scene: LabelledViews, given: Sequence[int], iterations: int
) -> Field:
    """The baseline: one field of its own, fitted to some views with their labels, from scratch."""
    torch.manual_seed(generator_for(config.seed, INITIAL_WEIGHTS).initial_seed())
    field = Field(replace(config.model.field, features=len(PARTS)))
    groups = [
        {"params": [*field.weights, *field.biases], "lr": 5e-3},
        {"params": list(field.encoding.parameters()), "lr": 2e-2, "eps": 1e-15},
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    loss_of = Distillation(_OneScene(field))
    empty = torch.zeros(1, 1, 1)
    for step in range(iterations):
        generator = generator_for(config.seed, step)
        view = given[int(torch.randint(len(given), (), generator=generator))]
        rays, target, background = _rays(config, scene, view, generator)
        at, length = points_along(rays, config.samples, generator)
        real = torch.ones(1, 1, dtype=torch.bool)
        loss = loss_of(empty, real, at[None], length[None], target[None], background[None])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return field.eval()


class _OneScene(nn.Module):
    """A field, called as a hypernetwork for a single scene."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field

    def forward(self, tokens: Tensor, real: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        densities, values = self.field(points[0])
        return densities[None], values[None]


# --- pictures ---


def write_labelled_views(
    fields: Sequence[Field], names: Sequence[str], path: Path, *, size: int = 96, samples: int = 64
) -> None:
    """A contact sheet: each field from three sides, in its colours and in those of its parts."""
    cameras = [orbit(azimuth, 25, size) for azimuth in (20, 140, 260)]
    rows = []
    for field in fields:
        rendered = [render_labels(field, camera, samples) for camera in cameras]
        painted = [paint(labels, field.config.features) for _, labels in rendered]
        rows.append([*(over(image) for image, _ in rendered), *painted])
    contact_sheet(rows, names, path)


def write_novel_scenes(
    model: HyperSegmentationFields, config: SegmentConfig, path: Path, *, scenes: int = 6
) -> None:
    """A contact sheet of scenes never trained on: two views, then their labels; first exact, then generated."""
    rows, names = [], []
    given = list(range(config.input_views))
    views = config.views, config.image_size, config.seed
    for scene in labelled_scenes(scenes, *views, novel=True):
        field = model.generate(scene.images[given], [scene.cameras[v] for v in given])
        shown = range(config.input_views, min(config.views, config.input_views + 2))
        rendered = [render_labels(field, scene.cameras[v], 48) for v in shown]
        pairs = [
            (over(torch.stack([scene.images[v] for v in shown])), scene.labels[list(shown)]),
            (over(torch.stack([i for i, _ in rendered])), torch.stack([at for _, at in rendered])),
        ]
        row = [*pairs[0][0], *(paint(at, len(PARTS)) for at in pairs[0][1])]
        row += [*pairs[1][0], *(paint(at, len(PARTS)) for at in pairs[1][1])]
        rows.append([image.repeat_interleave(3, 0).repeat_interleave(3, 1) for image in row])
        names.append(f"{scene.scene.prompt}: exact, generated")
    contact_sheet(rows, names, path)


# --- evaluation ---


def score_field(
    field: Field, scene: LabelledViews, shown: Sequence[int], *, samples: int = 48
) -> dict[str, float]:
    """How well a field matches views of its scene: PSNR, mIoU in 2D and 3D, consistency between views.

    Args:
        field: with features.
        scene: what it should show.
        shown: views to compare, which the field should not have been made from.
        samples: points along a ray.

    Returns: psnr (decibels, on white); miou_2d of rendered labels, mean over parts; miou_3d of labels at
        points of the true surface; consistency: share of surface points seen in two views that are given
        the same label in both.
    """
    rendered = {v: render_labels(field, scene.cameras[v], samples) for v in shown}
    images = torch.stack([over(rendered[v][0]) for v in shown])
    error = (images - over(scene.images[list(shown)])).square().mean()
    labels = torch.stack([rendered[v][1] for v in shown])
    points, wanted, pixels = [], [], []
    for v in shown:
        rays = scene.cameras[v].rays()
        traced = scene.scene.trace(rays)
        points.append(traced.points[traced.hit])
        wanted.append(scene.labels[v].flatten()[traced.hit])
        pixels.append(rendered[v][1].flatten()[traced.hit])
    agreed = seen_twice = 0
    for i, v in enumerate(shown):
        for w in shown:
            if w != v:
                labels_there, visible = _labels_at(scene, w, points[i], rendered[w][1])
                agreed += int((labels_there == pixels[i])[visible].sum())
                seen_twice += int(visible.sum())
    return {
        "psnr": -10 * math.log10(max(float(error), 1e-10)),
        "miou_2d": mean_iou(labels, scene.labels[list(shown)]),
        "miou_3d": mean_iou(point_labels(field, torch.cat(points)), torch.cat(wanted)),
        "consistency": agreed / max(seen_twice, 1),
    }


def _labels_at(
    scene: LabelledViews, view: int, points: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Labels that a view gives to points of the surface, and which of these it sees."""
    camera = scene.cameras[view]
    at = camera.project(points)
    column, row = at[:, 0].floor(), at[:, 1].floor()
    inside = (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
    index = torch.where(inside, row * camera.width + column, torch.zeros_like(row)).long()
    traced = scene.scene.trace(camera.rays())
    # Nearest pixel: the point it shows lies within a pixel's footprint of a visible point.
    near = (traced.points[index] - points).norm(dim=-1) < 2.5 * 3.2 / camera.focal[0]
    return labels.flatten()[index], inside & traced.hit[index] & near


def evaluate_segmentation(
    model: HyperSegmentationFields,
    config: SegmentConfig,
    *,
    scenes: int = 12,
    baseline_iterations: int = 0,
    each: Callable[[], object] = lambda: None,
) -> dict[str, list[dict[str, float]]]:
    """Scores on novel scenes, of which some views are given and others compared, and seconds that a field took.

    Args:
        model: the network.
        config: how it was trained.
        scenes: how many, drawn apart from those trained on.
        baseline_iterations: also fit a field to each scene's given views and their labels; 0: do not.
        each: called after each scene.
    """
    novel = labelled_scenes(scenes, config.views, config.image_size, config.seed, novel=True)
    given = list(range(config.input_views))
    shown = range(config.input_views, min(config.views, config.input_views + 4))
    rows: dict[str, list[dict[str, float]]] = {}
    for scene in novel:
        made: dict[str, Callable[[], Field]] = {
            "one forward pass": partial(
                model.generate, scene.images[given], [scene.cameras[v] for v in given]
            )
        }
        if baseline_iterations:
            made["per-scene distillation"] = partial(
                distil_scene, config, scene, given, baseline_iterations
            )
        for name, make in made.items():
            begun = time.perf_counter()
            field = make()
            seconds = {"seconds": time.perf_counter() - begun}
            rows.setdefault(name, []).append(seconds | score_field(field, scene, list(shown)))
        each()
    return rows
