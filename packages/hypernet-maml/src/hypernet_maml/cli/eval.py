"""The verb `eval`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from priors_shared.cli import Checkpoint, DataRoot, Device, OutFile, Seed, Threads, command_line
from priors_shared.errors import UserError
from priors_shared.options import described, say
from priors_shared.ranges import require


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Accuracy on few-shot tasks of classes that were never trained on."""

    checkpoint: Checkpoint
    dataset: Annotated[str | None, described("NAME", "(default: what it was trained on)")] = None
    """fc100, cifar-fs, miniimagenet, tiny-imagenet, omniglot, glyphs, or folder:PATH; grey or smaller images
    are fitted to the network"""
    split: Literal["train", "val", "test", "all"] = "test"
    """which classes"""
    shots: Annotated[int | None, described("INT", "(default: as trained)")] = None
    """support images of each class"""
    queries: int = 15
    """query images of each class"""
    episodes: int = 600
    """tasks"""
    seed: Seed = 0
    out: OutFile = None
    data_root: DataRoot = None
    device: Device = "cpu"
    threads: Threads = None

    def __post_init__(self) -> None:
        require(self, 1, "shots", "queries")
        if self.episodes < 2:
            raise ValueError(f"episodes: {self.episodes}, but an interval needs 2 or more")

    def run(self) -> None:
        """Evaluate, and say the mean with its interval."""
        from hypernet_maml.data.sources import load_images
        from hypernet_maml.evaluation import evaluate_learner
        from hypernet_maml.pretrained import FewShotLearner
        from priors_shared.console import Progress
        from priors_shared.devices import hardware, set_threads
        from priors_shared.episodes import FewShotSampler
        from priors_shared.files import write_atomically
        from priors_shared.statistics import mean_confidence_interval

        set_threads(self.threads)
        learner = FewShotLearner.from_pretrained(self.checkpoint, self.device)
        name = self.dataset or learner.trained.get("dataset")
        if name is None:
            raise UserError(f"dataset: {self.checkpoint} does not say what it was trained on")
        shots = int(learner.trained.get("shots", 5)) if self.shots is None else self.shots
        dataset = load_images(name, self.split, self.data_root, learner.network, adjust=True)
        drawn: dict[str, Any] = {"ways": learner.ways, "shots": shots, "queries": self.queries}
        sampler = FewShotSampler(dataset, **drawn, device=self.device)
        with Progress(self.episodes, "evaluate") as progress:
            found = evaluate_learner(
                learner.learner,
                sampler,
                tasks=self.episodes,
                seed=self.seed,
                each=lambda done: progress.advance(done),
            )
        interval = mean_confidence_interval(found)
        say(
            f"{self.checkpoint} on {dataset.name} ({self.split} classes), {learner.ways}-way {shots}-shot: "
            f"{100 * interval.mean:.2f} ± {100 * interval.half_width:.2f} % "
            f"({self.episodes} tasks, 95 % interval; chance {100 / learner.ways:.0f} %)"
        )
        if self.out is not None:
            record = {
                "checkpoint": self.checkpoint,
                "trained": learner.trained,
                "dataset": dataset.name,
                "split": self.split,
                **drawn,
                "episodes": self.episodes,
                "seed": self.seed,
                "accuracy": interval.mean,
                "half_width": interval.half_width,
                "per_task": [round(value, 4) for value in found.tolist()],
                "hardware": hardware(),
                "command": command_line(),
            }
            self.out.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.out, json.dumps(record, indent=2) + "\n")
            say(f"result    {self.out}")
