"""Feature fields from views: what is trained on and asked, labels, resumption, the command."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from hyperfields.cli import main
from hyperfields.config import FieldConfig, LaunchConfig, ModelConfig, SegmentConfig
from hyperfields.data.views import PosedViews
from hyperfields.experiments import figure_4_11
from hyperfields.fields.cameras import orbit
from hyperfields.fields.field import Field
from hyperfields.fields.rendering import composite_over
from hyperfields.scenes import scene_of
from hyperfields.scenes.variations import PARTS, render_labelled, stretched
from hyperfields.segmentation.evaluation import score_field
from hyperfields.segmentation.labels import mean_iou, point_labels, render_labels
from hyperfields.segmentation.network import SegmentationNetwork
from hyperfields.segmentation.pretrained import HyperSegmentationFields
from hyperfields.segmentation.scenes import labelled_scenes, resized, view_inputs
from hyperfields.segmentation.training import sample_batch, train_segmentation
from hyperfields.training.distillation import Distillation
from priors_shared.errors import UserError
from priors_shared.experiments import Lab
from priors_shared.runs import Run
from priors_shared.testing import killed_at_checkpoint

FIELD = FieldConfig(
    layers=3, width=16, levels=3, level_features=2, log2_rows=8, finest=16, frequencies=2
)
TINY = SegmentConfig(
    model=ModelConfig(blocks=1, heads=2, head_dim=8, hidden=16, field=FIELD),
    scenes=3,
    views=5,
    input_views=2,
    image_size=16,
    prompts_per_step=2,
    rays=24,
    samples=6,
    steps=4,
    checkpoint_every=2,
    log_every=2,
)


class Exact(Field):
    """A field that shows a procedural scene: dense inside, its parts as one-hot features."""

    def __init__(self, scene) -> None:
        super().__init__(replace(FIELD, features=len(PARTS)))
        self.scene = scene

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        own = torch.tensor([PARTS.index(part) for part in self.scene.shape.parts])
        labels = own[self.scene.shape.part(points)]
        values = torch.zeros(len(points), 3 + len(PARTS))
        values[torch.arange(len(points)), 3 + labels] = 1.0
        return 300.0 * self.scene.inside(points), values


def train(config: SegmentConfig, folder: Path) -> dict[str, Tensor]:
    with Run.create(folder, asdict(config), command="test", resume=True, quiet=True) as run:
        where = LaunchConfig(quiet=True, accelerator="cpu")
        return train_segmentation(config, where, run).net.state_dict()


def test_stretched_shapes_keep_parts_and_never_overstate_distances() -> None:
    shape = scene_of("a red chair").shape
    scale = torch.tensor([0.7, 1.1, 0.9])
    wide = stretched(shape, scale)
    points = 2 * torch.rand(400, 3, generator=torch.Generator().manual_seed(0)) - 1
    assert torch.equal(wide.part(points * scale), shape.part(points))
    assert torch.equal(wide.distance(points * scale) <= 0, shape.distance(points) <= 0)
    other = points + 0.2 * torch.randn(points.shape, generator=torch.Generator().manual_seed(1))
    change = (wide.distance(points) - wide.distance(other)).abs()
    assert (change <= (points - other).norm(dim=-1) + 1e-5).all()


def test_labels_are_those_of_the_parts_seen() -> None:
    scene = scene_of("a red chair")
    camera = orbit(20, 20, 24)
    images, labels = render_labelled(scene, [camera])
    parts = scene.parts(camera)
    assert torch.equal(labels[0] >= 0, images[0, ..., 3] > 0)
    for index, name in enumerate(scene.shape.parts):
        assert torch.equal(labels[0] == PARTS.index(name), parts == index)


def test_novel_scenes_are_drawn_apart_from_training_scenes() -> None:
    trained = labelled_scenes(3, 1, 8, seed=0)
    novel = labelled_scenes(3, 1, 8, seed=0, novel=True)
    again = labelled_scenes(3, 1, 8, seed=0)
    for one, other, same in zip(trained, novel, again, strict=True):
        assert torch.equal(one.images, same.images)
        assert not torch.equal(one.cameras[0].pose, other.cameras[0].pose)


def test_conditioning_views_are_never_the_target() -> None:
    scenes = labelled_scenes(1, TINY.views, TINY.image_size, 0)
    known = scenes[0].inputs
    for step in range(12):
        inputs, mask, points, _, target, background = sample_batch(TINY, scenes, step)
        assert mask.all()
        assert target.shape[-1] == 3 + len(PARTS)
        used = {v for v in range(TINY.views) for given in inputs[0] if torch.equal(given, known[v])}
        assert len(used) == TINY.input_views
        # Points lie on rays from the target's camera, which none of the views given is.
        origins = [scenes[0].cameras[v].pose[:3, 3] for v in used]
        first, last = points[0, :, 0], points[0, :, -1]
        along = torch.nn.functional.normalize(last - first, dim=-1)
        for origin in origins:
            away = torch.linalg.cross(origin - first, along).norm(dim=-1)
            assert away.median() > 1e-2
        empty = target[0, :, 3:].sum(-1) == 0
        torch.testing.assert_close(target[0, empty, :3], background[0, empty, :3])
        assert not background[0, :, 3:].any()


def test_loss_is_zero_for_the_scene_itself() -> None:
    scene = labelled_scenes(1, TINY.views, TINY.image_size, 0)[0]
    config = replace(TINY, rays=64, samples=400)
    batch = sample_batch(config, [scene], 0)

    class Net(torch.nn.Module):
        def forward(self, inputs, mask, points):
            densities, values = Exact(scene.scene)(points[0])
            return densities[None], values[None]

    right = batch[4].clone()
    right[..., :3] = batch[5][..., :3]  # colours apart: Exact has none
    opaque = batch[4][..., 3:].sum(-1) > 0
    right[..., :3][opaque] = 0
    loss = Distillation(Net())(*batch[:4], right, batch[5])
    assert loss < 0.02
    wrong = right.clone()
    wrong[..., 3:] = right[..., 3:].roll(1, -1)
    assert Distillation(Net())(*batch[:4], wrong, batch[5]) > 5 * loss


def test_a_killed_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    whole = train(TINY, tmp_path / "whole")
    with killed_at_checkpoint(1):
        train(TINY, tmp_path / "killed")
    resumed = train(TINY, tmp_path / "killed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    loaded = HyperSegmentationFields.from_pretrained(tmp_path / "whole")
    assert loaded.parts == PARTS
    assert all(torch.equal(whole[n], v) for n, v in loaded.net.state_dict().items())


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    net = SegmentationNetwork(replace(TINY.model, field=replace(FIELD, features=len(PARTS))))
    scenes = labelled_scenes(2, TINY.views, TINY.image_size, 0)
    Distillation(net)(*sample_batch(TINY, scenes, 0)).backward()
    silent = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_scores_tell_a_right_field_from_a_wrong_one() -> None:
    scene = labelled_scenes(1, 4, 32, 3)[0]
    right = score_field(Exact(scene.scene), scene, [0, 1, 2, 3], samples=128)
    assert right["miou_3d"] > 0.9
    assert right["miou_2d"] > 0.6
    assert right["consistency"] > 0.85

    class Wrong(Exact):
        def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
            densities, values = super().forward(points)
            return densities, torch.cat([values[:, :3], values[:, 3:].roll(1, -1)], -1)

    wrong = score_field(Wrong(scene.scene), scene, [0, 1, 2, 3], samples=128)
    assert wrong["miou_3d"] < 0.1
    assert wrong["consistency"] == right["consistency"]


def test_mean_iou_by_hand() -> None:
    found = torch.tensor([0, 0, 1, -1, 2])
    wanted = torch.tensor([0, 1, 1, -1, -1])
    assert math.isclose(mean_iou(found, wanted), (1 / 2 + 1 / 2) / 2)


def test_labels_of_points_and_pixels_agree() -> None:
    scene = labelled_scenes(1, 1, 24, 1)[0]
    field = Exact(scene.scene)
    camera = scene.cameras[0]
    traced = scene.scene.trace(camera.rays())
    inside = traced.points - 5e-3 * traced.normals
    at_points = point_labels(field, inside[traced.hit])
    assert (at_points == scene.labels[0].flatten()[traced.hit]).float().mean() > 0.97
    image, labels = render_labels(field, camera, 256)
    assert (labels == scene.labels[0]).float().mean() > 0.93
    assert torch.equal(image[..., 3] > 0.5, labels >= 0)


def test_resized_views_look_along_the_same_rays() -> None:
    camera = orbit(30, 20, 64)
    images = torch.rand(1, 64, 64, 4)
    small, (placed,) = resized(images, [camera], 16)
    assert small.shape == (1, 16, 16, 4)
    point = torch.tensor([[0.3, -0.2, 0.1]])
    torch.testing.assert_close(placed.project(point), camera.project(point) / 4)
    assert view_inputs(small, [placed]).shape == (1, 10, 16, 16)


def test_the_order_of_views_changes_nothing() -> None:
    torch.manual_seed(0)
    net = SegmentationNetwork(replace(TINY.model, field=replace(FIELD, features=2))).double()
    inputs = labelled_scenes(1, 3, 16, 0)[0].inputs[None].double()
    torch.testing.assert_close(net.condition(inputs), net.condition(inputs.flip(1)))
    assert not torch.allclose(net.condition(inputs), net.condition(inputs[:, :2]))


def test_empty_blocks_and_views_left_out_change_nothing() -> None:
    torch.manual_seed(0)
    net = SegmentationNetwork(replace(TINY.model, field=replace(FIELD, features=2))).double()
    inputs = torch.zeros(1, 2, 10, 32, 32).double()
    inputs[:, :, :4, :8, :8] = torch.rand(4, 8, 8).double()
    tokens = net.encoder(inputs)  # 4 x 4 of each view; something is seen in the first
    seen = net.hypernetwork.transformer(tokens[:, [0, 16]], torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close(net.condition(inputs), seen)
    points = torch.rand(1, 5, 3).double()
    mask = torch.tensor([[True, False]])
    alone, _ = net(inputs, mask, points)
    inputs[:, 1, :4, :8, :8] = 0.3
    torch.testing.assert_close(net(inputs, mask, points)[0], alone)
    assert not torch.allclose(net(inputs, torch.ones_like(mask), points)[0], alone)
    assert net.condition(torch.zeros(1, 2, 10, 32, 32).double()).isfinite().all()


def test_tokens_are_spread_over_scenes() -> None:
    torch.manual_seed(0)
    net = SegmentationNetwork(replace(TINY.model, field=replace(FIELD, features=2)))
    inputs = torch.stack([scene.inputs for scene in labelled_scenes(6, 3, 16, 0)])
    assert net.condition(inputs).std(0).mean() < 0.5
    net.spread_tokens(inputs)
    spread = net.condition(inputs)
    torch.testing.assert_close(spread.mean(0), torch.zeros(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(spread.std(0), torch.ones(16), atol=1e-3, rtol=0)


def test_features_do_not_drown_colours() -> None:
    class Net(torch.nn.Module):
        def forward(self, inputs, mask, points):
            return torch.full(points.shape[:2], 1e4), torch.zeros(*points.shape[:2], 3 + features)

    one = torch.ones(1, 1, dtype=torch.bool)
    losses = []
    for features in (0, 1, 13):
        target = torch.zeros(1, 4, 3 + features)
        target[..., 0] = 1.0
        seen = Distillation(Net())(
            torch.zeros(1, 1, 1),
            one,
            torch.zeros(1, 4, 5, 3),
            torch.ones(1, 4, 5),
            target,
            torch.zeros_like(target),
        )
        losses.append(float(seen))
    assert losses == pytest.approx([1 / 3] * 3)


def test_the_command_writes_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # With a blob so dense to begin with, there is a surface.
    field = replace(FIELD, blob_height=5.0)
    train(replace(TINY, model=replace(TINY.model, field=field)), tmp_path / "run")
    scene = scene_of("a red chair")
    cameras = [orbit(a, 20, 20) for a in (0, 120)]
    images, _ = render_labelled(scene, cameras)
    PosedViews("a chair", cameras, images).write(tmp_path / "views")
    out = tmp_path / "labels.ply"
    arguments = ["segment", str(tmp_path / "run"), str(tmp_path / "views"), "-o", str(out)]
    main([*arguments, "--resolution", "16", "--size", "8"])
    said = capsys.readouterr().out
    mesh = trimesh.load(out, process=False)
    labels = mesh.metadata["_ply_raw"]["vertex"]["data"]["label"]
    assert len(labels) == len(mesh.vertices) > 50
    commonest = PARTS[np.bincount(labels.ravel()).argmax()]
    assert commonest in said
    assert out.with_suffix(".png").is_file()


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(TINY, tmp_path / "run")
    (tmp_path / "views").mkdir()
    (tmp_path / "views" / "transforms.json").write_text(json.dumps({"frames": []}))
    for arguments, said in (
        (["run", "nowhere"], "no such folder"),
        (["run", "views"], "no frames"),
        (["run", "views", "-o", "labels.xyz"], "unknown format"),
        (["procedural-cpu", "views"], "hyperfields"),
    ):
        paths = [str(tmp_path / arguments[0]) if arguments[0] == "run" else arguments[0]]
        paths.append(str(tmp_path / arguments[1]))
        with pytest.raises(SystemExit) as stop:
            main(["segment", *paths, *arguments[2:]])
        assert stop.value.code == 2
        assert said in capsys.readouterr().err
    with pytest.raises(ValueError, match="below views"):
        SegmentConfig(views=3, input_views=3)
    with pytest.raises(UserError):
        HyperSegmentationFields.from_pretrained("no-such")
    assert composite_over(torch.zeros(1, 1, 4)).min() == 1


def test_the_experiment_compares_on_the_same_novel_scenes(tmp_path: Path) -> None:
    experiment = figure_4_11.Figure411(
        preset="cpu", config=TINY, seeds=(0, 1), scenes=2, baseline_steps=2
    )
    out, runs = tmp_path / "out", tmp_path / "runs"
    experiment.run(Lab(out=out, runs=runs, quick=True))
    assert not out.exists()
    experiment.run(Lab(out=out, runs=runs))
    result = json.loads((out / "figure-4.11-cpu.json").read_text())
    assert [row["model"] for row in result["rows"]] == [
        "one forward pass",
        "per-scene distillation",
    ]
    assert {name: len(scores) for name, scores in result["per_scene"].items()} == {
        "one forward pass": 4,
        "per-scene distillation": 4,
    }
    assert set(result["comparisons"]) >= {"psnr", "miou_2d", "miou_3d", "consistency", "seconds"}
    assert (out / "figure-4.11-cpu-scenes.png").is_file()
    before = result["per_scene"]["one forward pass"][0]["psnr"]
    experiment.run(Lab(out=out, runs=runs, quick=True))
    again = json.loads((out / "figure-4.11-cpu.json").read_text())
    assert again["per_scene"]["one forward pass"][0]["psnr"] == before
