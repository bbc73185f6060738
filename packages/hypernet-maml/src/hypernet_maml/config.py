"""Configurations: plain frozen dataclasses, no torch, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from priors_shared import launching
from priors_shared.ranges import require, require_positive

CHECKPOINT_KIND = "hypernet-maml network"
"""What trained networks are called in a checkpoint's config.json."""
META_KIND = "hypernet-maml meta-learner"
"""What meta-trained learners are called there."""

NetworkKind = Literal["wrn", "resnet18", "resnet34", "resnet12", "conv4"]
Sharing = Literal["none", "unshared", "stage"]
Algorithm = Literal["maml", "maml-precond", "fomaml", "anil", "hyper-maml"]
Statistics = Literal["batch", "running"]
Batching = Literal["loop", "grouped", "vmap"]
Domain = Literal["photo", "art_painting", "cartoon", "sketch"]


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """A target network, and which of its weights are generated."""

    kind: NetworkKind = "wrn"
    """wrn, resnet18, resnet34, resnet12 or conv4"""
    depth: int = 28
    """layers of a wrn: 6 n + 4"""
    width: int = 4
    """widening factor of a wrn; feature maps in the first stage of the others (64 as published)"""
    classes: int = 10
    """outputs; a training sets it to the number of classes of its data"""
    channels: int = 3
    """of the images: 3 for colour, 1 for characters"""
    image_size: int = 32
    """height and width in pixels"""
    stem: Literal["cifar", "imagenet"] = "cifar"
    """first layers of resnet18 and resnet34: 3 x 3 for small images, 7 x 7 and pooling for large ones"""
    sharing: Sharing = "unshared"
    """none: a plain network. unshared: a hypernetwork per layer (Fig. 3.2). stage: one per stage (Fig. 3.1)"""
    hyper_bias: bool = False
    """a bias in the hypernetworks (ablation of Table 3.1)"""

    def __post_init__(self) -> None:
        require(self, 1, "depth", "width", "classes", "channels")
        require(self, 1, "image_size", most=2**13)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Image classification (3.4.1): also the pre-training of meta-learning (3.3.2)."""

    dataset: str = "cifar10"
    """cifar10, cifar100, imagenet, glyphs, tiny-imagenet, cifar-fs, fc100, miniimagenet, folder:PATH, or
    stream:PATH for folders larger than the memory (train/CLASS and val/CLASS)"""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """the network"""
    epochs: int = 200
    """passes over the training images"""
    batch_size: int = 128
    """images of a step"""
    learning_rate: float = 0.1
    """of SGD with Nesterov's momentum 0.9"""
    milestones: tuple[int, ...] = (60, 120, 160)
    """epochs after which the learning rate falls"""
    decay: float = 0.2
    """what it falls to, each time"""
    weight_decay: float = 5e-4
    """of what is not generated; never of embeddings or hypernetworks"""
    output_l2: float = 6.25e-5
    """times the sum of squares of the generated weights, added to the loss"""
    swa_from: int | None = None
    """epoch after which weights are averaged (stochastic weight averaging); None: never"""
    swa_learning_rate: float = 0.05
    """constant learning rate while averaging"""
    augment: bool = True
    """random crop after padding by 4, and horizontal flip"""
    per_class: int | None = None
    """training images of each class; None: all"""
    validate_every: int = 1
    """epochs between two validations; the last epoch always ends with one"""
    seed: int = 0
    """of initial weights, of the images taken and of their order"""
    checkpoint_every: int = 1
    """epochs between two checkpoints to resume from"""

    def __post_init__(self) -> None:
        require(self, 1, "epochs", "validate_every", "checkpoint_every", "per_class")
        require(self, 2, "batch_size")
        require(self, 0, "weight_decay", "output_l2", "seed")
        require_positive(self, "learning_rate", "swa_learning_rate", "decay")
        if self.swa_from is not None and not 0 <= self.swa_from < self.epochs:
            raise ValueError(
                f"swa_from must be an epoch in 0 .. {self.epochs - 1}, got {self.swa_from}"
            )


