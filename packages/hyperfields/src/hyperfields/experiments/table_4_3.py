"""Table 4.3: scenes out of distribution by CLIP-style precision and recall, KID and SSIM, against DreamFusion.

The scenes are those of Fig. 4.8's runs at their end. The thesis trained its baseline for the same budget; here the
baselines had more steps, and what each arm took in CPU seconds stands beside its scores. In place of CLIP and of
Inception's features there is the offline encoder of Table 4.1, which, unlike the fields, was trained on the unseen
colour and the unseen shape too. What the thesis compares with it does not say; here it is exact renders of the
same prompt from the same cameras. Needs the extra `metrics`.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from hyperfields.conditioning.text import TextEncoder
from hyperfields.conditioning.vocabulary import procedural_prompts
from hyperfields.data.views import procedural_views
from hyperfields.experiments.figure_4_8 import (
    CASES,
    NAMES,
    Arm,
    Optimisations,
    optimisations,
    read_curve,
    scene_in,
)
from hyperfields.experiments.table_4_1 import RenderEncoder, embed, encoders_of
from hyperfields.fields.cameras import Camera, evaluation_views
from hyperfields.fields.rendering import composite_over
from hyperfields.pretrained import HyperFields
from priors_shared.checkpoints import has_weights
from priors_shared.errors import UserError
from priors_shared.experiments import Experiment, Lab, Scores, compared, rows_over_seeds
from priors_shared.reports import Measured

SIZE, VIEWS, SAMPLES = 32, 12, 48  # of the renders compared
LOOKED_UP = 4
"""Views of a scene among which precision and recall look."""
NEAREST = 3
EXACT = "exact renders"
THESIS = {
    NAMES["scratch"]: {"precision": 0.50, "recall": 0.37, "KID": 0.17, "SSIM": 0.55},
    NAMES["hyperfields"]: {"precision": 0.77, "recall": 0.63, "KID": 0.13, "SSIM": 0.62},
}

Images = Float[Tensor, "images 3 height width"]


def precision_recall(
    scores: Float[Tensor, " images"], right: Bool[Tensor, " images"]
) -> tuple[float, float]:
    """Of the images nearest to a prompt: the fraction that shows it, and the fraction of all that show it; 0 to 1."""
    nearest = scores.topk(NEAREST).indices
    hits = int(right[nearest].sum())
    return hits / NEAREST, hits / int(right.sum())


def distances(shown: Images, exact: Images, features: nn.Module) -> dict[str, float]:
    """KID (unbiased, so below 0 at times) of all images, and the mean SSIM of pairs; images in [0, 1].

    features: a module from images to unit vectors.

    Raises:
        UserError: torchmetrics is missing.
    """
    _require_torchmetrics()
    from torchmetrics.functional.image import structural_similarity_index_measure
    from torchmetrics.image.kid import KernelInceptionDistance

    count = min(len(shown), len(exact))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it keeps the features: of a few images
        # The kernel is (gamma x.y + 1)^3; of unit vectors, 1 / dimensions would leave little but the 1.
        kid = KernelInceptionDistance(features, subsets=1, subset_size=count, gamma=1.0)
    kid.update(exact, real=True)
    kid.update(shown, real=False)
    ssim: Any = structural_similarity_index_measure(shown, exact, data_range=1.0)
    return {"KID": float(kid.compute()[0]), "SSIM": float(ssim)}


def _require_torchmetrics() -> None:
    try:
        import torchmetrics  # noqa: F401
    except ImportError as error:
        raise UserError(
            "table-4.3 needs torchmetrics: pip install 'hyperfields[metrics]'"
        ) from error


class _Features(nn.Module):
    """The encoder's vector of each image."""

    def __init__(self, encoder: RenderEncoder) -> None:
        super().__init__()
        self.image = encoder.image

    def forward(self, images: Images) -> Float[Tensor, "images dim"]:
        return F.normalize(self.image(2 * images - 1), dim=-1)


