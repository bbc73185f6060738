"""Scores on novel scenes: PSNR, mIoU in 2D and 3D, consistency between views."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from hyperfields.config import SegmentConfig
from hyperfields.fields.field import Field
from hyperfields.fields.rendering import composite_over
from hyperfields.output.sheet import contact_sheet
from hyperfields.scenes.variations import PARTS
from hyperfields.segmentation.labels import mean_iou, paint, point_labels, render_labels
from hyperfields.segmentation.pretrained import HyperSegmentationFields
from hyperfields.segmentation.scenes import LabelledViews, labelled_scenes
from hyperfields.segmentation.training import distil_scene


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
            (
                composite_over(torch.stack([scene.images[v] for v in shown])),
                scene.labels[list(shown)],
            ),
            (
                composite_over(torch.stack([i for i, _ in rendered])),
                torch.stack([at for _, at in rendered]),
            ),
        ]
        row = [*pairs[0][0], *(paint(at, len(PARTS)) for at in pairs[0][1])]
        row += [*pairs[1][0], *(paint(at, len(PARTS)) for at in pairs[1][1])]
        rows.append([image.repeat_interleave(3, 0).repeat_interleave(3, 1) for image in row])
        names.append(f"{scene.scene.prompt}: exact, generated")
    contact_sheet(rows, names, path)


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
    images = torch.stack([composite_over(rendered[v][0]) for v in shown])
    error = (images - composite_over(scene.images[list(shown)])).square().mean()
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
    baseline_steps: int = 0,
    each: Callable[[], object] = lambda: None,
) -> dict[str, list[dict[str, float]]]:
    """Scores on novel scenes, of which some views are given and others compared, and seconds that a field took.

    Args:
        model: the network.
        config: how it was trained.
        scenes: how many, drawn apart from those trained on.
        baseline_steps: also fit a field to each scene's given views and their labels; 0: do not.
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
        if baseline_steps:
            made["per-scene distillation"] = partial(
                distil_scene, config, scene, given, baseline_steps
            )
        for name, make in made.items():
            begun = time.perf_counter()
            field = make()
            seconds = {"seconds": time.perf_counter() - begun}
            rows.setdefault(name, []).append(seconds | score_field(field, scene, list(shown)))
        each()
    return rows
