"""Meta-training: resumed exactly, better than its start; the learner that a user loads."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from hypernet_maml.adaptation.maml import MetaLearner
from hypernet_maml.config import InnerLoop, LaunchConfig, MetaConfig, NetworkConfig
from hypernet_maml.data.sources import load_images
from hypernet_maml.evaluation import VALIDATION_SEED, evaluate_learner, inner_movement
from hypernet_maml.export import export_onnx, export_safetensors
from hypernet_maml.models.hyperconv import hyper_layers
from hypernet_maml.models.networks import Classifier, build_network
from hypernet_maml.pretrained import SHIPPED, FewShotLearner, load_network
from hypernet_maml.training.metatraining import metatrain, new_learner, save_learner
from priors_shared.datasets import ImageDataset, load_dataset
from priors_shared.episodes import FewShotSampler
from priors_shared.errors import UserError
from priors_shared.runs import Run, read_metrics
from priors_shared.testing import killed_at_checkpoint

SIDE = 16
NET = NetworkConfig(kind="conv4", width=6, channels=1, image_size=SIDE)
CONFIG = MetaConfig(
    dataset="blobs",
    inner=InnerLoop(steps=2, learning_rate=0.1),
    ways=3,
    shots=2,
    queries=3,
    tasks=2,
    steps=6,
    halve_every=3,
    validate_every=2,
    validation_tasks=4,
    checkpoint_every=2,
    learning_rate=0.01,
)


def blobs(split: str) -> ImageDataset:
    """Each class is a smooth pattern of its own; training and validation have other classes."""
    generator = torch.Generator().manual_seed({"train": 0, "val": 1, "test": 2}[split])
    coarse = torch.rand(12, 1, 4, 4, generator=generator)
    pattern = torch.nn.functional.interpolate(coarse, size=SIDE, mode="bilinear")
    noise = 0.3 * torch.rand(12, 8, SIDE, SIDE, generator=generator)
    images = ((0.7 * pattern + noise) * 255).to(torch.uint8).reshape(96, 1, SIDE, SIDE)
    names = tuple(f"{split} {c}" for c in range(12))
    return ImageDataset("blobs", images, torch.arange(12).repeat_interleave(8), names, split=split)


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "hypernet_maml.data.sources.load_dataset", lambda _, split, *__, **___: blobs(split)
    )


def pretrained(sharing: str = "unshared") -> Classifier:
    torch.manual_seed(5)
    return build_network(replace(NET, classes=7, sharing=sharing))  # type: ignore[arg-type]


def run_metatraining(config: MetaConfig, out: Path, *, resume: bool = False) -> MetaLearner:
    with Run.create(
        out, asdict(config), command="metatrain", resume=resume, tensorboard=False, quiet=True
    ) as run:
        where = LaunchConfig(accelerator="cpu", quiet=True)
        return metatrain(config, pretrained(), NET, where, run)


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(v, two[n]) for n, v in one.items())


def test_a_new_learner_keeps_the_features_and_draws_a_classifier() -> None:
    net = pretrained()
    learner = new_learner(net, NET, CONFIG)
    images = torch.rand(4, 1, SIDE, SIDE)
    assert isinstance(learner.net, Classifier)
    with torch.no_grad():
        ours = learner.net.features(images)
        reference = net.train().features(images)
    torch.testing.assert_close(ours, reference)
    assert learner.net.classifier.out_features == 3
    twin = new_learner(net, NET, CONFIG)
    other = new_learner(net, NET, replace(CONFIG, seed=1))
    assert torch.equal(learner.net.classifier.weight, twin.net.classifier.weight)  # type: ignore[union-attr]
    assert not torch.equal(learner.net.classifier.weight, other.net.classifier.weight)  # type: ignore[union-attr]
    plain = replace(NET, sharing="none")
    with pytest.raises(UserError, match=r"algorithm: hyper-maml: .* needs a network with hyper"):
        new_learner(pretrained("none"), plain, CONFIG)


def test_a_killed_run_ends_as_a_straight_one(tmp_path: Path) -> None:
    straight = run_metatraining(CONFIG, tmp_path / "straight")
    for _ in range(2):
        with killed_at_checkpoint(1):
            run_metatraining(CONFIG, tmp_path / "killed", resume=True)
    resumed = run_metatraining(CONFIG, tmp_path / "killed", resume=True)
    assert same(resumed.state_dict(), straight.state_dict())
    assert read_metrics(tmp_path / "killed") == read_metrics(tmp_path / "straight")


def test_the_learner_written_is_the_best_in_validation(tmp_path: Path) -> None:
    run_metatraining(CONFIG, tmp_path / "run")
    best = max(m["val_accuracy"] for m in read_metrics(tmp_path / "run") if "val_accuracy" in m)
    loaded = FewShotLearner.from_pretrained(tmp_path / "run")
    validation = FewShotSampler(blobs("val"), ways=3, shots=2, queries=3)
    found = evaluate_learner(loaded.learner, validation, tasks=4, seed=VALIDATION_SEED)
    assert found.mean().item() == pytest.approx(best)
    assert loaded.trained["dataset"] == "blobs"
    assert loaded.network == replace(NET, classes=3)


def test_meta_training_improves_on_its_start(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=60, validate_every=60, halve_every=60, tasks=4)
    sampler = FewShotSampler(blobs("test"), ways=3, shots=2, queries=3)
    before = evaluate_learner(new_learner(pretrained(), NET, config), sampler, tasks=60, seed=0)
    learner = run_metatraining(config, tmp_path / "run")
    after = evaluate_learner(learner, sampler, tasks=60, seed=0)
    assert after.mean() > before.mean() + 0.1


def test_tasks_of_an_evaluation_do_not_depend_on_the_learner() -> None:
    sampler = FewShotSampler(blobs("test"), ways=3, shots=2, queries=3)
    learner = new_learner(pretrained(), NET, CONFIG)
    done: list[int] = []
    first = evaluate_learner(learner, sampler, tasks=6, seed=0, each=done.append)
    assert done == [4, 2]
    assert torch.equal(first[:4], evaluate_learner(learner, sampler, tasks=4, seed=0))
    assert not torch.equal(first, evaluate_learner(learner, sampler, tasks=6, seed=1))


def test_movement_is_of_the_generated_weights() -> None:
    sampler = FewShotSampler(blobs("test"), ways=3, shots=2, queries=3)
    learner = new_learner(pretrained(), NET, CONFIG)
    moved = inner_movement(learner, sampler)
    assert set(moved) == {f"{name}.weight" for name, _ in hyper_layers(learner.net)}
    assert all(value > 0 for value in moved.values())
    still = new_learner(pretrained(), NET, replace(CONFIG, inner=InnerLoop(algorithm="anil")))
    assert inner_movement(still, sampler) == {}


# --- what a user loads ---


@pytest.fixture
def learner(tmp_path: Path) -> FewShotLearner:
    made = new_learner(pretrained(), NET, CONFIG)
    save_learner(tmp_path / "learner", made, NET, CONFIG)
    return FewShotLearner.from_pretrained(tmp_path / "learner")


def test_adapting_learns_the_support_set_and_leaves_the_learner_as_it_was(
    learner: FewShotLearner,
) -> None:
    learner.learner.inner = InnerLoop(steps=40, learning_rate=0.3)
    before = {name: value.clone() for name, value in learner.learner.state_dict().items()}
    dataset = blobs("test")
    items = torch.cat([dataset.items_of(c)[:4] for c in range(3)])
    images, labels = dataset.images[items].float() / 255, dataset.targets[items]
    classifier = learner.adapt(images, labels)
    assert torch.equal(classifier.predict(images), labels)
    assert same(before, learner.learner.state_dict())
    two = learner.adapt(images[:8], labels[:8])
    assert two.logits(images).shape == (12, 2)  # only the classes that it was given


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_a_loaded_learner_has_the_buffers_it_was_saved_with(
    tmp_path: Path, statistics: Literal["batch", "running"]
) -> None:
    """Normalisation and running statistics reach the network that hyper-maml runs on."""
    net = pretrained()
    net.normalise.fit(blobs("train").images)
    net.train()(torch.rand(8, 1, SIDE, SIDE))  # moves the running statistics
    config = replace(CONFIG, inner=InnerLoop(steps=2, learning_rate=0.1, statistics=statistics))
    made = new_learner(net, NET, config).eval()
    save_learner(tmp_path / "learner", made, NET, config)
    loaded = FewShotLearner.from_pretrained(tmp_path / "learner")
    images, labels = blobs("test").images[:24].float() / 255, torch.arange(24) // 8
    expected = FewShotLearner(made).adapt(images, labels).logits(images)
    torch.testing.assert_close(loaded.adapt(images, labels).logits(images), expected)


def test_labels_that_do_not_fit_are_refused(learner: FewShotLearner) -> None:
    images = torch.rand(2, 1, SIDE, SIDE)
    with pytest.raises(UserError, match=r"labels must lie in 0 \.\. 2.* got 0 \.\. 3"):
        learner.adapt(images, torch.tensor([0, 3]))
    with pytest.raises(UserError, match="the support set has no image"):
        learner.adapt(images[:0], torch.tensor([], dtype=torch.int64))


def test_a_meta_learners_network_can_be_taken_out(learner: FewShotLearner, tmp_path: Path) -> None:
    net, config, trained = load_network(tmp_path / "learner")
    assert same(net.state_dict(), learner.net.state_dict())
    assert config.classes == 3
    assert trained["ways"] == 3
    assert all(m.statistics is None for m in net.modules() if hasattr(m, "statistics"))
    export_safetensors(net, config, tmp_path / "plain", trained={})
    with pytest.raises(UserError, match=r"hypernet-maml network"):
        FewShotLearner.from_pretrained(tmp_path / "plain")


# --- export ---


def test_the_exported_network_is_plain_and_the_same(tmp_path: Path) -> None:
    net = pretrained("stage").eval()
    config = replace(NET, classes=7, sharing="stage")
    export_safetensors(net, config, tmp_path / "plain", trained={"seed": 3})
    loaded, found, trained = load_network(tmp_path / "plain")
    assert found == replace(config, sharing="none")
    assert trained == {"seed": 3}
    assert not list(hyper_layers(loaded))
    images = torch.rand(3, 1, SIDE, SIDE)
    assert torch.equal(loaded(images), net(images))


def test_onnx_has_the_plain_networks_operators_and_logits(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    counts = {}
    for sharing in ("none", "unshared"):
        net = pretrained(sharing).eval()
        config = replace(NET, classes=7, sharing=sharing)  # type: ignore[arg-type]
        counts[sharing] = export_onnx(net, config, tmp_path / f"{sharing}.onnx")
    assert counts["unshared"] == counts["none"]
    assert counts["none"]["Conv"] == 4
    sizes = [(tmp_path / f"{s}.onnx").stat().st_size for s in counts]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)
    session = onnxruntime.InferenceSession(str(tmp_path / "unshared.onnx"))
    images = torch.rand(9, 1, SIDE, SIDE)
    (found,) = session.run(None, {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), net(images).detach(), rtol=1e-4, atol=1e-5)


# --- shipped weights ---


def test_shipped_weights_learn_characters_they_never_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypernet_maml.data.sources.load_dataset", load_dataset)
    learner = FewShotLearner.from_pretrained("fc100-5way-cpu")
    glyphs = load_images("glyphs", "test", None, learner.network, adjust=True)
    sampler = FewShotSampler(glyphs, ways=learner.ways, shots=5, queries=5)
    found = evaluate_learner(learner.learner, sampler, tasks=8, seed=0)
    assert found.mean() > 0.7  # of 200 tasks 85 %; a network that does not adapt scores 20 %


def test_shipped_weights_are_small_and_described() -> None:
    folder = SHIPPED / "fc100-5way-cpu"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10_000_000
    card = (folder / "README.md").read_text()
    config = json.loads((folder / "config.json").read_text())
    assert f"seed {config['trained']['seed']}" in card
    assert "| fc100 | test | 5 | 5 |" in card
