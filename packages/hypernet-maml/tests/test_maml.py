"""Meta-gradients: against finite differences, a plain loop, each other; what moves where."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from hypernet_maml.adaptation.maml import (
    MetaLearner,
    accumulate_meta_gradient,
    evaluate_tasks,
    gram_matrix,
)
from hypernet_maml.config import InnerLoop, NetworkConfig
from hypernet_maml.models.hyperconv import hyper_layers, is_embedding, is_hyper_parameter
from hypernet_maml.models.networks import build_network
from priors_shared.episodes import FewShotEpisodes

NETWORKS = {
    "conv4": NetworkConfig(kind="conv4", width=3, classes=3, channels=1, image_size=16),
    "wrn": NetworkConfig(kind="wrn", depth=16, width=1, classes=3, channels=1),
}


def network(kind: str = "conv4", sharing: str = "unshared") -> nn.Module:
    torch.manual_seed(0)
    net = build_network(replace(NETWORKS[kind], sharing=sharing)).double()  # type: ignore[arg-type]
    for name, p in net.named_parameters():  # affine norms whose scale and shift matter
        if "norm" in name:
            nn.init.uniform_(p, 0.5, 1.5)
    return net


def tasks(count: int = 3, side: int = 16) -> FewShotEpisodes:
    generator = torch.Generator().manual_seed(1)

    def draw(items: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(3).repeat(count, items // 3)
        images = torch.rand(count, items, 1, side, side, generator=generator).double()
        return images, labels

    (support, support_labels), (query, query_labels) = draw(6), draw(9)
    return episodes(support, support_labels, query, query_labels)


def episodes(
    support: Tensor, support_labels: Tensor, query: Tensor, query_labels: Tensor
) -> FewShotEpisodes:
    """Tasks that come from no dataset: their items are not looked at."""
    return FewShotEpisodes(
        support_images=support,
        support_labels=support_labels,
        query_images=query,
        query_labels=query_labels,
        support_items=support_labels,
        query_items=query_labels,
    )


def task(batch: FewShotEpisodes, i: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    support, query = batch.support_images[i], batch.query_images[i]
    return support, batch.support_labels[i], query, batch.query_labels[i]


def gradients(
    learner: MetaLearner, batch: FewShotEpisodes, batching: str = "loop"
) -> dict[str, Tensor]:
    learner.zero_grad()
    accumulate_meta_gradient(learner, batch, batching)  # type: ignore[arg-type]
    return {
        name: p.grad.clone() if p.grad is not None else torch.zeros_like(p)
        for name, p in learner.named_parameters()
    }


def plain_loop(
    net: nn.Module, batch: FewShotEpisodes, inner: InnerLoop, adapted: list[str]
) -> Tensor:
    """MAML as it is written in 3.3.1, with nothing of the code under test but the network."""
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(batch.support_labels)):
        support, support_labels, query, query_labels = task(batch, i)
        theta = dict(net.named_parameters())
        for _ in range(inner.steps):
            loss = F.cross_entropy(functional_call(net, theta, (support,)), support_labels)
            values = [theta[name] for name in adapted]
            steps = torch.autograd.grad(loss, values, create_graph=True)
            for name, value, step in zip(adapted, values, steps, strict=True):
                theta[name] = value - inner.learning_rate * step
        total = total + F.cross_entropy(functional_call(net, theta, (query,)), query_labels)
    return total / len(batch.support_labels)


def close(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=1e-9, atol=1e-12, msg=name)


ADAPTED = {
    "maml": lambda name: True,
    "anil": lambda name: name.startswith("classifier."),
    "hyper-maml": lambda name: name.startswith("classifier.") or name.endswith("embedding"),
}


@pytest.mark.parametrize(
    ("algorithm", "sharing"),
    [(a, s) for a in ADAPTED for s in ("none", "stage") if (a, s) != ("hyper-maml", "none")],
)
def test_the_meta_gradient_is_that_of_a_plain_loop(algorithm: str, sharing: str) -> None:
    inner = InnerLoop(algorithm=algorithm, steps=3, learning_rate=0.3)  # type: ignore[arg-type]
    net, batch = network(sharing=sharing), tasks()
    learner = MetaLearner(net, inner, linear=False)
    found = gradients(learner, batch)
    adapted = [name for name, _ in net.named_parameters() if ADAPTED[algorithm](name)]
    net.zero_grad()
    plain_loop(net, batch, inner, adapted).backward()
    close(found, {f"net.{name}": p.grad for name, p in net.named_parameters()})  # type: ignore[misc]


@pytest.mark.parametrize("algorithm", ["maml", "maml-precond", "hyper-maml"])
def test_the_meta_gradient_against_finite_differences(algorithm: str) -> None:
    """Along a random direction, with affine batch norm in the network."""
    inner = InnerLoop(algorithm=algorithm, steps=2, learning_rate=0.2)  # type: ignore[arg-type]
    learner, batch = MetaLearner(network(), inner), tasks(2)
    found = gradients(learner, batch, "vmap")
    generator = torch.Generator().manual_seed(3)
    direction = {
        n: torch.randn(p.shape, generator=generator).double() for n, p in learner.named_parameters()
    }

    def loss_at(step: float) -> float:
        moved = MetaLearner(network(), inner)
        with torch.no_grad():
            for name, p in moved.named_parameters():
                p.add_(direction[name], alpha=step)
        return accumulate_meta_gradient(moved, batch)[0].mean().item()

    width = 1e-5
    slope = (loss_at(width) - loss_at(-width)) / (2 * width)
    expected = sum((found[n] * direction[n]).sum().item() for n in found)
    assert expected == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize(
    "algorithm", ["maml", "maml-precond", "fomaml", "anil", "hyper-maml", "hyper-maml on E"]
)
def test_loop_grouped_and_vmap_agree(algorithm: str, kind: str) -> None:
    name, _, on_embeddings = algorithm.partition(" ")
    inner = InnerLoop(algorithm=name, steps=2, learning_rate=0.2)  # type: ignore[arg-type]
    batch = tasks(2, 8 if kind == "wrn" else 16)
    learner = MetaLearner(network(kind, "stage"), inner, linear=not on_embeddings)
    loop = gradients(learner, batch, "loop")
    close(loop, gradients(learner, batch, "grouped"))
    close(loop, gradients(learner, batch, "vmap"))
    assert all(g.abs().max() > 0 for n, g in loop.items() if "classifier" in n)


def test_first_order_differs_from_second_order() -> None:
    learner = MetaLearner(network(), InnerLoop(algorithm="maml", steps=2, learning_rate=0.02))
    first = MetaLearner(network(), InnerLoop(algorithm="fomaml", steps=2, learning_rate=0.02))
    exact, approximate = gradients(learner, tasks()), gradients(first, tasks())
    cosine = F.cosine_similarity(
        torch.cat([g.flatten() for g in exact.values()]),
        torch.cat([g.flatten() for g in approximate.values()]),
        dim=0,
    )
    assert 0.5 < cosine < 0.9999


@pytest.mark.parametrize("sharing", ["unshared", "stage"])
def test_the_linear_form_is_the_inner_loop_on_embeddings(sharing: str) -> None:
    inner = InnerLoop(algorithm="hyper-maml", steps=4, learning_rate=0.5)
    batch = tasks()
    on_weights = gradients(MetaLearner(network(sharing=sharing), inner), batch)
    on_embeddings = gradients(MetaLearner(network(sharing=sharing), inner, linear=False), batch)
    close(on_weights, on_embeddings)


def test_a_step_on_an_embedding_is_a_preconditioned_step_on_its_weights() -> None:
    """W' = W - alpha G A^T A, to rounding."""
    torch.manual_seed(0)
    net = network("wrn")
    _, layer = next(hyper_layers(net))
    weights = layer.generate()
    gradient = torch.randn_like(weights)
    (step,) = torch.autograd.grad(weights, layer.embedding, gradient)
    with torch.no_grad():
        before = layer.generate()
        layer.embedding -= 0.1 * step
        moved = layer.generate()
        gram = gram_matrix(layer.generator)
    expected = before - 0.1 * (gradient.flatten(1) @ gram).view_as(before)
    torch.testing.assert_close(moved, expected, rtol=0, atol=2e-13)
    assert not torch.allclose(moved, before - 0.1 * gradient)


