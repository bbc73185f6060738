"""Learners of photos: they begin as centroids, learn, and keep what every online learner keeps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from memory_adapt import OnlineLearner, StreamClassifier, cli
from memory_adapt.config import (
    CentroidsConfig,
    PhotoConfig,
    PhotoCPMConfig,
    PhotoMemoryConfig,
    PhotoOPNConfig,
)
from memory_adapt.data.photos import (
    PHOTOS,
    SAME_AS_TEST,
    FeatureSampler,
    FeatureSet,
    cifar_classes,
    joined,
)
from memory_adapt.experiments.photos import ARMS, CENTROIDS, Photos, PhotoSizes, photos_table
from memory_adapt.models.opn import MASKED
from memory_adapt.models.photos import PhotoLearner, whitening
from memory_adapt.models.registry import build_model
from memory_adapt.training.photos import PhotoTraining, train_photos
from priors_shared.datasets import ImageDataset
from priors_shared.datasets.cifar import CIFAR_FS_CLASSES
from priors_shared.datasets.fc100 import FC100_CLASSES
from priors_shared.errors import UserError

WAYS, TIME, BATCH, FEATURES, WIDTH = 3, 13, 3, 12, 8
SMALL = {"ways": WAYS, "features": FEATURES, "width": WIDTH}
CONFIGS: dict[str, PhotoConfig] = {
    "cosine": CentroidsConfig(ways=WAYS, features=FEATURES, width=FEATURES),
    "projected": CentroidsConfig(**SMALL, metric="projected"),
    "opn": PhotoOPNConfig(**SMALL, hidden=6),
    "cpm": PhotoCPMConfig(**SMALL, hidden=6),
    "memory": PhotoMemoryConfig(**SMALL, hidden=6, layers=2),
}
DELAYS = (1, 3)


def build(name: str, delay: int = 1, *, moved: bool = True) -> PhotoLearner:
    """moved: weights far from their initial values, so that every path matters."""
    torch.manual_seed(0)
    model = build_model(CONFIGS[name], delay=delay)
    assert isinstance(model, PhotoLearner)
    if moved:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return model


@pytest.fixture(params=[(n, d) for n in CONFIGS for d in DELAYS], ids=lambda p: f"{p[0]}-{p[1]}")
def model(request: pytest.FixtureRequest) -> PhotoLearner:
    return build(*request.param)


def stream(delay: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(TIME, BATCH, FEATURES, generator=generator)
    labels = torch.randint(WAYS, (TIME, BATCH), generator=generator)
    return features, labels, late(labels, delay)


def late(labels: Tensor, delay: int) -> Tensor:
    return torch.cat([torch.full_like(labels[:delay], -1), labels[:-delay]])


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_steps_and_chunks_give_the_numbers_of_the_whole(model: PhotoLearner) -> None:
    features, _, feedback = stream(model.delay)
    whole, last = model.forward_features(features, feedback)
    for sizes in ([1] * TIME, [2, 4, 7]):
        state, parts = model.initial_state(BATCH), []
        for x, y in zip(features.split(sizes), feedback.split(sizes), strict=True):
            logits, state = model.forward_features(x, y, state)
            parts.append(logits)
        close(torch.cat(parts), whole)
        assert state.keys() == last.keys()
        for key, value in state.items():
            assert len(value) == BATCH, key
            assert value.dtype == last[key].dtype, key
            close(value, last[key])


@torch.no_grad()
@pytest.mark.parametrize("i", [0, 5])
def test_a_prediction_knows_neither_its_label_nor_the_future(model: PhotoLearner, i: int) -> None:
    features, labels, feedback = stream(model.delay)
    logits, _ = model.forward_features(features, feedback)
    other_labels, other = labels.clone(), features.clone()
    other_labels[i:] = (labels[i:] + 1) % WAYS
    other[i + 1 :] = 1 - features[i + 1 :]
    perturbed, _ = model.forward_features(other, late(other_labels, model.delay))
    close(perturbed[: i + 1], logits[: i + 1])
    assert not torch.allclose(perturbed[i + 1 :], logits[i + 1 :])


@torch.no_grad()
def test_permuting_label_slots_permutes_the_logits(model: PhotoLearner) -> None:
    features, _, feedback = stream(model.delay)
    to = torch.tensor([2, 0, 1])
    permuted = torch.where(feedback < 0, feedback, to[feedback.clamp(min=0)])
    logits, _ = model.forward_features(features, feedback)
    close(model.forward_features(features, permuted)[0][..., to], logits)


@torch.no_grad()
def test_no_weight_depends_on_the_ways(model: PhotoLearner) -> None:
    features, _, feedback = stream(model.delay)
    more = build_model(replace(model.config, ways=7), delay=model.delay)
    more.load_state_dict(model.state_dict())
    logits, _ = more.forward_features(features, feedback)
    close(logits[..., :WAYS], model.forward_features(features, feedback)[0])
    assert bool((logits[..., WAYS:] == MASKED).all())


@torch.no_grad()
def test_classes_may_come_one_by_one(model: PhotoLearner) -> None:
    """Slots added in the middle of a stream: the numbers of a learner that had them from the beginning."""
    features, labels, _ = stream(model.delay)
    labels[TIME // 2 :] += 4  # of new classes, beyond the slots of the training
    feedback = late(labels, model.delay)
    wide = build_model(replace(model.config, ways=7), delay=model.delay)
    wide.load_state_dict(model.state_dict())
    expected, _ = wide.forward_features(features, feedback)
    half = TIME // 2
    first, state = model.forward_features(features[:half], feedback[:half])
    second, _ = model.forward_features(features[half:], feedback[half:], model.with_slots(state, 7))
    close(first, expected[:half, :, :WAYS])
    close(second[..., :7], expected[half:])


@torch.no_grad()
def test_streams_in_a_batch_do_not_interact(model: PhotoLearner) -> None:
    features, _, feedback = stream(model.delay)
    together, _ = model.forward_features(features, feedback)
    for b in range(BATCH):
        close(model.forward_features(features[:, [b]], feedback[:, [b]])[0], together[:, [b]])


def test_every_parameter_gets_a_finite_gradient(model: PhotoLearner) -> None:
    features, labels, feedback = stream(model.delay)
    model.stream_loss(features, labels, feedback).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@torch.no_grad()
@pytest.mark.parametrize("name", ["projected", "opn", "cpm", "memory"])
def test_a_learner_begins_as_the_whitened_centroid_classifier(name: str) -> None:
    data = clusters()
    models = [build(n, moved=False) for n in ("projected", name)]
    for one in models:
        one.start(data.features, data.items.targets)
    features, _, feedback = stream(1)
    whitened, learner = (m.forward_features(features, feedback)[0] for m in models)
    close(learner, whitened)
    # By hand, at the last step of the first stream.
    model = models[0]
    x = F.normalize(features[:, 0], dim=-1) - model.centre
    z = F.normalize(x @ model.projection.weight.T, dim=-1)
    given = feedback[1:, 0]
    for slot in given.unique().tolist():
        p = z[:-1][given == slot].mean(0)
        expected = 10 * torch.cosine_similarity(z[-1], p, dim=0)
        torch.testing.assert_close(whitened[-1, 0, slot], expected, rtol=1e-4, atol=1e-4)


def test_whitening_makes_the_covariance_within_classes_isotropic() -> None:
    data = clusters(per_class=200)
    targets = data.items.targets
    centre, projection = whitening(data.features, targets, FEATURES, shrinkage=0.0)
    z = ((F.normalize(data.features, dim=-1) - centre) @ projection.T).double()
    means = torch.stack([z[targets == c].mean(0) for c in range(data.items.classes)])
    within = z - means[targets]
    covariance = within.T @ within / len(z)
    scale = covariance.diagonal().mean()
    torch.testing.assert_close(
        covariance[1:-1, 1:-1] / scale,
        torch.eye(FEATURES - 2, dtype=torch.float64),
        atol=0.1,
        rtol=0.1,
    )


@pytest.mark.parametrize("name", ["projected", "opn", "cpm", "memory"])
def test_training_beats_the_start(name: str) -> None:
    """Two of twelve features tell the classes apart, the others are noise that whitening cannot know of."""
    sizes = PhotoTraining(steps=60, ways=(3,), shots=(4,), learning_rate=5e-3)
    train, held = clusters(noise=0.15), clusters(seed=1, noise=0.15)
    losses = []
    for steps in (0, sizes.steps):
        torch.manual_seed(5)
        model = train_photos(CONFIGS[name], train, replace(sizes, steps=steps), seed=0)
        sampler = FeatureSampler(train, ways=3, shots=5)
        streams = sampler.sample(64, torch.Generator().manual_seed(9))
        with torch.no_grad():
            x = streams.images[..., 0, 0]
            losses.append(float(model.stream_loss(x, streams.labels, streams.feedback)))
    assert losses[1] < 0.9 * losses[0]
    assert held.items.classes == train.items.classes


def test_the_same_seed_trains_the_same_learner() -> None:
    sizes = PhotoTraining(steps=3, ways=(3,), shots=(2,))
    one, two, other = (
        train_photos(CONFIGS["memory"], clusters(), sizes, seed=s).state_dict() for s in (4, 4, 5)
    )
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


def test_no_test_class_is_among_the_training_classes() -> None:
    train, val = set(cifar_classes("train")), set(cifar_classes("val"))
    tests = {*CIFAR_FS_CLASSES["test"], *FC100_CLASSES["test"]}
    assert not train & val
    assert not (train | val) & tests
    assert not (train | val) & SAME_AS_TEST.keys()
    assert not train & {*CIFAR_FS_CLASSES["val"], *FC100_CLASSES["val"]}
    assert (len(train), len(val)) == (38, 23)


def test_joined_sets_keep_classes_apart() -> None:
    one, two = clusters(), clusters(seed=1)
    both = joined([one, two], PHOTOS, "train")
    assert both.items.classes == one.items.classes + two.items.classes
    again = both.select_classes(range(one.items.classes, both.items.classes))
    assert torch.equal(again.features, two.features)


def clusters(
    classes: int = 9, per_class: int = 20, seed: int = 0, noise: float = 0.05
) -> FeatureSet:
    """Classes that differ in two of the features."""
    generator = torch.Generator().manual_seed(seed)
    angle = 2 * math.pi * torch.arange(classes) / classes
    centres = torch.full((classes, FEATURES), 0.3)
    centres[:, 0], centres[:, 1] = 0.3 * angle.cos(), 0.3 * angle.sin()
    targets = torch.arange(classes).repeat_interleave(per_class)
    drawn = torch.randn(len(targets), FEATURES, generator=generator)
    features = centres[targets] + noise * drawn
    items = ImageDataset(
        name="clusters",
        images=torch.zeros(len(targets), 1, 1, 1, dtype=torch.uint8),
        targets=targets,
        class_names=tuple(f"class {c}" for c in range(classes)),
        split="train",
    )
    return FeatureSet(features, items)


# --- images ---


@pytest.fixture
def encoder_file(tmp_path: Path) -> Iterator[Path]:
    """An ONNX file of 12 features: the means of 2 x 2 fields of each channel."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    pool = helper.make_node("AveragePool", ["x"], ["p"], kernel_shape=[4, 4], strides=[4, 4])
    graph = helper.make_graph(
        [pool, helper.make_node("Flatten", ["p"], ["y"])],
        "means",
        [helper.make_tensor_value_info("x", kind, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", kind, ["n", FEATURES])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = tmp_path / "means.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("name", CONFIGS)
def test_a_saved_learner_streams_images_of_any_size(
    name: str, encoder_file: Path, tmp_path: Path
) -> None:
    config = replace(CONFIGS[name], encoder=f"onnx:{encoder_file}", image_size=16)
    model = build_model(config)
    model.load_state_dict(build(name).state_dict())
    OnlineLearner(model).save_pretrained(tmp_path / "learner")
    learner = OnlineLearner.from_pretrained(tmp_path / "learner")
    images = torch.rand(5, 3, 16, 16)
    labels = torch.tensor([0, 1, 0, 2, 1])
    whole = learner.predict_stream(images, labels)
    state, previous = learner.reset(), None
    for t in range(5):
        logits, state = learner.step(images[t], previous, state)
        close(logits, whole[t])
        previous = int(labels[t])
    assert learner.step(torch.rand(3, 9, 9), None, state)[0].shape == (WAYS,)
    with pytest.raises(UserError, match="shape"):
        learner.step(torch.rand(1, 16, 16), None, state)


def test_a_stream_keeps_of_waiting_photos_what_the_encoder_makes_of_them(
    encoder_file: Path, tmp_path: Path
) -> None:
    config = replace(CONFIGS["cpm"], encoder=f"onnx:{encoder_file}", image_size=16)
    torch.manual_seed(0)
    learner = OnlineLearner(build_model(config))
    classifier = StreamClassifier(learner)
    photos = torch.rand(4, 3, 200, 300)
    for i, photo in enumerate(photos):
        classifier.show(i, photo)
        classifier.tell(i, f"class {i}")  # one more than there were slots in training
    classifier.show("waits", photos[0])
    classifier.save(tmp_path / "state")
    assert (tmp_path / "state").stat().st_size < 20_000  # a photo has 720,000 bytes
    again = StreamClassifier.load(tmp_path / "state", learner)
    for one in (classifier, again):
        one.tell("waits", "class 0")
    mine, others = (one.predict(photos) for one in (classifier, again))
    assert [a.probabilities for a in mine] == [a.probabilities for a in others]
    assert [a.label for a in mine] == [f"class {i}" for i in range(4)]


def test_a_missing_encoder_is_one_line() -> None:
    model = build_model(replace(CONFIGS["opn"], encoder="onnx:gone.onnx"))
    with pytest.raises(UserError, match=r"no file gone\.onnx"):
        OnlineLearner(model).step(torch.rand(3, 8, 8), None, OnlineLearner(model).reset())


def test_rows_are_paired_and_shown() -> None:
    sizes = PhotoSizes(streams=10, ways=3, samples=6)
    experiment = Photos(preset="cpu", sizes=sizes)
    learners = {CENTROIDS: {0: build("cosine")}, "OPN": {s: build("opn") for s in (0, 1)}}
    data = [clusters(), clusters(seed=1)]
    rows = experiment._rows("test", PHOTOS, data, learners)
    first, second = rows
    for measure in experiment.measures:
        expected = second[measure].mean - first[measure].mean
        assert second[f"{measure} less {CENTROIDS}"].mean == pytest.approx(expected, abs=0.02)
    table = photos_table(rows, experiment.measures).to_markdown()
    assert "OPN" in table
    assert set(ARMS) >= set(learners)


def test_the_shipped_learner_loads() -> None:
    learner = OnlineLearner.from_pretrained("photos-cpu")
    assert isinstance(learner.model, PhotoLearner)
    assert learner.trained["dataset"] == PHOTOS
    assert learner.reset(ways=60)["prototypes"].shape == (1, learner.ways, learner.config.width)


def test_eval_of_photos_has_a_test_set_and_few_ways_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`photos`, which it was trained on, is no data set with test classes."""
    asked: list[tuple[str, int | None]] = []

    def refuse(name: str, split: str, root: object, model: object, ways: int | None) -> None:
        asked.append((name, ways))
        raise UserError("asked")

    monkeypatch.setattr("memory_adapt.data.images.load_images", refuse)
    for more in ([], ["--ways", "7", "--dataset", "fc100"], ["--ways", "150"]):
        with pytest.raises(SystemExit):
            cli.main(["eval", "photos-cpu", *more])
    assert asked == [("cifar-fs", 5), ("fc100", 7), ("cifar-fs", 150)]
