"""The claims of thesis chapter 4 and appendix B, and ours of this package, with where their numbers are stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from priors_shared.claims import EACH, Book, Claim, Match

_OURS, _SCRATCH = "HyperFields, fine-tuned", "DreamFusion (S), from scratch"
_OFFLINE = "by an offline encoder in place of CLIP"


def _group(arm: str, group: str, measure: str) -> tuple[Any, ...]:
    return ("per_seed", arm, EACH, group, measure)


def _in_distribution() -> Iterator[Claim]:
    figure: dict[str, Any] = {
        "section": "4.4.1, Figure 4.4",
        "experiment": "figure-4.4",
        "rows": "figure-4.9",
    }
    yield Claim(
        id="4.4-held-out-psnr",
        statement="combinations never trained on come out as well as trained ones (1 dB allowed)",
        better=_group("dynamic", "held out", "psnr"),
        minus=(_group("dynamic", "trained", "psnr"),),
        margin=1.0,
        unit="dB",
        **figure,
    )
    yield Claim(
        id="4.4-held-out-silhouette",
        statement="silhouettes of combinations never trained on are as good as trained ones' (IoU, 0.01 allowed)",
        better=_group("dynamic", "held out", "iou"),
        minus=(_group("dynamic", "trained", "iou"),),
        margin=0.01,
        unit="IoU",
        **figure,
    )
    for measure in ("colour_accuracy", "shape_accuracy"):
        yield Claim(
            id=f"4.4-held-out-{measure.partition('_')[0]}",
            statement=f"held-out combinations have the {measure.partition('_')[0]} asked for in more than 95 %",
            better=_group("dynamic", "held out", measure),
            bound=0.95,
            unit="of scenes",
            **figure,
        )
    for k, unseen, seen in ((1, 57.1, 69.5), (5, 85.7, 94.9)):
        yield Claim(
            id=f"4.1-retrieval-top-{k}",
            section="4.4.1, Table 4.1",
            statement=f"prompts of unseen combinations are found from renders nearly as often as seen ones: top {k}, "
            f"{seen - unseen:.1f} points allowed, the thesis' own gap",
            experiment="table-4.1",
            better=("per_seed", "generated, unseen, degraded", EACH, str(k)),
            minus=(("per_seed", "generated, seen, degraded", EACH, str(k)),),
            thesis=(unseen, seen),
            margin=round(seen - unseen, 1),
            why_not=f"{_OFFLINE}, on degraded renders",
        )


def _out_of_distribution() -> Iterator[Claim]:
    for case in ("attribute", "shape"):
        for rival, title in (("scratch", "from scratch (S)"), ("pretrained", "pre-trained (P)")):
            yield Claim(
                id=f"4.8-unseen-{case}-{rival}",
                section="4.4.3, Figure 4.8",
                statement=f"fine-tuning to an unseen {case} converges faster than DreamFusion {title}: updates, in ratio",
                experiment="figure-4.8",
                better=(
                    "speed_up_to_our_best",
                    Match((("against", rival), ("case", f"unseen {case}")), "seed"),
                    "ratio",
                ),
                bound=1.0,
                unit="x above 1",
                thesis=(5.0,),
                why_not="ratios are lower bounds where the rival never arrived"
                if case == "attribute"
                else "",
            )
    for name, measure, numbers, lower in (
        ("precision", "precision", (0.77, 0.50), False),
        ("recall", "recall", (0.63, 0.37), False),
        ("kid", "KID", (0.13, 0.17), True),
        ("ssim", "SSIM", (0.62, 0.55), False),
    ):
        yield Claim(
            id=f"4.3-{name}",
            section="4.4.5, Table 4.3",
            statement=f"scenes out of distribution beat Stable DreamFusion's of the same budget by {measure}",
            experiment="table-4.3",
            better=("per_scene", _OURS, EACH, EACH, measure),
            minus=(("per_scene", _SCRATCH, EACH, EACH, measure),),
            lower=lower,
            unit=measure,
            thesis=numbers,
            why_not="" if name == "ssim" else _OFFLINE,
        )


def _ablations() -> Iterator[Claim]:
    yield Claim(
        id="4.9-dynamic",
        section="4.4.6, Figure 4.9",
        statement="dynamic conditioning beats static on held-out combinations",
        experiment="figure-4.9",
        better=_group("dynamic", "held out", "psnr"),
        minus=(_group("static", "held out", "psnr"),),
        unit="dB",
        expected=1.0,
    )
    for pair in ("origami and glacier", "stained glass and plaid"):
        yield Claim(
            id=f"4.9-materials-{pair.replace(' and ', '-').replace(' ', '-')}",
            section="4.4.6, Figure 4.9",
            statement=f"static conditioning collapses {pair}, dynamic does not",
            experiment="figure-4.9-materials",
            better=("per_seed", "dynamic", EACH, f"distance of {pair}"),
            minus=(("per_seed", "static", EACH, f"distance of {pair}"),),
            unit="of the exact distance",
            expected=0.3,
        )
    distilled, packed = "NeRF distillation (ours)", "no NeRF distillation"
    for name, statement, better, worse, measure, lower, unit, expected in (
        ("better", "NeRF distillation packs scenes better than score distillation", distilled, packed, "psnr", False, "dB", 2.0),
        ("shapes", "packed by score distillation, shapes are right less often", distilled, packed, "shape_accuracy", False, "of scenes", 0.2),
        ("collapse", "packing, not score distillation alone, makes shapes alike", f"{packed}, each scene alone", packed, "likeness of shapes", True, "IoU of shapes", 0.1),
    ):  # fmt: skip
        yield Claim(
            id=f"4.10-{name}",
            section="4.4.6, Figure 4.10",
            statement=statement,
            experiment="figure-4.10",
            better=("per_seed", better, EACH, measure),
            minus=(("per_seed", worse, EACH, measure),),
            lower=lower,
            unit=unit,
            expected=expected,
        )
    yield Claim(
        id="4.7-att3d",
        section="4.2.2, Figure 4.7",
        statement="dynamic weights beat a hypernetwork that writes the hash grid, as ATT3D's does",
        experiment="att3d",
        better=_group("dynamic", "held out", "psnr"),
        minus=(_group("grid", "held out", "psnr"),),
        unit="dB",
        expected=1.0,
        why_not="our version of ATT3D, not tuned",
    )
    yield Claim(
        id="4.2-stages",
        section="4.3.2, Algorithm 3",
        statement="taught by NeRFs of score distillation, unseen combinations are as good as trained ones (1 dB allowed)",
        experiment="stages",
        better=_group("taught", "held out", "psnr"),
        minus=(_group("taught", "trained", "psnr"),),
        margin=1.0,
        unit="dB",
        why_not="one seed",
    )


def _benefits() -> Iterator[Claim]:
    yield Claim(
        id="4.4.7-generation-beats-optimisation",
        section="4.4.7",
        statement="a new combination generated in one pass is better than one optimised alone, at any update",
        experiment="amortization",
        better=("scenes", EACH, "generated_psnr"),
        minus=(("scenes", EACH, "optimised_psnr"),),
        unit="dB",
        expected=0.5,
        why_not="scenes of one training; the thesis claims time, not quality",
    )
    yield Claim(
        id="4.4.7-time",
        section="4.4.7",
        statement="optimising a new combination takes more than ten times the forward pass (0.04 s) that generates it",
        experiment="amortization",
        better=("scenes", EACH, "seconds"),
        bound=0.4,
        unit="s",
        thesis=(1800.0,),
    )
    one, alone = "one forward pass", "per-scene distillation"
    for name, statement, measure, margin, expected in (
        ("surface", "parts of novel scenes are labelled as well in one pass as by optimisation: surface points", "miou_3d", 0.05, None),
        ("consistency", "labels of novel scenes are as consistent between views as after optimisation", "consistency", 0.05, None),
        ("colours", "colours of novel scenes are as good in one pass as after optimisation (1 dB allowed)", "psnr", 1.0, None),
    ):  # fmt: skip
        yield Claim(
            id=f"4.11-{name}",
            section="4.4.8, Figure 4.11",
            statement=statement,
            experiment="figure-4.11",
            better=("per_scene", one, EACH, measure),
            minus=(("per_scene", alone, EACH, measure),),
            margin=margin,
            expected=expected,
            unit="dB" if measure == "psnr" else measure,
            why_not="procedural objects in place of ShapeNet",
        )
    yield Claim(
        id="4.11-time",
        section="4.4.8, Figure 4.11",
        statement="one pass labels a novel scene in less time than its own optimisation",
        experiment="figure-4.11",
        better=("per_scene", alone, EACH, "seconds"),
        minus=(("per_scene", one, EACH, "seconds"),),
        unit="s",
    )
    tuned, zero_shot = "held out, fine-tuned", "held out, zero-shot"
    for measure, unit, expected in (("psnr", "dB", 2.0), ("iou", "IoU", 0.03)):
        yield Claim(
            id=f"B.2-fine-tuning-{measure}",
            section="B.2, Figure B.2",
            statement=f"a short fine-tuning improves unseen combinations of shape and material ({unit})",
            experiment="figure-b.2",
            better=("scenes", tuned, EACH, measure),
            minus=(("scenes", zero_shot, EACH, measure),),
            unit=unit,
            expected=expected,
            why_not="40 of the thesis' up to 1,000 updates",
        )
    yield Claim(
        id="B.2-zero-shot",
        section="B.2, Figure B.2",
        statement="unseen combinations of shape and material are reasonable zero-shot: IoU above 0.9",
        experiment="figure-b.2",
        better=("scenes", zero_shot, EACH, "iou"),
        bound=0.9,
        unit="IoU",
    )


def _not_run() -> Iterator[Claim]:
    diffusion = "needs Stable Diffusion's weights and a card"
    for name, section, statement, thesis, why in (
        ("4.2-user-study", "4.4.4, Table 4.2", "people rank our scenes above the best of 33 DreamFusion models (rank, mean of six prompts)", (), "a study with people; `hyperfields study` prepares and evaluates one"),
        ("4.5-prolific-dreamer", "4.4.2, Figures 4.5 and 4.6", "scenes of ProlificDreamer are distilled with no visible loss", (), diffusion),
        ("4-hundred-scenes", "4.1", "more than 100 scenes fit into one model without loss", (), "trained on 45 combinations; more takes days on a core"),
        ("4.8-speed-up", "4.4.3, 4.4.7", "by Stable Diffusion's guidance, convergence to eight scenes out of distribution is 5 times as fast", (5.0,), diffusion),
        ("B.1-encoders", "B.1", "BERT's tokens condition marginally better than T5's and CLIP's", (), "needs the three encoders' weights and a training of each on a card"),
        ("B.3-finetuned", "B.2, Figure B.3", "fine-tuning converges before DreamFusion fine-tuned or from scratch, scene by scene", (), diffusion),
        ("6.2-ligands", "6.2", "a field on a ligand's surface, written by a hypernetwork, helps to predict its binding", (), "future work in the thesis; not built here"),
    ):  # fmt: skip
        yield Claim(id=name, section=section, statement=statement, thesis=thesis, why_not=why)


def _small() -> Iterator[Claim]:
    small: dict[str, Any] = {"experiment": "small-claims", "rows": "small-claims-hyperfields"}
    yield Claim(
        id="4.4-beats-nearest-trained",
        section="4.4.1, Figure 4.4",
        statement="a held-out scene of the shipped weights is nearer to its exact renders than the best trained scene is",
        source="ours",
        better=("per_seed", "held-out scenes", EACH, "PSNR"),
        minus=(("per_seed", "held-out scenes", EACH, "PSNR of the best trained scene"),),
        unit="dB",
        **small,
    )
    yield Claim(
        id="4.4-shipped-psnr",
        section="ours, shipped weights",
        statement="held-out scenes of the shipped weights reach 27 dB",
        source="ours",
        better=("per_seed", "held-out scenes", EACH, "PSNR"),
        bound=27.0,
        unit="dB",
        **small,
    )
    yield Claim(
        id="4.3-weights-follow-prompt",
        section="4.3.1, equation (4.2)",
        statement="two prompts get different weights, the same prompt the same: largest difference of the latter",
        source="ours",
        better=("per_seed", "generated twice", EACH, "largest difference"),
        bound=1e-6,
        lower=True,
        unit="",
        **small,
    )
    yield Claim(
        id="4-speed-image",
        section="ours, speed",
        statement="an image is rendered faster than by nerfacc as documented: speed-up",
        source="ours",
        rows="hyperfields_render",
        better=(
            "rows",
            Match((("model", "image: ours to nerfacc, as documented"),), "model"),
            "speedup",
        ),
        bound=1.0,
        unit="x above 1",
    )


def _experiments() -> Mapping[str, Callable[..., None]]:
    from hyperfields.experiments import EXPERIMENTS

    return EXPERIMENTS


BOOK = Book(
    system="hyperfields",
    claims=(
        *_in_distribution(),
        *_out_of_distribution(),
        *_ablations(),
        *_benefits(),
        *_not_run(),
        *_small(),
    ),
    experiments=_experiments,
)
