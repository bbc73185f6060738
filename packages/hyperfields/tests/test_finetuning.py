"""Fine-tuning to a prompt: what moves, what stays, and resumption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hyperfields.config import FinetuneConfig, LaunchConfig, TeachConfig
from hyperfields.data.views import procedural_views
from hyperfields.fields.cameras import evaluation_views
from hyperfields.fields.field import Field
from hyperfields.fields.rendering import composite_over
from hyperfields.hypernetwork.network import PromptField
from hyperfields.pretrained import HyperFields
from hyperfields.training.finetuning import finetune
from hyperfields.training.score_distillation import sample_views, teach
from priors_shared.runs import Run

PROMPT = "a red mug"
CPU = LaunchConfig(accelerator="cpu", quiet=True)


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., HyperFields]) -> HyperFields:
    return tiny_model("a blue chair")


def tune_config(**changes: object) -> FinetuneConfig:
    base = FinetuneConfig(
        prompt=PROMPT,
        image_size=8,
        samples=8,
        views=6,
        steps=4,
        learning_rate=2e-3,
        grid_learning_rate=2e-2,
        checkpoint_every=2,
        log_every=2,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def tune(
    out: Path, config: FinetuneConfig, model: HyperFields, *, resume: bool = False
) -> HyperFields:
    with Run.create(
        out, asdict(config), command="test", resume=resume, tensorboard=False, quiet=True
    ) as run:
        return finetune(config, model, CPU, run)


def error(field: Field) -> float:
    """Mean squared error of renders of the field against exact ones of PROMPT."""
    cameras = evaluation_views(4, 8)
    reference = composite_over(procedural_views([PROMPT], cameras)[PROMPT].images)
    shown = composite_over(torch.stack([field.render(camera, 16) for camera in cameras]))
    return float((shown - reference).square().mean())


def weights(model: HyperFields) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.net.named_parameters()}


def test_tuning_brings_the_prompts_scene_nearer_and_leaves_the_model_it_began_with(
    tmp_path: Path, model: HyperFields
) -> None:
    before, begun = weights(model), error(model.generate(PROMPT))
    config = tune_config(steps=80, views=12, checkpoint_every=80, log_every=80)
    tuned = tune(tmp_path / "run", config, model)
    assert error(tuned.generate(PROMPT)) < 0.6 * begun
    for name, value in weights(model).items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    # Everything learns: transformer, heads and hash grid.
    still = [n for n, p in weights(tuned).items() if torch.equal(p, before[n])]
    assert not still
    loaded = HyperFields.from_pretrained(tmp_path / "run", text=model.text.name)
    assert loaded.trained["finetuned"] == [PROMPT]
    assert loaded.unknown_words(PROMPT) == []
    assert model.unknown_words(PROMPT) == ["red", "mug"]


def test_a_prompts_field_is_what_the_hypernetwork_writes_for_these_points(
    model: HyperFields,
) -> None:
    tokens, mask = model.text.encode([PROMPT, "a blue chair"])
    points = 2 * torch.rand(50, 3) - 1
    densities, values = model.net(tokens, mask, points.expand(2, -1, -1))
    one = PromptField(model.net, tokens[:1], mask[:1])
    torch.testing.assert_close(one(points), (densities[0], values[0]))


def test_killed_tuning_resumes_to_the_same_bytes(tmp_path: Path, model: HyperFields) -> None:
    config = tune_config()
    tune(tmp_path / "straight", config, model)

    class Killed(Exception):
        pass

    calls = 0

    def dying(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise Killed
        return sample_views(*args)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hyperfields.training.score_distillation.sample_views", dying)
        with pytest.raises(Killed):
            tune(tmp_path / "killed", config, model)
    tune(tmp_path / "killed", config, model, resume=True)
    for name in ("model/model.safetensors", "metrics.jsonl"):
        same = [(tmp_path / run / name).read_bytes() for run in ("straight", "killed")]
        assert same[0] == same[1]


def test_teaching_may_begin_with_a_generated_scene(tmp_path: Path, model: HyperFields) -> None:
    """The baseline (P) of 4.4.3: pre-trained on the model's zero-shot scene."""
    start = model.generate(PROMPT)
    before = {name: value.clone() for name, value in start.state_dict().items()}
    seen = []

    def observe(field: Field) -> dict[str, float]:
        seen.append(error(field))
        return {"error": seen[-1]}

    config = TeachConfig(**asdict(tune_config()), field=model.net.config.field)
    with Run.create(
        tmp_path / "run", asdict(config), command="test", tensorboard=False, quiet=True
    ) as run:
        teach(config, CPU, run, start=start, observe=observe)
        logged = [line["error"] for line in run.metrics()]
    assert seen[0] == pytest.approx(error(start))
    assert logged == pytest.approx(seen)
    assert seen[-1] != seen[0]
    for name, value in start.state_dict().items():  # its hash grid is the model's
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
