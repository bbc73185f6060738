"""`hyperfields export`: a whole model with its card, or one scene."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from hyperfields.cli.options import Model, Text
from hyperfields.cli.scenes import Sizes, check_suffix
from priors_shared.errors import UserError
from priors_shared.options import described, say


@dataclass(frozen=True, kw_only=True)
class Export(Sizes):
    """Write a model with its card, or one scene: a NeRF that needs no hypernetwork, a mesh, an image or a video."""

    model: Model
    prompt: Annotated[Positional[str | None], arg(metavar="[PROMPT]")] = None
    """which scene of a model"""
    text: Text = None
    out: Annotated[Path, arg(metavar="PATH", aliases=["-o"])] = Path("exported")
    """folder for the model, or for a NeRF with weights of its own; or a mesh (.glb, .ply, .obj), image (.png) or video
    (.mp4, .gif)"""
    results: Annotated[Path | None, described("FILE.json", "(default: no scores)")] = None
    """scores for a model's card: what `eval --out` wrote"""

    def run(self) -> None:
        """Write the model or the scene."""
        if self.out.suffix:
            check_suffix(self.out)
        from hyperfields.pretrained import is_field, load_field

        if self.prompt is None and not self.out.suffix and not is_field(self.model):
            self._write_model()
            return
        if self.results is not None:
            raise UserError(f"results {self.results}: scores are for the card of a whole model")
        field = load_field(self.model, self.prompt, text=self.text)
        if self.out.suffix:
            self.write(field, self.out)
            return
        field.save(self.out)
        count = sum(p.numel() for p in [*field.weights, *field.biases])
        grid = sum(p.numel() for p in field.encoding.parameters())
        say(
            f"field     {self.out}: {count:,} weights of its own, {grid:,} of the position encoding"
        )

    def _write_model(self) -> None:
        from hyperfields.cli.scenes import load_model
        from hyperfields.export import export_model, read_results
        from priors_shared.files import check_output_folder

        check_output_folder(self.out)
        model = load_model(self.model, text=self.text)
        results = None if self.results is None else read_results(self.results, model)
        export_model(model, self.out, results)
        say(f"model     {self.out}: config.json, model.safetensors, README.md")
