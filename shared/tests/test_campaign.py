"""A campaign ends with the same bytes however often it was killed; what fails stops nothing else."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("snakemake")

BOTH = ("toy", "toy-bad")
"""Not the experiments of the packages that are installed."""
KILLS = int(os.environ.get("PRIORS_KILLS", "2"))

TOY = '''
"""A package with one experiment of three trainings, the last of which builds on the first; and one that fails."""
import sys, time
from dataclasses import dataclass, replace
import torch
from priors_shared.checkpoints import save_weights
from priors_shared.claims import Book
from priors_shared.errors import UserError
from priors_shared.experiments import Experiment, Runner
from priors_shared.options import run_experiments
from priors_shared.runs import read_metrics
from priors_shared.training import TrainingLoop


@dataclass(frozen=True, kw_only=True)
class Toy(Experiment):
    def run(self, lab):
        sums = {}
        for name, base in (("a", True), ("b", False), ("c", False)):
            if name == "c" and "a" not in sums:
                return
            folder = lab.runs / self.id / name
            if lab.has(folder, {"name": name}, lambda run: train(run, name, self.id), base=base):
                sums[name] = sum(line["loss"] for line in read_metrics(folder))
        if len(sums) == 3:
            self.write(lab, [{"model": n, "sum": s} for n, s in sums.items()], config={}, seeds=[0], data="none")


def train(run, name, id):
    if id == "toy-bad" and name == "b":
        raise UserError("b: this one never works")
    with torch.random.fork_rng():
        torch.manual_seed(ord(name))
        net = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    loop = TrainingLoop(run, model=net, optimizer=optimizer, steps=40, checkpoint_every=4)
    for step in loop:
        x = torch.randn(4, 2, generator=torch.Generator().manual_seed(step))
        loss = (net(x) - x.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loop.step(loss)
        time.sleep(PAUSE)
    save_weights(run.out / "model", net, kind="toy", config={})


PAUSE = 0.02
EXPERIMENTS = {
    name: Runner(lambda preset, name=name: Toy(id=name, claim="it adds up", preset=preset, core_hours=0.01))
    for name in ("toy", "toy-bad")
}
BOOK = Book(system="toy", claims=(), experiments=lambda: EXPERIMENTS)

if __name__ == "__main__":
    from priors_shared.console import run_cli
    run_cli(lambda: run_experiments("toy", sys.argv[2:], list(EXPERIMENTS), lambda: EXPERIMENTS))
'''


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """In which the toy package is installed."""
    site = tmp_path_factory.mktemp("site")
    (site / "toy.py").write_text(TOY)
    info = site / "toy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[priors.claims]\ntoy = toy:BOOK\n")
    script = site / "bin" / "toy"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m toy "$@"\n')
    script.chmod(0o755)
    path = f"{script.parent}{os.pathsep}{os.environ['PATH']}"
    paths = [str(site), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PATH": path}


def campaign(folder: Path, environment: dict[str, str], *args: str) -> "subprocess.Popen[str]":
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", "from priors_shared.campaign.command import main; main()", *args],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def contents(folder: Path) -> dict[str, bytes]:
    """What a run is compared by; clocks and environments differ."""
    kept = ("*/metrics.jsonl", "*/model/*", "*/checkpoints/*.safetensors")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for pattern in kept
        for path in folder.glob(f"runs/toy/{pattern}")
    }


def finish(folder: Path, environment: dict[str, str], *args: str) -> tuple[int, str]:
    process = campaign(folder, environment, *args)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def test_killed_at_random_it_ends_with_the_same_bytes(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    code, output = finish(straight, environment, "toy", "--run")
    assert code == 0, output
    assert (straight / "results" / "toy-cpu.json").is_file()
    draws = random.Random(0)
    for _ in range(KILLS):
        process = campaign(killed, environment, "toy", "--run")
        time.sleep(draws.uniform(4, 12))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    code, output = finish(killed, environment, "toy", "--run")
    assert code == 0, output
    assert contents(killed) == contents(straight)
    assert len(contents(killed)) >= 9
    # What is finished is not run again, not even looked at by the engine.
    code, output = finish(killed, environment, "toy", "--run")
    assert (code, output.splitlines()[-1]) == (0, "nothing is left to do")


def test_what_fails_is_shown_and_stops_nothing_else(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    code, output = finish(tmp_path / "x", environment, *BOTH, "--run")
    folder = tmp_path / "x"
    assert code == 1
    assert "not done  toy__toy-bad__b" in output
    log = (folder / ".campaign" / "logs" / "toy__toy-bad__b.log").read_text()
    assert log.strip().endswith("error: b: this one never works")
    assert (folder / "runs" / "toy" / "b" / "model").is_dir()
    assert (folder / "runs" / "toy-bad" / "a" / "model").is_dir()
    assert not (folder / "results" / "toy-bad-cpu.json").exists()
    code, output = finish(folder, environment, *BOTH)
    assert code == 0
    assert "toy toy-bad  (about 0.01 core-hours each)" in output
    assert "  missing  toy-bad/b" in output


def test_mistakes_are_one_line(tmp_path: Path, environment: dict[str, str]) -> None:
    code, output = finish(tmp_path / "x", environment, "toyy")
    assert code == 2
    assert "unknown experiment 'toyy': did you mean toy?" in output
    code, output = finish(tmp_path / "x", environment, "--run", "--jobs", "0")
    assert (code, output.strip()) == (2, "error: --jobs 0: give 1 or more")
