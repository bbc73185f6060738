"""The verb `eval`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from priors_shared.cli import Count, OutFile, Seed
from priors_shared.options import described, say


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Rank the receptors of epitopes that the weights never saw, beside the nearest binder by TCRdist."""

    weights: Annotated[Positional[str], arg(metavar="CHECKPOINT")]
    """hypernetwork: run folder of `tcr train`, checkpoint folder, or Hugging Face Hub id"""
    source: Literal["vdjdb", "iedb", "immrep22"] = "vdjdb"
    """receptors; epitopes, and clonotypes, of the weights' training part are left out"""
    shots: tuple[Count, ...] = (1, 2, 5, 10)
    """known binders"""
    episodes: Count = 3
    """tasks an epitope"""
    min_binders: Count = 20
    """receptors of an epitope, at least"""
    seed: Seed = 0
    out: OutFile = None
    data_root: Annotated[str | None, described("DIR", "(default: PRIORS_DATA)")] = None
    """folder with the datasets"""

    def run(self) -> None:
        """Say, and write, means over epitopes and the paired difference."""
        from hypernet_maml.tcr.external import evaluate_external
        from hypernet_maml.tcr.pretrained import TcrHypernetwork
        from priors_shared.cli import command_line
        from priors_shared.files import check_output_file

        if self.out is not None:
            check_output_file(self.out)
        found = evaluate_external(
            TcrHypernetwork.from_pretrained(self.weights),
            self.source,
            self.data_root,
            shots=self.shots,
            episodes=self.episodes,
            min_binders=self.min_binders,
            seed=self.seed,
        )
        say(
            f"{len(found.epitopes)} epitopes of {self.source}, none within three edits of one trained on"
        )
        for row in found.rows:
            say(
                f"k = {row['shots']:<3} AUROC {row['auroc'].mean:.3f} (1-NN {row['nearest auroc'].mean:.3f})  "
                f"AUC0.1 {row['auc01'].mean:.3f} (1-NN {row['nearest auc01'].mean:.3f})"
            )
        if self.out is not None:
            found.write(self.out, command_line())
            say(f"written   {self.out}")
