"""What arrives when in a stream, what a task holds, what is counted, and what must not leak."""

from collections import Counter

import pytest
import torch

from priors_shared.datasets.base import ImageDataset
from priors_shared.episodes import (
    NULL_LABEL,
    FewShotSampler,
    OnlineEpisodeSampler,
    _distinct,
    count_earlier,
    delay_labels,
    generator_for,
)
from priors_shared.errors import UserError


def made_dataset(classes=12, each=(6, 7, 9)):
    """Classes of unequal size in shuffled rows; each image holds its own number and its class."""
    targets = torch.cat([torch.full((each[c % len(each)],), c) for c in range(classes)])
    targets = targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))]
    images = torch.zeros(len(targets), 1, 2, 2, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(len(targets)).to(torch.uint8)
    images[:, 0, 1, 1] = targets.to(torch.uint8)
    return ImageDataset("made", images, targets, tuple(f"class {c}" for c in range(classes)))


def sampled(order="balanced", *, ways=5, shots=4, delay=1, batch=64, seed=0, dataset=None):
    dataset = dataset or made_dataset()
    sampler = OnlineEpisodeSampler(dataset, ways=ways, shots=shots, order=order, delay=delay)
    return sampler.sample(batch, generator_for(seed)), dataset


ORDERS = pytest.mark.parametrize("order", ["balanced", "iid"])


@ORDERS
@pytest.mark.parametrize("delay", [1, 3, 19, 20, 25])
def test_feedback_is_the_label_some_steps_late_and_null_before(order, delay):
    episodes, _ = sampled(order, delay=delay)
    for step in range(20):
        expected = episodes.labels[step - delay] if step >= delay else NULL_LABEL
        assert (episodes.feedback[step] == expected).all()
    assert torch.equal(episodes.feedback, delay_labels(episodes.labels, delay))


def test_balanced_streams_show_each_class_equally_often_in_random_order():
    episodes, _ = sampled("balanced", batch=2000)
    for way in range(5):
        assert ((episodes.labels == way).sum(0) == 4).all()
    at_step = torch.nn.functional.one_hot(episodes.labels, 5).float().mean(1)  # (steps, ways)
    assert (at_step - 0.2).abs().max() < 0.045  # five standard errors


def test_iid_labels_are_uniform_and_do_not_know_each_other():
    labels = sampled("iid", batch=2000)[0].labels
    assert (torch.bincount(labels.ravel()) / labels.numel() - 0.2).abs().max() < 0.01
    again = (labels[1:] == labels[:-1]).float().mean()
    assert abs(float(again) - 0.2) < 0.01
    counts = torch.nn.functional.one_hot(labels, 5).sum(0).float()
    assert abs(float(counts.var()) - 20 * 0.2 * 0.8) < 0.2  # binomial, not fixed


@ORDERS
def test_seen_is_the_number_of_earlier_views(order):
    episodes, _ = sampled(order)
    for stream in range(64):
        before = Counter()
        for label, seen in zip(
            episodes.labels[:, stream].tolist(), episodes.seen[:, stream].tolist(), strict=True
        ):
            assert seen == before[label]
            before[label] += 1
    assert torch.equal(episodes.seen, count_earlier(episodes.labels, 5))


@ORDERS
def test_a_slot_stands_for_one_class_and_a_class_for_one_slot(order):
    episodes, dataset = sampled(order)
    classes = dataset.targets[episodes.items]
    for stream in range(64):
        pairs = set(
            zip(episodes.labels[:, stream].tolist(), classes[:, stream].tolist(), strict=True)
        )
        assert len(pairs) == len({slot for slot, _ in pairs}) == len({c for _, c in pairs})


def test_images_are_those_of_the_items_in_unit_range():
    episodes, dataset = sampled()
    expected = dataset.images[episodes.items].float() / 255
    assert episodes.images.dtype == torch.float32
    assert torch.equal(episodes.images, expected)
    assert torch.equal(
        (episodes.images[..., 0, 1, 1] * 255).round().long(), dataset.targets[episodes.items]
    )


@ORDERS
def test_no_image_comes_again_until_its_class_is_exhausted(order):
    dataset = made_dataset(classes=4, each=(6, 7, 9))
    episodes, _ = sampled(order, ways=3, shots=6, batch=300, dataset=dataset)
    for stream in range(300):
        shown: dict[int, list[int]] = {}
        for item in episodes.items[:, stream].tolist():
            shown.setdefault(int(dataset.targets[item]), []).append(item)
        for target, items in shown.items():
            size = len(dataset.items_of(target))
            rounds = [items[start : start + size] for start in range(0, len(items), size)]
            assert all(len(set(part)) == len(part) for part in rounds)
            assert all(part == items[: len(part)] for part in rounds)  # the same order again


def test_every_class_slot_and_image_is_equally_likely():
    dataset = made_dataset(classes=8, each=(5,))
    episodes, _ = sampled(ways=4, shots=2, batch=8000, dataset=dataset)
    first = episodes.seen == 0
    slots, classes = episodes.labels[first], dataset.targets[episodes.items[first]]
    table = torch.bincount(slots * 8 + classes, minlength=32).float() / 8000  # each 1 / 8
    assert (table - 1 / 8).abs().max() < 5 * (1 / 8 * 7 / 8 / 8000) ** 0.5
    images = torch.bincount(episodes.items.ravel(), minlength=40).float()
    expected = episodes.items.numel() / 40
    assert (images - expected).abs().max() < 5 * expected**0.5


def test_many_classes_are_drawn_without_repetition_too():
    """Above 4 x ways classes the sampler redraws clashes instead of permuting all classes."""
    dataset = made_dataset(classes=41, each=(2,))
    episodes, _ = sampled(ways=10, shots=2, batch=4000, dataset=dataset)
    first = dataset.targets[episodes.items]
    for stream in range(0, 4000, 7):
        assert len(set(first[:, stream].tolist())) == 10
    share = torch.bincount(first.ravel(), minlength=41).float() / first.numel()
    assert (share - 1 / 41).abs().max() < 5 * (1 / 41 / 40_000) ** 0.5


@ORDERS
def test_the_same_generator_gives_the_same_streams(order):
    one, two, other = (sampled(order, seed=seed)[0] for seed in (3, 3, 4))
    assert torch.equal(one.items, two.items)
    assert torch.equal(one.labels, two.labels)
    assert not torch.equal(one.items, other.items)


@pytest.mark.parametrize("seed", [-1, 2**63, 2**70])
def test_a_seed_out_of_range_is_named(seed):
    with pytest.raises(UserError, match=f"seed {seed}: must be 0 or more"):
        generator_for(seed)


def test_generator_for_depends_on_its_path_alone():
    def first(*path):
        return int(torch.randint(2**62, (1,), generator=generator_for(*path)))

    forwards = {step: first(7, 1, step) for step in range(50)}
    backwards = {step: first(7, 1, step) for step in reversed(range(50))}
    assert forwards == backwards
    paths = [(seed, stage, step) for seed in range(3) for stage in range(3) for step in range(9)]
    assert len({first(*path) for path in paths}) == len(paths)


def test_too_little_data_says_what_is_missing():
    dataset = made_dataset(classes=3, each=(4, 2, 3))
    with pytest.raises(UserError, match=r"made has 3 classes, fewer than the 5 ways"):
        OnlineEpisodeSampler(dataset, ways=5, shots=1)
    with pytest.raises(UserError, match=r"class 'class 1' of made has 2 images, .* 3 shots"):
        OnlineEpisodeSampler(dataset, ways=2, shots=3)
    with pytest.raises(UserError, match="delay must be at least 1"):
        OnlineEpisodeSampler(dataset, ways=2, shots=1, delay=0)


# Support and query


def drawn_tasks(tasks=64, *, ways=5, shots=2, queries=3, seed=0, dataset=None):
    dataset = dataset or made_dataset()
    sampler = FewShotSampler(dataset, ways=ways, shots=shots, queries=queries)
    return sampler.sample(tasks, generator_for(seed)), dataset


@pytest.mark.parametrize(("shots", "queries"), [(1, 5), (5, 1), (3, 3)])
def test_a_task_has_distinct_classes_and_distinct_images_in_support_and_query(shots, queries):
    episodes, dataset = drawn_tasks(shots=shots, queries=queries)  # the smallest class: all used
    for task in range(64):
        items = torch.cat([episodes.support_items[task], episodes.query_items[task]]).tolist()
        labels = torch.cat([episodes.support_labels[task], episodes.query_labels[task]]).tolist()
        assert len(set(items)) == len(items) == 5 * (shots + queries)
        pairs = set(zip(labels, dataset.targets[items].tolist(), strict=True))
        assert len(pairs) == len({slot for slot, _ in pairs}) == len({c for _, c in pairs}) == 5
        assert Counter(episodes.support_labels[task].tolist()) == dict.fromkeys(range(5), shots)
        assert Counter(episodes.query_labels[task].tolist()) == dict.fromkeys(range(5), queries)


def test_task_images_are_those_of_the_items_in_unit_range():
    episodes, dataset = drawn_tasks()
    assert episodes.support_images.shape == (64, 10, 1, 2, 2)
    assert episodes.query_images.shape == (64, 15, 1, 2, 2)
    for images, items in (
        (episodes.support_images, episodes.support_items),
        (episodes.query_images, episodes.query_items),
    ):
        assert images.dtype == torch.float32
        assert torch.equal(images, dataset.images[items].float() / 255)


def test_tasks_are_those_that_loops_over_the_same_random_numbers_build():
    dataset = made_dataset()
    sampler = FewShotSampler(dataset, ways=4, shots=2, queries=3)
    found = sampler.sample_items(50, generator_for(1))
    generator = generator_for(1)
    classes = _distinct(50, 4, dataset.classes, generator).tolist()
    keys = torch.rand(50, 4, 9, generator=generator).tolist()
    for task in range(50):
        support, query = [], []
        for slot, target in enumerate(classes[task]):
            items = dataset.items_of(target).tolist()
            order = sorted(range(len(items)), key=keys[task][slot].__getitem__)
            support += [items[place] for place in order[:2]]
            query += [items[place] for place in order[2:5]]
        assert found.support_items[task].tolist() == support
        assert found.query_items[task].tolist() == query


@pytest.mark.parametrize("classes", [8, 41])  # both ways to draw distinct classes
def test_every_class_is_as_likely_in_every_slot_and_every_image_on_either_side(classes):
    tasks, ways, each = 8000, 4, 5
    dataset = made_dataset(classes=classes, each=(each,))
    episodes, _ = drawn_tasks(tasks, ways=ways, shots=1, queries=2, dataset=dataset)
    slots, targets = episodes.support_labels, dataset.targets[episodes.support_items]
    table = torch.bincount((slots * classes + targets).ravel(), minlength=ways * classes) / tasks
    assert (table - 1 / classes).abs().max() < 5 * (1 / classes / tasks) ** 0.5
    for items in (episodes.support_items, episodes.query_items):
        images = torch.bincount(items.ravel(), minlength=len(dataset)).float()
        expected = items.numel() / len(dataset)
        assert (images - expected).abs().max() < 5 * expected**0.5


def test_tasks_depend_on_the_generator_alone():
    one, two, other = (drawn_tasks(seed=seed)[0] for seed in (3, 3, 4))
    for name, value in vars(one).items():
        assert torch.equal(value, getattr(two, name))
    assert not torch.equal(one.support_items, other.support_items)
    sampler = FewShotSampler(made_dataset(), ways=5, shots=2, queries=3)
    without = sampler.sample_items(64, generator_for(3))
    assert all(torch.equal(value, getattr(one, name)) for name, value in vars(without).items())


def test_too_little_data_for_support_and_query_says_what_is_missing():
    dataset = made_dataset(classes=3, each=(9, 6, 8))
    FewShotSampler(dataset, ways=3, shots=1, queries=5)
    with pytest.raises(UserError, match=r"made has 3 classes, fewer than the 5 ways"):
        FewShotSampler(dataset, ways=5, shots=1, queries=1)
    with pytest.raises(
        UserError,
        match=r"class 'class 1' of made has 6 images, fewer than the 1 shots \+ 6 queries asked for: "
        "lower --shots or --queries or add images",
    ):
        FewShotSampler(dataset, ways=2, shots=1, queries=6)
    for name in ("ways", "shots", "queries"):
        with pytest.raises(UserError, match=f"{name} must be at least 1, got 0"):
            FewShotSampler(dataset, **{"ways": 2, "shots": 1, "queries": 1, name: 0})