@dataclass(frozen=True, kw_only=True)
class InnerLoop:
    """How a network adapts to one task."""

    algorithm: Algorithm = "hyper-maml"
    """maml: everything adapts; maml-precond: with a learned step per parameter (Algorithm 1); fomaml: maml
    without second derivatives; anil: the classifier adapts; hyper-maml: embeddings and classifier (Algorithm 2)"""
    steps: int = 5
    """gradient steps on the support set"""
    learning_rate: float = 0.01
    """of these steps"""
    first_order: bool = False
    """ignore second derivatives (fomaml always does)"""
    statistics: Statistics = "batch"
    """what batch norm uses: the batch's own statistics (transductive, as MAML's code) or the stored ones"""

    def __post_init__(self) -> None:
        require(self, 1, "steps")
        require_positive(self, "learning_rate")


@dataclass(frozen=True, kw_only=True)
class MetaConfig:
    """Meta-training (3.3.2, 3.4.3)."""

    dataset: str = "fc100"
    """fc100, cifar-fs, miniimagenet, tiny-imagenet, omniglot, glyphs, or folder:PATH"""
    inner: InnerLoop = field(default_factory=InnerLoop)
    """adaptation to a task"""
    ways: int = 5
    """classes of a task"""
    shots: int = 5
    """support images of each class"""
    queries: int = 15
    """query images of each class"""
    tasks: int = 4
    """tasks per update (meta-batch)"""
    steps: int = 4000
    """of the outer loop"""
    learning_rate: float = 1e-3
    """of Adam in the outer loop"""
    halve_every: int = 1000
    """outer updates after which its learning rate is halved"""
    batching: Batching = "loop"
    """loop: one task after the other (least memory); grouped: tasks as convolution groups; vmap: torch.vmap"""
    validate_every: int = 200
    """outer updates between two validations"""
    validation_tasks: int = 100
    """tasks per validation, from the validation classes"""
    checkpoint_every: int = 50
    """outer updates between two checkpoints to resume from"""
    seed: int = 0
    """of the classifier's initial weights and the tasks"""

    def __post_init__(self) -> None:
        require(self, 2, "ways")
        require(self, 1, "shots", "queries", "tasks", "steps", "halve_every")
        require(self, 1, "validate_every", "validation_tasks", "checkpoint_every")
        require(self, 0, "seed")
        require_positive(self, "learning_rate")


@dataclass(frozen=True, kw_only=True)
class DomainConfig:
    """Domain generalisation on PACS (3.5): train on three domains, test on the fourth."""

    held_out: Domain = "sketch"
    """domain to test on; nothing of it is trained on or chosen by"""
    rsc: bool = True
    """Representation Self-Challenging: train without the strongest features"""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """the network; a checkpoint brings its own, but for the image size"""
    epochs: int = 30
    """passes over the training images"""
    batch_size: int = 64
    """images of a step, each beside its mirror image: the network sees twice as many"""
    learning_rate: float = 0.01
    """of SGD with Nesterov's momentum 0.9"""
    milestones: tuple[int, ...] = (24,)
    """epochs after which the learning rate falls"""
    decay: float = 0.1
    """what it falls to, each time"""
    weight_decay: float = 5e-4
    """of what is not generated; never of embeddings or hypernetworks"""
    output_l2: float = 6.25e-5
    """times the sum of squares of the generated weights, added to the loss"""
    augment: bool = True
    """random resized crops, and one image in ten in grey"""
    seed: int = 0
    """of initial weights, of the images' order, crops and challenges"""
    checkpoint_every: int = 1
    """epochs between two checkpoints to resume from"""

    def __post_init__(self) -> None:
        if self.held_out not in get_args(Domain):
            raise ValueError(
                f"unknown domain {self.held_out!r}: choose {', '.join(get_args(Domain))}"
            )
        require(self, 1, "epochs", "batch_size", "checkpoint_every")
        require(self, 0, "weight_decay", "output_l2", "seed")
        require_positive(self, "learning_rate", "decay")


@dataclass(frozen=True, kw_only=True)
class LaunchConfig(launching.LaunchConfig):
    """Where and how it runs; a resumed run may change all of it."""

    data_root: str | None = None
    """folder with the datasets (else the environment variable PRIORS_DATA)"""


@dataclass(frozen=True, kw_only=True)
class StreamLaunchConfig(LaunchConfig):
    """The same, for images that are read while training."""

    workers: int | None = None
    """processes that read and decode images of imagenet and stream:PATH; None: 4"""
