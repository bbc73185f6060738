"""The experiments: trained once, measured, written beside their images; quick trains nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hyperfields.config import DistillConfig, FieldConfig, ModelConfig
from hyperfields.data.teachers import field_views
from hyperfields.experiments import EXPERIMENTS, amortization, figure_4_8, held_out
from hyperfields.experiments.figure_4_8 import Curve, Optimisations
from hyperfields.fields.field import Field
from hyperfields.presets import finetune_cpu, procedural_cpu_short, teacher_cpu
from hyperfields.pretrained import HyperFields
from hyperfields.training.distillation import distill, training_cameras
from priors_shared.errors import UserError
from priors_shared.experiments import Lab

FIELD = FieldConfig(
    width=4, levels=1, level_features=2, log2_rows=6, coarsest=2, finest=2, frequencies=1
)


@pytest.fixture
def tiny(tiny_text: str) -> DistillConfig:
    return replace(
        procedural_cpu_short(),
        model=ModelConfig(text=tiny_text, blocks=1, heads=1, head_dim=4, hidden=4, field=FIELD),
        prompts=("a red mug", "a blue plate"),
        held_out=("a blue mug",),
        views=1,
        image_size=6,
        rays=4,
        samples=4,
        steps=1,
    )


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(out=tmp_path / "out", runs=tmp_path / "runs")


def result(lab: Lab, name: str) -> dict:
    return json.loads((lab.out / f"{name}-cpu.json").read_text())


def small(name: str, config: DistillConfig) -> held_out.HeldOut:
    made = EXPERIMENTS[name].experiment("cpu")
    teaching = replace(
        teacher_cpu(), field=FIELD, image_size=6, samples=4, views=2, batch_size=1, steps=1
    )
    return replace(made, config=config, teaching=teaching, seeds=(0,), sheet_size=8)


def test_both_arms_are_trained_measured_and_reused(tiny: DistillConfig, lab: Lab) -> None:
    small("figure-4.9", tiny).run(replace(lab, quick=True))
    assert not lab.out.exists()
    small("figure-4.9", tiny).run(lab)
    found = result(lab, "figure-4.9")
    assert [row["model"] for row in found["rows"]] == [
        f"{arm}, {group} scenes"
        for arm in ("dynamic", "static")
        for group in ("held out", "trained")
    ]
    assert {p.name for p in lab.out.glob("*.png")} == {
        f"figure-4.9-cpu-{arm}.png" for arm in ("dynamic", "static")
    }
    assert found["config"]["static"]["model"]["conditioning"] == "static"
    small("att3d", tiny).run(lab)
    assert result(lab, "att3d")["config"]["grid"]["model"]["conditioning"] == "grid"
    grid = HyperFields.from_pretrained(
        lab.runs / "procedural_cpu_short" / "grid-0", text=tiny.model.text
    )
    assert grid.net.grid_head is not None
    # Where `hyperfields train procedural_cpu_short` writes.
    weights = lab.runs / "procedural_cpu_short/0/model/model.safetensors"
    before = weights.stat().st_mtime_ns
    small("figure-4.4", tiny).run(replace(lab, quick=True))
    assert weights.stat().st_mtime_ns == before
    assert (lab.out / "figure-4.4-cpu.json").is_file()


def test_stages_distils_what_stage_1_made_and_scores_both(
    tiny: DistillConfig, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, torch.Tensor] = {}

    def listening(config, teachers, launch, run):  # type: ignore[no-untyped-def]
        seen.update({prompt: views.images for prompt, views in teachers.items()})
        return distill(config, teachers, launch, run)

    monkeypatch.setattr(held_out, "distill", listening)
    # The other arm is there already, so that what is distilled is what stage 1 made.
    small("figure-4.4", tiny).run(lab)
    seen.clear()
    small("stages", tiny).run(lab)
    cameras = training_cameras(tiny)
    assert set(seen) == set(tiny.prompts)
    for prompt in tiny.prompts:
        teacher = Field.load(lab.runs / "stages_cpu" / prompt.replace(" ", "-") / "model")
        assert torch.equal(seen[prompt], field_views(teacher, cameras).images)
    assert [row["model"] for row in result(lab, "stages")["rows"]][-3:] == [
        "taught, held out scenes",
        "taught, trained scenes",
        "the teachers",
    ]
    # Quick trains nothing: a teacher that is gone is not made again.
    shutil.rmtree(lab.runs / "stages_cpu" / "a-red-mug")
    small("stages", tiny).run(replace(lab, quick=True))
    assert not (lab.runs / "stages_cpu" / "a-red-mug").exists()
    assert result(lab, "stages")["rows"][-1]["model"] == "taught, trained scenes"


def test_speed_up_is_a_bound_where_the_other_never_gets_there() -> None:
    ours = Curve([0, 8, 16, 24], [10.0, 18.0, 20.2, 20.0], 0.1)
    slow = Curve([0, 8, 160, 400], [5.0, 8.0, 19.9, 21.0], 0.1)
    never = Curve([0, 8, 160, 400], [5.0, 8.0, 15.0, 19.6], 0.1)
    found = figure_4_8.speed_up(ours, slow)
    assert (found["our_steps"], found["their_steps"]) == (16, 160)
    assert (found["ratio"], found["lower_bound"]) == (10.0, False)
    assert found["psnr"] == pytest.approx(19.7)
    bound = figure_4_8.speed_up(ours, never)
    assert (bound["ratio"], bound["lower_bound"]) == (25.0, True)
    # Where ours stays behind, the ratio falls below 1.
    assert figure_4_8.speed_up(never, slow)["ratio"] == pytest.approx(160 / 400)


def test_common_psnr_is_what_every_arm_reaches(tmp_path: Path) -> None:
    curves = {
        ("a case", "hyperfields"): {0: Curve([0, 8, 16], [10.0, 20.0, 22.0], 0.3)},
        ("a case", "scratch"): {0: Curve([0, 8, 64], [5.0, 12.0, 19.0], 0.2)},
        ("a case", "pretrained"): {0: Curve([0, 8, 32], [10.0, 18.9, 19.5], 0.2)},
    }
    rows, extra = figure_4_8.table(curves)  # type: ignore[arg-type]
    assert [row["steps to the common PSNR"].mean for row in rows] == [8, 64, 32]
    assert {run["common_psnr"] for run in extra["runs"]} == {19.0}
    assert [r["lower_bound"] for r in extra["speed_up_to_our_best"]] == [True, True]
    figure = figure_4_8.curves_figure(curves)  # type: ignore[arg-type]
    assert len(figure.axes[0].lines) == 6


@pytest.fixture
def sizes(tiny_model: Callable[..., HyperFields], tmp_path: Path) -> Optimisations:
    model = tiny_model("a red chair", "a blue mug")
    model.trained["held_out"] = ["a blue chair", "a red mug"]
    model.save(tmp_path / "model")
    own = {"image_size": 6, "samples": 4, "views": 2, "batch_size": 1, "log_every": 2}
    return Optimisations(
        preset="cpu",
        model=str(tmp_path / "model"),
        text=model.text.name,
        teaching=replace(teacher_cpu(), **own),
        tuning=replace(finetune_cpu(), **own),
        steps={"hyperfields": 2, "scratch": 4, "pretrained": 2},
        views=1,
    )


def test_fine_tuning_is_compared_on_prompts_that_the_model_does_not_know(
    sizes: Optimisations, lab: Lab
) -> None:
    assert not any(set(p.split()) & {"teal", "teapot"} for p in sizes.load().prompts)
    figure = replace(figure_4_8.experiment("cpu"), sizes=sizes, seeds=(0,), sheet_size=8)
    figure.run(replace(lab, quick=True))
    assert not lab.out.exists()
    figure.run(lab)
    runs = result(lab, "figure-4.8")["runs"]
    starts = {(r["case"], r["arm"]): r["psnr"][0] for r in runs}
    for case in figure_4_8.CASES:
        # (P) begins with the zero-shot scene, (S) with none.
        assert starts[case, "pretrained"] == pytest.approx(starts[case, "hyperfields"], abs=1e-3)
        assert starts[case, "scratch"] != pytest.approx(starts[case, "hyperfields"], abs=1e-3)
    assert {r["steps"][-1] for r in runs if r["arm"] == "scratch"} == {4}
    assert all(r["cpu_seconds_per_step"] > 0 for r in runs)
    assert len(list(lab.out.glob("*.png"))) == 2
    done = sorted(lab.runs.rglob("model.safetensors"))
    before = [p.stat().st_mtime_ns for p in done]
    figure.run(replace(lab, quick=True))
    assert [p.stat().st_mtime_ns for p in done] == before


def test_break_even_is_where_the_two_totals_meet() -> None:
    count = amortization.break_even(600.0, 10.0, 0.5)
    assert count is not None
    assert 600 + 0.5 * count == pytest.approx(10 * count)
    assert amortization.break_even(600.0, 0.4, 0.5) is None
    curve = Curve([0, 8, 16, 24], [10.0, 18.0, 20.2, 20.6], 0.5)
    assert amortization.seconds_to_equal(curve, 18.0) == {"reaches_generated": True, "seconds": 4.0}
    # Never as good: what it needs to its own plateau, not all that it was given.
    assert amortization.seconds_to_equal(curve, 28.0) == {
        "reaches_generated": False,
        "seconds": 8.0,
    }


def test_amortisation_needs_a_finished_training(sizes: Optimisations, lab: Lab) -> None:
    experiment = replace(amortization.experiment("cpu"), sizes=sizes)
    with pytest.raises(UserError, match="hyperfields train procedural_cpu --out"):
        experiment.run(lab)
    trained = lab.runs / "procedural_cpu" / "0"
    sizes.load().save(trained / "model")
    lines = [{"step": 1, "seconds": 40.0}, {"step": 2, "seconds": 90.0}]
    (trained / "timing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    experiment.run(replace(lab, quick=True))
    found = result(lab, "amortization")
    assert [s["prompt"] for s in found["scenes"]] == ["a blue chair", "a red mug"]
    assert found["stage_2_seconds"] == 90.0
    assert (lab.out / "amortization-cpu-break-even.png").is_file()
