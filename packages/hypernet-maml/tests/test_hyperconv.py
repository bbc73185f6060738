"""Generated weights: their variance, their gradients, and the plain network they stand for."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hypernet_maml.config import NetworkConfig
from hypernet_maml.models.hyperconv import (
    HyperConv2d,
    Hypernetwork,
    generated_weights,
    hyper_layers,
    hyperize,
    is_embedding,
    is_hyper_parameter,
    output_l2,
    reparameterize,
)
from hypernet_maml.models.networks import build_network

# Counted by hand from the rule in networks.py; the thesis rounds them (Tables 3.3 and 3.4).
COUNTS = [
    ("wrn", 40, 2, "none", 2_243_546),
    ("wrn", 40, 2, "stage", 2_437_082),
    ("wrn", 40, 2, "unshared", 4_178_906),
    ("wrn", 28, 4, "none", 5_849_050),
    ("wrn", 28, 4, "stage", 6_623_194),
    ("wrn", 28, 4, "unshared", 10_493_914),
    ("resnet18", 18, 64, "none", 11_173_962),
    ("resnet18", 18, 64, "unshared", 21_385_290),
    ("resnet34", 34, 64, "none", 21_282_122),
    ("resnet34", 34, 64, "unshared", 41_594_186),
]
SMALL = {
    "wrn": NetworkConfig(kind="wrn", depth=16, width=1),
    "resnet18": NetworkConfig(kind="resnet18", width=4),
    "resnet12": NetworkConfig(kind="resnet12", width=4),
    "conv4": NetworkConfig(kind="conv4", width=6),
}


def small(kind: str, sharing: str = "unshared", *, bias: bool = False) -> nn.Module:
    config = copy.copy(SMALL[kind])
    object.__setattr__(config, "sharing", sharing)
    object.__setattr__(config, "hyper_bias", bias)
    torch.manual_seed(0)
    return build_network(config)


@pytest.mark.parametrize(("kind", "depth", "width", "sharing", "count"), COUNTS)
def test_parameter_counts_of_the_thesis(
    kind: str, depth: int, width: int, sharing: str, count: int
) -> None:
    config = NetworkConfig(kind=kind, depth=depth, width=width, sharing=sharing)  # type: ignore[arg-type]
    net = build_network(config)
    assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize("sharing", ["unshared", "stage"])
@pytest.mark.parametrize("kind", SMALL)
def test_the_reparameterised_network_is_plain_and_gives_the_same_bits(
    kind: str, sharing: str
) -> None:
    net = small(kind, sharing)
    images = torch.rand(4, 3, 32, 32)
    net(images)  # running statistics that are not their initial ones
    net.eval()
    plain = reparameterize(net)
    assert not list(hyper_layers(plain))
    assert torch.equal(plain(images), net(images))
    reference = small(kind, "none")
    assert {n: p.shape for n, p in plain.named_parameters()} == {
        n: p.shape for n, p in reference.named_parameters()
    }
    reference.load_state_dict(plain.state_dict())
    assert torch.equal(reference.eval()(images), net(images))
    assert list(hyper_layers(net))  # the original is left as it was


def test_generated_weights_are_the_convolution_of_embedding_and_kernel_written_out() -> None:
    torch.manual_seed(0)
    hypernetwork = Hypernetwork(3, 2, 3, bias=True).double()
    assert hypernetwork.bias is not None
    nn.init.normal_(hypernetwork.bias)
    embedding = torch.randn(4, 2, 3, 3).double()
    expected = torch.zeros(4, 3, 3, 3).double()
    for o in range(4):
        for i in range(3):
            for y in range(3):
                for x in range(3):
                    total = hypernetwork.bias[i].item()
                    for d in range(2):
                        for dy in range(3):
                            for dx in range(3):
                                if 0 <= y + dy - 1 < 3 and 0 <= x + dx - 1 < 3:
                                    total += (
                                        embedding[o, d, y + dy - 1, x + dx - 1]
                                        * hypernetwork.kernel[i, d, dy, dx]
                                    ).item()
                    expected[o, i, y, x] = total
    torch.testing.assert_close(hypernetwork(embedding), expected)


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_generated_weights_start_with_the_plain_layers_variance(kernel_size: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 48, 3), nn.Conv2d(48, 64, kernel_size), nn.Conv2d(64, 64, 3))
    wanted = [conv.weight.square().mean().item() for conv in list(net)[1:]]  # type: ignore[union-attr]
    means = []
    for _ in range(5):
        made = generated_weights(hyperize(copy.deepcopy(net)))
        means.append([w.square().mean().item() for w in made.values()])
    average = torch.tensor(means).mean(0).tolist()
    assert average == pytest.approx(wanted, rel=0.05)


def test_embeddings_have_the_plain_weights_spread_too() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 64, 3)
    net = hyperize(nn.Sequential(nn.Conv2d(3, 32, 3), conv))
    (_, layer), *_ = hyper_layers(net)
    assert layer.embedding.std().item() == pytest.approx(conv.weight.std().item(), rel=0.05)


def test_sharing_by_stage_gives_layers_of_a_stage_one_kernel() -> None:
    net = small("wrn", "stage")
    layers = dict(hyper_layers(net))
    by_kernel: dict[int, set[str]] = {}
    for name, layer in layers.items():
        by_kernel.setdefault(id(layer.generator), set()).add(name.split(".")[0])
    assert sorted(map(sorted, by_kernel.values())) == [["stage1"], ["stage2"], ["stage3"]]
    kernels = [n for n, _ in net.named_parameters() if n.endswith("hypernetwork.kernel")]
    assert len(kernels) == 3
    assert len([n for n in net.state_dict() if "kernel" in n]) == 3  # stored once


def test_a_shared_kernel_receives_the_sum_of_its_layers_gradients() -> None:
    net = small("wrn", "stage").double()
    images = torch.rand(2, 3, 32, 32).double()
    net(images).square().sum().backward()
    layers = [layer for name, layer in hyper_layers(net) if name.startswith("stage2")]
    assert len(layers) == 2
    total = layers[0].generator.kernel.grad
    assert total is not None

    # Each layer with a kernel of its own, of the same value: its gradient is the layer's part.
    apart = copy.deepcopy(net)
    own = [layer for name, layer in hyper_layers(apart) if name.startswith("stage2")]
    for layer in own:
        layer._generator = (copy.deepcopy(layer.generator),)
    apart.zero_grad()
    apart(images).square().sum().backward()
    parts = [layer.generator.kernel.grad for layer in own]
    torch.testing.assert_close(total, parts[0] + parts[1])
    assert not torch.allclose(total, parts[0])


def test_a_copy_and_a_moved_network_keep_sharing_within_themselves() -> None:
    net = small("wrn", "stage")
    twin = copy.deepcopy(net).double()
    ours = {id(layer.generator) for _, layer in hyper_layers(net)}
    theirs = {id(layer.generator) for _, layer in hyper_layers(twin)}
    assert len(theirs) == 3
    assert not ours & theirs
    assert all(layer.generator.kernel.dtype == torch.float64 for _, layer in hyper_layers(twin))


def test_output_l2_and_its_gradient_by_hand() -> None:
    net = small("conv4").double()
    penalty = output_l2(net)
    weights = {name: w.detach() for name, w in generated_weights(net).items()}
    assert penalty.item() == pytest.approx(sum((w**2).sum().item() for w in weights.values()))
    penalty.backward()
    for name, layer in hyper_layers(net):
        # d sum W^2 / dE = 2 conv_transpose(W, K), which for a same-size convolution is this:
        kernel = layer.generator.kernel.detach()
        turned = kernel.flip(2, 3).transpose(0, 1)
        expected = 2 * F.conv2d(weights[name], turned, padding="same")
        torch.testing.assert_close(layer.embedding.grad, expected)
    plain = small("conv4", "none")
    with pytest.raises(ValueError, match="no hyper-convolution"):
        output_l2(plain)


@pytest.mark.parametrize("options", [{"groups": 2}, {"dilation": 2}, {"stride": 2, "padding": 1}])
def test_grouped_dilated_and_strided_convolutions(options: dict[str, int]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3, **options)).eval()
    images = torch.rand(2, 3, 12, 12)
    shape = net(images).shape
    hyperize(net)
    assert isinstance(net[1], HyperConv2d)
    assert net(images).shape == shape
    assert torch.equal(reparameterize(net)(images), net(images))


def test_a_torchvision_network() -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    net = torchvision.models.resnet18(num_classes=7)
    state = net.state_dict().keys()
    hyperize(net, sharing="stage").eval()
    images = torch.rand(1, 3, 64, 64)
    assert [n for n, m in net.named_modules() if isinstance(m, nn.Conv2d)] == [
        "conv1",
        "layer2.0.downsample.0",
        "layer3.0.downsample.0",
        "layer4.0.downsample.0",
    ]
    plain = reparameterize(net)
    assert plain.state_dict().keys() == state
    fresh = torchvision.models.resnet18(num_classes=7).eval()
    fresh.load_state_dict(plain.state_dict())
    assert torch.equal(fresh(images), net(images))


def test_what_cannot_be_hyperized_is_named() -> None:
    with pytest.raises(ValueError, match="Sequential has no convolution to generate"):
        hyperize(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match=r"1: its kernel is 2 x 2; .* odd"):
        hyperize(nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 2)))
    with pytest.raises(ValueError, match=r"1: its kernel is 3 x 5"):
        hyperize(nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, (3, 5))))
    reflect = nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")
    with pytest.raises(ValueError, match=r"1: padding mode 'reflect'"):
        hyperize(nn.Sequential(nn.Conv2d(1, 1, 3), reflect))


def test_names_of_what_is_generated() -> None:
    net = small("wrn", "stage", bias=True)
    hyper = {name for name, _ in net.named_parameters() if is_hyper_parameter(name)}
    assert {n.rpartition(".")[2] for n in hyper} == {"embedding", "kernel", "bias"}
    assert len(hyper) == 6 + 2 * 3  # an embedding per layer, kernel and bias per stage
    assert sum(is_embedding(name) for name in hyper) == 6
    plain = small("resnet18", "none")
    assert not any(is_hyper_parameter(name) for name, _ in plain.named_parameters())
