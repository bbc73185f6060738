"""The verb `reproduce`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from priors_shared.cli import DataRoot, Threads, command_line
from priors_shared.options import say


@dataclass(frozen=True, kw_only=True)
class Reproduce:
    """Rank unseen epitopes' receptors from a few binders, against all baselines."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """of splits, tasks and trainings"""
    episodes: int = 1
    """tasks an epitope and seed"""
    steps: int = 150
    """updates of a training"""
    out: Annotated[Path, arg(metavar="DIR")] = Path("results")
    """folder for the result"""
    runs: Annotated[Path, arg(metavar="DIR")] = Path("runs/tcr")
    """folder of the trainings: those that it holds are resumed or used again"""
    data_root: DataRoot = None
    threads: Threads = None

    def run(self) -> None:
        """Write the result, and say its means."""
        from hypernet_maml.tcr.config import TrainConfig
        from hypernet_maml.tcr.experiment import Sizes, run_experiment
        from hypernet_maml.tcr.plots import few_shot_figure
        from priors_shared.devices import set_threads
        from priors_shared.reports.results import read_result

        set_threads(self.threads)
        sizes = Sizes(seeds=self.seeds, episodes=self.episodes, steps=self.steps)
        run_experiment(
            self.out,
            self.runs,
            root=self.data_root,
            command=command_line(),
            sizes=sizes,
            config=TrainConfig(),
        )
        path = self.out / "tcr-few-shot-cpu.json"
        result = read_result(path)
        for row in result["rows"]:
            say(
                f"{row['arm']:<32} k = {row['shots']:<3} AUROC {row['auroc'].mean:.3f}  AUC0.1 {row['auc01'].mean:.3f}"
            )
        few_shot_figure(result).savefig(path.with_suffix(".png"))
        say(f"written  {path}")