def test_algorithm_2_adapts_embeddings_and_classifier_and_moves_all_in_the_outer_loop() -> None:
    inner = InnerLoop(algorithm="hyper-maml", steps=2, learning_rate=0.1)
    learner = MetaLearner(network(sharing="stage"), inner, linear=False)
    batch = tasks(1)
    params, steps = learner.start()
    support, labels, *_ = task(batch, 0)
    fast = learner.adapt(params, steps, support, labels, create_graph=True)
    moved = {name for name in params if not torch.equal(params[name], fast[name])}
    assert moved == {n for n in params if is_embedding(n) or n.startswith("classifier.")}
    outer = gradients(learner, batch)
    for name, gradient in outer.items():
        before_norm = name.endswith("bias") and ".conv" in name  # batch norm takes it away
        assert before_norm or gradient.abs().max() > 0, name
    assert any(is_hyper_parameter(n) and not is_embedding(n) for n in outer)


def test_the_learned_preconditioner_starts_as_plain_maml_and_is_learned() -> None:
    inner = InnerLoop(algorithm="maml-precond", steps=2, learning_rate=0.3)
    learner, batch = MetaLearner(network(), inner), tasks()
    plain = MetaLearner(network(), replace(inner, algorithm="maml"))
    found, expected = gradients(learner, batch), gradients(plain, batch)
    close({n: g for n, g in found.items() if n.startswith("net.")}, expected)
    learned = [g for n, g in found.items() if n.startswith("preconditioner.")]
    assert len(learned) == len(expected)
    assert sum(float(g.abs().sum()) for g in learned) > 0


