"""The verb `adapt`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from memory_adapt.data.names import printable
from priors_shared.cli import Checkpoint, Count, Device, Seed
from priors_shared.console import print_table
from priors_shared.options import described, note, say

if TYPE_CHECKING:
    from memory_adapt.adaptation import Prediction
    from memory_adapt.stream import StreamClassifier
    from priors_shared.datasets import ImageDataset

SHOWN_SHOTS = (0, 1, 2, 3, 5, 8, 10, 15, 20, 30, 50, 100)


@dataclass(frozen=True, kw_only=True)
class Adapt:
    """Take an image folder as a stream: predict each image, then learn from its label."""

    checkpoint: Checkpoint
    folder: Annotated[Positional[Path], arg(metavar="FOLDER")]
    """images: one subfolder per class"""
    classes: Annotated[tuple[str, ...], described("NAME [NAME ...]", "(default: all)")] = ()
    """the subfolders to use"""
    shots: Annotated[Count | None, described("INT", "(default: all)")] = None
    """images of each class to use, drawn by the seed"""
    order: Literal["shuffled", "sorted"] = "shuffled"
    """shuffled; or sorted by file name whatever the class, as for frames with time stamps"""
    delay: Annotated[Count | None, described("INT", "(default: as trained)")] = None
    """steps until a label arrives"""
    repeats: Count = 1
    """passes over the images, each begun without memory and in another order"""
    invert: Literal["auto", "yes", "no"] = "auto"
    """turn light into dark: characters must be light on dark. auto: where the borders are light, for
    learners of grey images"""
    seed: Seed = 0
    out: Annotated[Path, arg(metavar="DIR")] = Path("adapted")
    """folder for predictions.csv, shots.png and stream.png"""
    save_state: Annotated[Path | None, described("FILE", "")] = None
    """keep what was learned, in the first pass, for `predict --state`"""
    quiet: bool = False
    """no line per image, only the summary"""
    device: Device = "cpu"
    threads: Count = 1
    """CPU threads; a step works on a single image, which more of them do not make faster"""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")

    def run(self) -> None:
        """Print a line per image and the summary; write predictions and figures."""
        from memory_adapt.adaptation import adapt, remember, write_predictions
        from memory_adapt.data.folders import describe_conversions, load_stream_folder
        from memory_adapt.pretrained import OnlineLearner
        from priors_shared.devices import set_threads
        from priors_shared.files import check_output_file

        set_threads(self.threads)
        if self.save_state is not None:
            check_output_file(self.save_state)
        learner = OnlineLearner.from_pretrained(self.checkpoint, self.device, delay=self.delay)
        dataset = load_stream_folder(
            self.folder,
            learner.config,
            classes=self.classes,
            shots=self.shots,
            seed=self.seed,
            any_ways=learner.any_ways,
            invert={"auto": "auto", "yes": True, "no": False}[self.invert],  # type: ignore[arg-type]
        )
        for path, reason in dataset.skipped:
            note(printable(f"skipped {path}: {reason}"))
        if conversions := describe_conversions(dataset, learner.config):
            note(conversions)
        names = [printable(name) for name in dataset.class_names]
        say(f"{len(dataset)} images of {dataset.classes} classes: {', '.join(names)}")
        predictions: list[Prediction] = []
        options = {"order": self.order, "seed": self.seed, "repeats": self.repeats}
        for prediction in adapt(learner, dataset, delay=learner.delay, **options):  # type: ignore[arg-type]
            predictions.append(prediction)
            if prediction.repeat == 1 and not self.quiet:
                self._say_step(predictions, max(map(len, names)))
        write_predictions(self.out / "predictions.csv", predictions)
        self._summarise(predictions, dataset)
        for name in ("predictions.csv", "shots.png", "stream.png"):
            say(f"written  {self.out / name}")
        if self.save_state is not None:
            self._keep(remember(learner, dataset, predictions), self.save_state)

    def _keep(self, memory: StreamClassifier, path: Path) -> None:
        memory.save(path)
        say(f"state    {path}")
        say(f"next     memory-adapt predict {self.checkpoint} IMAGES --state {path}")
        if memory.unknown_above is None:
            note(
                "predict will name a known class for every image: to answer none of them takes a learner of "
                "prototypes (opn, cpm, photos) and 19 images or more whose class was known"
            )

    def _say_step(self, predictions: Sequence[Prediction], widest: int) -> None:
        p = predictions[-1]
        predicted, label, file = map(printable, (p.predicted, p.label, Path(p.file).name))
        so_far = sum(p.correct for p in predictions) / len(predictions)
        mark = "right" if p.correct else "wrong" if p.known else "wrong, label not seen yet"
        say(
            f"{p.step:>4}  said {predicted:<{widest}}  ({p.probability:4.0%})  "
            f"is {label:<{widest}}  so far {so_far:4.0%}  {file}  {mark}"
        )

    def _summarise(self, predictions: Sequence[Prediction], dataset: ImageDataset) -> None:
        """The table and both figures."""
        from memory_adapt.adaptation import accuracy_of, balanced_shots, save_figures
        from memory_adapt.evaluation import cheap_blind_bound

        accuracy = accuracy_of(predictions)
        balanced = balanced_shots(dataset) if self.order == "shuffled" else None
        blind = cheap_blind_bound(dataset.classes, balanced) if balanced else None
        rows = []
        for k in (k for k in SHOWN_SHOTS if k < len(accuracy.mean)):
            value = f"{100 * float(accuracy.mean[k]):.1f}"
            if self.repeats > 1:
                value += f" ± {50 * float(accuracy.high[k] - accuracy.low[k]):.1f}"
            bound = [f"{100 * blind[k]:.1f}"] if blind else []
            rows.append([str(k), value, str(int(accuracy.views[k])), *bound])
        title = f"{self.checkpoint} on {dataset.name}"
        columns = ["shots", "accuracy (%)", "images", *(["blind bound"] if blind else [])]
        print_table(title, columns, rows)
        known = [p for p in predictions if p.known]
        right, right_of_known = (sum(p.correct for p in some) for some in (predictions, known))
        say(
            f"{100 * right / len(predictions):.1f} % of {len(predictions)} predictions right; "
            f"{100 * right_of_known / max(len(known), 1):.1f} % of the {len(known)} whose class had "
            f"been named before; chance {100 / dataset.classes:.1f} %"
            + ("; blind bound: the best accuracy without looking at an image" if blind else "")
        )
        if self.repeats > 1:
            say(
                f"±: 95 % interval over {self.repeats} orders of these images, not over other images"
            )
        save_figures(self.out, predictions, dataset, blind=blind, title=title)
