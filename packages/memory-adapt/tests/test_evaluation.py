"""k-shot accuracy against a count by hand, the blind bound against all streams there are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import permutations
from statistics import fmean

import pytest
import torch
from torch import Tensor

from memory_adapt.config import (
    APLConfig,
    CLLSTMConfig,
    CPMConfig,
    LSTMConfig,
    ModelConfig,
    NTMConfig,
    OPNConfig,
)
from memory_adapt.evaluation import (
    CONTROLS,
    Control,
    alphabets_of,
    blind_bound,
    evaluate,
    evaluate_predictions,
    take_away,
)
from memory_adapt.models.registry import build_model
from priors_shared.datasets import ImageDataset
from priors_shared.episodes import (
    NULL_LABEL,
    OnlineEpisodes,
    OnlineEpisodeSampler,
    generator_for,
)
from priors_shared.errors import UserError

WAYS, SIZE = 5, 16
SMALL = {"ways": WAYS, "width": 4, "image_size": SIZE}
UNTRAINED: dict[str, ModelConfig] = {
    "cl-lstm": CLLSTMConfig(**SMALL, hidden=8),
    "lstm": LSTMConfig(**SMALL, hidden=8),
    "ntm": NTMConfig(**SMALL, hidden=8, slots=6, slot_size=5, heads=2),
    "apl": APLConfig(**SMALL, hidden=8, neighbours=3),
    "opn": OPNConfig(**SMALL),
    "cpm": CPMConfig(**SMALL, hidden=8),
}


@pytest.fixture(scope="module")
def dataset() -> ImageDataset:
    """Eight classes of six images: stripes, each class at its own angle and width, in noise."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(8).repeat_interleave(6)
    angle, wave = (targets % 4) * math.pi / 4, 1.0 + targets // 4
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    along = x * angle.cos()[:, None, None] + y * angle.sin()[:, None, None]
    noise = torch.rand(48, SIZE, SIZE, generator=generator)
    images = (((along * wave[:, None, None]).sin() + 1 + noise) * 85).to(torch.uint8)
    return ImageDataset("stripes", images.unsqueeze(1), targets, tuple("abcdefgh"))


def one_hot(labels: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(labels, WAYS).float()


# --- accuracy ---


@pytest.mark.parametrize("shots", [1, 4])
def test_an_oracle_is_always_right(dataset: ImageDataset, shots: int) -> None:
    sampler = OnlineEpisodeSampler(dataset, ways=WAYS, shots=shots)
    result = evaluate_predictions(lambda s: one_hot(s.labels), sampler, episodes=7, seed=0, batch=3)
    assert result.mean.tolist() == [1.0] * shots
    assert result.views.tolist() == [7 * WAYS] * shots
    assert result.episodes == 7


@pytest.mark.parametrize("slot", range(WAYS))
def test_always_the_same_slot_is_right_once_in_five_at_every_shot(
    dataset: ImageDataset, slot: int
) -> None:
    """Exactly: in a balanced stream each slot is seen for the (k+1)-th time once."""
    sampler = OnlineEpisodeSampler(dataset, ways=WAYS, shots=4)
    constant = evaluate_predictions(
        lambda s: one_hot(torch.full_like(s.labels, slot)), sampler, episodes=6, seed=0
    )
    assert constant.mean.tolist() == pytest.approx([0.2] * 4, abs=1e-7)


@pytest.mark.parametrize("order", ["balanced", "iid"])
def test_accuracy_is_that_of_a_count_by_hand(dataset: ImageDataset, order: str) -> None:
    """A predictor that is right here and wrong there, by what is in the image."""
    shots, episodes, batch, seed = 3, 23, 10, 5
    sampler = OnlineEpisodeSampler(dataset, ways=WAYS, shots=shots, order=order)  # type: ignore[arg-type]

    def guesses(streams: OnlineEpisodes) -> Tensor:
        return (streams.images.sum((2, 3, 4)) * 7).long() % WAYS

    result = evaluate_predictions(
        lambda s: one_hot(guesses(s)), sampler, episodes=episodes, seed=seed, batch=batch
    )
    hits, views = Counter[int](), Counter[int]()
    for start, size in ((0, 10), (10, 10), (20, 3)):
        streams = sampler.sample(size, generator_for(seed, start))
        guessed = guesses(streams)
        for b in range(size):
            before = Counter[int]()
            for t in range(sampler.steps):
                label = int(streams.labels[t, b])
                hits[before[label]] += int(guessed[t, b]) == label
                views[before[label]] += 1
                before[label] += 1
    assert result.views.tolist() == [views[k] for k in range(shots)]
    assert result.mean.tolist() == pytest.approx([hits[k] / views[k] for k in range(shots)])
    assert 0 < sum(hits.values()) < sum(views.values())


def test_streams_depend_on_the_seed_alone(dataset: ImageDataset) -> None:
    sampler = OnlineEpisodeSampler(dataset, ways=WAYS, shots=2)

    def seen(seed: int) -> list[Tensor]:
        items: list[Tensor] = []

        def predict(streams: OnlineEpisodes) -> Tensor:
            items.append(streams.items)
            return one_hot(streams.labels)

        evaluate_predictions(predict, sampler, episodes=5, seed=seed, batch=2)
        return items

    torch.manual_seed(1)
    first = seen(0)
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first, seen(0), strict=True))
    assert not torch.equal(first[0], seen(1)[0])
    assert not torch.equal(first[0], first[1])  # nor do two batches show the same