def test_evaluation_adapts_each_task_from_the_same_start_and_leaves_no_trace() -> None:
    learner = MetaLearner(network(), InnerLoop(steps=3, learning_rate=0.3))
    batch = tasks(3)
    before = {n: v.clone() for n, v in learner.state_dict().items()}
    accuracies = evaluate_tasks(learner, batch)
    alone = [
        evaluate_tasks(
            learner,
            FewShotEpisodes(**{name: part[i : i + 1] for name, part in vars(batch).items()}),
        )
        for i in range(3)
    ]
    assert torch.equal(accuracies, torch.cat(alone))
    assert all(torch.equal(before[n], v) for n, v in learner.state_dict().items())
    assert all(p.grad is None for p in learner.parameters())


def test_adaptation_learns_its_support_set() -> None:
    learner = MetaLearner(network(), InnerLoop(algorithm="maml", steps=30, learning_rate=0.3))
    batch = tasks(1)
    same = episodes(
        batch.support_images, batch.support_labels, batch.support_images, batch.support_labels
    )
    assert evaluate_tasks(learner, same).item() == 1.0


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_batch_norm_does_as_it_is_told(statistics: str) -> None:
    inner = InnerLoop(statistics=statistics, steps=1, learning_rate=0.1)  # type: ignore[arg-type]
    learner, batch = MetaLearner(network(), inner), tasks(1)
    running = {n: b.clone() for n, b in learner.named_buffers()}
    gradients(learner, batch)
    assert all(torch.equal(running[n], b) for n, b in learner.named_buffers())
    params, _ = learner.start()
    images = batch.support_images[0]
    alone = learner(params, images[:1])
    together = learner(params, images)[:1]
    assert torch.allclose(alone, together) == (statistics == "running")


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a network with hyper-convolutions"):
        MetaLearner(network(sharing="none"), InnerLoop(algorithm="hyper-maml"))
    with pytest.raises(ValueError, match="no layer named classifier"):
        MetaLearner(nn.Sequential(nn.Conv2d(1, 1, 3)), InnerLoop(algorithm="maml"))
    foreign = nn.Sequential()
    foreign.add_module("body", nn.Conv2d(1, 2, 3))
    foreign.add_module("pool", nn.AdaptiveAvgPool2d(1))
    foreign.add_module("flat", nn.Flatten())
    foreign.add_module("classifier", nn.Linear(2, 3))
    learner = MetaLearner(foreign.double(), InnerLoop(algorithm="maml", steps=1))
    with pytest.raises(ValueError, match="body is a Conv2d, which cannot hold"):
        accumulate_meta_gradient(learner, tasks(), "grouped")
    close(gradients(learner, tasks(), "loop"), gradients(learner, tasks(), "vmap"))
