"""`hyperfields eval`: how well generated scenes match exact ones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from hyperfields.cli.options import ImageSize, Model, PoseScale, Result, Samples, Text
from hyperfields.cli.scenes import load_model, require
from priors_shared.cli import Device
from priors_shared.options import described, say


@dataclass(frozen=True, kw_only=True)
class Eval:
    """PSNR and silhouette IoU of generated scenes, and whether colour and shape are right.

    For procedural scenes held-out combinations are scored apart; with --clip also how often CLIP finds the prompt.
    """

    model: Model
    teachers: Annotated[Positional[Path | None], arg(metavar="[TEACHERS]")] = None
    """folder of teachers to compare with; where none is given, exact renders of the procedural scenes"""
    views: int = 6
    """cameras around each scene"""
    size: ImageSize = 32
    samples: Samples = 64
    pose_scale: PoseScale = 1.0
    text: Text = None
    clip: Annotated[str | None, described("NAME", "(default: CLIP is not asked)")] = None
    """also look each render's prompt up by CLIP, as Table 4.1: clip, a Hugging Face id or a folder"""
    out: Result = None
    device: Device = "cpu"

    def __post_init__(self) -> None:
        require("from 1 to 4096", 1, 4096, views=self.views, size=self.size, samples=self.samples)
        require("above 0", 1e-9, 1e9, pose_scale=self.pose_scale)

    def run(self) -> None:
        """Score the scenes."""
        from hyperfields.conditioning.clip import Clip
        from hyperfields.evaluation import clip_retrieval, evaluate
        from priors_shared.environment import environment
        from priors_shared.files import write_atomically

        model = load_model(self.model, self.device, self.text)
        clip = Clip(self.clip, device=model.device) if self.clip is not None else None
        sizes = {"views": self.views, "size": self.size, "samples": self.samples}
        scores = evaluate(model, **sizes, teachers=self.teachers, pose_scale=self.pose_scale)
        for group, means in scores["means"].items():
            numbers = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
            say(f"{group:<9} {numbers}")
        if clip is not None:
            percent = clip_retrieval(model, clip, **sizes)
            for group, ranks in percent.items():
                numbers = "  ".join(f"{rank} {value:.1f} %" for rank, value in ranks.items())
                say(f"{group:<9} found by CLIP: {numbers}")
            scores["clip"] = {"model": clip.name, "percent": percent}
        if self.out is not None:
            from priors_shared.cli import command_line

            record = {"model": self.model, "trained": model.trained, **sizes, **scores}
            record |= {"command": command_line(), "environment": environment()}
            self.out.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.out, json.dumps(record, indent=2) + "\n")
            say(f"result    {self.out}")