@pytest.mark.parametrize("training", [True, False])
def test_evaluating_leaves_a_model_as_it_was(dataset: ImageDataset, training: bool) -> None:
    torch.manual_seed(0)
    model = build_model(UNTRAINED["opn"]).train(training)
    modes: list[bool] = []
    model.register_forward_hook(lambda module, _inputs, _out: modes.append(module.training))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sampler = OnlineEpisodeSampler(dataset, ways=WAYS, shots=2)
    evaluate(model, sampler, episodes=3, seed=0)
    assert modes == [False]
    assert model.training is training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# --- the blind bound ---


@cache
def balanced_streams(ways: int, shots: int) -> list[tuple[int, ...]]:
    """Every order of labels there is, each equally likely."""
    return sorted(set(permutations([w for w in range(ways) for _ in range(shots)])))


@pytest.mark.parametrize(("ways", "shots"), [(1, 3), (2, 1), (2, 2), (2, 4), (3, 2), (4, 2)])
def test_blind_bound_is_that_of_the_least_seen_guess_over_all_streams(
    ways: int, shots: int
) -> None:
    hits = [0] * shots
    streams = balanced_streams(ways, shots)
    for stream in streams:
        seen = [0] * ways
        for label in stream:
            guess = seen.index(min(seen))
            hits[seen[label]] += guess == label
            seen[label] += 1
    assert blind_bound(ways, shots) == pytest.approx([h / len(streams) / ways for h in hits])


@pytest.mark.parametrize(("ways", "shots"), [(2, 2), (2, 4), (3, 2), (4, 2)])
def test_no_blind_guess_beats_the_bound(ways: int, shots: int) -> None:
    """The best guess after each past, found by counting how the streams go on."""
    streams = balanced_streams(ways, shots)
    best = 0
    for t in range(ways * shots):
        following = Counter(stream[: t + 1] for stream in streams)
        most: dict[tuple[int, ...], int] = {}
        for past, count in following.items():
            most[past[:-1]] = max(most.get(past[:-1], 0), count)
        best += sum(most.values())
    assert fmean(blind_bound(ways, shots)) == pytest.approx(best / len(streams) / (ways * shots))


def test_blind_bound_of_one_shot_by_hand() -> None:
    """Each label once: the n-th is one of ways - n + 1, so a guess is right 1/5 + ... + 1/1 times."""
    assert blind_bound(5, 1) == pytest.approx([(1 / 5 + 1 / 4 + 1 / 3 + 1 / 2 + 1) / 5])


def least_seen(streams: OnlineEpisodes) -> Tensor:
    return -arrived(streams)


def most_seen(streams: OnlineEpisodes) -> Tensor:
    return arrived(streams)


def last_seen(streams: OnlineEpisodes) -> Tensor:
    return one_hot(streams.feedback.clamp(min=0))


def anything_but_the_last(streams: OnlineEpisodes) -> Tensor:
    return one_hot((streams.feedback.clamp(min=0) + 1) % WAYS)


def arrived(streams: OnlineEpisodes) -> Tensor:
    """How often each label arrived up to and with each step."""
    return (streams.feedback.unsqueeze(-1) == torch.arange(WAYS)).cumsum(0).float()


