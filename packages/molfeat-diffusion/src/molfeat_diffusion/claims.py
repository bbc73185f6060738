"""The claims of thesis chapter 5, and ours of this package, with where their numbers are stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from priors_shared.claims import EACH, Book, Claim

_TARGETS = {
    "bace": "BACE",
    "bbbp": "BBBP",
    "CHEMBL204_Ki": "CHEMBL204",
    "CHEMBL214_Ki": "CHEMBL214",
}
_SMILES, _BOTH = "SMILES model", "SMILES model + MiDi"


def _table_5_1() -> Iterator[Claim]:
    """A claim for each target and number of labels: the thesis' own target is not public."""
    for target, title in _TARGETS.items():
        for labels in (100, 300):
            setting, where = f"{target} n={labels}", f"{title} with {labels} labels"
            name = f"{title.lower()}-{labels}"
            table: dict[str, Any] = {"experiment": "table-5.1", "unit": "AUROC"}
            yield Claim(
                id=f"5.1-auroc-{name}",
                section="5.4, Table 5.1",
                statement=f"MiDi's features beside those of a SMILES model improve AUROC on {where}",
                better=("per_split", _BOTH, f"AUROC {setting}"),
                minus=(("per_split", _SMILES, f"AUROC {setting}"),),
                thesis=(0.877, 0.850),
                **table,
            )
            yield Claim(
                id=f"5.1-training-helps-{name}",
                section="5.4, ours: the control",
                statement=f"features of the trained diffusion model beat those of random weights on {where}",
                source="ours",
                better=("per_split", "MiDi", f"AUROC {setting}"),
                minus=(("per_split", "random-weight MiDi", f"AUROC {setting}"),),
                expected=0.027,
                **table,
            )
            yield Claim(
                id=f"5.4-diverse-{name}",
                section="5.4",
                statement=f"picks by both kinds of features are more diverse than by SMILES alone on {where}",
                experiment="table-5.1",
                better=("picks_per_split", f"{_BOTH}, {setting}", EACH, "mean_tanimoto_distance"),
                minus=(
                    ("picks_per_split", f"{_SMILES}, {setting}", EACH, "mean_tanimoto_distance"),
                ),
                unit="Tanimoto distance",
                expected=0.02,
            )
        yield Claim(
            id=f"5.3-geometry-{title.lower()}",
            section="5.1, 5.3",
            statement=f"features of the atoms' positions beat those without them on {title} with 300 labels",
            experiment="table-5.1",
            better=("per_split", "MiDi", f"AUROC {target} n=300"),
            minus=(("per_split", "MiDi, 2D only", f"AUROC {target} n=300"),),
            unit="AUROC",
            expected=0.027,
        )


_NOT_RUN = (
    Claim(
        id="5.1-claudin",
        section="5.4, Table 5.1",
        statement="ChemBERTa with MiDi's features beats ChemBERTa on the binding of drugs to Claudin",
        thesis=(0.877, 0.850),
        unit="AUROC",
        why_not="the data are proprietary, and the public checkpoints cannot be had here",
    ),
    Claim(
        id="5.4-wet-lab",
        section="5.4",
        statement="picks with MiDi's features bind in the wet lab, and are more varied",
        why_not="a wet lab",
    ),
)


def _small() -> Iterator[Claim]:
    small: dict[str, Any] = {"experiment": "small-claims", "rows": "small-claims-molfeat-diffusion"}
    for name, statement, measure in (
        ("permutation", "permuting atoms permutes MiDi's features: largest difference, relative", "permuted"),
        ("rotation", "rotating a molecule leaves MiDi's features as they are: largest difference, relative", "rotated"),
        ("equivariance", "predicted positions turn with the molecule: largest difference, relative", "positions"),
    ):  # fmt: skip
        yield Claim(
            id=f"5.3-{name}",
            section="5.3.1",
            statement=statement,
            source="ours",
            better=("per_seed", "symmetry", EACH, measure),
            bound=1e-3,
            lower=True,
            unit="",
            **small,
        )
    yield Claim(
        id="5.3-centre-of-mass",
        section="5.3.2, equation (5.2)",
        statement="noised positions keep their centre of mass at zero: largest component",
        better=("per_seed", "noise", EACH, "centre of mass"),
        bound=1e-4,
        lower=True,
        unit="Å",
        **small,
    )
    yield Claim(
        id="5-speed-denoiser",
        section="ours, speed",
        statement="the denoiser is faster than the plain one at every number of atoms: speed-up",
        source="ours",
        rows="midi_denoiser",
        better=("rows", EACH, "speedup"),
        bound=1.0,
        unit="x above 1",
    )


def _experiments() -> Mapping[str, Callable[..., None]]:
    from molfeat_diffusion.experiments import EXPERIMENTS

    return EXPERIMENTS


BOOK = Book(
    system="molfeat-diffusion",
    claims=(*_table_5_1(), *_NOT_RUN, *_small()),
    experiments=_experiments,
)
