"""The experiment layer: trainings are done once, go on after a kill, can be listed and done one at a time."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from priors_shared.checkpoints import save_weights
from priors_shared.errors import UserError
from priors_shared.experiments import (
    Experiment,
    Lab,
    Runner,
    State,
    all_seeds,
    compared,
    rows_over_seeds,
)
from priors_shared.options import run_experiments
from priors_shared.reports import Measured, read_result
from priors_shared.runs import Run


@dataclass(frozen=True, kw_only=True)
class Halves(Experiment):
    """Two trainings a seed, the second of which builds on the first."""

    id: str = "table-0.0"
    claim: str = "two halves make one"
    seeds: tuple[int, ...] = (0, 1)
    core_hours: float | None = 0.5
    killed: bool = False

    def run(self, lab: Lab) -> None:
        scores: dict[str, dict[int, dict[str, float]]] = {}
        for seed in self.seeds:
            first = lab.runs / "first" / str(seed)
            if not lab.has(first, {"seed": seed}, self.train, base=True):
                continue
            if lab.has(lab.runs / "second" / str(seed), {"seed": seed}, self.train):
                scores.setdefault("both", {})[seed] = {"x": float(seed)}
        if scores:
            self.write(
                lab, rows_over_seeds(scores), config={}, seeds=all_seeds(scores), data="none"
            )

    def train(self, run: Run) -> None:
        run.log(1, loss=0.0)
        if self.killed:
            raise KeyboardInterrupt
        save_weights(run.out / "model", torch.nn.Linear(1, 1), kind="half", config={})


RUNNER = Runner(lambda preset: Halves(preset=preset))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(out=tmp_path / "out", runs=tmp_path / "runs")


def states(lab: Lab) -> dict[str, State]:
    planned = RUNNER.trainings(preset="cpu", runs=lab.runs)
    return {name: at.state for name, at in planned.items()}


def test_trainings_are_done_once_and_go_on_after_a_kill(lab: Lab) -> None:
    with pytest.raises(KeyboardInterrupt):
        Halves(preset="cpu", killed=True).run(lab)
    assert states(lab) == {"first/0": "partial", "first/1": "missing"}
    Halves(preset="cpu").run(replace(lab, quick=True))
    assert not lab.out.exists()
    Halves(preset="cpu").run(lab)
    result = read_result(lab.out / "table-0.0-cpu.json")
    assert result["rows"] == [{"model": "both", "x": Measured.over_seeds([0.0, 1.0])}]
    assert result["command"].endswith(" reproduce table-0.0 --preset cpu")
    before = {path: path.stat().st_mtime_ns for path in lab.runs.rglob("*")}
    Halves(preset="cpu").run(lab)
    assert {path: path.stat().st_mtime_ns for path in lab.runs.rglob("*")} == before


def test_a_plan_shows_what_can_be_done_now_and_writes_nothing(lab: Lab) -> None:
    assert states(lab) == {"first/0": "missing", "first/1": "missing"}
    assert not lab.runs.exists()
    RUNNER.train_only("first/1", preset="cpu", out=lab.out, runs=lab.runs)
    assert states(lab) == {"first/0": "missing", "first/1": "done", "second/1": "missing"}
    assert not lab.out.exists()


def test_one_training_alone(lab: Lab) -> None:
    where: dict[str, Any] = {"preset": "cpu", "out": lab.out, "runs": lab.runs}
    RUNNER.train_only("first/0", **where)
    RUNNER.train_only("first/0", **where)  # done: nothing to do
    RUNNER.train_only("second/0", **where)
    done = [name for name, state in states(lab).items() if state == "done"]
    assert done == ["first/0", "second/0"]
    with pytest.raises(UserError, match=r"'second/1' is none of those .* first/0"):
        RUNNER.train_only("second/1", **where)


def run_command(lab: Lab, *args: str) -> None:
    folders = ["--out", str(lab.out), "--runs", str(lab.runs)]
    known: Mapping[str, Runner] = {"table-0.0": RUNNER, "table-0.1": RUNNER}
    run_experiments("x", [*args, *folders], list(known), lambda: known)


def test_the_command_plans_and_trains_one(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    run_command(lab, "table-0.0", "--training", "first/0")
    assert not list(lab.out.iterdir())
    capsys.readouterr()
    run_command(lab, "table-0.0", "--plan")
    assert capsys.readouterr().out.splitlines() == [
        "table-0.0  (0.5 core-hours each)",
        "  done     first/0",
        "  missing  second/0",
        "  missing  first/1",
    ]
    with pytest.raises(UserError, match="name the one experiment"):
        run_command(lab, "--training", "first/0")
    run_command(lab, "table-0.0")
    assert (lab.out / "table-0.0-cpu.json").is_file()


def test_differences_are_paired_by_name() -> None:
    found = compared({0: {"x": 1.0}, 1: {"x": 3.0}, 2: {"x": 9.0}}, {1: {"x": 1.0}, 0: {"x": 0.0}})
    assert found["x"]["difference"]["mean"] == 1.5
    assert compared({0: {"x": 1.0}}, {0: {"x": 1.0}}) == {}
