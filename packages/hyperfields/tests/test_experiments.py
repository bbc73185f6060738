"""The experiments: trained once, measured, written beside their pictures; quick trains nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hyperfields.config import FieldConfig, ModelConfig
from hyperfields.experiments import EXPERIMENTS
from hyperfields.presets import DISTILL


def test_both_arms_are_trained_measured_and_reused(
    tiny_text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = FieldConfig(
        width=4, levels=1, level_features=2, log2_rows=6, coarsest=2, finest=2, frequencies=1
    )
    tiny = replace(
        DISTILL["procedural_cpu"](),
        model=ModelConfig(text=tiny_text, blocks=1, heads=1, head_dim=4, hidden=4, field=field),
        prompts=("a red mug", "a blue plate"),
        held_out=("a blue mug",),
        views=1,
        image_size=6,
        rays=4,
        samples=4,
        iterations=1,
    )
    monkeypatch.setitem(DISTILL, "procedural_cpu_short", lambda: tiny)
    out, runs = tmp_path / "out", tmp_path / "runs"
    EXPERIMENTS["figure-4.9"](out=out, runs=runs, quick=True, seeds=(0,))
    assert not out.exists()
    EXPERIMENTS["figure-4.9"](out=out, runs=runs, seeds=(0,))
    result = json.loads((out / "figure-4.9-cpu.json").read_text())
    assert [row["model"] for row in result["rows"]] == [
        f"{arm}, {group} scenes"
        for arm in ("dynamic", "static")
        for group in ("held out", "trained")
    ]
    assert {p.name for p in out.glob("*.png")} == {
        f"figure-4.9-cpu-{arm}.png" for arm in ("dynamic", "static")
    }
    assert result["config"]["static"]["model"]["conditioning"] == "static"
    weights = runs / "procedural_cpu_short/dynamic-0/model/model.safetensors"
    before = weights.stat().st_mtime_ns
    EXPERIMENTS["figure-4.4"](out=out, runs=runs, quick=True, seeds=(0,))
    assert weights.stat().st_mtime_ns == before
    assert (out / "figure-4.4-cpu.json").is_file()
