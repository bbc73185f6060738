"""Target networks: wide residual networks, residual networks, Conv-4. All sizes as in the thesis (3.4).

Each names in `hyper_layers` the convolutions that a hypernetwork generates. Stem, 1 x 1 shortcuts, norms
and classifier are never generated. With 32 x 32 images and 10 classes:

| network | plain | shared by stage | unshared |
| --- | --- | --- | --- |
| WRN-40-2 | 2,243,546 | 2,437,082 | 4,178,906 |
| WRN-28-4 | 5,849,050 | 6,623,194 | 10,493,914 |
| ResNet-18 | 11,173,962 | | 21,385,290 |
| ResNet-34 | 21,282,122 | | 41,594,186 |

The thesis rounds them as here but for the last of WRN-28-4, where it has 10.3 M.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hypernet_maml.config import NetworkConfig
from hypernet_maml.models.layers import BatchNorm2d, Conv2d, Linear, Normalise

Stem = Literal["cifar", "imagenet"]


class Classifier(nn.Module, ABC):
    """A network that ends in `classifier`, a linear layer on its `features`: a pooled feature map."""

    classifier: Linear
    config: NetworkConfig
    """What `build_network` built it from."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.normalise = Normalise(channels)

    @abstractmethod
    def feature_map(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch maps rows columns"]:
        """What the last stage makes of normalised images."""

    def pool(
        self, feature_map: Float[Tensor, "batch maps rows columns"]
    ) -> Float[Tensor, "batch features"]:
        """What the classifier sees of a feature map: its mean, but for Conv-4."""
        return feature_map.mean((2, 3))

    def features(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch features"]:
        """What the classifier sees, of normalised images."""
        return self.pool(self.feature_map(images))

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch *tasks classes"]:
        """Logits of images in [0, 1]."""
        logits: Tensor = self.classifier(self.features(self.normalise(images)))
        return logits

    @abstractmethod
    def hyper_layers(self, name: str, conv: nn.Conv2d) -> bool:
        """Whether a hypernetwork generates this convolution."""


class PreActivationBlock(nn.Module):
    """Norm, ReLU, convolution, twice, and a shortcut (Zagoruyko & Komodakis 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = BatchNorm2d(inputs)
        self.conv1 = _conv3(inputs, outputs, stride)
        self.norm2 = BatchNorm2d(outputs)
        self.conv2 = _conv3(outputs, outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(out)
        out = self.conv1(out)
        return self.conv2(F.relu(self.norm2(out))) + shortcut


class WideResNet(Classifier):
    """WRN-depth-width for 32 x 32 images: three stages of (depth - 4) / 6 blocks.

    Generated: the convolutions of every block but a stage's first, where all shapes are equal.
    """

    def __init__(self, depth: int, width: int, classes: int, *, channels: int = 3) -> None:
        super().__init__(channels)
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"a WRN's depth is 6 n + 4, such as 16, 28 or 40; got {depth}")
        self.stem = _conv3(channels, 16)
        inputs = 16
        for stage, outputs in enumerate((16 * width, 32 * width, 64 * width), start=1):
            blocks = [PreActivationBlock(inputs, outputs, 1 if stage == 1 else 2)]
            blocks += [PreActivationBlock(outputs, outputs, 1) for _ in range((depth - 4) // 6 - 1)]
            self.add_module(f"stage{stage}", nn.Sequential(*blocks))
            inputs = outputs
        self.norm = BatchNorm2d(inputs)
        self.classifier = Linear(inputs, classes)
        _initialise(self)

    def feature_map(self, images: Tensor) -> Tensor:
        return F.relu(self.norm(_through_stages(self, self.stem(images), 3)))

    def hyper_layers(self, name: str, conv: nn.Conv2d) -> bool:
        stage, _, rest = name.partition(".")
        return stage.startswith("stage") and not rest.startswith("0.")


class BasicBlock(nn.Module):
    """Convolution, norm, ReLU, convolution, norm, and a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv3(inputs, outputs, stride), BatchNorm2d(outputs)
        self.conv2, self.norm2 = _conv3(outputs, outputs), BatchNorm2d(outputs)
        self.shortcut: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            conv = Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(conv, BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        out = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(out)) + shortcut)


class ResNet(Classifier):
    """ResNet-18 (blocks 2 2 2 2) or -34 (3 4 6 3), with a stem for CIFAR or for ImageNet.

    Generated: both 3 x 3 convolutions of every block.
    """

    def __init__(
        self,
        blocks: tuple[int, int, int, int],
        classes: int,
        *,
        channels: int = 3,
        width: int = 64,
        stem: Stem = "cifar",
    ) -> None:
        super().__init__(channels)
        if stem == "cifar":
            self.stem: nn.Module = nn.Sequential(
                _conv3(channels, width), BatchNorm2d(width), nn.ReLU()
            )
        else:
            self.stem = nn.Sequential(
                Conv2d(channels, width, 7, stride=2, padding=3, bias=False),
                BatchNorm2d(width),
                nn.ReLU(),
                nn.MaxPool2d(3, stride=2, padding=1),
            )
        inputs = width
        for stage, count in enumerate(blocks):
            outputs = width * 2**stage
            first = BasicBlock(inputs, outputs, 1 if stage == 0 else 2)
            rest = [BasicBlock(outputs, outputs, 1) for _ in range(count - 1)]
            self.add_module(f"stage{stage + 1}", nn.Sequential(first, *rest))
            inputs = outputs
        self.classifier = Linear(inputs, classes)
        _initialise(self)

    def feature_map(self, images: Tensor) -> Tensor:
        return _through_stages(self, self.stem(images), 4)

    def hyper_layers(self, name: str, conv: nn.Conv2d) -> bool:
        return name.startswith("stage") and conv.kernel_size == (3, 3)


class PooledBlock(nn.Module):
    """Three convolutions, a 1 x 1 shortcut, 2 x 2 max-pooling (few-shot ResNet-12)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv3(inputs, outputs), BatchNorm2d(outputs)
        self.conv2, self.norm2 = _conv3(outputs, outputs), BatchNorm2d(outputs)
        self.conv3, self.norm3 = _conv3(outputs, outputs), BatchNorm2d(outputs)
        self.shortcut = nn.Sequential(Conv2d(inputs, outputs, 1, bias=False), BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = F.leaky_relu(self.norm1(self.conv1(x)), 0.1)
        out = F.leaky_relu(self.norm2(self.conv2(out)), 0.1)
        out = F.leaky_relu(self.norm3(self.conv3(out)) + self.shortcut(x), 0.1)
        return F.max_pool2d(out, 2)


class ResNet12(Classifier):
    """Four blocks of width, 2, 4 and 8 times as many maps (Sun et al. 2019: 64 to 512).

    Generated: the second and third convolution of every block.
    """

    def __init__(self, classes: int, *, channels: int = 3, width: int = 64) -> None:
        super().__init__(channels)
        widths = [width * 2**i for i in range(4)]
        for stage, (inputs, outputs) in enumerate(zip([channels, *widths], widths, strict=False)):
            self.add_module(f"stage{stage + 1}", PooledBlock(inputs, outputs))
        self.classifier = Linear(widths[-1], classes)
        _initialise(self)

    def feature_map(self, images: Tensor) -> Tensor:
        return _through_stages(self, images, 4)

    def hyper_layers(self, name: str, conv: nn.Conv2d) -> bool:
        return name.endswith(("conv2", "conv3"))


class Conv4(Classifier):
    """Four times (3 x 3 convolution, norm, ReLU, 2 x 2 max-pooling) (Finn et al. 2017).

    Generated: all but the first convolution.
    """

    def __init__(
        self, classes: int, *, channels: int = 3, width: int = 64, image_size: int = 32
    ) -> None:
        super().__init__(channels)
        for i in range(1, 5):
            self.add_module(f"conv{i}", _conv3(channels if i == 1 else width, width, bias=True))
            self.add_module(f"norm{i}", BatchNorm2d(width))
        if image_size < 16:
            raise ValueError(f"Conv-4 halves the side four times: {image_size} pixels are too few")
        self.classifier = Linear(width * (image_size // 16) ** 2, classes)
        _initialise(self)

    def feature_map(self, images: Tensor) -> Tensor:
        x = images
        for i in range(1, 5):
            x = self.get_submodule(f"norm{i}")(self.get_submodule(f"conv{i}")(x))
            x = F.relu(F.max_pool2d(x, 2))  # they commute, and ReLU is cheaper last
        return x

    def pool(self, feature_map: Tensor) -> Tensor:
        return feature_map.flatten(1)

    def hyper_layers(self, name: str, conv: nn.Conv2d) -> bool:
        return name != "conv1"


RESNET_BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}


def build_network(config: NetworkConfig) -> Classifier:
    """The untrained network of a configuration, hyperized where it says so.

    Initial weights come from torch's global generator.
    """
    from hypernet_maml.models.hyperconv import hyperize

    net: Classifier
    kind, classes, channels = config.kind, config.classes, config.channels
    if kind == "wrn":
        net = WideResNet(config.depth, config.width, classes, channels=channels)
    elif kind == "resnet12":
        net = ResNet12(classes, channels=channels, width=config.width)
    elif kind == "conv4":
        net = Conv4(classes, channels=channels, width=config.width, image_size=config.image_size)
    else:
        blocks = RESNET_BLOCKS[kind]
        net = ResNet(blocks, classes, channels=channels, width=config.width, stem=config.stem)
    net.config = config
    if config.sharing != "none":
        hyperize(net, sharing=config.sharing, bias=config.hyper_bias)
    return net


def with_new_classifier(pretrained: Classifier, config: NetworkConfig) -> Classifier:
    """The network of `config` with the pre-trained one's features and a classifier with initial weights.

    config: that of `pretrained`, but for classes and image size.
    """
    net = build_network(config)
    kept = {n: v for n, v in pretrained.state_dict().items() if not n.startswith("classifier.")}
    loaded = net.load_state_dict(kept, strict=False)
    assert {name.partition(".")[0] for name in loaded.missing_keys} <= {"classifier"}
    assert not loaded.unexpected_keys
    return net


def _through_stages(net: nn.Module, x: Tensor, count: int) -> Tensor:
    for stage in range(1, count + 1):
        x = net.get_submodule(f"stage{stage}")(x)
    return x


def _conv3(inputs: int, outputs: int, stride: int = 1, *, bias: bool = False) -> Conv2d:
    return Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)


def _initialise(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, Linear):
            with torch.no_grad():
                module.bias.zero_()
