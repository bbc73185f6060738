"""The verb `predict`."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from memory_adapt.data.names import printable
from priors_shared.cli import Checkpoint, Count, Device
from priors_shared.errors import UserError
from priors_shared.options import note, say

if TYPE_CHECKING:
    from memory_adapt.stream import Answer

NONE = "none of the known classes"


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Name images with what `adapt --save-state` learned; nothing is learned from them."""

    checkpoint: Checkpoint
    images: Annotated[Positional[Path], arg(metavar="IMAGES")]
    """an image file, or a folder of them, with or without subfolders"""
    state: Annotated[Path, arg(metavar="FILE")]
    """what `adapt --save-state` wrote, of this checkpoint"""
    out: Annotated[Path, arg(metavar="FILE.csv")] = Path("predicted.csv")
    """a row per image: file; answer, empty for none of the known classes; nearest class, its probability, and
    the score for none of them"""
    invert: Literal["auto", "yes", "no"] = "auto"
    """turn light into dark: characters must be light on dark. auto: where the borders are light, for
    learners of grey images"""
    quiet: bool = False
    """no line per image"""
    device: Device = "cpu"
    threads: Count = 1
    """CPU threads"""

    def run(self) -> None:
        """Print a line per image; write them as CSV."""
        from memory_adapt.pretrained import OnlineLearner
        from memory_adapt.stream import StreamClassifier, delay_of
        from priors_shared.datasets.base import as_float
        from priors_shared.datasets.image_folder import load_unlabelled
        from priors_shared.devices import set_threads
        from priors_shared.files import check_output_file

        set_threads(self.threads)
        check_output_file(self.out)
        learner = OnlineLearner.from_pretrained(
            self.checkpoint, self.device, delay=delay_of(self.state)
        )
        memory = StreamClassifier.load(self.state, learner)
        if not memory.classes:
            raise UserError(f"state {self.state}: it knows no class yet")
        found = load_unlabelled(
            self.images,
            image_size=learner.config.image_size,
            channels=learner.config.image_channels,
            invert={"auto": "auto", "yes": True, "no": False}[self.invert],  # type: ignore[arg-type]
        )
        for path, reason in found.skipped:
            note(printable(f"skipped {path}: {reason}"))
        answers = memory.predict(as_float(found.images))
        if not self.quiet:
            for file, answer in zip(found.paths, answers, strict=True):
                self._say(file, answer)
        self._write(found.paths, answers)
        none = sum(answer.label is None for answer in answers)
        said = f"; {none} of {NONE}" if memory.unknown_above is not None else ""
        say(f"{len(answers)} images, {len(memory.classes)} known classes{said}")
        say(f"written  {self.out}")

    def _say(self, file: str, answer: Answer) -> None:
        nearest = printable(str(answer.nearest))
        said = nearest if answer.label is not None else f"{NONE}, nearest {nearest}"
        probability = answer.probabilities[answer.nearest]
        say(f"{printable(file)}  {said}  ({probability:.0%})")

    def _write(self, paths: tuple[str, ...], answers: list[Answer]) -> None:
        from priors_shared.files import write_atomically

        table = io.StringIO(newline="")
        writer = csv.writer(table)
        writer.writerow(["file", "answer", "nearest", "probability", "unknown"])
        for file, answer in zip(paths, answers, strict=True):
            named = "" if answer.label is None else answer.label
            probability = f"{answer.probabilities[answer.nearest]:.4f}"
            unknown = "" if answer.unknown is None else f"{answer.unknown:.4f}"
            writer.writerow([file, named, answer.nearest, probability, unknown])
        self.out.parent.mkdir(parents=True, exist_ok=True)
        # File names need not be text: what is none keeps its bytes.
        write_atomically(self.out, table.getvalue().encode("utf-8", "surrogateescape"))
