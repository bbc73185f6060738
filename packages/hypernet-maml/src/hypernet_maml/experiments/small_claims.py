"""Small claims: parameters of Tables 3.3 and 3.4, export, meta-gradients, the shipped learner on Glyphs."""

from __future__ import annotations

from dataclasses import replace

import torch

from hypernet_maml.adaptation.maml import MetaLearner, accumulate_meta_gradient
from hypernet_maml.config import InnerLoop, NetworkConfig
from hypernet_maml.data.sources import load_images
from hypernet_maml.evaluation import evaluate_learner
from hypernet_maml.models.hyperconv import reparameterize
from hypernet_maml.models.networks import build_network
from hypernet_maml.presets import RESNET_18, RESNET_34, WRN_28_4, WRN_40_2
from hypernet_maml.pretrained import FewShotLearner
from priors_shared.episodes import FewShotEpisodes, FewShotSampler
from priors_shared.experiments import Scores, SmallClaims

SHIPPED, TASKS = "fc100-5way-cpu", 24
THESIS = {
    "WideResNets": (
        (WRN_40_2, {"none": 2.2, "stage": 2.4, "unshared": 4.17}),
        (WRN_28_4, {"none": 5.8, "stage": 6.6}),
    ),
    "ResNets": (
        (RESNET_18, {"none": 11.1, "unshared": 21.4}),
        (RESNET_34, {"none": 21.3, "unshared": 41.6}),
    ),
}
"""Millions of parameters trained (Tables 3.3, 3.4). WRN-28-4's 10.3, unshared, fits no rule that gives the others."""
SMALL = NetworkConfig(kind="conv4", width=8, classes=5, channels=1, image_size=28)


def experiment(preset: str = "cpu") -> SmallClaims:
    """The same in every preset."""
    return SmallClaims(
        preset=preset,
        system="hypernet-maml",
        measures={
            "parameters of WideResNets": lambda seed: parameters("WideResNets"),
            "parameters of ResNets": lambda seed: parameters("ResNets"),
            "exported network": exported,
            "meta-gradient": meta_gradient,
            "shipped learner on Glyphs": accuracies,
        },
        data=f"uniform noise; Glyphs, held-out characters, {TASKS} tasks a seed",
    )


def parameters(family: str) -> Scores:
    """The largest deviation from the thesis' counts; counted, the same for every seed."""
    worst = 0.0
    for config, counts in THESIS[family]:
        for sharing, published in counts.items():
            with torch.device("meta"):
                net = build_network(replace(config, sharing=sharing))  # type: ignore[arg-type]
            count = sum(p.numel() for p in net.parameters()) / 1e6
            worst = max(worst, 100 * abs(count / published - 1))
    return {"deviation (%)": worst}


def exported(seed: int) -> Scores:
    """Logits of a hypernetwork less those of the plain network that it is exported to."""
    torch.manual_seed(seed)
    worst = 0.0
    for sharing in ("unshared", "stage"):
        net = build_network(replace(SMALL, sharing=sharing)).eval()
        images = torch.rand(8, 1, 28, 28)
        with torch.inference_mode():
            worst = max(worst, float((net(images) - reparameterize(net)(images)).abs().max()))
    return {"largest difference": worst}


def meta_gradient(seed: int) -> Scores:
    """Our meta-gradient, whose inner loop moves weights, less that of an inner loop on embeddings, by its norm."""
    torch.manual_seed(seed)
    net = build_network(replace(SMALL, sharing="unshared")).double()
    inner = InnerLoop(algorithm="hyper-maml", steps=3, learning_rate=0.1)
    labels = torch.arange(5).repeat(2, 1)
    images, queries = torch.rand(2, 2, 5, 1, 28, 28, dtype=torch.float64)
    batch = FewShotEpisodes(
        support_images=images,
        support_labels=labels,
        query_images=queries,
        query_labels=labels,
        support_items=labels,
        query_items=labels,
    )
    ours, plain = (_gradient(MetaLearner(net, inner, linear=how), batch) for how in (True, False))
    return {"relative difference": float((ours - plain).norm() / plain.norm())}


def _gradient(learner: MetaLearner, batch: FewShotEpisodes) -> torch.Tensor:
    learner.zero_grad()
    accumulate_meta_gradient(learner, batch)
    return torch.cat([p.grad.flatten() for p in learner.parameters() if p.grad is not None])


def accuracies(seed: int) -> Scores:
    """Percent at 1 and 5 shots, 5 ways; chance is 20."""
    learner = FewShotLearner.from_pretrained(SHIPPED)
    glyphs = load_images("glyphs", "test", None, learner.network, adjust=True)
    found = {}
    for shots in (1, 5):
        sampler = FewShotSampler(glyphs, ways=learner.ways, shots=shots, queries=5)
        scores = evaluate_learner(learner.learner, sampler, tasks=TASKS, seed=seed)
        found[f"{shots}-shot"] = 100 * float(scores.mean())
    return found
