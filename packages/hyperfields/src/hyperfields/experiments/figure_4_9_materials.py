"""Fig. 4.9 on the thesis' four styles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from hyperfields.evaluation import exact_views, psnr
from hyperfields.experiments.figure_b_2 import _sizes, _write_sheet
from hyperfields.experiments.held_out import train
from hyperfields.fields.cameras import evaluation_views
from hyperfields.fields.field import Field
from hyperfields.fields.rendering import over
from hyperfields.presets import DISTILL
from hyperfields.pretrained import HyperFields
from hyperfields.scenes import scene_of
from priors_shared.checkpoints import has_weights
from priors_shared.devices import hardware
from priors_shared.reports import Measured, write_result
from priors_shared.statistics import compare_paired

SEEDS = (0, 1, 2)


ARMS: tuple[Literal["dynamic", "static"], ...] = ("dynamic", "static")


PAIRS = (("origami", "glacier"), ("stained glass", "plaid"))
"""Styles that static conditioning collapses in the thesis."""


def run_four(
    preset: str = "cpu",
    out: Path = Path("results"),
    quick: bool = False,
    runs: Path = Path("runs"),
    seeds: Sequence[int] = SEEDS,
) -> None:
    """Fig. 4.9 in materials: train what is missing (unless quick); write the JSON and the pictures.

    Nothing is written where quick finds no trained run.
    """
    sizes = _sizes(preset)
    base = DISTILL[sizes.four]()
    cameras = evaluation_views(sizes.views, base.image_size)
    references = exact_views(base.prompts, cameras)
    exact = {prompt: over(references[prompt].images) for prompt in base.prompts}
    found: dict[str, dict[int, dict[str, float]]] = {}
    pictures: dict[str, Sequence[str] | Mapping[str, Field]] = {"exact": base.prompts}
    configs: dict[str, Any] = {}
    # Seed by seed: what is there when it is stopped can be compared.
    for seed in seeds:
        for arm in ARMS:
            config = replace(base, seed=seed, model=replace(base.model, conditioning=arm))
            folder = runs / sizes.four / f"{arm}-{seed}"
            if not has_weights(folder / "model"):
                if quick:
                    continue
                train(config, folder)
            model = HyperFields.from_pretrained(folder)
            fields = dict(zip(base.prompts, model.generate_all(base.prompts), strict=True))
            shown = {p: over(f.render_all(cameras, sizes.samples)) for p, f in fields.items()}
            found.setdefault(arm, {})[seed] = measures(shown, exact)
            configs[arm] = asdict(replace(config, seed=0))
            pictures.setdefault(arm, fields)
    if not found:
        return
    title = f"figure-4.9-materials-{preset}"
    _write_sheet(pictures, base.prompts, out / f"{title}.png", sizes)
    rows: list[dict[str, Any]] = []
    for label, by_seed in found.items():
        names = next(iter(by_seed.values()))
        rows.append({"model": label})
        rows[-1] |= {
            name: Measured.over_seeds([one[name] for one in by_seed.values()]) for name in names
        }
    shared = sorted(set.intersection(*(set(by_seed) for by_seed in found.values())))
    compared = {}
    if set(found) == set(ARMS) and len(shared) > 1:
        compared = {
            name: asdict(
                compare_paired(*([found[arm][seed][name] for seed in shared] for arm in ARMS))
            )
            for name in next(iter(found["dynamic"].values()))
        }
    write_result(
        out / f"{title}.json",
        experiment="figure-4.9-materials",
        claim="static conditioning collapses origami and glacier, and stained glass and plaid; dynamic does not",
        rows=rows,
        config=configs | {"evaluation": {"views": sizes.views, "samples": sizes.samples}},
        seeds=sorted({seed for by_seed in found.values() for seed in by_seed}),
        data=f"procedural scenes, all trained: {', '.join(base.prompts)}",
        hardware=hardware(),
        command=f"hyperfields reproduce figure-4.9-materials --preset {preset}",
        thesis={},
        extra={"per_seed": found, "dynamic_less_static": compared},
    )


def measures(
    shown: Mapping[str, Float[Tensor, "*shape"]], exact: Mapping[str, Float[Tensor, "*shape"]]
) -> dict[str, float]:
    """PSNR of each style, their mean, and how far apart each of `PAIRS` is.

    Args:
        shown: images on white of generated scenes, by prompt; one scene of each style.
        exact: the same views, exact.
    """
    style = {scene_of(prompt).attribute: prompt for prompt in exact}
    scored = {name: psnr(shown[prompt], exact[prompt]) for name, prompt in style.items()}
    found = {"PSNR": sum(scored.values()) / len(scored)}
    found |= {f"PSNR, {name}": value for name, value in scored.items()}
    for one, other in PAIRS:
        a, b = style[one], style[other]
        found[f"distance of {one} and {other}"] = distinctness(
            shown[a], shown[b], exact[a], exact[b]
        )
    return found


def distinctness(
    one: Float[Tensor, "*shape"],
    other: Float[Tensor, "*shape"],
    exact_one: Float[Tensor, "*shape"],
    exact_other: Float[Tensor, "*shape"],
) -> float:
    """Distance of two scenes' images, in the distance of the exact ones along their difference.

    1: as far apart as the exact ones, in the way that they are; 0: collapsed into one. Errors that have nothing to
    do with what tells the two apart do not count: a plain distance would take noise for a difference.
    """
    apart = (exact_one - exact_other).flatten()
    return float((one - other).flatten() @ apart / (apart @ apart))
