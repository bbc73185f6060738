"""Table 4.3: the measures tell right from wrong, and the experiment compares the same scenes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hyperfields.conditioning.text import TextEncoder
from hyperfields.data.views import procedural_views
from hyperfields.experiments import EXPERIMENTS, figure_4_8, table_4_3
from hyperfields.experiments.table_4_1 import RenderEncoder
from hyperfields.experiments.table_4_3 import distances, precision_recall
from priors_shared.errors import UserError


class Flat(nn.Module):
    """Pixels as a unit vector."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.normalize(images.flatten(1) - 0.5, dim=-1)


def test_precision_and_recall_by_hand() -> None:
    scores = torch.tensor([0.9, 0.1, 0.8, 0.7, 0.2])
    right = torch.tensor([True, True, False, True, False])
    assert precision_recall(scores, right) == (2 / 3, 2 / 3)
    assert precision_recall(-scores, right) == (2 / 3, 2 / 3)
    assert precision_recall(scores, ~right) == (1 / 3, 1 / 2)


def test_exact_images_are_best_and_noise_is_worse_the_more_there_is() -> None:
    pytest.importorskip("torchmetrics")
    exact = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(exact.shape, generator=torch.Generator().manual_seed(1))
    found = [
        distances((exact + share * noise).clamp(0, 1), exact, Flat()) for share in (0, 0.2, 0.6)
    ]
    assert found[0]["SSIM"] == pytest.approx(1)
    assert found[0]["SSIM"] > found[1]["SSIM"] > found[2]["SSIM"]
    dark = distances(0.4 * exact, exact, Flat())
    assert dark["KID"] > max(0.1, found[0]["KID"])


def test_another_scene_scores_worse_than_the_one_asked_for() -> None:
    pytest.importorskip("torchmetrics")
    torch.manual_seed(0)
    text = TextEncoder("minilm")
    encoder = RenderEncoder(text.dim)
    encoder.image(torch.zeros(1, 3, table_4_3.SIZE, table_4_3.SIZE))
    cameras = table_4_3.evaluation_views(table_4_3.VIEWS, table_4_3.SIZE)
    prompts = ("a teal chair", "a red bowl")
    views = procedural_views(prompts, cameras)
    exact = {prompt: table_4_3._as_images(views[prompt].images) for prompt in prompts}
    right = table_4_3.score({"a teal chair": exact["a teal chair"]}, exact, encoder, text)
    wrong = table_4_3.score({"a teal chair": exact["a red bowl"]}, exact, encoder, text)
    assert set(right["a teal chair"]) == {"precision", "recall", "KID", "SSIM"}
    assert right["a teal chair"]["SSIM"] == pytest.approx(1)
    assert wrong["a teal chair"]["SSIM"] < 0.9
    assert wrong["a teal chair"]["KID"] > right["a teal chair"]["KID"] + 1e-3


def test_it_needs_finished_runs(tmp_path: Path) -> None:
    EXPERIMENTS["table-4.3"](out=tmp_path / "out", runs=tmp_path, quick=True)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"reproduce figure-4\.8"):
        EXPERIMENTS["table-4.3"](out=tmp_path / "out", runs=tmp_path)


def test_missing_torchmetrics_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    monkeypatch.setattr(table_4_3, "_finished", lambda *where: True)
    with pytest.raises(UserError, match=r"hyperfields\[metrics\]"):
        EXPERIMENTS["table-4.3"](out=tmp_path / "out", runs=tmp_path)
    assert not list(tmp_path.iterdir())


def test_scenes_are_paired_by_seed_and_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchmetrics")
    red_bowls = procedural_views(["a red bowl"], table_4_3.evaluation_views(table_4_3.VIEWS, 32))

    class Bowl:
        """Shows a red bowl, whatever is asked for."""

        def render_all(self, cameras: object, samples: int) -> Tensor:
            return red_bowls["a red bowl"].images

    monkeypatch.setattr(table_4_3, "scene_in", lambda *where: Bowl())
    monkeypatch.setattr(table_4_3, "_finished", lambda runs, preset, seed: seed < 2)
    monkeypatch.setattr(table_4_3, "read_curve", lambda folder: figure_4_8.Curve([8], [20.0], 0.5))
    EXPERIMENTS["table-4.3"](out=tmp_path / "out", runs=tmp_path, updates=2)
    result = json.loads((tmp_path / "out" / "table-4.3-cpu.json").read_text())
    assert result["seeds"] == [0, 1]
    rows = {row["model"]: row for row in result["rows"]}
    assert set(result["thesis"]) < set(rows)
    assert rows["exact renders"]["SSIM"]["mean"] == pytest.approx(1)
    assert rows["HyperFields, fine-tuned"]["SSIM"]["mean"] < 0.9
    assert rows["HyperFields, fine-tuned"]["CPU seconds a scene"]["mean"] == 4
    for comparison in result["comparisons"].values():
        assert comparison["SSIM"]["difference"]["n"] == 4
        assert comparison["SSIM"]["difference"]["mean"] == 0
