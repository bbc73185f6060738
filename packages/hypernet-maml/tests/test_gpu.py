"""The supervised training step on a CUDA card, channels last as the training has it, and a meta-step."""

from typing import Literal

import pytest
import torch
from torch import Tensor

from hypernet_maml.adaptation.maml import MetaLearner, accumulate_meta_gradient
from hypernet_maml.config import InnerLoop, NetworkConfig
from hypernet_maml.models.networks import build_network
from hypernet_maml.training.supervised import Objective
from priors_shared.datasets import ImageDataset
from priors_shared.episodes import FewShotSampler
from priors_shared.testing import assert_same_step


@pytest.mark.gpu
@pytest.mark.parametrize("sharing", ["none", "unshared", "stage"])
def test_training_step_is_the_cpus(
    cuda: torch.device, sharing: Literal["none", "unshared", "stage"]
) -> None:
    torch.manual_seed(0)
    net = build_network(NetworkConfig(kind="wrn", depth=16, width=1, sharing=sharing))
    objective = Objective(net.to(memory_format=torch.channels_last), 6.25e-5)
    images, labels = torch.rand(8, 3, 32, 32), torch.randint(10, (8,))

    def loss(module: Objective, device: torch.device) -> Tensor:
        batch = images.to(device).contiguous(memory_format=torch.channels_last)
        return module(batch, labels.to(device))

    # Sums of another order move a few inputs of ReLUs over zero.
    assert_same_step(objective, cuda, loss, gradient_tolerance=1e-2)


@pytest.mark.gpu
def test_meta_gradient_is_the_cpus(cuda: torch.device) -> None:
    torch.manual_seed(0)
    network = NetworkConfig(kind="conv4", width=8, channels=1, image_size=28, classes=5)
    images = torch.randint(256, (60, 1, 28, 28), dtype=torch.uint8)
    data = ImageDataset("made", images, torch.arange(60) // 10, tuple("abcdef"))
    learner = MetaLearner(build_network(network), InnerLoop(steps=2, learning_rate=0.1))

    def gradient(device: torch.device) -> Tensor:
        sampler = FewShotSampler(data, ways=5, shots=1, queries=2, device=device)
        batch = sampler.sample(2, torch.Generator().manual_seed(0))
        learner.to(device).zero_grad()
        accumulate_meta_gradient(learner, batch, "loop")
        found = [p.grad.flatten() for p in learner.parameters() if p.grad is not None]
        return torch.cat(found).cpu()

    expected = gradient(torch.device("cpu"))
    assert (gradient(cuda) - expected).norm() <= 1e-3 * expected.norm()
