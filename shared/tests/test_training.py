"""The loop's bookkeeping: cadences, the best state, what diverged, and kills at every file operation."""

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from priors_shared.checkpoints import has_training_state, load_training_state
from priors_shared.errors import UserError
from priors_shared.runs import Run, read_metrics
from priors_shared.training import TrainingLoop


def open_run(out: Path, **options: Any) -> Run:
    return Run.create(out, {}, command="x", tensorboard=False, quiet=True, **options)


class Fit:
    """A line fitted by Adam, its weights averaged, validated by what `scores` gives in turn."""

    def __init__(self, run: Run, *, scores: list[float] | None = None, **options: Any) -> None:
        torch.manual_seed(0)
        self.net = nn.Linear(3, 1)
        self.average = torch.optim.swa_utils.AveragedModel(self.net)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=0.1)
        self.scores = scores
        settings: dict[str, Any] = {"steps": 12, "checkpoint_every": 5, "log_every": 4}
        self.loop = TrainingLoop(
            run,
            model=self.net,
            optimizer=self.optimizer,
            validate=self.validate if scores else None,
            best="score" if scores else None,
            modules={"average": self.average},
            **settings | options,
        )

    def validate(self) -> dict[str, float]:
        assert self.scores is not None
        return {"score": self.scores[self.loop.done // 4 - 1]}

    def train(self, *, diverges_at: int = 0, by: str = "loss") -> "Fit":
        for step in self.loop:
            generator = torch.Generator().manual_seed(step)
            x = torch.randn(5, 3, generator=generator)
            loss = (self.net(x) - x.sum(1, keepdim=True)).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.average.update_parameters(self.net)
            if step + 1 == diverges_at and by == "loss":
                loss = loss * math.nan
            if step + 1 == diverges_at and by == "a huge loss":
                loss = loss + 1e30
            if step + 1 == diverges_at and by == "weights":
                self.net.weight.data.fill_(math.inf)
            self.loop.step(loss, half=step / 2)
        return self


def test_lines_are_means_at_their_cadence(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    losses = []
    fit = Fit(run, log_every=5)
    count = fit.loop.step

    def step(loss: torch.Tensor, **metrics: float) -> None:
        losses.append(float(loss.detach()))
        count(loss, **metrics)

    fit.loop.step = step  # type: ignore[method-assign]
    fit.train()
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [5, 10, 12]
    assert [line["half"] for line in lines] == [2.0, 4.5, 5.5]
    means = [sum(losses[a:b]) / (b - a) for a, b in ((0, 5), (5, 10), (10, 12))]
    assert [line["loss"] for line in lines] == means
    assert load_training_state(run.checkpoints).step == 12


def test_lines_as_a_loop_sums_them_up(tmp_path: Path) -> None:
    Fit(
        open_run(tmp_path), summarise=lambda m: {"root": m["loss"] ** 0.5}, steps_before=100
    ).train()
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [104, 108, 112]
    assert all(line.keys() == {"step", "root"} for line in lines)


@pytest.mark.parametrize(("higher", "best"), [(True, 7.0), (False, 2.0)])
def test_the_best_state_is_kept_and_survives_a_resume(
    tmp_path: Path, higher: bool, best: float
) -> None:
    fit = Fit(open_run(tmp_path), scores=[7.0, 2.0, math.nan], higher=higher).train()
    assert fit.loop.best == best
    assert fit.loop.best_state is not None
    assert not torch.equal(fit.loop.best_state["weight"], fit.net.weight)
    again = Fit(open_run(tmp_path, resume=True), scores=[0.0], higher=higher).train()
    assert again.loop.best == best
    assert again.loop.best_state is not None
    assert torch.equal(again.loop.best_state["weight"], fit.loop.best_state["weight"])
    assert torch.equal(again.average.module.weight, fit.average.module.weight)
    assert torch.equal(again.net.weight, fit.net.weight)


@pytest.mark.parametrize("by", ["loss", "weights", "a huge loss"])
@pytest.mark.parametrize("at", [5, 7, 12])
def test_a_training_that_diverges_stops_and_writes_nothing_of_it(
    tmp_path: Path, at: int, by: str
) -> None:
    run = open_run(tmp_path)
    what = r"1e\+30" if by == "a huge loss" else "not finite"
    expected = rf"^learning_rate: .* is {what} after step \d+ of .*: lower it$"
    with pytest.raises(UserError, match=expected):
        Fit(run, scores=[1.0, 2.0, 3.0]).train(diverges_at=at, by=by)
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert all(line["step"] < at for line in read_metrics(tmp_path))
    if at == 5:
        assert not has_training_state(run.checkpoints)
    else:
        assert load_training_state(run.checkpoints).step < at


def test_stages_follow_each_other(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    Fit(run, stage=0).train()
    assert Fit(run, stage=1, steps_before=12).train().loop.done == 12
    resumed = open_run(tmp_path, resume=True)
    assert Fit(resumed, stage=1, steps_before=12).loop.done == 12
    assert Fit(resumed, stage=2, steps_before=24).loop.done == 0
    assert [line["step"] for line in read_metrics(tmp_path)] == [4, 8, 12, 16, 20, 24]


@pytest.mark.parametrize("name", ["steps", "checkpoint_every", "log_every", "validate_every"])
def test_cadences_of_zero_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"^{name}: 0 is less than 1"):
        Fit(open_run(tmp_path), **{name: 0})


SEVERAL = """
import os, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from test_training import Fit, open_run
from priors_shared.console import run_cli
rank, out = int(os.environ["LOCAL_RANK"]), Path(sys.argv[2])
torch.set_num_threads(1)
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{out}.rendezvous", rank=rank, world_size=2
)
with open_run(out) as run:
    run_cli(lambda: Fit(run).train(diverges_at=7 if rank == 1 else 0) and None)
"""


def test_all_processes_of_a_training_that_diverges_end(tmp_path: Path) -> None:
    if not torch.distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    out = tmp_path / "run"
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SEVERAL, str(Path(__file__).parent), str(out)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **path, "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=200)[1] for process in started]
    assert [process.returncode for process in started] == [2, 2], said
    assert "learning_rate: the loss is not finite after step 7" in said[0]
    assert "error:" not in said[1]
    assert load_training_state(out / "checkpoints").step == 5


KILLED = """
import os, signal, sys, tempfile
from pathlib import Path
import torch
from safetensors.torch import save_file
from priors_shared import runs
sys.path.insert(0, sys.argv[1])
from test_training import Fit, open_run
torch.set_num_threads(1)
runs.environment = dict  # slow, and says nothing here

def train(out, events):
    def count(event, arguments):
        nonlocal events
        if event in ("open", "os.rename", "os.mkdir", "os.remove") and str(out) in str(arguments[0]):
            events -= 1
            if events == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    if events:
        sys.addaudithook(count)
    with open_run(out, resume=True) as run:
        fit = Fit(run, scores=[2.0, 3.0, 1.0]).train()
        ended = {**fit.loop.best_state, **fit.average.state_dict()}
        save_file({**ended, "score": torch.tensor(fit.loop.best)}, out / "end.safetensors")

with tempfile.TemporaryDirectory() as first:
    train(Path(first) / "run", 0)  # what torch imports late is imported once, not in each fork
for line in sys.stdin:  # each line: a folder, and before which file operation to be killed
    out, events = line.split()
    if (child := os.fork()) == 0:
        train(Path(out), int(events))
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_before_any_file_operation_it_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(Path(__file__).parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as forks:
        assert forks.stdin is not None
        assert forks.stdout is not None

        def run(out: Path, events: int) -> int:
            forks.stdin.write(f"{out} {events}\n")  # type: ignore[union-attr]
            forks.stdin.flush()  # type: ignore[union-attr]
            return int(forks.stdout.readline())  # type: ignore[union-attr]

        def files(out: Path) -> dict[str, bytes]:
            names = ["metrics.jsonl", "checkpoints/training.safetensors", "end.safetensors"]
            return {name: (out / name).read_bytes() for name in names}

        assert run(tmp_path / "straight", 0) == 0
        wanted = files(tmp_path / "straight")
        kills = 0
        for events in range(1, 200):
            out = tmp_path / str(events)
            if run(out, events) == 0:
                break
            kills += 1
            assert run(out, 0) == 0
            assert files(out) == wanted, f"killed before file operation {events}"
        forks.stdin.close()
    assert kills > 30, kills
