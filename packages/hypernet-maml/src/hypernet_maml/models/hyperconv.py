"""Convolutions whose weights a hypernetwork generates (thesis 3.3, Fig. 3.1 and 3.2).

    W = conv2d(E, K)        E (C_out, d, k, k): the layer's embedding; K (C_in, d, k, k): the hypernetwork,
                            one convolution with "same" padding and no bias; W (C_out, C_in, k, k)

`hyperize` turns a network's convolutions into such layers, `reparameterize` turns them back into plain
ones with the same outputs. W is generated once per forward pass, for the whole batch.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hypernet_maml.models.layers import Conv2d, convolve

Sharing = Literal["unshared", "stage"]
Select = Callable[[str, nn.Conv2d], bool]
"""Whether to generate the weights of a convolution, from its name in the network and itself."""


class Hypernetwork(nn.Module):
    """One convolution from embeddings to weights; `bias` only for the ablation (Table 3.1)."""

    def __init__(self, in_channels: int, depth: int, kernel_size: int, *, bias: bool) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(in_channels, depth, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(in_channels)) if bias else None
        std = 1 / math.sqrt(depth * mean_taps(kernel_size))
        nn.init.normal_(self.kernel, 0.0, std)

    def forward(
        self, embedding: Float[Tensor, "*tasks out depth k k"]
    ) -> Float[Tensor, "*tasks out in k k"]:
        """The weights that an embedding stands for. Embedding and kernel may both be stacked by task."""
        stacked = self.kernel.dim() == 5
        if not stacked:
            flat = embedding.flatten(0, 1) if embedding.dim() == 5 else embedding
            weights = F.conv2d(flat, self.kernel, self.bias, padding="same")
            return weights.unflatten(0, embedding.shape[:-3])
        tasks = len(self.kernel)
        folded = embedding.transpose(0, 1).flatten(1, 2)  # (out, tasks * depth, k, k)
        bias = None if self.bias is None else self.bias.flatten()
        weights = F.conv2d(
            folded, self.kernel.flatten(0, 1), bias, padding="same", groups=tasks
        )  # (out, tasks * in, k, k)
        return weights.unflatten(1, (tasks, -1)).transpose(0, 1)


def mean_taps(kernel_size: int) -> float:
    """Terms per depth channel that a weight sums over: k^2 in the middle, fewer under the padding.

    An average over positions, so that the variance of all of W is d * taps * Var(E) * Var(K).
    """
    reach = kernel_size // 2
    row = sum(min(p + reach, kernel_size - 1) - max(p - reach, 0) + 1 for p in range(kernel_size))
    return (row / kernel_size) ** 2


class HyperConv2d(nn.Module):
    """A convolution with generated weights, in the place of an `nn.Conv2d`.

    Layers that share a hypernetwork hold the same object; only the first one registers it, so that it
    has one name in `state_dict`, `parameters` and `functional_call`. The convolution's own bias, if it
    has one, stays a plain parameter.
    """

    embedding: nn.Parameter

    def __init__(
        self, conv: nn.Conv2d, hypernetwork: Hypernetwork, *, owner: bool, depth: int
    ) -> None:
        super().__init__()
        self.geometry: dict[str, Any] = {
            name: getattr(conv, name) for name in ("stride", "padding", "dilation", "groups")
        }
        self.kernel_size = conv.kernel_size
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.bias = conv.bias
        # As the plain weights' spread, whatever initialised them: the hypernetwork keeps variance.
        spread = conv.weight.detach().square().mean().sqrt()
        shape = (conv.out_channels, depth, *conv.kernel_size)
        self.embedding = nn.Parameter(torch.randn(shape).to(conv.weight) * spread)
        if owner:
            self.hypernetwork = hypernetwork
        self._generator = (hypernetwork,)  # in a tuple: nn.Module does not register it twice
        self._weights: Tensor | None = None

    @property
    def generator(self) -> Hypernetwork:
        """The hypernetwork, whichever layer registers it."""
        return self._generator[0]

    def generate(self) -> Float[Tensor, "*tasks out in k k"]:
        """The weights W, with their graph; see `generate_once`."""
        if self._weights is not None:
            return self._weights
        weights: Tensor = self.generator(self.embedding)
        return weights

    def forward(
        self, images: Float[Tensor, "batch in_channels height width"]
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        return convolve(images, self.generate(), self.bias, **self.geometry)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, {self.geometry}"


def hyperize(
    net: nn.Module,
    *,
    sharing: Sharing = "unshared",
    bias: bool = False,
    select: Select | None = None,
) -> nn.Module:
    """Replace convolutions of `net` by hyper-convolutions, in place; returns `net`.

    Args:
        net: any network; its weights give the scale of the generated ones.
        sharing: "unshared", one hypernetwork per layer (Fig. 3.2); "stage", one for the layers of a
            stage (Fig. 3.1): those below the same child of `net` whose hypernetworks have equal shapes.
        bias: a bias in the hypernetworks (the ablation of Table 3.1).
        select: which convolutions; None: the network's own rule (`net.hyper_layers`, see networks.py),
            else every square one of odd size above 1 but the first. Stem and shortcuts stay plain.

    Raises:
        ValueError: no convolution selected, or one whose kernel is not square and odd.
    """
    chosen = list(_selected(net, select))
    if not chosen:
        raise ValueError(
            f"{type(net).__name__} has no convolution to generate: none above 1 x 1 but the first"
        )
    groups: dict[object, list[str]] = defaultdict(list)
    convs = dict(chosen)
    for name, conv in chosen:
        height, width = conv.kernel_size
        if height != width or height % 2 == 0:
            raise ValueError(
                f"{name}: its kernel is {height} x {width}; hyper-convolutions need a square one of odd "
                "size: leave it out with select="
            )
        if conv.padding_mode != "zeros":
            raise ValueError(
                f"{name}: padding mode {conv.padding_mode!r} is not supported: leave it out with select="
            )
        depth = conv.in_channels // conv.groups
        stage = name.split(".")[0]
        key = (stage, depth, height) if sharing == "stage" else name
        groups[key].append(name)
    for names in groups.values():
        first = convs[names[0]]
        depth = first.in_channels // first.groups
        hypernetwork = Hypernetwork(depth, depth, first.kernel_size[0], bias=bias)
        hypernetwork = hypernetwork.to(first.weight)
        for i, name in enumerate(names):
            layer = HyperConv2d(convs[name], hypernetwork, owner=i == 0, depth=depth)
            _replace(net, name, layer.train(net.training))
    return net


def reparameterize(net: nn.Module) -> nn.Module:
    """A plain copy: every hyper-convolution an `nn.Conv2d` with the weights it generates.

    The same outputs, to the bit; `net` is left as it is.
    """
    plain = copy.deepcopy(net)
    for name, layer in hyper_layers(net):
        _replace(plain, name, _plain_conv(layer))
    return plain


@torch.no_grad()
def _plain_conv(layer: HyperConv2d) -> nn.Conv2d:
    # On the meta device: random initial weights would move the global generator.
    conv = Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size[0],
        **layer.geometry,
        bias=layer.bias is not None,
        device="meta",
    )
    conv.weight = nn.Parameter(layer.generate().detach().clone())
    if layer.bias is not None:
        conv.bias = nn.Parameter(layer.bias.detach().clone())
    return conv.train(layer.training)


def hyper_layers(net: nn.Module) -> Iterator[tuple[str, HyperConv2d]]:
    """Names and hyper-convolutions of a network, in order."""
    for name, module in net.named_modules():
        if isinstance(module, HyperConv2d):
            yield name, module


def generated_weights(net: nn.Module) -> dict[str, Tensor]:
    """W of every hyper-convolution, by the layer's name, with its graph."""
    return {name: layer.generate() for name, layer in hyper_layers(net)}


