"""The hypernetwork: what weights depend on, where gradients flow, sizes, materialised fields."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hyperfields.config import FieldConfig, ModelConfig
from hyperfields.fields.cameras import orbit
from hyperfields.fields.field import Field, decode, layer_shapes, run_mlp
from hyperfields.fields.rendering import render_image
from hyperfields.hypernetwork.heads import ConditioningTransformer
from hyperfields.hypernetwork.network import HyperNetwork
from hyperfields.training.distillation import parameter_groups

FIELD = FieldConfig(
    width=8,
    levels=2,
    level_features=2,
    log2_rows=8,
    coarsest=4,
    finest=8,
    frequencies=1,
    features=2,
)
MODEL = ModelConfig(blocks=1, heads=2, head_dim=4, hidden=8, field=FIELD)
VARIANTS = [
    replace(MODEL, conditioning=c, weights=w, stop_gradient=s)
    for c in ("dynamic", "static")
    for w in ("direct", "modulated")
    for s in ((True, False) if c == "dynamic" else (True,))
]


@pytest.fixture
def tokens() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    return torch.randn(2, 5, 6, generator=generator) * mask[..., None], mask


@pytest.fixture
def points() -> Tensor:
    return torch.rand(2, 30, 3, generator=torch.Generator().manual_seed(2)) * 2 - 1


def build(config: ModelConfig) -> HyperNetwork:
    torch.manual_seed(0)
    net = HyperNetwork(config, 6)
    for table in net.encoding.grid.tables:
        table.data.uniform_(-1, 1)
    return net


def weights(net: HyperNetwork, tokens: tuple[Tensor, Tensor], points: Tensor) -> list[Tensor]:
    return [weight for weight, _ in net.generate_layers(*tokens, points)]


def test_the_thesis_sizes() -> None:
    """B.1: 6 layers of 64 units; 6 blocks, 12 heads of 16; heads are two-layer MLPs (Eq. 4.5)."""
    config = ModelConfig()
    with torch.device("meta"):
        net = HyperNetwork(config, 768)
    shapes = layer_shapes(config.field)
    assert shapes == [(64, 32 + 36), (64, 64), (64, 64), (64, 64), (64, 64), (4, 64)]
    dim = 192
    assert net.transformer.dim == dim
    block = 4 * dim * (dim + 1) + (4 * dim * (dim + 1) + dim * (4 * dim + 1)) + 4 * dim
    counted = sum(p.numel() for p in net.transformer.parameters())
    assert counted == 769 * dim + 6 * block + 2 * dim
    for i, (head, (out, into)) in enumerate(zip(net.heads, shapes, strict=True)):
        activations = into if i else 0
        style = (dim + 1) * 2 * activations
        mlp = (dim + activations + 1) * 64 + 65 * (out * into + out)
        assert sum(p.numel() for p in head.parameters()) == style + mlp


@pytest.mark.parametrize("config", VARIANTS)
def test_weights_depend_on_what_the_thesis_says(config: ModelConfig, tokens, points) -> None:
    net = build(config)
    base = weights(net, tokens, points)
    other_points = weights(net, tokens, points.flip(1)[:, :20] * 0.3)
    other_prompt = weights(net, (tokens[0] * 1.5 + 0.2 * tokens[0].roll(1, 1), tokens[1]), points)
    for i, (one, moved, reworded) in enumerate(zip(base, other_points, other_prompt, strict=True)):
        assert not torch.allclose(one, reworded), f"layer {i} varies with the prompt"
        dynamic = i > 0 and config.conditioning == "dynamic"
        assert torch.equal(one, moved) != dynamic, f"layer {i} varies with points: {dynamic}"
        assert not torch.allclose(one[0], one[1])
    same = weights(net, tokens, points.flip(1))  # the mean does not know the order
    for one, turned in zip(base, same, strict=True):
        torch.testing.assert_close(one, turned)


def test_mean_activations_enter_the_heads_as_equations_4_4_and_4_5_say(tokens, points) -> None:
    net = build(MODEL)
    layers = net.generate_layers(*tokens, points)
    token = net.transformer(*tokens)
    encoded = net.encoding(points.flatten(0, 1)).view(2, 30, -1)
    first = torch.relu(encoded @ layers[0][0].transpose(1, 2) + layers[0][1][:, None])
    normal = (first - first.mean(-1, keepdim=True)) / (
        first.var(-1, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    scale, shift = net.heads[1].style(token).chunk(2, -1)
    mean = ((1 + scale)[:, None] * normal + shift[:, None]).mean(1)
    head = net.heads[1]
    written = head.unit * head.second(torch.relu(head.first(torch.cat([token, mean], -1))))
    torch.testing.assert_close(layers[1][0].flatten(1), written[:, : 8 * 8])


@pytest.mark.parametrize("stop", [True, False])
def test_stop_gradient_is_a_switch(stop: bool, tokens, points) -> None:
    """Do later weights send gradients through the activations they depend on?"""
    net = build(replace(MODEL, stop_gradient=stop))
    layers = net.generate_layers(*tokens, points)
    (grad,) = torch.autograd.grad(
        layers[-1][0].sum(), net.encoding.grid.tables[0], allow_unused=True
    )
    assert (grad is None) == stop
    first = net.heads[0].second.weight
    (grad,) = torch.autograd.grad(
        net.generate_layers(*tokens, points)[3][0].sum(), first, allow_unused=True
    )
    assert (grad is None) == stop


@pytest.mark.parametrize("config", VARIANTS)
def test_every_parameter_receives_a_gradient(config: ModelConfig, tokens, points) -> None:
    net = build(config)
    densities, values = net(*tokens, points)
    (densities.square().mean() + values.square().mean()).backward()
    dead = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead


def test_padding_changes_nothing(tokens) -> None:
    torch.manual_seed(0)
    transformer = ConditioningTransformer(6, 2, 2, 4)
    mask = tokens[1]
    garbage = torch.where(mask[..., None], tokens[0], 1e3)
    torch.testing.assert_close(transformer(*tokens), transformer(garbage, mask))
    alone = transformer(tokens[0][1:, :3], mask[1:, :3])
    torch.testing.assert_close(transformer(*tokens)[1:], alone)


def test_modulated_weights_are_normalised_over_the_output_axis(tokens, points) -> None:
    for layer in weights(build(replace(MODEL, weights="modulated")), tokens, points):
        norms = layer.norm(dim=1)
        torch.testing.assert_close(norms, norms[0, 0].expand_as(norms))


def test_residuals_go_over_two_layers() -> None:
    """With zero weights after layer 0, its activations reach the outputs of layers 2 and 4 unchanged."""
    seen = []

    def layer(i: int, before: Tensor | None) -> tuple[Tensor, Tensor]:
        seen.append(before)
        weight = torch.eye(3)[None] if i == 0 else torch.zeros(1, 3, 3)
        return weight, torch.zeros(1, 3)

    inputs = torch.tensor([[[1.0, 2.0, -3.0]]])
    run_mlp(inputs, layer, 6)
    first = torch.tensor([[[1.0, 2.0, 0.0]]])
    assert seen[0] is None
    zero = torch.zeros_like(first)
    for before, expected in zip(seen[1:], [first, zero, first, zero, first], strict=True):
        assert torch.equal(before, expected)


def test_materialised_fields_do_not_depend_on_chunks_or_order(tokens, points) -> None:
    net = build(MODEL)
    one, two = net.materialize(net.transformer(*tokens), ["one", "two"])
    assert (one.prompt, two.prompt) == ("one", "two")
    p = points[0]
    whole = one(p)
    parts = [one(some) for some in p.split(7)]
    torch.testing.assert_close(whole[1], torch.cat([values for _, values in parts]))
    order = torch.randperm(len(p))
    torch.testing.assert_close(one(p[order])[0], whole[0][order])
    alone = net.materialize(net.transformer(tokens[0][1:, :3], tokens[1][1:, :3]), ["two"])[0]
    torch.testing.assert_close(alone(p)[0], two(p)[0])
    assert not torch.allclose(one(p)[0], two(p)[0])
    # The hypernetwork on one more prompt of the same points does depend on them.
    together, _ = net(*tokens, torch.stack([p, p]))
    apart, _ = net(*tokens, torch.stack([p[:5], p[:5]]))
    assert not torch.allclose(together[:, :5], apart)


def test_fields_survive_saving(tokens, tmp_path) -> None:
    net = build(MODEL)
    field = net.materialize(net.transformer(*tokens), ["a", "b"])[1]
    field.save(tmp_path / "field")
    loaded = Field.load(tmp_path / "field")
    camera = orbit(10, 10, 6)
    assert loaded.prompt == "b"
    assert torch.equal(loaded.render(camera, 8), field.render(camera, 8))


def test_density_begins_as_a_blob_and_ends_at_the_box() -> None:
    points = torch.tensor([[0.0, 0.0, 0.0], [0.9, 0.0, 0.0], [0.0, 1.001, 0.0]])
    densities, values = decode(torch.zeros(3, 6), points, FIELD)
    torch.testing.assert_close(
        densities, torch.tensor([2.0, 0.0, 0.0]).exp() * torch.tensor([1, 1, 0])
    )
    assert torch.equal(values[:, :3], torch.full((3, 3), 0.5))
    huge, _ = decode(torch.full((1, 6), 1e9), points[:1], FIELD)
    assert huge.isfinite().all()


def test_baked_fields_show_the_same_scene() -> None:
    torch.manual_seed(0)
    field = Field(FIELD)
    for bias in field.biases[:-1]:
        torch.nn.init.zeros_(bias)
    baked = field.bake(64)
    camera = orbit(50, 20, 12)
    exact, fast = field.render(camera, 32), render_image(baked, camera, 32)
    assert float((exact - fast).abs().max()) < 0.02
    grid = torch.linspace(-1, 1, 64)[torch.tensor([[3, 60, 17], [63, 0, 31]])]
    torch.testing.assert_close(baked(grid)[0], field(grid)[0], rtol=1e-3, atol=1e-4)


def test_large_renders_skip_empty_space_by_the_weights_as_they_are() -> None:
    torch.manual_seed(0)
    field = Field(FIELD)
    camera = orbit(50, 20, 65)
    field.render(camera, 64)
    with torch.no_grad():
        field.weights[-1].zero_()
        field.biases[-1].copy_(torch.tensor([-40.0, *[0.0] * (len(field.biases[-1]) - 1)]))
    assert not field.render(camera, 64).any()
    with torch.no_grad():
        field.biases[-1][0] = 0.0  # the blob alone
    seen = field.render(camera, 64)
    assert float((seen - render_image(field, camera, 64)).abs().max()) < 0.5 / 255
    assert float(seen[32, 32, 3]) > 0.9


def test_the_baseline_writes_grids_and_shares_the_mlp(
    tokens: tuple[Tensor, Tensor], points: Tensor
) -> None:
    """ATT3D: what differs between prompts is the hash grid, and only that."""
    net = build(replace(MODEL, conditioning="grid"))
    for weight, bias in net.generate_layers(*tokens, points):
        assert torch.equal(weight[0], weight[1])
        assert torch.equal(bias[0], bias[1])
    token = net.transformer(*tokens)
    one, other = net.materialize(token, ["one", "other"])
    for own, its in zip(one.encoding.grid.tables, other.encoding.grid.tables, strict=True):
        assert float((own - its).detach().abs().max()) > 1e-4
    densities, values = net(*tokens, points)
    for i, field in enumerate((one, other)):
        torch.testing.assert_close(field(points[i]), (densities[i], values[i]))
    # The prompt reaches the scene through the grid alone: without shares, all prompts are one.
    with torch.no_grad():
        for parameter in net.grid_head.shares[-1].parameters():  # type: ignore[union-attr]
            parameter.zero_()
    same, _ = net(*tokens, points[:1].expand(2, -1, -1))
    assert torch.equal(same[0], same[1])


def test_every_parameter_of_the_baseline_learns_grids_at_their_own_rate(
    tokens: tuple[Tensor, Tensor], points: Tensor
) -> None:
    net = build(replace(MODEL, conditioning="grid"))
    densities, values = net(*tokens, points)
    (densities.log().sum() + (values * torch.rand_like(values)).sum()).backward()
    still = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still
    rest, grids = parameter_groups(net, 1e-3, 1e-2)
    entries = {id(p) for p in [*net.encoding.grid.tables, *net.grid_head.mixed]}  # type: ignore[union-attr]
    assert {id(p) for p in grids["params"]} == entries
    assert len(rest["params"]) + len(entries) == len(list(net.parameters()))
