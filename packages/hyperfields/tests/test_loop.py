"""The part that all loops share: a training that diverges ends with an error, and keeps nothing of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from hyperfields.config import LaunchConfig
from hyperfields.training.loop import TrainingLoop, launch_one
from priors_shared.checkpoints import load_training_state
from priors_shared.errors import UserError
from priors_shared.runs import Run


def train(folder: Path, *, bad_at: int | None, spoil: bool = False, steps: int = 6) -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Run.create(folder, {}, command="test", resume=True, quiet=True) as run:
        loop = TrainingLoop(
            run,
            model=model,
            optimizer=optimizer,
            steps=steps,
            log_every=2,
            checkpoint_every=2,
            name="test",
        )
        for step in loop:
            bad = step + 1 == bad_at
            if bad and spoil:
                model.weight.data.fill_(torch.inf)
            loss = torch.tensor(torch.nan if bad and not spoil else float(step))
            loop.step(loss, lambda mean: {"loss": mean})


@pytest.mark.parametrize("spoil", [False, True])
def test_a_training_that_diverges_names_its_step_and_keeps_the_checkpoint_before(
    tmp_path: Path, spoil: bool
) -> None:
    step = 4 if spoil else 3  # weights are looked at when a checkpoint is due
    with pytest.raises(UserError, match=rf"^learning_rate: .* step {step} "):
        train(tmp_path / "run", bad_at=step, spoil=spoil)
    state = load_training_state(tmp_path / "run" / "checkpoints")
    assert state.step == 2
    assert all(value.isfinite().all() for value in state.model_state.values())
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert lines == ['{"step": 2, "loss": 0.5}']


def test_a_line_has_the_mean_since_the_last_one_across_a_resume(tmp_path: Path) -> None:
    train(tmp_path / "run", bad_at=None, steps=3)
    assert '{"step": 3, "loss": 2.0}' in (tmp_path / "run" / "metrics.jsonl").read_text()
    with pytest.raises(UserError):
        train(tmp_path / "other", bad_at=5)
    train(tmp_path / "other", bad_at=None)
    lines = (tmp_path / "other" / "metrics.jsonl").read_text().splitlines()
    assert lines[1:] == ['{"step": 4, "loss": 2.5}', '{"step": 6, "loss": 4.5}']


def test_what_one_device_does_uncompiled_refuses_more() -> None:
    with pytest.raises(UserError, match=r"^compile: a dance is not compiled"):
        launch_one(LaunchConfig(compile=True), "a dance")
