"""The verb `eval`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from memory_adapt.cli.records import write_record
from memory_adapt.config import PhotoConfig
from priors_shared.cli import Checkpoint, Count, DataRoot, Device, OutFile, Seed, Threads
from priors_shared.console import Progress, print_table
from priors_shared.errors import UserError
from priors_shared.options import described, say

if TYPE_CHECKING:
    from memory_adapt.evaluation import Control
    from memory_adapt.pretrained import OnlineLearner
    from priors_shared.datasets import ImageDataset
    from priors_shared.episodes import OnlineEpisodeSampler
    from priors_shared.statistics import ShotAccuracy

CONTROL_EPISODES = 200
PHOTO_TEST, PHOTO_WAYS = "cifar-fs", 5
"""Where learners of photos are tested unless told otherwise: none of its test classes was trained on."""


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Accuracy against shots on streams of classes that were never trained on."""

    checkpoint: Checkpoint
    dataset: Annotated[
        str | None,
        described(
            "NAME",
            "(default: what it was trained on; cifar-fs for learners of photos)",
        ),
    ] = None
    """omniglot, glyphs, cifar-fs, fc100, tiny-imagenet, pacs-photo, or folder:PATH"""
    split: Literal["train", "val", "test", "all"] = "test"
    """which classes; those of test were never trained on"""
    shots: Annotated[tuple[int, ...], arg(metavar="INT [INT ...]")] = (1, 5, 8)
    """rows of the table: accuracy when a class was seen so often before"""
    samples: Annotated[
        Count | None, described("INT", "(default: 10, or as many as the shots need)")
    ] = None
    """images of each class in a stream"""
    ways: Annotated[
        Count | None, described("INT", "(default: as trained; 5 for learners of photos)")
    ] = None
    """classes in a stream"""
    alphabets: bool = False
    """draw the classes of each stream from one alphabet, whose characters are harder to tell apart (omniglot)"""
    episodes: Count = 1000
    """streams"""
    delay: Annotated[Count | None, described("INT", "(default: as trained)")] = None
    """steps until a label arrives"""
    controls: bool = True
    """also evaluate with blank images, without labels and with random labels: all must fail"""
    seed: Seed = 0
    out: OutFile = None
    plot: Annotated[Path | None, described("FILE.png", "")] = None
    """plot accuracy against shots here"""
    data_root: DataRoot = None
    device: Device = "cpu"
    threads: Threads = None

    def __post_init__(self) -> None:
        if not self.shots or min(self.shots) < 0:
            raise UserError("shots: give numbers of earlier views, 0 or more, such as 1 5 8")
        if self.episodes < 2:
            raise UserError(f"episodes {self.episodes}: an interval needs 2 or more")
        if self.seed < 0:
            raise UserError(f"seed must be at least 0, got {self.seed}")
        if self.ways == 1:
            raise UserError("ways 1: with one class there is nothing to tell apart")

    def run(self) -> None:
        """Print the table; write the JSON and the plot that are asked for."""
        from memory_adapt.data.images import load_images
        from memory_adapt.evaluation import (
            alphabets_of,
            cheap_blind_bound,
            samples_needed,
            stream_sampler,
        )
        from memory_adapt.plots import check_figure_path, save_figure, shots_figure
        from memory_adapt.pretrained import OnlineLearner
        from priors_shared.devices import set_threads
        from priors_shared.files import check_output_file

        set_threads(self.threads)
        check_figure_path(self.plot)
        for path in (self.out, self.plot):
            if path is not None:
                check_output_file(path)
        learner = OnlineLearner.from_pretrained(self.checkpoint, self.device, delay=self.delay)
        photos = isinstance(learner.config, PhotoConfig)
        name = self.dataset or (PHOTO_TEST if photos else learner.trained.get("dataset"))
        if not isinstance(name, str):
            raise UserError(
                f"dataset: {self.checkpoint} does not say what it was trained on; name one, such as glyphs"
            )
        ways = self.ways or (PHOTO_WAYS if photos else learner.ways)
        learner.reset(ways)  # checks the number
        dataset = load_images(name, self.split, self.data_root, learner.config, ways)
        samples = samples_needed(dataset, self.shots, self.samples)
        sampler = stream_sampler(
            learner.model,
            dataset,
            ways=ways,
            shots=samples,
            delay=learner.delay,
            device=learner.device,
            groups=alphabets_of(dataset) if self.alphabets else None,
        )
        results = self._evaluate(learner, sampler)
        blind = cheap_blind_bound(ways, samples)
        self._show(results, dataset, sampler, blind)
        if self.out is not None:
            write_record(self.out, self._record(results, learner, dataset, sampler, blind))
            say(f"results  {self.out}")
        if self.plot is not None:
            names = {"none": f"{dataset.name}, {ways} ways"}
            curves = {
                names.get(c, f"control: {c}"): (r.mean.tolist(), r.low.tolist(), r.high.tolist())
                for c, r in results.items()
            }
            title = Path(self.checkpoint).name
            save_figure(shots_figure(curves, ways=ways, blind=blind, title=title), self.plot)
            say(f"plot     {self.plot}")

    def _evaluate(
        self, learner: OnlineLearner, sampler: OnlineEpisodeSampler
    ) -> dict[Control, ShotAccuracy]:
        """Accuracy as it is, and with each thing taken away."""
        from memory_adapt.evaluation import CONTROLS, evaluate

        count: dict[Control, int] = {"none": self.episodes}
        if self.controls:
            count |= dict.fromkeys(CONTROLS, min(self.episodes, CONTROL_EPISODES))
        with Progress(sum(count.values()), "evaluate") as progress:
            return {
                control: evaluate(
                    learner.model,
                    sampler,
                    episodes=episodes,
                    seed=self.seed,
                    control=control,
                    advance=progress.advance,
                )
                for control, episodes in count.items()
            }

    def _show(
        self,
        results: Mapping[Control, ShotAccuracy],
        dataset: ImageDataset,
        sampler: OnlineEpisodeSampler,
        blind: Sequence[float] | None,
    ) -> None:
        """The table, and what it is about."""
        accuracy, ways = results["none"], sampler.ways
        controls = {c: r for c, r in results.items() if c != "none"}
        rows = []
        for k in self.shots:
            half = 50 * float(accuracy.high[k] - accuracy.low[k])
            rows.append(
                [str(k), f"{100 * float(accuracy.mean[k]):.1f} ± {half:.1f}"]
                + [f"{100 * blind[k]:.1f}" if blind else "-"]
                + [f"{100 * float(r.mean[k]):.1f}" for r in controls.values()]
            )
        title = f"{self.checkpoint} on {dataset.name} ({dataset.split} classes), {ways} ways"
        title += " of one alphabet" if self.alphabets else ""
        print_table(title, ["shots", "accuracy (%)", "blind bound", *controls], rows)
        late = "one step late" if sampler.delay == 1 else f"{sampler.delay} steps late"
        say(
            f"{accuracy.episodes} streams of {ways} x {sampler.shots} images, labels {late}; "
            f"± 95 % interval over streams; chance {100 / ways:.1f} %; "
            "blind bound: the best accuracy without looking at an image"
        )

    def _record(
        self,
        results: Mapping[Control, ShotAccuracy],
        learner: OnlineLearner,
        dataset: ImageDataset,
        sampler: OnlineEpisodeSampler,
        blind: Sequence[float] | None,
    ) -> dict[str, Any]:
        """What goes into the JSON."""
        from memory_adapt.evaluation import by_shot, weights_hash

        return {
            "checkpoint": self.checkpoint,
            "weights": weights_hash(learner.model),
            "model": learner.config,
            "trained": learner.trained,
            "dataset": dataset.name,
            "split": dataset.split,
            "ways": sampler.ways,
            "alphabets": self.alphabets,
            "samples": sampler.shots,
            "delay": sampler.delay,
            "seed": self.seed,
            "accuracy": by_shot(results["none"]),
            "blind_bound": blind,
            "chance": 1 / sampler.ways,
            "controls": {c: by_shot(r) for c, r in results.items() if c != "none"},
        }
