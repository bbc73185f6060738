"""Fig. 4.10: score distillation of several scenes at once, the measure of collapse, the experiment."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hyperfields.config import FieldConfig, ModelConfig
from hyperfields.experiments import EXPERIMENTS, packing
from hyperfields.guidance.empirical import EmpiricalGuidance
from hyperfields.presets import DISTILL

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
    assert packing.likeness(seen) == pytest.approx((1 + 0) / 2)
    assert packing.likeness({"a red chair": left, "a red mug": left | ~left}) == 0.5
    nothing = torch.zeros_like(left)
    assert packing.likeness({"a red chair": nothing, "a red mug": nothing}) == 1


def test_both_arms_see_as_much() -> None:
    settings = packing.configurations(packing.PRESETS["cpu"], seed=1)
    ours, scores = settings["distillation"], settings["scores"]
    points = ours.prompts_per_step * ours.rays * ours.samples
    assert points == scores.batch * scores.image_size**2 * scores.samples
    for name in ("iterations", "learning_rate", "grid_learning_rate", "views", "seed"):
        assert getattr(ours, name) == getattr(scores, name), name


def test_the_experiment_packs_all_scenes_by_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = DISTILL["procedural_cpu"]()
    tiny = replace(preset, model=MODEL, views=3, checkpoint_every=4, log_every=4)
    monkeypatch.setitem(packing.DISTILL, "procedural_cpu", lambda: tiny)  # type: ignore[attr-defined]
    sizes = packing.PackingPreset(distill="procedural_cpu", size=8, samples=4, updates=12)
    monkeypatch.setitem(packing.PRESETS, "cpu", sizes)  # type: ignore[arg-type]
    monkeypatch.setattr(packing, "VIEWS", 1)
    monkeypatch.setattr(packing, "SAMPLES", 4)
    asked: set[str] = set()
    denoise = EmpiricalGuidance.posterior_mean

    def listening(self, noisy, step, view):  # type: ignore[no-untyped-def]
        asked.add(view.prompt)
        return denoise(self, noisy, step, view)

    monkeypatch.setattr(EmpiricalGuidance, "posterior_mean", listening)
    out, runs = tmp_path / "out", tmp_path / "runs"
    EXPERIMENTS["figure-4.10"](out=out, runs=runs, quick=True)
    assert not out.exists()
    EXPERIMENTS["figure-4.10"](out=out, runs=runs, seeds=(0, 1))
    assert len(asked) >= 5
    assert asked <= set(packing.PROMPTS)
    result = json.loads((out / "figure-4.10-cpu.json").read_text())
    assert [row["model"] for row in result["rows"]] == list(packing.NAMES.values())
    assert 0 < result["likeness of exact shapes"] < 0.9
    assert result["comparisons"]["psnr"]["difference"]["n"] == 2
    pictures = {p.name for p in out.glob("*.png")}
    assert pictures == {"figure-4.10-cpu-distillation.png", "figure-4.10-cpu-scores.png"}