def test_blind_bound_is_what_the_least_seen_guess_scores_in_the_protocol() -> None:
    blank = torch.zeros(50, 1, 1, 1, dtype=torch.uint8)
    ten_each = ImageDataset("blank", blank, torch.arange(50) // 10, tuple("abcde"))
    sampler = OnlineEpisodeSampler(ten_each, ways=WAYS, shots=10)
    result = evaluate_predictions(least_seen, sampler, episodes=2000, seed=0, batch=500)
    bound = blind_bound(WAYS, 10)
    assert [round(bound[k], 2) for k in (0, 1, 5, 8)] == [0.46, 0.31, 0.28, 0.30]
    four_errors = 2 * (result.high - result.low) / 1.96
    assert ((result.mean - torch.tensor(bound)).abs() < four_errors).all()
    assert four_errors.max() < 0.04  # tight enough to tell the bound from chance


@pytest.mark.parametrize("guess", [least_seen, most_seen, last_seen, anything_but_the_last])
def test_no_blind_guess_beats_chance_when_labels_are_drawn_anew(
    dataset: ImageDataset, guess: Callable[[OnlineEpisodes], Tensor]
) -> None:
    """Over all steps; a single shot's accuracy still depends on which guesses fall into it."""
    streams = OnlineEpisodeSampler(dataset, ways=WAYS, shots=6, order="iid").sample(
        2000, generator_for(3)
    )
    correct = (guess(streams).argmax(-1) == streams.labels).double()
    # Hits at different steps are uncorrelated: a binomial's error.
    error = (0.2 * 0.8 / correct.numel()) ** 0.5
    assert abs(correct.mean() - 0.2) < 4 * error
    balanced = OnlineEpisodeSampler(dataset, ways=WAYS, shots=6).sample(2000, generator_for(3))
    if guess is least_seen:
        leaked = (guess(balanced).argmax(-1) == balanced.labels).double().mean()
        assert leaked > 0.2 + 20 * error


# --- the controls ---


def test_controls_take_away_what_they_name_and_nothing_else(dataset: ImageDataset) -> None:
    sampler = OnlineEpisodeSampler(dataset, ways=WAYS, shots=4, delay=2)
    streams = sampler.sample(200, generator_for(0))
    taken: dict[Control, set[str]] = {
        "none": set(),
        "blank images": {"images"},
        "null labels": {"feedback"},
        "random labels": {"feedback"},
    }
    assert set(taken) == {"none", *CONTROLS}
    for control, fields in taken.items():
        left = take_away(streams, control, sampler, seed=0)
        for name, tensor in vars(streams).items():
            if name not in fields:
                assert torch.equal(vars(left)[name], tensor), f"{control}: {name}"
    assert not take_away(streams, "blank images", sampler, 0).images.any()
    assert (take_away(streams, "null labels", sampler, 0).feedback == NULL_LABEL).all()


def test_random_labels_arrive_when_labels_would_and_tell_nothing(dataset: ImageDataset) -> None:
    sampler = OnlineEpisodeSampler(dataset, ways=WAYS, shots=4, delay=2)
    streams = sampler.sample(200, generator_for(0))
    given = take_away(streams, "random labels", sampler, seed=0).feedback
    assert (given[:2] == NULL_LABEL).all()
    assert set(given[2:].unique().tolist()) == set(range(WAYS))
    arrived = given[2:]
    for truth in (streams.labels[:-2], streams.labels[1:-1], streams.labels[2:]):
        agreement = (arrived == truth).double().mean()
        assert abs(agreement - 0.2) < 4 * (0.2 * 0.8 / arrived.numel()) ** 0.5
    again = take_away(streams, "random labels", sampler, seed=0).feedback
    other = take_away(streams, "random labels", sampler, seed=1).feedback
    assert torch.equal(given, again)
    assert not torch.equal(given, other)


@pytest.mark.parametrize("control", ["null labels", "random labels"])
@pytest.mark.parametrize("name", UNTRAINED)
def test_without_its_labels_an_untrained_model_is_at_chance(
    dataset: ImageDataset, name: str, control: Control
) -> None:
    """Which class has which slot is drawn anew for every stream, so images alone do not tell."""
    torch.manual_seed(0)
    model = build_model(UNTRAINED[name])
    sampler = OnlineEpisodeSampler(dataset, ways=WAYS, shots=3)
    result = evaluate(model, sampler, episodes=300, seed=0, control=control, batch=100)
    five_errors = 2.5 * (result.high - result.low) / 1.96 + 1e-6
    assert ((result.mean - 0.2).abs() <= five_errors).all(), result.mean


def test_without_images_prototypes_know_only_which_labels_arrived(dataset: ImageDataset) -> None:
    """Blank images lie on every prototype alike: the guess is the first slot that was seen."""
    torch.manual_seed(0)
    sampler = OnlineEpisodeSampler(dataset, ways=WAYS, shots=4)
    model = build_model(UNTRAINED["opn"])
    blank = evaluate(model, sampler, episodes=200, seed=0, control="blank images")
    expected = evaluate_predictions(
        lambda s: (arrived(s) > 0).float(), sampler, episodes=200, seed=0
    )
    assert torch.equal(blank.mean, expected.mean)
    assert blank.mean.mean() < fmean(blind_bound(WAYS, 4))
    assert not torch.equal(evaluate(model, sampler, episodes=200, seed=0).mean, blank.mean)


def test_streams_within_an_alphabet_are_of_one_in_one_rotation() -> None:
    names = tuple(f"{a}/{c:02}@{r}" for r in (0, 90) for a in ("Greek", "Latin") for c in range(3))
    images = torch.zeros(36, 1, 2, 2, dtype=torch.uint8)
    dataset = ImageDataset("letters", images, torch.arange(12).repeat_interleave(3), names)
    groups = alphabets_of(dataset)
    assert groups[:4] == ("Greek@0", "Greek@0", "Greek@0", "Latin@0")
    assert len(set(groups)) == 4
    with pytest.raises(UserError, match="alphabets: the classes of dots have none"):
        alphabets_of(ImageDataset("dots", images, dataset.targets, tuple("abcdefghijkl")))
