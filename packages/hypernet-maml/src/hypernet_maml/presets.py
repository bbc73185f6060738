"""Presets: functions that return a complete configuration.

`TRAIN` are trainings of image classification, also the pre-training of the others; `META` are
meta-trainings, `DOMAIN` domain generalisation. Every hyper preset has its plain twin by `--sharing none`
(`DOMAIN` from a checkpoint: that of the checkpoint). Those whose names end in `_cpu` train in minutes on a
core; the others are the thesis' settings (3.4, 3.5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hypernet_maml.config import DomainConfig, InnerLoop, MetaConfig, NetworkConfig, TrainConfig

WRN_40_2 = NetworkConfig(kind="wrn", depth=40, width=2)
WRN_28_4 = NetworkConfig(kind="wrn", depth=28, width=4)
WRN_16_4 = NetworkConfig(kind="wrn", depth=16, width=4)
WRN_16_1 = NetworkConfig(kind="wrn", depth=16, width=1)
RESNET_18 = NetworkConfig(kind="resnet18", width=64)
RESNET_34 = NetworkConfig(kind="resnet34", width=64)
RESNET_18_IMAGENET = NetworkConfig(kind="resnet18", width=64, stem="imagenet", image_size=224)
RESNET_18_PACS = NetworkConfig(kind="resnet18", width=64, stem="imagenet", image_size=222)
RESNET_18_NARROW = NetworkConfig(kind="resnet18", width=16, stem="imagenet", image_size=80)
RESNET_12 = NetworkConfig(kind="resnet12", width=64, image_size=84)


def cifar10_hyperwrn_40_2() -> TrainConfig:
    """Tables 3.1 to 3.3: HyperWRN-40-2 on CIFAR-10, 200 epochs"""
    return TrainConfig(dataset="cifar10", network=WRN_40_2)


def cifar100_hyperwrn_40_2() -> TrainConfig:
    """Tables 3.1 to 3.3: HyperWRN-40-2 on CIFAR-100, 200 epochs"""
    return _cifar100(cifar10_hyperwrn_40_2())


def cifar10_hyperwrn_28_4() -> TrainConfig:
    """Tables 3.1 to 3.3: HyperWRN-28-4 on CIFAR-10, 200 epochs"""
    return TrainConfig(dataset="cifar10", network=WRN_28_4)


def cifar100_hyperwrn_28_4() -> TrainConfig:
    """Tables 3.1 to 3.3: HyperWRN-28-4 on CIFAR-100, 200 epochs"""
    return _cifar100(cifar10_hyperwrn_28_4())


def cifar10_hyperwrn_28_4_swa() -> TrainConfig:
    """Table 3.5: HyperWRN-28-4 on CIFAR-10, 300 epochs, weights averaged from epoch 160"""
    return replace(cifar10_hyperwrn_28_4(), epochs=300, swa_from=160)


def cifar100_hyperwrn_28_4_swa() -> TrainConfig:
    """Table 3.5: HyperWRN-28-4 on CIFAR-100, 300 epochs, weights averaged from epoch 160"""
    return _cifar100(cifar10_hyperwrn_28_4_swa())


def cifar10_hyperresnet18() -> TrainConfig:
    """Table 3.4: HyperResNet-18 on CIFAR-10, 200 epochs"""
    return TrainConfig(dataset="cifar10", network=RESNET_18)


def cifar100_hyperresnet18() -> TrainConfig:
    """Table 3.4: HyperResNet-18 on CIFAR-100, 200 epochs"""
    return _cifar100(cifar10_hyperresnet18())


def cifar10_hyperresnet34() -> TrainConfig:
    """Table 3.4: HyperResNet-34 on CIFAR-10, 200 epochs"""
    return TrainConfig(dataset="cifar10", network=RESNET_34)


def cifar100_hyperresnet34() -> TrainConfig:
    """Table 3.4: HyperResNet-34 on CIFAR-100, 200 epochs"""
    return _cifar100(cifar10_hyperresnet34())


def imagenet_hyperresnet18() -> TrainConfig:
    """Table 3.4: HyperResNet-18 on ImageNet, 100 epochs"""
    return _hundred_epochs(TrainConfig(dataset="imagenet", network=RESNET_18_IMAGENET))


def imagenet_hyperresnet34() -> TrainConfig:
    """Table 3.4: HyperResNet-34 on ImageNet, 100 epochs"""
    network = replace(RESNET_18_IMAGENET, kind="resnet34")
    return _hundred_epochs(TrainConfig(dataset="imagenet", network=network))


def fc100_hyperwrn_16_4() -> TrainConfig:
    """Table 3.7, pre-training: HyperWRN-16-4 on FC100's training classes"""
    return TrainConfig(dataset="fc100", network=WRN_16_4)


def fc100_hyperwrn_28_4() -> TrainConfig:
    """Table 3.7, pre-training: HyperWRN-28-4 on FC100's training classes"""
    return TrainConfig(dataset="fc100", network=WRN_28_4)


def miniimagenet_hyperresnet12() -> TrainConfig:
    """Table 3.6, pre-training: HyperResNet-12 on MiniImageNet's training classes"""
    return TrainConfig(dataset="miniimagenet", network=RESNET_12)


def tiny_imagenet_hyperresnet18() -> TrainConfig:
    """Table 3.8, pre-training: HyperResNet-18 on Tiny-ImageNet (the thesis: ImageNet), 100 epochs"""
    network = replace(RESNET_18_PACS, image_size=64)
    config = TrainConfig(dataset="tiny-imagenet", network=network)
    return replace(_hundred_epochs(config), batch_size=128)


