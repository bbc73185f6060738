"""The claims of thesis chapter 3, and ours of this package, with where their numbers are stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from priors_shared.claims import EACH, Book, Claim, Match

_PLAIN, _HYPER = "WRN-16-1", "HyperWRN-16-1"
_CIFAR = "CIFAR-10 (%)"
_NO_CIFAR_100 = "CIFAR-100 was not trained: hours a run on a card"
_NO_IMAGENET = "ImageNet is not here, and takes days on several cards"


def _seeds(row: str, column: str) -> tuple[Any, ...]:
    return ("per_seed", row, column, EACH)


def _classification() -> Iterator[Claim]:
    unregularised = f"{_HYPER} unshared, no output L2"
    yield Claim(
        id="3.1-bias-cifar-10",
        section="3.4.1, Table 3.1",
        statement="a hypernetwork without a bias generalises better than one with a bias on CIFAR-10",
        experiment="table-3.1",
        better=_seeds(unregularised, _CIFAR),
        minus=(_seeds(f"{unregularised}, bias", _CIFAR),),
        thesis=(94.72, 92.96),
    )
    yield Claim(
        id="3.2-output-l2-cifar-10",
        section="3.4.1, Table 3.2",
        statement="an L2 penalty on the generated weights improves generalisation on CIFAR-10",
        experiment="table-3.2",
        better=_seeds(f"{_HYPER} unshared", _CIFAR),
        minus=(_seeds(unregularised, _CIFAR),),
        thesis=(95.90, 94.72),
    )
    yield Claim(
        id="3.3-unshared-cifar-10",
        section="3.4.1, Table 3.3",
        statement="a WideResNet with a hypernetwork per layer beats the plain one on CIFAR-10",
        experiment="table-3.3",
        better=_seeds(f"{_HYPER} unshared", _CIFAR),
        minus=(_seeds(_PLAIN, _CIFAR),),
        thesis=(95.90, 95.65),
    )
    yield Claim(
        id="3.3-shared-cifar-10",
        section="3.4.1, Table 3.3",
        statement="a hypernetwork per stage is competitive with the plain WideResNet on CIFAR-10 (half a point allowed)",
        experiment="table-3.3",
        better=_seeds(f"{_HYPER} shared", _CIFAR),
        minus=(_seeds(_PLAIN, _CIFAR),),
        thesis=(95.65, 95.65),
        margin=0.5,
    )
    yield Claim(
        id="3.4-unshared-cifar-10",
        section="3.4.1, Table 3.4",
        statement="a ResNet-18 with a hypernetwork per layer beats the plain one on CIFAR-10",
        experiment="table-3.4",
        better=_seeds("HyperResNet-18, width 16 unshared", _CIFAR),
        minus=(_seeds("ResNet-18, width 16", _CIFAR),),
        thesis=(95.52, 95.27),
    )
    averaged = _seeds(f"{_HYPER} unshared + SWA", _CIFAR)
    yield Claim(
        id="3.5-averaged-cifar-10",
        section="3.4.1, Table 3.5",
        statement="with averaged weights (SWA) the hypernetwork beats the plain network on CIFAR-10",
        experiment="table-3.5",
        better=averaged,
        minus=(_seeds(f"{_PLAIN} + SWA", _CIFAR),),
        thesis=(96.35, 95.86),
    )
    yield Claim(
        id="3.5-averaging-gains-more",
        section="3.4.1, Table 3.5",
        statement="averaging weights gains more for hypernetworks than for plain networks on CIFAR-10",
        experiment="table-3.5",
        better=averaged,
        plus=(_seeds(_PLAIN, _CIFAR),),
        minus=(_seeds(f"{_HYPER} unshared", _CIFAR), _seeds(f"{_PLAIN} + SWA", _CIFAR)),
        thesis=(96.35, 95.65, 95.90, 95.86),
    )
    yield Claim(
        id="3.3-embedding-moves-little",
        section="3.3, Figure 3.3",
        statement="with a bias embeddings move too little for their size: |E| / |grad E| is larger",
        experiment="figure-3.3",
        better=_seeds(f"{unregularised}, bias", "|E| / |grad E|, mean over training"),
        minus=(_seeds(unregularised, "|E| / |grad E|, mean over training"),),
        unit="",
    )
    yield Claim(
        id="3.4-convergence-without-bias",
        section="3.4.1, Figure 3.4",
        statement="without a bias training converges faster: accuracy, mean over training",
        experiment="figure-3.4",
        better=_seeds(unregularised, "test accuracy (%), mean over training"),
        minus=(_seeds(f"{unregularised}, bias", "test accuracy (%), mean over training"),),
    )


def _few_shot() -> Iterator[Claim]:
    for stage in (1, 2, 3):
        column = f"stage{stage} (%)"
        yield Claim(
            id=f"3.5-movement-stage-{stage}",
            section="3.4.3, Figure 3.5",
            statement=f"generated weights of stage {stage} move further in the inner loop than plain ones",
            experiment="figure-3.5",
            better=_seeds(_HYPER, column),
            minus=(_seeds(_PLAIN, column),),
            unit="% of the weights' norm",
        )
    one, five = "1-shot (%)", "5-shot (%)"
    within: dict[str, Any] = {"section": "3.4.3, Table 3.6", "experiment": "table-3.6"}
    yield Claim(
        id="3.6-one-shot",
        statement="within a domain, hypernetworks are slightly better at 1 shot",
        better=_seeds(_HYPER, one),
        minus=(_seeds(_PLAIN, one),),
        thesis=(58.00, 57.65),
        **within,
    )
    yield Claim(
        id="3.6-five-shot",
        statement="within a domain, plain networks are better at 5 shots",
        better=_seeds(_PLAIN, five),
        minus=(_seeds(_HYPER, five),),
        thesis=(74.33, 73.00),
        **within,
    )
    for name, column, thesis in (
        ("one-shot", one, (43.17, 40.75)),
        ("five-shot", five, (58.66, 53.20)),
    ):
        yield Claim(
            id=f"3.7-{name}",
            section="3.4.3, Table 3.7",
            statement=f"across domains, hypernetworks beat plain networks at {name.replace('-', ' ')}",
            experiment="table-3.7",
            better=_seeds(_HYPER, column),
            minus=(_seeds(_PLAIN, column),),
            thesis=thesis,
        )
        yield Claim(
            id=f"3.6-convergence-{name}",
            section="3.4.3, Figure 3.6",
            statement=f"across domains, hypernetworks converge better ({name}): validation accuracy, mean over training",
            experiment="figure-3.6",
            better=_seeds(_HYPER, column),
            minus=(_seeds(_PLAIN, column),),
            expected=2.0,
        )
    for domain, thesis in {
        "photo": (94.63, 93.13),
        "cartoon": (79.05, 76.92),
        "sketch": (81.10, 79.19),
        "art_painting": (81.00, 79.19),
        "mean": (83.94, 82.10),
    }.items():
        yield Claim(
            id=f"3.8-{domain.replace('_', '-')}",
            section="3.5, Table 3.8",
            statement=f"with RSC the hypernetwork beats ResNet-18 on the unseen domain of PACS: {domain.replace('_', ' ')}",
            experiment="table-3.8",
            better=_seeds("HyperResNet-18, width 16", domain),
            minus=(_seeds("ResNet-18, width 16", domain),),
            thesis=thesis,
        )


def _receptors() -> Iterator[Claim]:
    def scores(arm: str, metric: str) -> tuple[Any, ...]:
        return ("epitopes", arm, "5", EACH, metric)

    ours: dict[str, Any] = {"section": "6.1", "experiment": "tcr-few-shot", "unit": ""}
    yield Claim(
        id="6.1-tcr",
        statement="hypernetworks write predictors of binding for T-cell receptors never seen, from few measurements: "
        "5 binders of an unseen epitope, AUROC above chance",
        better=scores("hypernetwork", "auroc"),
        bound=0.5,
        **ours,
    )
    for name, rival in (
        ("tcrdist", "1-NN, TCRdist"),
        ("genes", "V and J genes"),
        ("hypernetwork", "no hypernetwork"),
    ):
        yield Claim(
            id=f"6.1-tcr-{name}",
            source="ours",
            statement=f"from 5 binders of an unseen epitope the hypernetwork ranks receptors better than: {rival} (AUROC)",
            better=scores("hypernetwork", "auroc"),
            minus=(scores(rival, "auroc"),),
            **ours,
        )


def _not_run() -> Iterator[Claim]:
    for name, section, statement, thesis, why in (
        ("3.1-bias-cifar-100", "3.4.1, Table 3.1", "a hypernetwork without a bias generalises better than one with a bias on CIFAR-100", (76.03, 70.73), _NO_CIFAR_100),
        ("3.2-output-l2-cifar-100", "3.4.1, Table 3.2", "an L2 penalty on the generated weights improves generalisation on CIFAR-100", (79.20, 76.03), _NO_CIFAR_100),
        ("3.3-unshared-cifar-100", "3.4.1, Table 3.3", "a hypernetwork per layer beats the plain WideResNet on CIFAR-100", (79.20, 78.62), _NO_CIFAR_100),
        ("3.3-depth", "3.4.1, Table 3.3", "HyperWRN-28-4 is as good as the plain WRN-100-4 on CIFAR-10", (95.90, 95.90), "networks of 24 million weights: days on a card"),
        ("3.4-unshared-cifar-100", "3.4.1, Table 3.4", "a hypernetwork per layer beats the plain ResNet-18 on CIFAR-100", (78.81, 77.92), _NO_CIFAR_100),
        ("3.4-depth", "3.4.1, Table 3.4", "HyperResNet-18 beats the plain ResNet-34 on CIFAR-10", (95.52, 95.34), "networks of the thesis' width: a day on a card"),
        ("3.4-imagenet-34", "3.4.2, Table 3.4", "HyperResNet-34 beats ResNet-34 on ImageNet", (73.87, 73.58), _NO_IMAGENET),
        ("3.4-imagenet-18", "3.4.2, Table 3.4", "HyperResNet-18 is on a par with ResNet-18 on ImageNet", (70.01, 70.05), _NO_IMAGENET),
        ("3.4.2-imagenet-converges", "3.4.2", "HyperResNet-34 matches the final accuracy of ResNet-34 after 70 % of the training", (), _NO_IMAGENET),
        ("3.5-averaged-cifar-100", "3.4.1, Table 3.5", "with averaged weights the hypernetwork beats the plain network on CIFAR-100", (81.59, 80.76), _NO_CIFAR_100),
        ("3.7-depth", "3.4.3, Table 3.7", "deeper plain networks lose across domains, hypernetworks less (5 shots: WRN-28-4 less WRN-16-4)", (), "networks of the thesis' width and depth: days on a card"),
    ):  # fmt: skip
        yield Claim(id=name, section=section, statement=statement, thesis=thesis, why_not=why)


def _ours() -> Iterator[Claim]:
    small: dict[str, Any] = {"experiment": "small-claims", "rows": "small-claims-hypernet-maml"}
    for name, title, row in (
        ("3.3-parameters", "Table 3.3", "WideResNets"),
        ("3.4-parameters", "Table 3.4", "ResNets"),
    ):
        yield Claim(
            id=name,
            section=f"3.4.1, {title}",
            statement=f"trained and exported parameters of {row} are the thesis', but for WRN-28-4's 10.3 M (4 % allowed)",
            better=("per_seed", f"parameters of {row}", EACH, "deviation (%)"),
            bound=4.0,
            lower=True,
            unit="%",
            **small,
        )
    yield Claim(
        id="3.3-exported-equal",
        section="3.4.1, Table 3.3",
        statement="the exported plain network gives the hypernetwork's logits, to the bit",
        better=("per_seed", "exported network", EACH, "largest difference"),
        bound=1e-12,
        lower=True,
        unit="",
        **small,
    )
    yield Claim(
        id="3.3.2-gradients",
        section="3.3.2, Algorithm 2",
        statement="hyper-MAML's meta-gradient is automatic differentiation's: they differ by less than 1e-6 of its norm",
        source="ours",
        better=("per_seed", "meta-gradient", EACH, "relative difference"),
        bound=1e-6,
        lower=True,
        unit="",
        **small,
    )
    yield Claim(
        id="3.4.3-glyphs-transfer",
        section="ours, shipped weights",
        statement="the shipped learner, meta-trained on FC100, adapts to Glyphs: 5-way 5-shot accuracy above 40 %",
        source="ours",
        better=("per_seed", "shipped learner on Glyphs", EACH, "5-shot"),
        bound=40.0,
        **small,
    )
    yield Claim(
        id="3.4.3-more-examples-help",
        section="ours, shipped weights",
        statement="the shipped learner is better with 5 examples a class than with 1 on Glyphs",
        source="ours",
        better=("per_seed", "shipped learner on Glyphs", EACH, "5-shot"),
        minus=(("per_seed", "shipped learner on Glyphs", EACH, "1-shot"),),
        **small,
    )
    for name, network, rival, ours in (
        ("conv4", "conv4-32-4", "plain", "loop"),
        ("wrn", "wrn-16-1-4", "plain", "grouped"),
        ("hyper", "conv4-32-hyper", "naive", "linear"),
    ):
        yield Claim(
            id=f"3.3-speed-{name}",
            section="ours, speed",
            statement=f"a meta-step of {network} takes less time our way ({ours}) than the {rival} way",
            source="ours",
            rows=f"maml_step-{network}",
            better=_times(rival),
            minus=(_times(ours),),
            unit="s",
            expected=0.3,
        )


def _times(way: str) -> tuple[Any, ...]:
    return ("rows", Match((("way", way),), "config"), "all_seconds", EACH)


def _experiments() -> Mapping[str, Callable[..., None]]:
    from hypernet_maml.experiments import EXPERIMENTS

    return EXPERIMENTS


BOOK = Book(
    system="hypernet-maml",
    claims=(*_classification(), *_few_shot(), *_receptors(), *_not_run(), *_ours()),
    experiments=_experiments,
)