@contextmanager
def generate_once(net: nn.Module) -> Iterator[None]:
    """Within this context all uses of generated weights share one generation and one graph.

    For a training step, which uses them in the forward pass and in `output_l2`, and for evaluation.
    """
    layers = [layer for _, layer in hyper_layers(net)]
    try:
        for layer in layers:
            layer._weights = layer.generate()
        yield
    finally:
        for layer in layers:
            layer._weights = None


def output_l2(net: nn.Module) -> Float[Tensor, ""]:
    """The sum of squares of all generated weights (3.3, Regularizing Hypernetworks)."""
    squares = [layer.generate().square().sum() for _, layer in hyper_layers(net)]
    if not squares:
        raise ValueError("the network has no hyper-convolution: hyperize it first")
    return torch.stack(squares).sum()


def is_hyper_parameter(name: str) -> bool:
    """Whether a parameter's name is an embedding's, a hypernetwork's kernel's or its bias'."""
    return name.endswith(("embedding", "hypernetwork.kernel", "hypernetwork.bias"))


def is_embedding(name: str) -> bool:
    """Whether a parameter's name is an embedding's: what Algorithm 2 adapts in the inner loop."""
    return name.rpartition(".")[2] == "embedding"


def _selected(net: nn.Module, select: Select | None) -> Iterator[tuple[str, nn.Conv2d]]:
    convs = [(n, m) for n, m in net.named_modules() if isinstance(m, nn.Conv2d)]
    if select is None:
        select = getattr(net, "hyper_layers", None)
    if select is None:
        stem = convs[0][0] if convs else ""

        def select(name: str, conv: nn.Conv2d) -> bool:
            return name != stem and conv.kernel_size != (1, 1)

    for name, conv in convs:
        if select(name, conv):
            yield name, conv


def _replace(net: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(net.get_submodule(parent), child, module)
