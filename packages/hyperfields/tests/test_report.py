"""The package's part of the report, at the smallest sizes: what is measured, shown and left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hyperfields import report
from hyperfields.config import FieldConfig, ModelConfig
from hyperfields.hypernetwork.network import HyperNetwork
from hyperfields.presets import procedural_cpu, teacher_cpu
from hyperfields.pretrained import HyperFields, save_model
from priors_shared.console import Progress
from priors_shared.reports import Figure, Section, Table

FIELD = FieldConfig(
    width=4, levels=1, level_features=2, log2_rows=6, coarsest=2, finest=2, frequencies=1
)


@pytest.fixture
def sizes(tiny_text: str) -> ModelConfig:
    return ModelConfig(text=tiny_text, blocks=1, heads=1, head_dim=4, hidden=4, field=FIELD)


def parts(section: Section, kind: type) -> list:
    return [part for part in section.parts if isinstance(part, kind)]


def test_untrained_weights_get_no_held_out_verdict(sizes: ModelConfig, tmp_path: Path) -> None:
    """Random weights show every prompt alike: two scenes of other colours cannot both be right."""
    torch.manual_seed(0)
    held = ["a blue mug", "a red plate"]
    trained = {"prompts": ["a red mug"], "held_out": held}
    save_model(tmp_path / "model", HyperNetwork(sizes, 16), 16, trained)
    section = report.shipped_section(
        tmp_path, Progress, tmp_path / "model", text=sizes.text, views=1, size=8
    )
    (table,) = parts(section, Table)
    assert [row[0] for row in table.rows] == ["mean", *held]
    assert table.rows[0][1] == pytest.approx(sum(row[1] for row in table.rows[1:]) / 2)
    (verdict,) = section.verdicts()
    assert verdict.holds is False


def test_live_teacher_takes_the_place_of_its_exact_scene(
    sizes: ModelConfig, tmp_path: Path
) -> None:
    taught = replace(
        teacher_cpu(), prompt="a red mug", field=FIELD, image_size=8, samples=4, views=2
    )
    config = replace(
        procedural_cpu(),
        model=sizes,
        prompts=("a red mug", "a blue plate"),
        held_out=(),
        views=2,
        image_size=8,
        rays=8,
        samples=4,
    )
    config, taught = replace(config, steps=6), replace(taught, steps=2)
    section = report.live_section(tmp_path, True, teaching=taught, distilling=config)
    assert len(parts(section, Figure)) == 3
    model = HyperFields.from_pretrained(tmp_path / "live" / "distill", text=sizes.text)
    assert model.prompts == ("a blue plate", "a red mug")
    assert (tmp_path / "live/teachers/0/model").is_dir()


def test_nothing_stored_is_no_section(tmp_path: Path) -> None:
    assert not report.stored_sections(tmp_path)
