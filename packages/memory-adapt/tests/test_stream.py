"""A learner at work: answers change nothing, labels come when they come, and what is saved comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from memory_adapt import OnlineLearner, StreamClassifier
from memory_adapt.config import (
    APLConfig,
    CLLSTMConfig,
    CPMConfig,
    LSTMConfig,
    ModelConfig,
    NTMConfig,
    OPNConfig,
)
from memory_adapt.models.registry import build_model
from memory_adapt.stream import FALSE_ALARMS, Answer, calibrated_threshold
from priors_shared.datasets import load_dataset
from priors_shared.datasets.base import as_float
from priors_shared.errors import UserError

SMALL = {"ways": 4, "image_size": 16, "width": 4}
CONFIGS: dict[str, ModelConfig] = {
    "cl-lstm": CLLSTMConfig(**SMALL, hidden=6),
    "lstm": LSTMConfig(**SMALL, hidden=6),
    "ntm": NTMConfig(**SMALL, hidden=6, slots=7, slot_size=5, heads=2),
    "apl": APLConfig(**SMALL, hidden=6, neighbours=2, slots=5),
    "opn": OPNConfig(**SMALL),
    "cpm": CPMConfig(**SMALL, hidden=6),
}
ANY_WAYS = ("opn", "cpm")
NAMES = ("ant", "bee", "cat", "dog", "eel", "fox")


def learner(name: str, delay: int = 1) -> OnlineLearner:
    torch.manual_seed(0)
    return OnlineLearner(build_model(CONFIGS[name], delay=delay))


def stream(classes: int = 4, length: int = 9) -> list[tuple[Tensor, str]]:
    generator = torch.Generator().manual_seed(1)
    labels = [*range(classes), *torch.randint(classes, (length,), generator=generator).tolist()]
    images = torch.rand(len(labels), 1, 16, 16, generator=generator)
    return [(image, NAMES[label]) for image, label in zip(images, labels, strict=True)]


def alike(a: list[Answer], b: list[Answer]) -> None:
    for one, other in zip(a, b, strict=True):
        assert set(one.probabilities) == set(other.probabilities)
        for name, value in one.probabilities.items():
            assert value == pytest.approx(other.probabilities[name], abs=1e-5)
        assert one.unknown == pytest.approx(other.unknown, abs=1e-5)


@pytest.mark.parametrize("delay", [1, 3])
@pytest.mark.parametrize("name", CONFIGS)
def test_answers_are_those_of_the_protocol(name: str, delay: int) -> None:
    """With all classes known beforehand, and image after image: what `step` gives."""
    raw = learner(name, delay)
    classifier = StreamClassifier(raw)
    seen = stream()
    slots = {label: i for i, label in enumerate(dict.fromkeys(label for _, label in seen))}
    state, labels = raw.reset(), [None] * delay
    for image, label in seen:
        logits, state = raw.step(image, labels[-delay], state)
        (answer,) = classifier.predict(image[None])
        known = len(answer.probabilities)
        expected = logits[:known].double().softmax(-1)
        assert list(answer.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-5)
        classifier.observe(image, label)
        labels.append(slots[label])


@pytest.mark.parametrize("name", CONFIGS)
def test_answers_change_nothing(name: str, tmp_path: Path) -> None:
    classifier = StreamClassifier(learner(name))
    asked = torch.stack([image for image, _ in stream(length=70)])  # more than go at once
    for image, label in stream():
        classifier.observe(image, label)
    classifier.save(tmp_path / "before")
    first = classifier.predict(asked)
    alike(first, [answer for image in asked for answer in classifier.predict(image[None])])
    classifier.save(tmp_path / "after")
    assert (tmp_path / "before").read_bytes() == (tmp_path / "after").read_bytes()


@pytest.mark.parametrize("name", CONFIGS)
def test_labels_come_by_id_when_they_come(name: str) -> None:
    """Learned in the order in which labels come, whatever the order in which images were shown."""
    seen = stream()
    by_id, direct = (StreamClassifier(learner(name)) for _ in range(2))
    for i, (image, _) in enumerate(seen):
        by_id.show(i, image)
    order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(3)).tolist()
    for i in order[:-2]:
        by_id.tell(i, seen[i][1])
        direct.observe(*seen[i])
    asked = torch.stack([image for image, _ in seen])
    alike(by_id.predict(asked), direct.predict(asked))
    assert sorted(by_id.waiting) == sorted(order[-2:])


def test_prototypes_do_not_depend_on_the_order_of_labels() -> None:
    seen = stream()
    forward, backward = (StreamClassifier(learner("opn")) for _ in range(2))
    for image, label in seen:
        forward.observe(image, label)
    for image, label in reversed(seen):
        backward.observe(image, label)
    asked = torch.rand(5, 1, 16, 16)
    alike(forward.predict(asked), backward.predict(asked))


def test_ids_that_were_never_shown_or_are_used_twice_are_named() -> None:
    classifier = StreamClassifier(learner("opn"))
    image = torch.rand(1, 16, 16)
    classifier.show("a", image)
    with pytest.raises(UserError, match=r"id 'b': no image of this id was shown"):
        classifier.tell("b", "cat")
    with pytest.raises(UserError, match=r"id 'a': there is an image of this id already"):
        classifier.show("a", image)
    classifier.tell("a", "cat")
    with pytest.raises(UserError, match=r"id 'a': it has its label already"):
        classifier.tell("a", "cat")
    with pytest.raises(UserError, match=r"id 'a': there is an image"):
        classifier.show("a", image)


@pytest.mark.parametrize("name", CONFIGS)
def test_classes_grow_where_no_weight_depends_on_them(name: str) -> None:
    classifier = StreamClassifier(learner(name))
    seen = stream(classes=6)
    for image, label in seen[:4]:
        classifier.observe(image, label)
    if name in ANY_WAYS:
        for image, label in seen[4:]:
            classifier.observe(image, label)
        (answer,) = classifier.predict(seen[5][0][None])
        assert list(answer.probabilities) == list(NAMES)
        return
    with pytest.raises(UserError, match=r"label 'eel': the learner's 4 label slots are taken"):
        classifier.observe(*seen[4])
    assert len(classifier.classes) == 4


@pytest.mark.parametrize("delay", [1, 3])
@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_saved_goes_on_as_if_nothing_had_been(
    name: str, delay: int, tmp_path: Path
) -> None:
    seen, path = stream(), tmp_path / "new" / "state.safetensors"
    classifier = StreamClassifier(learner(name, delay), unknown_above=0.75)
    for image, label in seen[:6]:
        classifier.observe(image, label)
    classifier.show("later", seen[6][0])
    classifier.save(path)
    again = StreamClassifier.load(path, learner(name, delay))
    assert (again.waiting, again.unknown_above) == (["later"], 0.75)
    for one in (classifier, again):
        one.tell("later", "bee")
        one.observe(*seen[7])
    asked = torch.stack([image for image, _ in seen])
    alike(classifier.predict(asked), again.predict(asked))
    with pytest.raises(UserError, match="has its label already"):
        again.tell("later", "bee")


def test_states_of_other_learners_and_other_files_are_named(tmp_path: Path) -> None:
    classifier = StreamClassifier(learner("opn"))
    classifier.observe(torch.rand(1, 16, 16), "cat")
    path = tmp_path / "state.safetensors"
    classifier.save(path)
    with pytest.raises(UserError, match=r"state\.safetensors: a state of another learner"):
        StreamClassifier.load(path, learner("cpm"))
    with pytest.raises(UserError, match=r"1 step.s. late; the learner's are 3 late"):
        StreamClassifier.load(path, learner("opn", delay=3))
    with pytest.raises(UserError, match="no such file"):
        StreamClassifier.load(tmp_path / "gone", learner("opn"))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="not a state that"):
        StreamClassifier.load(path, learner("opn"))
    learner("opn").save_pretrained(tmp_path / "weights")
    with pytest.raises(UserError, match="not a state that"):
        StreamClassifier.load(tmp_path / "weights" / "model.safetensors", learner("opn"))
    classifier.observe(torch.rand(1, 16, 16), ("a", "pair"))
    with pytest.raises(UserError, match=r"classes: .* neither text nor a number"):
        classifier.save(path)


def test_a_calibrated_threshold_is_passed_by_so_many_images_of_known_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    above = []
    for _ in range(400):
        scores = torch.rand(99, generator=generator).tolist()
        threshold = calibrated_threshold(scores)
        assert threshold in scores
        above.append(float((torch.rand(200, generator=generator) > threshold).double().mean()))
    assert sum(above) / len(above) == pytest.approx(FALSE_ALARMS, abs=0.005)
    assert calibrated_threshold([0.1] * 18) is None
    assert calibrated_threshold([0.1] * 19) == 0.1


@pytest.fixture(scope="module")
def glyphs() -> list[Tensor]:
    """Images of each of 40 characters of the test split."""
    dataset = load_dataset("glyphs", "test")
    return [
        as_float(dataset.images[dataset.items_of(c)])
        for c in range(0, dataset.classes, dataset.classes // 40)
    ]


def test_the_shipped_cpm_tells_images_of_no_known_class(glyphs: list[Tensor]) -> None:
    """After three images each of five characters: others of them, and other characters."""
    shipped = OnlineLearner.from_pretrained("omniglot-5way-cpm-cpu")
    known, new = [], []
    for start in range(0, 40, 10):
        classifier = StreamClassifier(shipped)
        mine, others = glyphs[start : start + 5], glyphs[start + 5 : start + 10]
        for i in range(3):
            for name, images in enumerate(mine):
                classifier.observe(images[i], name)
        known += [a.unknown for images in mine for a in classifier.predict(images[3:10])]
        new += [a.unknown for images in others for a in classifier.predict(images[3:10])]
    ranks = torch.tensor(new).unsqueeze(1) - torch.tensor(known)
    assert ((ranks > 0).double() + 0.5 * (ranks == 0)).mean() > 0.95  # area under the ROC curve
    threshold = calibrated_threshold(known[::2])
    assert threshold is not None
    assert sum(u > threshold for u in known[1::2]) / len(known[1::2]) < 3 * FALSE_ALARMS
    assert sum(u > threshold for u in new) / len(new) > 0.8
    classifier.unknown_above = threshold
    for images in others:
        for answer in classifier.predict(images[3:6]):
            assert (answer.label is None) == (answer.unknown > threshold)
            assert answer.nearest in range(5)


@pytest.mark.parametrize("name", [n for n in CONFIGS if n not in ANY_WAYS])
def test_a_network_with_weights_for_each_slot_gets_no_more_of_them(name: str) -> None:
    model = build_model(CONFIGS[name])
    assert model.state_for(2, 4).keys() == model.initial_state(2).keys()
    with pytest.raises(UserError, match="ways 5: the learner was trained for 4"):
        model.state_for(2, 5)
