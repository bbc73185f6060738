"""`FewShotLearner`: a meta-trained network that learns classes from a few images each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hypernet_maml.adaptation.maml import MetaLearner, Parameters
from hypernet_maml.config import CHECKPOINT_KIND, META_KIND, InnerLoop, NetworkConfig
from hypernet_maml.evaluation import adapted
from hypernet_maml.models.layers import set_batch_statistics
from hypernet_maml.models.networks import Classifier, build_network
from priors_shared.checkpoints import checkpoint_kind, find_weights, load_module, load_weights
from priors_shared.checkpoints.names import locate
from priors_shared.devices import choose_device
from priors_shared.errors import UserError

SHIPPED = Path(__file__).parent / "weights"
TRAIN_COMMAND = "hypernet-maml metatrain"


class AdaptedClassifier:
    """What a learner became on a support set. Deterministic, no gradients."""

    def __init__(self, learner: MetaLearner, parameters: Parameters, ways: int) -> None:
        self._learner, self._parameters, self.ways = learner, parameters, ways

    @torch.no_grad()
    def logits(
        self, images: Float[Tensor, "items channels height width"]
    ) -> Float[Tensor, "items ways"]:
        """Logits of images in [0, 1], over the classes of the support set.

        With transductive batch norm (`inner.statistics` "batch") they depend on all images given at once.
        """
        return self._learner(self._parameters, images)[:, : self.ways]

    @torch.no_grad()
    def predict(
        self, images: Float[Tensor, "items channels height width"]
    ) -> Int[Tensor, " items"]:
        """The likeliest class of each image."""
        return self.logits(images).argmax(-1)


class FewShotLearner:
    """A meta-trained network in evaluation mode.

    Example:
        learner = FewShotLearner.from_pretrained("runs/metatrain/hyperwrn")
        classifier = learner.adapt(support_images, support_labels)     # float in [0, 1], int64
        predicted = classifier.predict(images)
    """

    def __init__(self, learner: MetaLearner, *, trained: dict[str, Any] | None = None) -> None:
        self.learner = learner.eval()
        self.trained = dict(trained or {})

    @classmethod
    def from_pretrained(
        cls, name: str | Path, device: str | torch.device = "cpu", *, revision: str | None = None
    ) -> FewShotLearner:
        """The meta-trained learner of that name.

        Args:
            name: shipped weights, a run folder of `hypernet-maml metatrain`, a checkpoint folder, or a
                Hugging Face Hub id `org/name`.
            device: where it runs.
            revision: branch, tag or commit, for a Hub id.

        Raises:
            UserError: nothing there, a checkpoint of something else, damaged files, or no such device.
        """
        place = choose_device(device)
        source = find_weights(name, shipped=SHIPPED, command=TRAIN_COMMAND)
        record, weights = load_weights(source, kind=META_KIND, revision=revision)
        learner = load_module(source, lambda: build_learner(record["config"]), weights)
        return cls(learner.to(place), trained=record.get("trained"))

    @property
    def ways(self) -> int:
        """Most classes of a support set: the outputs of the network."""
        return int(self.net.classifier.out_features)

    @property
    def network(self) -> NetworkConfig:
        """The network's configuration."""
        return self.net.config

    @property
    def net(self) -> Classifier:
        """The network."""
        assert isinstance(self.learner.net, Classifier)
        return self.learner.net

    def adapt(
        self,
        images: Float[Tensor, "items channels height width"],
        labels: Int[Tensor, " items"],
    ) -> AdaptedClassifier:
        """Learn from a support set, in the inner loop's few gradient steps.

        Args:
            images: in [0, 1], of the network's channels and size.
            labels: 0 .. ways - 1.

        Raises:
            UserError: more classes than the network has outputs, or none.
        """
        if not len(labels):
            raise UserError("the support set has no image")
        ways = int(labels.max()) + 1
        if ways > self.ways or int(labels.min()) < 0:
            raise UserError(
                f"labels must lie in 0 .. {self.ways - 1}, as the network has {self.ways} outputs; got "
                f"{int(labels.min())} .. {ways - 1}: meta-train with ways {ways} for more classes"
            )
        device = self.net.classifier.weight.device
        with torch.enable_grad():
            parameters = adapted(self.learner, images.to(device), labels.to(device))
        return AdaptedClassifier(self.learner, parameters, ways)


def load_network(
    name: str | Path, *, revision: str | None = None
) -> tuple[Classifier, NetworkConfig, dict[str, Any]]:
    """A trained network on the CPU in evaluation mode, its configuration, and how it was trained.

    Of a meta-learner's checkpoint, the network before adaptation.

    Raises:
        UserError: nothing there, a checkpoint of something else, or damaged files.
    """
    source = find_weights(name, shipped=SHIPPED, command="hypernet-maml train")
    if checkpoint_kind(locate(source, revision)) == META_KIND:
        learner = FewShotLearner.from_pretrained(name, revision=revision)
        set_batch_statistics(learner.net, None)
        return learner.net, learner.network, learner.trained
    record, weights = load_weights(source, kind=CHECKPOINT_KIND, revision=revision)
    net = load_module(source, lambda: build_network(NetworkConfig(**record["config"])), weights)
    return net, net.config, dict(record.get("trained", {}))


def build_learner(shape: dict[str, Any]) -> MetaLearner:
    """The untrained learner of a checkpoint's configuration."""
    net = build_network(NetworkConfig(**shape["network"]))
    return MetaLearner(net, InnerLoop(**shape["inner"]))