def tiny_imagenet_hyperresnet18_cpu() -> TrainConfig:
    """pre-training: HyperResNet-18 of a quarter of the width on Tiny-ImageNet, 8 epochs"""
    network = replace(RESNET_18_NARROW, image_size=64)
    config = TrainConfig(dataset="tiny-imagenet", network=network)
    return _cpu(config, epochs=8, validate_every=4)


def cifar10_hyperwrn_16_1_cpu() -> TrainConfig:
    """Tables 3.1 to 3.3 and 3.5: HyperWRN-16-1 on a twentieth of CIFAR-10, 24 epochs: minutes on a core"""
    config = TrainConfig(dataset="cifar10", network=WRN_16_1, per_class=250)
    return _cpu(config, epochs=24, validate_every=4)


def cifar10_hyperresnet18_cpu() -> TrainConfig:
    """Table 3.4: HyperResNet-18 of a quarter of the width, as cifar10_hyperwrn_16_1_cpu"""
    return replace(cifar10_hyperwrn_16_1_cpu(), network=replace(RESNET_18, width=16))


def fc100_hyperwrn_16_1_cpu() -> TrainConfig:
    """pre-training: HyperWRN-16-1 on FC100's training classes, 4 epochs: minutes on a core"""
    config = _cpu(TrainConfig(dataset="fc100", network=WRN_16_1), epochs=4)
    return replace(config, milestones=(2, 3))


def glyphs_hyperconv4_cpu() -> TrainConfig:
    """pre-training: HyperConv-4 on Glyphs (drawn from fonts, nothing to download), 2 epochs"""
    network = NetworkConfig(kind="conv4", width=32, channels=1, image_size=28)
    config = TrainConfig(dataset="glyphs", network=network, augment=False)
    return replace(config, epochs=2, milestones=(1,), learning_rate=0.05)


TRAIN: dict[str, Callable[[], TrainConfig]] = {
    preset.__name__: preset
    for preset in (
        cifar10_hyperwrn_40_2,
        cifar100_hyperwrn_40_2,
        cifar10_hyperwrn_28_4,
        cifar100_hyperwrn_28_4,
        cifar10_hyperwrn_28_4_swa,
        cifar100_hyperwrn_28_4_swa,
        cifar10_hyperresnet18,
        cifar100_hyperresnet18,
        cifar10_hyperresnet34,
        cifar100_hyperresnet34,
        imagenet_hyperresnet18,
        imagenet_hyperresnet34,
        fc100_hyperwrn_16_4,
        fc100_hyperwrn_28_4,
        miniimagenet_hyperresnet12,
        tiny_imagenet_hyperresnet18,
        tiny_imagenet_hyperresnet18_cpu,
        cifar10_hyperwrn_16_1_cpu,
        cifar10_hyperresnet18_cpu,
        fc100_hyperwrn_16_1_cpu,
        glyphs_hyperconv4_cpu,
    )
}


def fc100_5way() -> MetaConfig:
    """Table 3.7: meta-training on FC100"""
    return MetaConfig(dataset="fc100")


def miniimagenet_5way() -> MetaConfig:
    """Table 3.6: meta-training on MiniImageNet"""
    return MetaConfig(dataset="miniimagenet")


def fc100_5way_cpu() -> MetaConfig:
    """Tables 3.6 and 3.7: FC100, 100 updates of 2 tasks with 3 inner steps of rate 0.5"""
    return _meta_cpu(MetaConfig(dataset="fc100"))


def glyphs_5way_cpu() -> MetaConfig:
    """Glyphs, 100 updates of 2 tasks with 3 inner steps: minutes on a core"""
    return _meta_cpu(MetaConfig(dataset="glyphs", shots=1, queries=5))


META: dict[str, Callable[[], MetaConfig]] = {
    preset.__name__: preset
    for preset in (fc100_5way, miniimagenet_5way, fc100_5way_cpu, glyphs_5way_cpu)
}


def pacs_hyperresnet18() -> DomainConfig:
    """Table 3.8: HyperResNet-18 on PACS at 222 x 222, 30 epochs"""
    return DomainConfig(network=RESNET_18_PACS)


def pacs_hyperresnet18_cpu() -> DomainConfig:
    """HyperResNet-18 of a quarter of the width on PACS at 80 x 80, 3 epochs: minutes on a core"""
    return DomainConfig(network=RESNET_18_NARROW, epochs=3, milestones=(2,))


DOMAIN: dict[str, Callable[[], DomainConfig]] = {
    preset.__name__: preset for preset in (pacs_hyperresnet18, pacs_hyperresnet18_cpu)
}


def _cifar100(config: TrainConfig) -> TrainConfig:
    return replace(config, dataset="cifar100")


def _hundred_epochs(config: TrainConfig) -> TrainConfig:
    """The thesis' schedule for ImageNet (3.4.2)."""
    schedule = replace(config, epochs=100, milestones=(30, 60, 90), decay=0.1)
    return replace(schedule, weight_decay=1e-4, batch_size=256)


def _cpu(config: TrainConfig, *, epochs: int, validate_every: int = 1) -> TrainConfig:
    """The schedule of the thesis in so many epochs, of smaller batches for as many updates as may be."""
    milestones = tuple(round(epochs * share) for share in (0.3, 0.6, 0.8))
    return replace(
        config, epochs=epochs, milestones=milestones, batch_size=64, validate_every=validate_every
    )


def _meta_cpu(config: MetaConfig) -> MetaConfig:
    """So few updates cannot teach a new classifier to learn at the thesis' inner rate of 0.01."""
    return replace(
        config,
        inner=InnerLoop(steps=3, learning_rate=0.5),
        tasks=2,
        steps=100,
        validate_every=25,
        validation_tasks=30,
    )
