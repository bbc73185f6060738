"""Fig. 4.10: score distillation of several scenes at once, the measure of collapse, the experiment."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hyperfields.config import FieldConfig, ModelConfig
from hyperfields.experiments import figure_4_10
from hyperfields.guidance.empirical import EmpiricalGuidance
from hyperfields.presets import procedural_cpu_short
from priors_shared.experiments import Lab

MODEL = ModelConfig(
    text="minilm",
    blocks=1,
    heads=2,
    head_dim=4,
    hidden=8,
    field=FieldConfig(
        layers=3, width=8, levels=2, level_features=2, log2_rows=8, coarsest=4, finest=8
    ),
)


def test_likeness_by_hand() -> None:
    left = torch.tensor([[[True, False], [True, False]]])
    seen = {"a red chair": left, "a blue chair": ~left, "a red stool": left}
    # Two chairs are not compared: chair and stool are equal, the other chair shares nothing with it.
    assert figure_4_10.likeness(seen) == pytest.approx((1 + 0) / 2)
    assert figure_4_10.likeness({"a red chair": left, "a red mug": left | ~left}) == 0.5
    nothing = torch.zeros_like(left)
    assert figure_4_10.likeness({"a red chair": nothing, "a red mug": nothing}) == 1


def test_all_arms_see_each_scene_as_often_and_as_much_of_it() -> None:
    settings = figure_4_10.experiment("cpu").configurations(seed=1)
    ours, scores, alone = (settings[arm] for arm in figure_4_10.NAMES)
    assert ours.prompts_per_step == scores.batch_size == alone.batch_size == 1
    assert ours.rays == scores.image_size**2 == alone.image_size**2
    assert ours.object_fraction == 0
    assert ours.steps == scores.steps == len(figure_4_10.PROMPTS) * alone.steps
    for name in ("samples", "learning_rate", "grid_learning_rate", "views", "seed"):
        assert getattr(ours, name) == getattr(scores, name) == getattr(alone, name), name


def test_the_experiment_packs_all_scenes_by_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(procedural_cpu_short(), model=MODEL, views=3, checkpoint_every=4, log_every=4)
    experiment = replace(
        figure_4_10.experiment("cpu"),
        config=config,
        size=8,
        samples=4,
        steps=12,
        evaluation_views=1,
        evaluation_samples=4,
        seeds=(0, 1),
    )
    asked: set[str] = set()
    denoise = EmpiricalGuidance.posterior_mean

    def listening(self, noisy, step, view):  # type: ignore[no-untyped-def]
        asked.add(view.prompt)
        return denoise(self, noisy, step, view)

    monkeypatch.setattr(EmpiricalGuidance, "posterior_mean", listening)
    lab = Lab(out=tmp_path / "out", runs=tmp_path / "runs")
    experiment.run(replace(lab, quick=True))
    assert not lab.out.exists()
    experiment.run(lab)
    assert asked == set(figure_4_10.PROMPTS)
    result = json.loads((lab.out / "figure-4.10-cpu.json").read_text())
    assert [row["model"] for row in result["rows"]] == list(figure_4_10.NAMES.values())
    assert 0 < result["likeness_of_exact_shapes"] < 0.9
    assert len(result["comparisons"]) == 2
    for compared in result["comparisons"].values():
        assert compared["psnr"]["difference"]["n"] == 2
    for scene in figure_4_10.PROMPTS:  # a network of its own, of this scene alone
        alone = lab.runs / "packing_cpu" / "alone-1" / scene.replace(" ", "-")
        record = json.loads((alone / "model" / "config.json").read_text())
        assert record["trained"]["prompts"] == [scene]
    images = {p.name for p in lab.out.glob("*.png")}
    assert images == {f"figure-4.10-cpu-{arm}.png" for arm in figure_4_10.NAMES}
