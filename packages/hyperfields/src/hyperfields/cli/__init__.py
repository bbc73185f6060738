"""The console script `hyperfields`. Torch is imported when a verb needs it, never for help."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hyperfields import __version__
from hyperfields.cli.verbs import verb
from priors_shared.options import parse_options, run_experiments, run_program, say

PROGRAM = "hyperfields"
EXPERIMENTS = (
    "figure-4.4",
    "figure-4.9",
    "att3d",
    "stages",
    "table-4.1",
    "figure-4.8",
    "table-4.3",
    "figure-4.10",
    "figure-4.11",
    "amortization",
    "figure-b.2",
    "figure-4.9-materials",
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the console script; a user's error is one line on stderr and exit code 2."""
    about = "Text to 3D in one forward pass, from a hypernetwork that writes a NeRF's weights."
    run_program(PROGRAM, __version__, about, VERBS, argv)


def _reproduce(args: list[str]) -> None:
    def load() -> Mapping[str, Callable[..., None]]:
        from hyperfields.experiments import runners

        return runners()

    run_experiments(PROGRAM, args, EXPERIMENTS, load)


@dataclass(frozen=True)
class _NoOptions:
    pass


def _presets(args: list[str]) -> None:
    from hyperfields.presets import DISTILL, FINETUNE, GUIDANCE, SEGMENT, TEACH

    parse_options(_NoOptions, f"{PROGRAM} presets", args, description="List the presets.")
    listed: dict[str, Mapping[str, Callable[[], Any]]] = {
        "train, distill": DISTILL,
        "train-guidance": GUIDANCE,
        "train-segmentation": SEGMENT,
        "teach": TEACH,
        "finetune": FINETUNE,
    }
    width = max(len(name) for presets in listed.values() for name in presets)
    for verbs, presets in listed.items():
        say(f"{PROGRAM} {verbs}")
        for name, preset in presets.items():
            say(f"  {name:<{width}}  {(preset.__doc__ or '').strip()}")


_PLACES = {
    "generate": ("generate:Generate", "meshes, images and videos from prompts"),
    "train": ("train:Train", "train a model on a preset's procedural scenes"),
    "teach": ("teach:Teach", "optimise one NeRF of one prompt by score distillation (stage 1)"),
    "distill": ("train:Distill", "train a model on teachers: trained NeRFs or posed renders"),
    "finetune": ("teach:Finetune", "tune a model to a prompt that is out of distribution"),
    "train-guidance": ("train:TrainGuidance", "train a diffusion model of procedural scenes"),
    "train-segmentation": ("train:TrainSegmentation", "train a network from views to parts"),
    "export": ("generate:Export", "one scene as a NeRF of its own, or as a mesh"),
    "eval": ("eval:Eval", "how well generated scenes match exact ones"),
    "segment": ("segment:Segment", "parts of an object in 3D, from a few posed views"),
    "view": ("view:View", "a viewer in the browser, on this machine only"),
    "study": ("study:Study", "a page on which raters rank several methods' scenes"),
    "ranks": ("study:Ranks", "average ranks from their answers"),
}
VERBS = {
    name: (verb(PROGRAM, name, f"hyperfields.cli.{place}"), about)
    for name, (place, about) in _PLACES.items()
} | {
    "reproduce": (_reproduce, "run the experiments of the thesis"),
    "presets": (_presets, "list the presets"),
}