@torch.no_grad()
def score(
    scenes: Mapping[str, Images],
    exact: Mapping[str, Images],
    encoder: RenderEncoder,
    text: TextEncoder,
) -> dict[str, dict[str, float]]:
    """The four measures of each scene, by prompt.

    Args:
        scenes: views of what a method made, by prompt.
        exact: views of these prompts and of all others among which to look, from the same cameras.
        encoder: of renders and prompts.
        text: of the encoder.
    """
    apart = max(1, VIEWS // LOOKED_UP)
    shelf = {prompt: scenes.get(prompt, views)[::apart] for prompt, views in exact.items()}
    labels = [prompt for prompt, views in shelf.items() for _ in views]
    matches = encoder(torch.cat(list(shelf.values())), embed(text, list(scenes)))
    scores = {}
    for column, (prompt, views) in enumerate(scenes.items()):
        right = torch.tensor([label == prompt for label in labels])
        precision, recall = precision_recall(matches[:, column], right)
        scores[prompt] = {"precision": precision, "recall": recall}
        scores[prompt] |= distances(views, exact[prompt], _Features(encoder))
    return scores


@dataclass(frozen=True, kw_only=True)
class Table43(Experiment):
    """The scenes of Fig. 4.8's runs, measured against exact renders."""

    id: str = "table-4.3"
    claim: str = "scenes out of distribution match their prompts better than DreamFusion's of the same budget"
    sizes: Optimisations
    """of Fig. 4.8"""
    steps: int = 800
    """of an encoder's training"""

    def run(self, lab: Lab) -> None:
        """Score the finished runs; write the JSON. Encoders that are missing are trained.

        Raises:
            UserError: no finished runs of Fig. 4.8; torchmetrics is missing.
        """
        finished = [seed for seed in self.seeds if self._finished(lab.runs, seed)]
        if not finished:
            if lab.quick:
                return
            raise UserError(
                f"{lab.runs}: no finished runs of figure-4.8, whose scenes are scored; run hyperfields reproduce "
                "figure-4.8"
            )
        _require_torchmetrics()
        text = TextEncoder("minilm")
        cameras = evaluation_views(VIEWS, SIZE)
        views = procedural_views([*procedural_prompts(), *CASES.values()], cameras)
        exact = {prompt: _as_images(of.images) for prompt, of in views.items()}
        encoders = encoders_of(finished, lab, self.preset, text, self.steps)
        if len(encoders) < len(finished):
            return
        model = self.sizes.load()
        scores: dict[str, dict[int, dict[str, dict[str, float]]]] = {}
        seconds: dict[str, list[float]] = {}
        for seed, encoder in encoders.items():
            for arm, name in NAMES.items():
                scenes, took = self.scenes(lab.runs, arm, seed, model, cameras)
                seconds.setdefault(name, []).extend(took)
                scores.setdefault(name, {})[seed] = score(scenes, exact, encoder, text)
            of_exact = {prompt: exact[prompt] for prompt in CASES.values()}
            scores.setdefault(EXACT, {})[seed] = score(of_exact, exact, encoder, text)
        rows = _rows(scores, list(CASES.values()))
        for row in rows:
            if row["model"] in seconds:
                row["CPU seconds a scene"] = Measured.over_seeds(seconds[row["model"]])
        for case, prompt in CASES.items():
            of_case = _rows(scores, [prompt])
            rows += [row | {"model": f"{case}: {row['model']}"} for row in of_case]
        self.write(
            lab,
            rows,
            config={"model": self.sizes.model, "encoder_steps": self.steps, "cases": dict(CASES)}
            | {"size": SIZE, "views": VIEWS, "looked_up": LOOKED_UP, "trained": model.trained},
            seeds=finished,
            data=f"{VIEWS} renders of each scene; precision and recall look among {LOOKED_UP} each, with exact "
            f"renders of {len(procedural_prompts())} other scenes",
            thesis=THESIS,
            per_scene=scores,
            comparisons=comparisons(scores),
        )

    def scenes(
        self, runs: Path, arm: Arm, seed: int, model: HyperFields, cameras: Sequence[Camera]
    ) -> tuple[dict[str, Images], list[float]]:
        """Views of what an arm made, by prompt, and the CPU seconds that each took."""
        images, seconds = {}, []
        for prompt in CASES.values():
            folder = self.sizes.folder(runs, arm, prompt, seed)
            field = scene_in(arm, folder, prompt, model)
            images[prompt] = _as_images(field.render_all(cameras, SAMPLES))
            curve = read_curve(folder)
            seconds.append(curve.steps[-1] * curve.seconds_per_step)
        return images, seconds

    def _finished(self, runs: Path, seed: int) -> bool:
        folders = (self.sizes.folder(runs, arm, p, seed) for arm in NAMES for p in CASES.values())
        return all(has_weights(folder / "model") for folder in folders)


def experiment(preset: str = "cpu") -> Table43:
    """In a preset's sizes."""
    return Table43(preset=preset, sizes=optimisations(preset))


def comparisons(
    scores: Mapping[str, Mapping[int, Mapping[str, Scores]]],
) -> dict[str, Any]:
    """Ours minus each baseline, paired by seed and prompt."""

    def by_scene(arm: Arm) -> dict[tuple[int, str], Scores]:
        of_arm = scores[NAMES[arm]]
        return {
            (seed, p): one for seed, by_prompt in of_arm.items() for p, one in by_prompt.items()
        }

    ours = by_scene("hyperfields")
    return {NAMES[arm]: compared(ours, by_scene(arm)) for arm in NAMES if arm != "hyperfields"}


def _as_images(views: Float[Tensor, "views height width 4"]) -> Images:
    return composite_over(views).permute(0, 3, 1, 2)


def _rows(
    scores: Mapping[str, Mapping[int, Mapping[str, Scores]]], prompts: Sequence[str]
) -> list[dict[str, Any]]:
    """Means over some prompts, then over seeds."""
    return rows_over_seeds(
        {
            name: {
                seed: {
                    measure: statistics.fmean(by_prompt[p][measure] for p in prompts)
                    for measure in by_prompt[prompts[0]]
                }
                for seed, by_prompt in by_seed.items()
            }
            for name, by_seed in scores.items()
        }
    )
