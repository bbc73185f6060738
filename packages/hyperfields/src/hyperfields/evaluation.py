"""How well generated scenes match their teachers: PSNR, IoU, and whether colour and shape are the ones asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hyperfields.conditioning.clip import Clip
from hyperfields.conditioning.vocabulary import procedural_prompts
from hyperfields.data.teachers import read_teachers
from hyperfields.data.views import PosedViews, procedural_views
from hyperfields.fields.cameras import Camera, evaluation_views
from hyperfields.fields.field import Field
from hyperfields.fields.rendering import composite_over
from hyperfields.pretrained import HyperFields
from hyperfields.scenes import scene_of

TOP = (1, 3, 5, 6, 10)
"""Ranks of Table 4.1."""


@dataclass(frozen=True)
class SceneScore:
    """One scene against its reference."""

    prompt: str
    psnr: float
    """Decibels, over all pixels of all views, on white."""
    iou: float
    """Of silhouettes (opacity above a half), over all views."""
    nearest: str
    """The reference scene whose images are nearest in squared error."""

    @property
    def attribute_right(self) -> bool:
        """Whether the nearest scene has the colour or material asked for."""
        return scene_of(self.nearest).attribute == scene_of(self.prompt).attribute

    @property
    def shape_right(self) -> bool:
        """Whether the nearest scene has the shape asked for."""
        return scene_of(self.nearest).shape.name == scene_of(self.prompt).shape.name


def psnr(image: Float[Tensor, "*shape"], reference: Float[Tensor, "*shape"]) -> float:
    """Peak signal-to-noise ratio of images in [0, 1], in decibels; at most 100."""
    return -10 * math.log10(max(float((image - reference).square().mean()), 1e-10))


def silhouette_iou(image: Float[Tensor, "*shape 4"], reference: Float[Tensor, "*shape 4"]) -> float:
    """Intersection over union of where opacities exceed a half; 1 where both are empty."""
    one, other = image[..., 3] > 0.5, reference[..., 3] > 0.5
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0


def exact_views(prompts: Sequence[str], cameras: Sequence[Camera]) -> dict[str, PosedViews]:
    """What scenes are scored against: exact views of procedural scenes, by prompt.

    3 x 3 rays per pixel: with an even number some pixels are half covered, which is neither in the silhouette nor
    out of it. By 2 x 2, the very same scene, finely rendered at 32 x 32 pixels, has an IoU of 0.94.
    """
    return procedural_views(prompts, cameras, samples=3)


def score_scenes(
    fields: Mapping[str, Field],
    cameras: Sequence[Camera],
    references: Mapping[str, PosedViews],
    *,
    samples: int = 96,
) -> list[SceneScore]:
    """Score fields by prompt, against exact renders from the same cameras.

    Args:
        fields: procedural prompts to what was generated for them.
        cameras: views to compare.
        references: exact views by prompt; of the fields, and of all scenes to tell them from.
        samples: points along a ray.
    """
    names = list(references)
    known = torch.stack([composite_over(references[name].images) for name in names])
    scores = []
    for prompt, field in fields.items():
        seen = field.render_all(cameras, samples)
        shown = composite_over(seen)
        errors = (known - shown).square().flatten(1).mean(1)
        scores.append(
            SceneScore(
                prompt,
                psnr(shown, composite_over(references[prompt].images)),
                silhouette_iou(seen, references[prompt].images),
                names[int(errors.argmin())],
            )
        )
    return scores


def means(scores: Sequence[SceneScore]) -> dict[str, float]:
    """Means over scenes, and shares of scenes whose colour and shape are right."""
    count = len(scores)
    return {
        "psnr": sum(s.psnr for s in scores) / count,
        "iou": sum(s.iou for s in scores) / count,
        "colour_accuracy": sum(s.attribute_right for s in scores) / count,
        "shape_accuracy": sum(s.shape_right for s in scores) / count,
    }


def prompt_groups(model: HyperFields) -> dict[str, Sequence[str]]:
    """A model's held-out and trained prompts, by the groups' names."""
    return {"held out": model.trained.get("held_out", ()), "trained": model.prompts}


def evaluate(
    model: HyperFields,
    *,
    views: int,
    size: int,
    samples: int,
    teachers: Path | None = None,
    pose_scale: float = 1.0,
) -> dict[str, Any]:
    """Means over held-out and over trained scenes, and every scene's scores.

    Args:
        model: what is evaluated.
        views: cameras around each procedural scene, or trained NeRF.
        size: pixels along each side.
        samples: points along a ray.
        teachers: folder of teachers to compare with; None compares with exact procedural scenes.
        pose_scale: see `read_views`.

    Raises:
        UserError: the model's prompts are no procedural scenes, and no teachers are given.
    """
    cameras = evaluation_views(views, size)
    if teachers is not None:
        rows: list[tuple[str, dict[str, float]]] = []
        for prompt, reference in read_teachers(teachers, cameras, pose_scale=pose_scale).items():
            field = model.generate(prompt)
            seen = field.render_all(reference.cameras, samples)
            scores = {"psnr": psnr(composite_over(seen), composite_over(reference.images))}
            if reference.transparent:
                scores["iou"] = silhouette_iou(seen, reference.images)
            rows.append((prompt, scores))
        shared = [name for name in ("psnr", "iou") if all(name in scores for _, scores in rows)]
        mean = {name: sum(scores[name] for _, scores in rows) / len(rows) for name in shared}
        scenes = [{"prompt": prompt, **scores} for prompt, scores in rows]
        return {"means": {"teachers": mean}, "scenes": scenes}
    groups = prompt_groups(model)
    found: dict[str, list[SceneScore]] = {}
    prompts = [prompt for group in groups.values() for prompt in group]
    references = exact_views(tuple(dict.fromkeys([*procedural_prompts(), *prompts])), cameras)
    for group, members in groups.items():
        if members:
            fields = dict(zip(members, model.generate_all(members), strict=True))
            found[group] = score_scenes(fields, cameras, references, samples=samples)
    return {
        "means": {group: means(scores) for group, scores in found.items()},
        "scenes": [
            {"group": group, **asdict(score)} for group, scores in found.items() for score in scores
        ],
    }


def top_k(
    scores: Float[Tensor, "queries candidates"], right: Int[Tensor, " queries"]
) -> dict[int, float]:
    """Percent of queries whose right candidate is among the k best; ties count against it."""
    own = scores.gather(1, right[:, None])
    rank = (scores >= own).sum(1)  # its own score is one of them
    return {k: 100 * float((rank <= k).float().mean()) for k in TOP}


def clip_retrieval(
    model: HyperFields, clip: Clip, *, views: int, size: int, samples: int
) -> dict[str, dict[str, float]]:
    """Table 4.1: percent of renders whose prompt is among the k that CLIP finds nearest, held-out scenes apart.

    Args:
        model: its trained and held-out prompts are generated, and are the candidates.
        clip: what is asked.
        views: cameras around each scene.
        size: pixels along each side.
        samples: points along a ray.
    """
    groups = prompt_groups(model)
    candidates = list(dict.fromkeys(prompt for group in groups.values() for prompt in group))
    cameras = evaluation_views(views, size)
    found = {}
    for group, members in groups.items():
        if not members:
            continue
        cosines = []
        for field in model.generate_all(members):
            seen = field.render_all(cameras, samples)
            cosines.append(clip.cosines(composite_over(seen).permute(0, 3, 1, 2), candidates))
        right = [candidates.index(prompt) for prompt in members for _ in cameras]
        ranks = top_k(torch.cat(cosines), torch.tensor(right))
        found[group] = {f"top-{k}": share for k, share in ranks.items()}
    return found
