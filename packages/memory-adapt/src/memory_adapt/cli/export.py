"""The verb `export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from priors_shared.cli import Checkpoint
from priors_shared.errors import UserError
from priors_shared.options import described, note, say


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a trained learner as a folder that stands alone, with a model card."""

    checkpoint: Checkpoint
    out: Annotated[Path, arg(metavar="DIR")]
    """folder to write: config.json, model.safetensors and README.md, a model card"""
    results: Annotated[
        Path | None, described("FILE.json", "(default: the run folder's test.json)")
    ] = None
    """accuracies for the card: what `eval --out` wrote, or the test.json that `reproduce table-2.1`
    leaves in a run folder"""

    def run(self) -> None:
        """Write the folder; nothing where the accuracies are of other weights."""
        from memory_adapt.evaluation import weights_hash
        from memory_adapt.export import learner_card, read_results
        from memory_adapt.pretrained import OnlineLearner
        from priors_shared.files import check_output_folder, fresh_folder

        check_output_folder(self.out)
        kept = Path(self.checkpoint) / "test.json"
        path = self.results or (kept if kept.is_file() else None)
        results = None if path is None else read_results(path)
        learner = OnlineLearner.from_pretrained(self.checkpoint)
        own = weights_hash(learner.model)
        if results is not None and results.get("weights", own) != own:
            raise UserError(
                f"results {path}: measured on other weights than those of {self.checkpoint}; measure "
                f"these with `memory-adapt eval {self.checkpoint} --out FILE`"
            )
        with fresh_folder(self.out):
            learner.save_pretrained(self.out)
            card = learner_card(self.out, learner, results)
            (self.out / "README.md").write_text(card, encoding="utf-8")
        say(f"written  {self.out}: config.json, model.safetensors, README.md")
        if path is None:
            note(
                "the card has no accuracies: `memory-adapt eval --out` writes a file for --results"
            )
        else:
            say(f"results  {path}")
