"""Table 4.1 offline: ranks by hand, training data that is held apart, an encoder that learns to tell scenes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hyperfields.conditioning.text import TextEncoder
from hyperfields.conditioning.vocabulary import COLOURS, procedural_prompts
from hyperfields.data.views import procedural_views
from hyperfields.evaluation import top_k
from hyperfields.experiments import table_4_1
from hyperfields.experiments.table_4_1 import HeldApart, embed, retrieve, train_encoder
from hyperfields.fields.cameras import evaluation_views
from hyperfields.fields.rendering import composite_over
from hyperfields.pretrained import HyperFields
from priors_shared.experiments import Lab

FEW = ("a red mug", "a blue mug", "a red plate", "a plaid plate")


def test_ranks_are_counted_by_hand_and_ties_count_against() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.0], [3.0, 2.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    found = top_k(scores, torch.tensor([0, 2, 1]))  # ranks 1, 3 and, tied, 4
    assert found[1] == pytest.approx(100 / 3)
    assert found[3] == pytest.approx(200 / 3)
    assert found[5] == found[10] == 100


def test_degraded_renders_keep_coarse_colours_and_lose_detail() -> None:
    image = torch.full((2, 3, 32, 32), 0.5)
    image[1, :, ::2] = 1.0
    image[1, :, 1::2] = 0.0
    flat, stripes = table_4_1.degrade(image)
    torch.testing.assert_close(flat, stripes)  # stripes of a pixel are gone, the noise is the same
    assert float(flat.std()) == pytest.approx(table_4_1.NOISE, rel=0.1)


def test_candidates_are_all_prompts_and_distractors() -> None:
    assert set(procedural_prompts()) < set(table_4_1.CANDIDATES)
    assert len(set(table_4_1.CANDIDATES)) == len(table_4_1.CANDIDATES) == 160


def test_training_renders_are_of_the_prompts_and_not_those_looked_up() -> None:
    data = HeldApart(FEW, cameras=3, size=12, seed=0)
    images, which = data.sample(40, torch.Generator().manual_seed(0))
    again, _ = data.sample(40, torch.Generator().manual_seed(0))
    assert torch.equal(images, again)
    assert set(which.tolist()) == {0, 1, 2, 3}
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    # Where red is asked for, there is more red than blue about; where blue is, the other way round.
    excess = (images[:, 0] - images[:, 2]).mean((1, 2))
    assert float(excess[which == 0].mean()) > float(excess[which == 1].mean()) + 0.05
    cameras = evaluation_views(table_4_1.VIEWS, 12)
    for camera in data.cameras:
        assert all(float((camera.pose - c.pose).abs().max()) > 1e-3 for c in cameras)
    exact = composite_over(procedural_views(FEW, cameras)[FEW[0]].images).permute(0, 3, 1, 2)
    gaps = (images[:, None] - exact[None]).abs().amax((2, 3, 4))
    assert float(gaps.min()) > 0.05


def test_light_changes_the_shade_alone() -> None:
    data = HeldApart(FEW[:1], cameras=1, size=12, seed=0)
    (scene,), (traced,) = data.scenes, data.traced["mug"]
    flat = scene.colours(traced, ambient=1.0)
    hit = flat[:, 3] == 1
    torch.testing.assert_close(
        flat[hit, :3], torch.tensor(COLOURS["red"]).expand(int(hit.sum()), 3)
    )
    above = scene.colours(traced, light=(0, 0, 1), ambient=0.0)
    below = scene.colours(traced, light=(0, 0, -1), ambient=0.0)
    torch.testing.assert_close(above + below, flat + flat * torch.tensor([0.0, 0, 0, 1]))


def test_an_encoder_learns_to_tell_scenes_and_is_kept(tmp_path: Path) -> None:
    text = TextEncoder("minilm")

    def train(steps: int) -> table_4_1.RenderEncoder:
        return train_encoder(
            tmp_path / f"{steps}",
            text,
            seed=0,
            steps=steps,
            candidates=FEW,
            cameras=4,
            batch_size=16,
        )

    exact = procedural_views(FEW, evaluation_views(4, table_4_1.SIZE))
    images = {prompt: exact[prompt].images for prompt in FEW}
    encoder = train(80)
    found = retrieve(encoder, embed(text, FEW), images, FEW)
    assert found[1] > 80  # chance: 25
    weights = tmp_path / "80" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert retrieve(train(80), embed(text, FEW), images, FEW) == found
    assert weights.stat().st_mtime_ns == before


def test_generated_and_exact_renders_of_unseen_and_seen_prompts_are_looked_up(
    tiny_model: Callable[..., HyperFields], tmp_path: Path
) -> None:
    model = tiny_model("a red mug", "a plaid plate")
    model.trained["held_out"] = ["a blue mug"]
    model.save(tmp_path / "model")
    made = table_4_1.experiment("cpu")
    sizes = replace(made.sizes, model=str(tmp_path / "model"), text=model.text.name)
    experiment = replace(made, sizes=sizes, candidates=FEW, seeds=(0, 1), steps=1)
    lab = Lab(out=tmp_path / "out", runs=tmp_path / "runs")
    experiment.run(replace(lab, quick=True))
    assert not lab.out.exists()
    experiment.run(lab)
    result = json.loads((lab.out / "table-4.1-cpu.json").read_text())
    assert [row["model"] for row in result["rows"]] == [
        f"{what}, {group}{quality}"
        for quality in ("", ", degraded")
        for group in ("unseen", "seen")
        for what in ("generated", "exact")
    ]
    assert all(row["top-5"]["mean"] == 100 for row in result["rows"])  # of four candidates
    assert result["seeds"] == [0, 1]
