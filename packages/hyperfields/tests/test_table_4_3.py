"""Table 4.3: the measures tell right from wrong, and the experiment compares the same scenes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hyperfields.conditioning.text import TextEncoder
from hyperfields.data.views import procedural_views
from hyperfields.experiments import table_4_3
from hyperfields.experiments.table_4_1 import RenderEncoder
from hyperfields.experiments.table_4_3 import distances, precision_recall
from hyperfields.pretrained import HyperFields
from priors_shared.errors import UserError
from priors_shared.experiments import Lab


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


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(out=tmp_path / "out", runs=tmp_path / "runs")


def finished_runs(experiment: table_4_3.Table43, lab: Lab, seeds: tuple[int, ...]) -> None:
    """Fields of red bowls, whatever was asked for, as runs of Fig. 4.8 that took 4 CPU seconds."""
    field = HyperFields.from_pretrained("procedural-cpu").generate("a red bowl")
    for seed, arm, prompt in product(seeds, table_4_3.NAMES, table_4_3.CASES.values()):
        folder = experiment.sizes.folder(lab.runs, arm, prompt, seed)
        if arm == "hyperfields":
            experiment.sizes.load().save(folder / "model")
        else:
            field.save(folder / "model")
        (folder / "metrics.jsonl").write_text('{"step": 8, "psnr": 20.0}\n')
        (folder / "timing.jsonl").write_text('{"step": 8, "cpu_seconds_per_step": 0.5}\n')


def test_it_needs_finished_runs(lab: Lab) -> None:
    table_4_3.experiment("cpu").run(replace(lab, quick=True))
    assert not lab.out.exists()
    with pytest.raises(UserError, match=r"reproduce figure-4\.8"):
        table_4_3.experiment("cpu").run(lab)


def test_missing_torchmetrics_is_said_at_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = replace(table_4_3.experiment("cpu"), seeds=(0,))
    finished_runs(experiment, lab, (0,))
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(UserError, match=r"hyperfields\[metrics\]"):
        experiment.run(lab)
    assert not lab.out.exists()


def test_scenes_are_paired_by_seed_and_prompt(lab: Lab) -> None:
    pytest.importorskip("torchmetrics")
    experiment = replace(table_4_3.experiment("cpu"), steps=2)
    finished_runs(experiment, lab, (0, 1))
    experiment.run(lab)
    result = json.loads((lab.out / "table-4.3-cpu.json").read_text())
    assert result["seeds"] == [0, 1]
    rows = {row["model"]: row for row in result["rows"]}
    assert set(result["thesis"]) < set(rows)
    assert rows["exact renders"]["SSIM"]["mean"] == pytest.approx(1)
    assert rows["HyperFields, fine-tuned"]["SSIM"]["mean"] < 0.9
    assert rows["HyperFields, fine-tuned"]["CPU seconds a scene"]["mean"] == 4
    scratch, pretrained = result["comparisons"].values()
    for comparison in (scratch, pretrained):
        assert comparison["SSIM"]["difference"]["n"] == 4
    # The baselines' scenes are the same bowl.
    assert scratch["SSIM"]["difference"] == pretrained["SSIM"]["difference"]
