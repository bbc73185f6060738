"""The verb `export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from priors_shared.cli import Checkpoint
from priors_shared.errors import UserError
from priors_shared.options import described, say


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a network with generated weights as a plain one: same outputs, size and speed."""

    checkpoint: Checkpoint
    out: Annotated[Path | None, described("PATH", "(default: plain, plain.onnx or learner)")] = None
    """folder for safetensors and learner, file for onnx"""
    format: Literal["safetensors", "onnx", "learner"] = "safetensors"
    """safetensors: the plain network, for this package and plain torch; onnx: for any runtime, checked with
    onnxruntime; learner: what metatrain made, as it is, with a model card"""
    results: Annotated[tuple[Path, ...], arg(metavar="[FILE.json ...]")] = ()
    """what eval --out wrote: accuracies for the card of a learner"""

    def run(self) -> None:
        """Export, and say what became of the parameters."""
        from hypernet_maml.export import export_learner, export_onnx, export_safetensors
        from hypernet_maml.pretrained import FewShotLearner, load_network

        if self.format == "learner":
            out = self.out or Path("learner")
            export_learner(FewShotLearner.from_pretrained(self.checkpoint), out, self.results)
            say(f"learner   {out}: weights and model card (README.md)")
            return
        if self.results:
            raise UserError("results: they belong to format learner, leave them out")
        net, config, trained = load_network(self.checkpoint)
        before = sum(p.numel() for p in net.parameters())
        if self.format == "onnx":
            out = self.out or Path("plain.onnx")
            count = sum(export_onnx(net, config, out).values())
            say(f"onnx      {out}: {count} operators, logits checked with onnxruntime")
            return
        out = self.out or Path("plain")
        plain = export_safetensors(net, config, out, trained=trained)
        after = sum(p.numel() for p in plain.parameters())
        say(
            f"network   {out}: {after:,} parameters (trained with {before:,}), same logits to the bit"
        )
