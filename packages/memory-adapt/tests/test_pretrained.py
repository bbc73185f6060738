"""A learner on a stream: equal to the batched forward pass, forkable, masked, and strict."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from memory_adapt import OnlineLearner
from memory_adapt.checks import checked_labels, checked_state, whole_number
from memory_adapt.config import (
    APLConfig,
    CLLSTMConfig,
    CPMConfig,
    LSTMConfig,
    ModelConfig,
    NTMConfig,
    OPNConfig,
)
from memory_adapt.models.opn import MASKED
from memory_adapt.models.registry import build_model
from priors_shared.checkpoints import save_weights
from priors_shared.errors import UserError

SMALL = {"ways": 4, "image_size": 16, "width": 4}
CONFIGS: list[ModelConfig] = [
    CLLSTMConfig(**SMALL, hidden=6),
    LSTMConfig(**SMALL, hidden=6),
    NTMConfig(**SMALL, hidden=6, slots=7, slot_size=5, heads=2),
    APLConfig(**SMALL, hidden=6, neighbours=2, slots=5),
    OPNConfig(**SMALL),
    CPMConfig(**SMALL, hidden=6),
]
TIME = 9


def make_learner(config: ModelConfig = CONFIGS[0]) -> OnlineLearner:
    torch.manual_seed(0)
    return OnlineLearner(build_model(config), trained={"dataset": "glyphs"})


def make_stream(ways: int, batch: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(TIME, *batch, 1, 16, 16, generator=generator)
    return images, torch.randint(ways, (TIME, *batch), generator=generator)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("ways", [4, 2])
def test_steps_equal_the_whole_stream(config: ModelConfig, ways: int) -> None:
    learner = make_learner(config)
    images, labels = make_stream(ways)
    whole = learner.predict_stream(images, labels, ways=ways)
    assert whole.shape == (TIME, ways)
    state, previous, steps = learner.reset(ways), None, []
    for image, label in zip(images, labels.tolist(), strict=True):
        logits, state = learner.step(image, previous, state)
        steps.append(logits)
        previous = label
    torch.testing.assert_close(torch.stack(steps), whole, rtol=1e-5, atol=1e-5)


def test_streams_in_a_batch_do_not_meet() -> None:
    learner = make_learner()
    images, labels = make_stream(4, (3,))
    together = learner.predict_stream(images, labels)
    alone = learner.predict_stream(images[:, 1], labels[:, 1])
    torch.testing.assert_close(together[:, 1], alone, rtol=1e-5, atol=1e-5)


def test_delay_hides_labels_until_they_arrive() -> None:
    learner = make_learner()
    images, labels = make_stream(4)
    changed = labels.clone()
    changed[2] = (labels[2] + 1) % 4
    for delay in (1, 3):
        before = learner.predict_stream(images, labels, delay)
        after = learner.predict_stream(images, changed, delay)
        assert torch.equal(before[: 2 + delay], after[: 2 + delay])
        assert not torch.allclose(before[2 + delay], after[2 + delay])


def test_fewer_ways_are_the_first_logits_of_all() -> None:
    learner = make_learner()
    images, labels = make_stream(2)
    torch.testing.assert_close(
        learner.predict_stream(images, labels, ways=2),
        learner.predict_stream(images, labels)[:, :2],
    )


def test_a_state_can_be_forked() -> None:
    learner = make_learner()
    images, labels = make_stream(4)
    _, state = learner.step(images[0], None, learner.reset())
    kept = {name: value.clone() for name, value in state.items()}
    first, _ = learner.step(images[1], int(labels[0]), state)
    other, _ = learner.step(images[1], (int(labels[0]) + 1) % 4, state)
    again, _ = learner.step(images[1], int(labels[0]), state)
    assert state.keys() == kept.keys()
    for name, value in kept.items():
        assert torch.equal(state[name], value), name
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_concatenated_states_are_a_batch() -> None:
    learner = make_learner()
    images, _ = make_stream(4)
    _, a = learner.step(images[0], None, learner.reset())
    _, b = learner.step(images[1], None, learner.reset())
    both = {name: torch.cat([a[name], b[name]]) for name in a}
    logits, _ = learner.step_batch(images[2:4], torch.tensor([3, -1]), both)
    torch.testing.assert_close(logits[0], learner.step(images[2], 3, a)[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits[1], learner.step(images[3], None, b)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: type(c).__name__)
def test_a_state_is_saved_and_read_at_any_step(config: ModelConfig, tmp_path: Path) -> None:
    learner = make_learner(config)
    images, labels = make_stream(4)
    state = learner.reset()
    for image, label in zip(images, labels.tolist(), strict=True):
        save_file(state, tmp_path / "state.safetensors")
        kept = load_file(tmp_path / "state.safetensors")
        assert torch.equal(
            learner.step(image, label, kept)[0], learner.step(image, label, state)[0]
        )
        _, state = learner.step(image, label, state)


def test_no_gradient_and_numpy_images() -> None:
    learner = make_learner()
    image = np.zeros((1, 16, 16), np.float64)
    logits, state = learner.step(image, None, learner.reset())
    assert not logits.requires_grad
    assert not any(value.requires_grad for value in state.values())


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(3, 16, 16), r"\(1, 16, 16\), got \(3, 16, 16\)"),
        (torch.zeros(1, 28, 28), r"\(1, 16, 16\), got \(1, 28, 28\)"),
        (torch.zeros(16, 16), r"\(1, 16, 16\), got \(16, 16\)"),
        (torch.zeros(1, 16, 16, dtype=torch.uint8), r"float in \[0, 1\], got uint8"),
        (torch.full((1, 16, 16), 255.0), r"\[0, 1\], got values from 255 to 255"),
        (torch.full((1, 16, 16), -0.5), r"\[0, 1\], got values from -0.5"),
        (torch.full((1, 16, 16), torch.nan), r"\[0, 1\], got values from nan"),
    ],
)
def test_bad_image_is_named(image: Tensor, message: str) -> None:
    learner = make_learner()
    with pytest.raises(UserError, match=message):
        learner.step(image, None, learner.reset())


@pytest.mark.parametrize("label", [2, -2])
def test_label_outside_the_ways_is_named(label: int) -> None:
    learner = make_learner()
    with pytest.raises(UserError, match=rf"label {label} is not in 0 .. 1"):
        learner.step(torch.zeros(1, 16, 16), label, learner.reset(ways=2))


@pytest.mark.parametrize("ways", [0, 5])
def test_ways_beyond_the_slots_are_refused(ways: int) -> None:
    with pytest.raises(UserError, match=rf"whole number in 1 .. 4 .*, got {ways}"):
        make_learner().reset(ways=ways)


def test_ways_are_a_whole_number() -> None:
    with pytest.raises(UserError, match=r"whole number in 1 .. 4 .*, got 2\.0"):
        make_learner()._check_ways(2.0)


def test_state_of_something_else_is_refused() -> None:
    learner = make_learner()
    with pytest.raises(UserError, match="reset"):
        learner.step(torch.zeros(1, 16, 16), None, {})
    with pytest.raises(UserError, match="2 streams"):
        learner.step(torch.zeros(1, 16, 16), None, learner.reset(batch=2))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: type(c).__name__)
def test_states_of_other_learners_are_refused_in_one_line(config: ModelConfig) -> None:
    learner = make_learner(config)
    own = learner.reset()
    others = [make_learner(c).reset() for c in CONFIGS if type(c) is not type(config)]
    name = next(n for n, v in own.items() if v.is_floating_point())
    others += [
        {**own, name: own[name].double()},
        {**own, name: own[name][..., :2]},
        {n: v for n, v in own.items() if n != name},
        {**own, "more": torch.zeros(1)},
    ]
    for state in others:
        with pytest.raises(UserError, match="a state of another learner"):
            learner.step(torch.zeros(1, 16, 16), None, state)
    for state in (5, None, "state", {**own, "ways": 3}, {**own, name: [1.0]}):
        with pytest.raises(UserError, match="not a learner's state"):
            checked_state(state, own, 1, learner.device)


@pytest.mark.parametrize("label", ["cat", 1.5, [[1]], 2**70, True])
def test_a_label_that_is_no_number_is_named(label: object) -> None:
    with pytest.raises(UserError, match="labels must"):
        checked_labels([label], (1,), 3, torch.device("cpu"))


@pytest.mark.parametrize("batch", [0, 2.5, True, "2"])
def test_a_batch_is_a_whole_number(batch: object) -> None:
    assert not (whole_number(batch) and batch > 0)  # type: ignore[operator]
    if type(batch) is int:
        with pytest.raises(UserError, match="batch must be a whole number"):
            make_learner().reset(batch=batch)


def test_a_delay_that_it_was_not_trained_with_is_warned_of_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images, labels = make_stream(4)
    make_learner().save_pretrained(tmp_path / "memory")
    learner = OnlineLearner.from_pretrained(tmp_path / "memory")
    learner.predict_stream(images, labels)
    assert not caplog.messages
    learner.predict_stream(images, labels, delay=3)
    late = OnlineLearner.from_pretrained(tmp_path / "memory", delay=2)
    late.predict_stream(images, labels, delay=2)
    assert [("1 step(s) late" in m, "\n" in m) for m in caplog.messages] == [(True, False)] * 2
    caplog.clear()
    make_learner(OPNConfig(**SMALL)).save_pretrained(
        tmp_path / "told"
    )  # which no training binds to a delay
    OnlineLearner.from_pretrained(tmp_path / "told", delay=3).predict_stream(images, labels, 3)
    assert not caplog.messages


ANY_WAYS = [c for c in CONFIGS if isinstance(c, OPNConfig | CPMConfig)]


@pytest.mark.parametrize("config", ANY_WAYS, ids=lambda c: type(c).__name__)
def test_classes_that_come_one_by_one_are_as_if_known_beforehand(config: ModelConfig) -> None:
    """More of them than at the training, too."""
    learner = make_learner(config)
    generator = torch.Generator().manual_seed(2)
    labels = torch.cat([torch.arange(9), torch.randint(9, (12,), generator=generator)])
    images = torch.rand(len(labels), 1, 16, 16, generator=generator)
    whole = learner.predict_stream(images, labels, ways=9)
    state, previous = learner.reset(ways=1), None
    for image, label, expected in zip(images, labels.tolist(), whole, strict=True):
        if previous is not None and previous >= int(state["ways"][0]):
            state = learner.grow(state, previous + 1)
        logits, state = learner.step(image, previous, state)
        torch.testing.assert_close(logits, expected[: len(logits)], rtol=1e-5, atol=1e-5)
        assert (expected[len(logits) :] <= MASKED).all()
        previous = label
    with pytest.raises(UserError, match="has 9 classes already"):
        learner.grow(state, 8)


def test_a_learner_with_weights_for_each_slot_does_not_grow() -> None:
    learner = make_learner()
    assert learner.grow(learner.reset(ways=2), 4)["ways"].tolist() == [4]
    with pytest.raises(UserError, match=r"in 1 \.\. 4"):
        learner.grow(learner.reset(), 5)


def test_a_learner_that_is_told_the_delay_checks_it(tmp_path: Path) -> None:
    learner = make_learner(OPNConfig(**SMALL))
    images, labels = make_stream(4)
    with pytest.raises(UserError, match="delay=3"):
        learner.predict_stream(images, labels, delay=3)
    learner.save_pretrained(tmp_path / "opn")
    told = OnlineLearner.from_pretrained(tmp_path / "opn", delay=3)
    assert torch.isfinite(told.predict_stream(images, labels, delay=3)).all()


def test_loading_a_learner_does_not_load_torchs_compiler() -> None:
    """It takes seconds; a user who asks about one image would wait for it."""
    code = (
        "import sys; from memory_adapt import OnlineLearner\n"
        "for name in ('omniglot-5way-cpu', 'omniglot-5way-cpm-cpu', 'photos-cpu'):\n"
        "    OnlineLearner.from_pretrained(name)\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_saved_learner_comes_back_the_same(tmp_path: Path) -> None:
    learner = make_learner()
    images, labels = make_stream(4)
    run = tmp_path / "run"
    learner.save_pretrained(run / "model", accuracy=0.5)
    assert json.loads((run / "model" / "config.json").read_text())["accuracy"] == 0.5
    for source in (run, run / "model", str(run)):
        again = OnlineLearner.from_pretrained(source)
        assert again.config == learner.config
        assert again.trained == {"dataset": "glyphs"}
        assert torch.equal(
            again.predict_stream(images, labels), learner.predict_stream(images, labels)
        )


def test_unfinished_run_and_unknown_name_are_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="not finished"):
        OnlineLearner.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="no-such-learner: neither a folder nor shipped"):
        OnlineLearner.from_pretrained("no-such-learner")
    with pytest.raises(UserError, match="is a file"):
        OnlineLearner.from_pretrained(tmp_path / "metrics.jsonl")


def test_checkpoint_of_another_kind_or_truncated_is_named(tmp_path: Path) -> None:
    save_weights(tmp_path / "other", torch.nn.Linear(2, 2), kind="radiance field", config={})
    with pytest.raises(UserError, match="radiance field"):
        OnlineLearner.from_pretrained(tmp_path / "other")
    make_learner().save_pretrained(tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="truncated"):
        OnlineLearner.from_pretrained(tmp_path / "cut")


def test_configuration_that_does_not_fit_the_weights_is_named(tmp_path: Path) -> None:
    make_learner().save_pretrained(tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())
    damaged: list[dict[str, object]] = [
        {"config": {**record["config"], key: value}}
        for key, value in (("width", 5), ("width", 10**9), ("width", "4"), ("strides", 1))
    ]
    damaged += [{"config": {**record["config"], key: 1}} for key in ("no_such_option", "model")]
    damaged += [{"config": {}}, {"trained": [1]}, {"trained": {"stages": 3}}]
    for change in (*damaged, {"delay": 0}, {"delay": "1"}):
        changed = {**record, **change}
        changed.pop("record_digest")
        (tmp_path / "config.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match=r"no model|do not fit the model"):
            OnlineLearner.from_pretrained(tmp_path)


def test_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    make_learner().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="device nowhere"):
        OnlineLearner.from_pretrained(tmp_path, "nowhere")
