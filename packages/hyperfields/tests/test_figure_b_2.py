"""Fig. B.2 and Fig. 4.9 in materials: what is held out, what is measured, what is reused."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hyperfields.config import DistillConfig, FieldConfig, ModelConfig
from hyperfields.evaluation import SceneScore
from hyperfields.experiments import figure_4_9_materials, figure_b_2
from hyperfields.presets import finetune_cpu, four_materials_cpu, materials_held_out_cpu
from hyperfields.scenes import scene_of
from priors_shared.experiments import Lab


def test_every_shape_and_style_is_seen_and_no_held_out_combination_is() -> None:
    config = materials_held_out_cpu()
    trained = [scene_of(prompt) for prompt in config.prompts]
    held = [scene_of(prompt) for prompt in config.held_out]
    assert (len(trained), len(held)) == (24, 8)
    pairs = {(s.shape.name, s.attribute) for s in [*trained, *held]}
    assert len(pairs) == 32  # none twice, none in both
    assert Counter(s.shape.name for s in trained) == dict.fromkeys({s.shape.name for s in held}, 3)
    assert Counter(s.attribute for s in trained) == dict.fromkeys({s.attribute for s in held}, 6)


def test_distinctness_is_one_for_the_exact_pair_and_zero_for_a_collapsed_one() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b, noise = torch.rand(3, 40, 40, 3, generator=generator)
    half = (a + b) / 2
    assert figure_4_9_materials.distinctness(a, b, a, b) == pytest.approx(1, abs=1e-5)
    assert figure_4_9_materials.distinctness(half, half, a, b) == 0
    assert figure_4_9_materials.distinctness((a + half) / 2, (b + half) / 2, a, b) == pytest.approx(
        0.5, abs=1e-5
    )
    assert figure_4_9_materials.distinctness(b, a, a, b) == pytest.approx(-1, abs=1e-5)
    # Noise in one of two collapsed scenes tells them apart by its size, but not in the way that the exact ones differ.
    noisy = half + 0.3 * (noise - 0.5)
    assert abs(figure_4_9_materials.distinctness(noisy, half, a, b)) < 0.02


def test_gain_is_paired_by_scene_and_not_by_position() -> None:
    def score(prompt: str, psnr: float) -> SceneScore:
        return SceneScore(prompt, psnr, 0.9, prompt)

    before = [score("a plaid mug", 10.0), score("a plaid bowl", 20.0), score("a plaid vase", 7.0)]
    after = [score("a plaid bowl", 22.0), score("a plaid mug", 12.0)]
    found = figure_b_2.gain(before, after)["psnr"]["difference"]
    assert (found["mean"], found["std"], found["n"]) == (2.0, 0.0, 2)
    assert figure_b_2.gain(before, after[:1]) == {}


@pytest.fixture
def tiny(tiny_text: str) -> DistillConfig:
    field = FieldConfig(
        width=4, levels=1, level_features=2, log2_rows=6, coarsest=2, finest=2, frequencies=1
    )
    return replace(
        four_materials_cpu(),
        model=ModelConfig(text=tiny_text, blocks=1, heads=1, head_dim=4, hidden=4, field=field),
        views=1,
        image_size=6,
        rays=4,
        samples=4,
        steps=1,
    )


def test_unseen_combinations_are_measured_before_and_after_their_fine_tuning(
    tiny: DistillConfig, tmp_path: Path
) -> None:
    held_out = ("a plaid bowl", "a terracotta mug")
    experiment = replace(
        figure_b_2.experiment("cpu"),
        config=replace(tiny, prompts=("a plaid mug", "a terracotta bowl"), held_out=held_out),
        tuning=replace(finetune_cpu(), image_size=6, samples=4, batch_size=1, views=2, steps=2),
        views=1,
        samples=4,
        sheet_size=8,
    )
    lab = Lab(out=tmp_path / "out", runs=tmp_path / "runs")
    experiment.run(replace(lab, quick=True))
    assert not lab.out.exists()
    experiment.run(lab)
    result = json.loads((lab.out / "figure-b.2-cpu.json").read_text())
    assert [(row["model"], row["scenes"]) for row in result["rows"]] == [
        ("trained", 2),
        ("held out, zero-shot", 2),
        ("held out, fine-tuned", 2),
    ]
    before, after = (result["scenes"][f"held out, {k}"] for k in ("zero-shot", "fine-tuned"))
    assert [s["prompt"] for s in before] == [s["prompt"] for s in after] == list(held_out)
    assert all(b["psnr"] != a["psnr"] for b, a in zip(before, after, strict=True))
    assert result["gain_of_fine_tuning"]["psnr"]["difference"]["n"] == 2
    assert str(tmp_path) not in json.dumps(result["rows"])
    done = sorted(lab.runs.rglob("model.safetensors"))
    assert len(list(lab.runs.rglob("model/config.json"))) == 3
    stamps = [p.stat().st_mtime_ns for p in done]
    experiment.run(lab)
    assert [p.stat().st_mtime_ns for p in done] == stamps


def test_both_arms_of_four_materials_are_measured_and_compared_by_seed(
    tiny: DistillConfig, tmp_path: Path
) -> None:
    experiment = replace(
        figure_4_9_materials.experiment("cpu"),
        config=tiny,
        seeds=(0, 1),
        views=1,
        samples=4,
        sheet_size=8,
    )
    lab = Lab(out=tmp_path / "out", runs=tmp_path / "runs")
    experiment.run(replace(lab, quick=True))
    assert not lab.out.exists()
    experiment.run(lab)
    result = json.loads((lab.out / "figure-4.9-materials-cpu.json").read_text())
    assert [row["model"] for row in result["rows"]] == ["dynamic", "static"]
    name = "distance of origami and glacier"
    values = [[result["per_seed"][arm][s][name] for s in "01"] for arm in ("dynamic", "static")]
    mean = sum(d - s for d, s in zip(*values, strict=True)) / 2
    assert result["dynamic_less_static"][name]["difference"]["mean"] == pytest.approx(mean)
    assert result["config"]["static"]["model"]["conditioning"] == "static"
    assert (lab.out / "figure-4.9-materials-cpu.png").is_file()
