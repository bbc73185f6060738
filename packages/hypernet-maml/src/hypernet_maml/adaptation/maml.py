"""MAML on networks with and without hypernetworks (thesis 3.3.1, 3.3.2).

    inner    theta_i = theta - alpha grad L_support(theta)                 Eq. 3.1, Algorithm 1 line 9
    outer    grad of sum_i L_query(theta_i) with respect to theta          Eq. 3.2, Algorithm 1 line 11

Algorithm 2 (hyper-maml) adapts embeddings and classifier in the inner loop; the outer loop moves all.
The outer loss is the mean over tasks, where the thesis has the sum: Adam does not see the difference.

The linear form. W = conv2d(E, K) is linear in E: with W and E as matrices (C_out, ...), W = E A for a
matrix A made of K. An inner step on E therefore is W <- W - alpha G A^T A, with G = dL/dW: MAML on the
weights themselves, preconditioned by what the outer loop learns in K. That is why adaptation moves
further than plain MAML's, and it lets the inner loop run on W without generating it at every step.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from hypernet_maml.config import Batching, InnerLoop
from hypernet_maml.models.hyperconv import (
    HyperConv2d,
    Hypernetwork,
    hyper_layers,
    is_embedding,
    is_hyper_parameter,
    reparameterize,
)
from hypernet_maml.models.layers import (
    BatchNorm2d,
    Conv2d,
    Linear,
    Normalise,
    Order,
    differentiated,
    set_batch_statistics,
)
from priors_shared.episodes import FewShotEpisodes

Parameters = dict[str, Tensor]
HEAD = "classifier."


class MetaLearner(nn.Module):
    """A network and its inner loop.

    linear: run hyper-maml's inner loop on generated weights (see the module's text); the same numbers
    as on embeddings, up to rounding.

    Raises ValueError where algorithm and network do not fit.
    """

    def __init__(self, net: nn.Module, inner: InnerLoop, *, linear: bool = True) -> None:
        super().__init__()
        hyper = dict(hyper_layers(net))
        if inner.algorithm == "hyper-maml" and not hyper:
            raise ValueError("hyper-maml needs a network with hyper-convolutions: use maml or anil")
        names = [name for name, _ in net.named_parameters()]
        if not any(name.startswith(HEAD) for name in names):
            raise ValueError(f"{type(net).__name__} has no layer named classifier")
        self.net, self.inner = net, inner
        self.linear = linear and inner.algorithm == "hyper-maml"
        self.adapted = [name for name in names if _adapts(inner.algorithm, name)]
        self.preconditioner = nn.ParameterDict()
        if inner.algorithm == "maml-precond":
            for name in self.adapted:  # a ParameterDict's keys may not hold dots
                like = net.get_parameter(name)
                self.preconditioner[name.replace(".", "/")] = torch.ones_like(like)
        set_batch_statistics(net, inner.statistics)
        # In a tuple: the weights of the plain copy are not parameters of the learner.
        self._plain = (reparameterize(net) if self.linear else net,)

    def forward(self, params: Parameters, images: Tensor, order: Order = "any") -> Tensor:
        """Logits with these parameters, those of `start`, and the network's buffers.

        order: see `layers.differentiated`.
        """
        # The plain copy's own buffers are those of its making: neither loaded nor moved to a device.
        state = {**dict(self.net.named_buffers()), **params}
        if order != "any" and images.device.type == "cpu":  # oneDNN and pooling are faster so
            images = images.contiguous(memory_format=torch.channels_last)
        with differentiated(order):
            logits: Tensor = functional_call(self._plain[0], state, (images,))
        return logits

    def start(self) -> tuple[Parameters, Parameters]:
        """The parameters before adaptation, with their graph, and P of each that adapts (may be empty).

        P: element by element for maml-precond, a matrix A^T A in the linear form of hyper-maml.
        """
        params: Parameters = dict(self.net.named_parameters())
        steps: Parameters = {
            key.replace("/", "."): value for key, value in self.preconditioner.items()
        }
        if not self.linear:
            return params, steps
        params = {name: p for name, p in params.items() if not is_hyper_parameter(name)}
        gram: dict[int, Tensor] = {}
        for name, layer in hyper_layers(self.net):
            params[f"{name}.weight"] = layer.generate()
            shared = layer.generator
            if id(shared) not in gram:
                gram[id(shared)] = gram_matrix(shared)
            steps[f"{name}.weight"] = gram[id(shared)]
        return params, steps

    @property
    def fast(self) -> list[str]:
        """Names of what the inner loop moves, among those of `start`."""
        if not self.linear:
            return self.adapted
        return [
            name.replace("embedding", "weight") if is_embedding(name) else name
            for name in self.adapted
        ]

    def adapt(
        self,
        params: Parameters,
        steps: Parameters,
        images: Float[Tensor, "items channels height width"],
        labels: Int[Tensor, "*tasks items"],
        *,
        create_graph: bool,
        functional: bool = False,
    ) -> Parameters:
        """The parameters after the inner loop on a support set (Eq. 3.1, `inner.steps` times).

        Of several tasks at once with parameters stacked by task (see `layers.py`). create_graph: keep the
        graph for second derivatives. functional: differentiate by `torch.func`, as `torch.vmap` needs.
        """
        second_order = create_graph and not (
            self.inner.first_order or self.inner.algorithm == "fomaml"
        )
        names = self.fast
        order: Order = "any" if functional else "second" if second_order else "first"

        def loss(fast: Parameters) -> Tensor:
            return task_losses(self(params | fast, images, order), labels).sum()

        fast = {name: params[name] for name in names}
        for _ in range(self.inner.steps):
            if functional:
                gradients = torch.func.grad(loss)(fast)
            else:
                fast = {n: p if p.requires_grad else p.requires_grad_() for n, p in fast.items()}
                values = torch.autograd.grad(
                    loss(fast), list(fast.values()), create_graph=second_order
                )
                gradients = dict(zip(names, values, strict=True))
            if not second_order:
                gradients = {name: g.detach() for name, g in gradients.items()}
            fast = {
                name: self._step(p, gradients[name], steps.get(name)) for name, p in fast.items()
            }
            if not create_graph:
                fast = {name: p.detach() for name, p in fast.items()}
        return params | fast

    def _step(self, value: Tensor, gradient: Tensor, step: Tensor | None) -> Tensor:
        if step is not None and self.linear:
            gradient = (gradient.flatten(-3) @ step).view_as(gradient)
        elif step is not None:
            gradient = gradient * step
        return value - self.inner.learning_rate * gradient


def accumulate_meta_gradient(
    learner: MetaLearner, batch: FewShotEpisodes, batching: Batching = "loop"
) -> tuple[Float[Tensor, " tasks"], Float[Tensor, " tasks"]]:
    """Add the gradient of the mean query loss (Eq. 3.2) to `.grad`; query loss and accuracy per task.

    batching: "loop" keeps one task's graph at a time; "grouped" and "vmap" run all tasks at once, the
    former with networks of `hypernet_maml.models.layers` only. All give the same gradients.
    """
    if batching == "loop":
        return _loop(learner, batch)
    logits = (_grouped if batching == "grouped" else _vmapped)(learner, batch)
    losses = task_losses(logits, batch.query_labels)
    losses.mean().backward()
    return losses.detach(), accuracy(logits, batch.query_labels)


def evaluate_tasks(learner: MetaLearner, batch: FewShotEpisodes) -> Float[Tensor, " tasks"]:
    """Query accuracy of each task after adaptation to its support set. No gradient is kept."""
    params, steps = learner.start()
    params = {name: p.detach() for name, p in params.items()}
    steps = {name: p.detach() for name, p in steps.items()}
    accuracies = []
    for i in range(len(batch.support_labels)):
        support, support_labels, query, query_labels = _task(batch, i)
        with torch.enable_grad():
            fast = learner.adapt(params, steps, support, support_labels, create_graph=False)
        with torch.no_grad():
            logits = learner(fast, query, "first")
            accuracies.append(accuracy(logits, query_labels))
    return torch.stack(accuracies)


def _task(batch: FewShotEpisodes, i: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        batch.support_images[i],
        batch.support_labels[i],
        batch.query_images[i],
        batch.query_labels[i],
    )


def _loop(learner: MetaLearner, batch: FewShotEpisodes) -> tuple[Tensor, Tensor]:
    """One task's graph at a time: each task's gradient stops at the start, then passes it once for all."""
    start = learner.start()
    params, steps = (
        {name: p.detach().requires_grad_() for name, p in part.items()} for part in start
    )
    count = len(batch.support_labels)
    losses, accuracies = [], []
    for i in range(count):
        support, support_labels, query, query_labels = _task(batch, i)
        fast = learner.adapt(params, steps, support, support_labels, create_graph=True)
        logits = learner(fast, query, "first")
        loss = task_losses(logits, query_labels)
        (loss / count).backward()
        losses.append(loss.detach())
        accuracies.append(accuracy(logits, query_labels))
    reached = [
        (p, copy[name].grad)
        for part, copy in zip(start, (params, steps), strict=True)
        for name, p in part.items()
        if p.requires_grad and copy[name].grad is not None
    ]
    tensors, gradients = zip(*reached, strict=True)
    torch.autograd.backward(tensors, gradients)
    return torch.stack(losses), torch.stack(accuracies)


def _grouped(learner: MetaLearner, batch: FewShotEpisodes) -> Tensor:
    """Query logits (tasks, queries, ways), with the tasks folded into channels."""
    check_task_layers(learner.net)
    tasks = len(batch.support_labels)
    params, steps = learner.start()
    # A hypernetwork that does not adapt maps every task's embedding: it stays as it is.
    shared = {n for n in params if is_hyper_parameter(n) and not is_embedding(n)} - set(
        learner.fast
    )
    params = {n: p if n in shared else p.expand(tasks, *p.shape) for n, p in params.items()}
    support = batch.support_images.transpose(0, 1).flatten(1, 2)  # (items, tasks * channels, h, w)
    query = batch.query_images.transpose(0, 1).flatten(1, 2)
    fast = learner.adapt(params, steps, support, batch.support_labels, create_graph=True)
    return learner(fast, query, "first").transpose(0, 1)


def _vmapped(learner: MetaLearner, batch: FewShotEpisodes) -> Tensor:
    """Query logits (tasks, queries, ways), by `torch.vmap` over tasks."""
    params, steps = learner.start()

    def one(support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        fast = learner.adapt(params, steps, support, labels, create_graph=True, functional=True)
        return learner(fast, query)

    logits: Tensor = torch.vmap(one)(batch.support_images, batch.support_labels, batch.query_images)
    return logits


def task_losses(
    logits: Float[Tensor, "*batch ways"], labels: Int[Tensor, "*tasks items"]
) -> Float[Tensor, "*tasks"]:
    """Cross-entropy per task: of logits (items, ways), (tasks, items, ways), or (items, tasks, ways)."""
    if labels.dim() == 2 and logits.shape[:2] != labels.shape:
        logits = logits.transpose(0, 1)
    each = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
    return each.unflatten(0, labels.shape).mean(-1)


def accuracy(
    logits: Float[Tensor, "*tasks items ways"], labels: Int[Tensor, "*tasks items"]
) -> Float[Tensor, "*tasks"]:
    """Share of right predictions per task."""
    return (logits.argmax(-1) == labels).to(logits.dtype).mean(-1)


def gram_matrix(hypernetwork: Hypernetwork) -> Float[Tensor, "weights weights"]:
    """A^T A of a hypernetwork's linear map A from embeddings (d k k) to weights (C_in k k).

    A holds what the map makes of each unit embedding. A bias adds a constant to W, not to A.
    """
    depth, size = hypernetwork.kernel.shape[1:3]
    unit = torch.eye(depth * size * size).to(hypernetwork.kernel).unflatten(1, (depth, size, size))
    rows = F.conv2d(unit, hypernetwork.kernel, padding="same").flatten(1)  # A: (d k k, C_in k k)
    return rows.t() @ rows


def check_task_layers(net: nn.Module) -> None:
    """Raise ValueError unless every layer with parameters takes weights stacked by task."""
    known = (Conv2d, Linear, BatchNorm2d, HyperConv2d, Hypernetwork, Normalise)
    for name, module in net.named_modules():
        if next(module.parameters(recurse=False), None) is not None and not isinstance(
            module, known
        ):
            raise ValueError(
                f"{name} is a {type(module).__name__}, which cannot hold the weights of several tasks: "
                "use batching loop or vmap, or the layers of hypernet_maml.models.layers"
            )


def movement(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, float]:
    """|after - before| / |before| per tensor: how far an inner loop went (Fig. 3.5)."""
    return {
        name: float((after[name] - value).norm() / value.norm().clamp(min=1e-12))
        for name, value in before.items()
    }


def _adapts(algorithm: str, name: str) -> bool:
    """Whether the inner loop of an algorithm moves the parameter of that name."""
    if name.startswith(HEAD):
        return True
    if algorithm == "hyper-maml":
        return is_embedding(name)
    return algorithm != "anil"
